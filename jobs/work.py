"""One worker process: the worker of the queue, and beside it the relay, which audits in its pauses."""

import time
from contextlib import suppress

import redis
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from config import Settings
from jobs.auditor import Auditor
from jobs.connections import CONNECTIONS_OF_A_WORKER, connect_worker_redis, make_cache, make_engine
from jobs.relay import RelayThread
from jobs.retries import RetryPolicy
from jobs.rq.worker import FIRST_PAUSE_S, LONGEST_PAUSE_S, BatchWorker
from jobs.settler import Settler
from models.database.faults import first_line
from observe.metrics_server import serve_metrics

_log = structlog.get_logger("worker")


def work(settings: Settings) -> None:
    """Run jobs, and the relay beside them, until SIGTERM; a second one does not wait for the batch that is running."""
    url = settings.redis_url.get_secret_value()
    connection = connect_worker_redis(url)
    engine = make_engine(settings, kept=CONNECTIONS_OF_A_WORKER)
    _take_connections(engine)
    serve_metrics(settings.host, settings.metrics_port)
    _wait_for(connection)
    cache = make_cache(settings, engine)
    settler = Settler(engine, RetryPolicy(settings.retry_delays), cache)
    worker = BatchWorker(connection, settler, batch_size=settings.batch_size)
    relay_redis = connect_worker_redis(url)
    cache_url = settings.cache_url.get_secret_value()
    cached = connect_worker_redis(cache_url) if settings.cache_ttl else None
    auditor = Auditor(engine, relay_redis, cached, interval_s=settings.audit_interval_s)
    with RelayThread(relay_redis, engine, cache, auditor):
        worker.work(logging_level=settings.log_level)
    cache.close()
    engine.dispose()


def _take_connections(engine: Engine) -> None:
    """Open those that are kept, before anybody else needs more than there are. A database that is away comes later."""
    with suppress(SQLAlchemyError), engine.connect(), engine.connect():
        pass


def _wait_for(connection: redis.Redis) -> None:
    """Wait until Redis answers: RQ's worker talks to it as soon as it is made."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            connection.ping()
        except redis.RedisError as error:
            # One that answers no (a password, a database) is no reason to end, for it may be mended there; but no time
            # mends it.
            level = "error" if isinstance(error, redis.AuthenticationError | redis.ResponseError) else "warning"
            getattr(_log, level)("waiting", on="REDIS_URL", cause=first_line(error), pause_s=pause_s)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        else:
            return

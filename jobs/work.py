"""One worker process: what settles transfers, and beside it the relay, which audits in its pauses."""

from contextlib import suppress

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from config import Settings
from jobs.auditor import Auditor
from jobs.connections import CONNECTIONS_OF_A_WORKER, connect_worker_redis, make_cache, make_engine
from jobs.feed import Feed
from jobs.relay import RelayThread
from jobs.retries import RetryPolicy
from jobs.settler import Settler
from jobs.transport import make_backlog, make_worker
from observe.metrics_server import serve_metrics


def work(settings: Settings) -> None:
    """Settle transfers, with the relay beside it, until SIGTERM; what is in hand is ended first.

    A second SIGTERM does not wait for that.
    """
    engine = make_engine(settings, kept=CONNECTIONS_OF_A_WORKER)
    _take_connections(engine)
    serve_metrics(settings.host, settings.metrics_port)
    cache = make_cache(settings, engine)
    worker = make_worker(settings, engine, Settler(engine, RetryPolicy(settings.retry_delays), cache))
    backlog = make_backlog(settings, engine)
    cached = connect_worker_redis(settings.cache_url.get_secret_value()) if settings.cache_ttl else None
    auditor = Auditor(engine, backlog, cached, interval_s=settings.audit_interval_s)
    feed = Feed(engine, days=settings.events_days)
    with RelayThread(backlog, engine, cache, auditor, feed):
        worker.run()
    cache.close()
    engine.dispose()


def _take_connections(engine: Engine) -> None:
    """Open those that are kept, before anybody else needs more than there are. A database that is away comes later."""
    with suppress(SQLAlchemyError), engine.connect(), engine.connect():
        pass

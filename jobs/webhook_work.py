"""One process that sends webhooks: the worker of their queue, and beside it, in turn, what feeds it."""

import threading

from config import Settings
from jobs.connections import OF_WEBHOOKS, connect_worker_redis, make_engine
from jobs.retries import RetryPolicy
from jobs.rq.resident import wait_for
from jobs.rq.webhook_queue import WebhookQueue
from jobs.rq.webhook_worker import WebhookWorker
from jobs.webhooks.feeder import Feeder, FeederThread
from jobs.webhooks.posting import Poster
from jobs.webhooks.sender import Sender
from models.database.engine import commit_without_waiting
from observe import background
from observe.metrics_server import serve_metrics


def work(settings: Settings) -> None:
    """Send until SIGTERM; attempts that are being made are ended first, within GRACEFUL_TIMEOUT_S.

    What is not ended by then, or by a second SIGTERM, is made again by another process, or by the next.
    """
    engine = make_engine(settings, application_name="wallet-webhooks", pool_size=OF_WEBHOOKS)
    # What a crash of PostgreSQL takes back of it is planned, or sent, once more.
    commit_without_waiting(engine)
    serve_metrics(settings.host, settings.metrics_port)
    url, has_room = settings.redis_url.get_secret_value(), threading.Event()
    poster, policy = Poster(settings.webhook_allow_networks), RetryPolicy(settings.webhook_delays)
    sender = Sender(engine, poster, policy, has_room=has_room)
    connection = connect_worker_redis(url)
    wait_for(connection)
    worker = WebhookWorker(connection, sender, log_level=settings.log_level)
    feeder = Feeder(engine, WebhookQueue(connect_worker_redis(url)), days=settings.webhook_days)
    feeding = FeederThread(feeder, engine, has_room)
    thread = background.start("webhook_feeder", feeding.run)
    worker.run()
    feeding.stop()
    worker.finish_in_hand(settings.graceful_timeout_s)
    if thread is not None:
        thread.join(1.0)
    engine.dispose()

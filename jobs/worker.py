"""A worker process: RQ's loop, without forking."""

import redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from config import Settings
from jobs.queue import transfers_queue

# Seconds between clean-ups of RQ's registries. Its default of 600 leaves a dead worker's job in limbo for as long.
MAINTENANCE_INTERVAL_S = 30


def work(settings: Settings) -> None:
    """Run jobs until SIGTERM; a second one does not wait for the job that is running."""
    connection = redis.Redis.from_url(settings.redis_url.get_secret_value())
    worker = SimpleWorker(
        [transfers_queue(connection)],
        connection=connection,
        serializer=JSONSerializer,
        maintenance_interval=MAINTENANCE_INTERVAL_S,
        log_job_description=False,
    )
    worker.log_result_lifespan = False
    worker.work(logging_level=settings.log_level)

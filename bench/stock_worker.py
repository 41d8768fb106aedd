"""RQ's own worker, as ``rq worker --worker-class rq.SimpleWorker`` makes it: ``python -m bench.stock_worker``.

That command itself refuses to start while workers are suspended, which is how they are held still here.
"""

import redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer

import config
from jobs.rq.crew import transfers_queue


def main() -> None:
    """Work until told to stop."""
    settings = config.load_or_exit(config.Settings)
    connection = redis.Redis.from_url(settings.redis_url.get_secret_value())
    SimpleWorker([transfers_queue(connection)], connection=connection, serializer=JSONSerializer).work()


if __name__ == "__main__":
    main()

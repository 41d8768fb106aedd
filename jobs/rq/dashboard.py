"""RQ as rq-dashboard may see it: everything read as JSON, nothing changed by a look, no job that cannot be shown.

rq-dashboard calls RQ's own classes, some of them without our serializer. RQ tidies up while it reads (a worker that is
gone, an id without a job), raises a client's timeouts to minutes, and stops at the first value that is not as it should
be, though anything may stand in Redis. These subclasses do none of that; ``api/dashboard/pages.py`` puts them in RQ's
place.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

import orjson
import redis
import structlog
from rq import Queue, Worker
from rq.exceptions import DeserializationError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from jobs.rq.keys import QUEUE, QUEUE_NAME, QUEUES, RqKeys

# What RQ raises about a job that is not there, or no longer.
JOB_IS_GONE = (NoSuchJobError, InvalidJobOperation)
# RQ's registries by the names that rq-dashboard has for them, with the keys of their sorted sets.
REGISTRY_KEYS = {
    "started": "rq:wip:{}",
    "finished": "rq:finished:{}",
    "failed": "rq:failed:{}",
    "deferred": "rq:deferred:{}",
    "scheduled": "rq:scheduled:{}",
    "canceled": "rq:canceled:{}",
}
QUEUED = "queued"
# Jobs moved or looked for in one step.
CHUNK = 500
_UNREADABLE = "(not JSON, or beyond what JSON can say here)"

_log = structlog.get_logger("dashboard")


class ShownSerializer(JSONSerializer):
    """JSON, and a word in place of what is none: whoever wrote it, the page about it opens."""

    @staticmethod
    def loads(s: bytes, *_args: Any, **_kwargs: Any) -> Any:
        """Read what can also be written again."""
        try:
            value = orjson.loads(s)
            orjson.dumps(value)
        except (ValueError, TypeError):
            return _UNREADABLE
        return value


class ShownJob(Job):
    """A job to be looked at."""

    def __init__(self, id: str | None = None, connection: redis.Redis | None = None, serializer: Any = None) -> None:  # noqa: A002 - RQ calls it so
        del serializer
        super().__init__(id, connection=connection, serializer=ShownSerializer)

    @classmethod
    def fetch(cls, id: str, connection: redis.Redis | None = None, serializer: Any = None) -> Self:  # noqa: A002 - RQ calls it so
        """Fetch a job; what RQ would not accept as an id is nobody's.

        Raises:
            NoSuchJobError: there is none, or none that can be read.
        """
        del serializer
        try:
            job = cls(id, connection=connection)
        except ValueError as error:
            raise NoSuchJobError(id) from error
        job.refresh()  # type: ignore[no-untyped-call]
        return job

    def restore(self, raw_data: Any) -> Any:
        """Take over a hash; one that is no job's counts as none."""
        try:
            super().restore(raw_data)
        except NoSuchJobError:
            raise
        except Exception as error:  # whatever it is that RQ stumbles over, it is in the hash
            raise NoSuchJobError(f"unreadable: {self.id}") from error
        if self.get_status(refresh=False) is JobStatus.CREATED:
            raise NoSuchJobError(f"without a status: {self.id}")

    def latest_result(self, timeout: int = 0) -> Any:
        """Return the latest result, None if there is none that can be read."""
        try:
            return super().latest_result(timeout)
        except redis.RedisError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is that RQ stumbles over, it is in the result
            return None

    @property
    def dependency_ids(self) -> Any:
        """Return the jobs that this one waits for, as bytes: rq-dashboard decodes what RQ has since decoded itself."""
        return [_job_id_of(each).encode() for each in _members(self.connection, self.dependencies_key)]

    def get_call_string(self) -> str | None:
        """Return the call, or the description if the call cannot be read."""
        try:
            return super().get_call_string()
        except (DeserializationError, TypeError, AttributeError):
            return self.description


class ShownQueue(Queue):
    """A queue to be looked at, emptied and compacted."""

    def __init__(self, name: str = QUEUE_NAME, connection: redis.Redis | None = None, **options: Any) -> None:
        super().__init__(name, connection, **(options | {"serializer": ShownSerializer, "job_class": ShownJob}))

    @classmethod
    def all(cls, connection: redis.Redis, *_args: Any, **_kwargs: Any) -> list[Queue]:
        """Return the queues that have a name which can be shown; ours is one before anything was ever put on it."""
        found: list[Queue] = []
        for key in sorted({QUEUE.encode(), *_members(connection, QUEUES)}):
            with suppress(ValueError):
                found.append(cls.from_queue_key(key.decode(), connection))
        return found

    def compact(self) -> None:
        """Take ids without a job out of the list, in place: RQ's own way puts it aside while workers look for it."""
        raw: Any = self.connection
        ids: list[bytes] = raw.lrange(self.key, 0, -1)
        for first in range(0, len(ids), CHUNK):
            part = ids[first : first + CHUNK]
            with raw.pipeline(transaction=False) as pipeline:
                for each in part:
                    pipeline.exists(b"rq:job:" + each)
                exists = pipeline.execute()
                for each in (each for each, there in zip(part, exists, strict=True) if not there):
                    pipeline.lrem(self.key, 0, each)
                pipeline.execute()


class ShownStartedRegistry(StartedJobRegistry):
    """The started registry, whose members name a job and who holds it."""

    @staticmethod
    def parse_job_id(entry: bytes | str) -> str:
        """Return a member's job."""
        return _job_id_of(entry)

    def remove(self, job: Any, pipeline: Any = None, delete_job: bool = False) -> int:  # noqa: ARG002, FBT001, FBT002 - RQ calls it so
        """Remove whoever holds a job."""
        members = [each for each in _ranked(self.connection, self.key, 0, -1) if _job_id_of(each) == job]
        raw: Any = self.connection
        return int(raw.zrem(self.key, *members)) if members else 0


class ShownWorker(Worker):
    """A worker to be looked at."""

    @classmethod
    def all(cls, connection: Any = None, *_args: Any, **_kwargs: Any) -> list[Any]:
        """Return the workers that live; those that are gone stay registered, which is for workers to tidy up."""
        prefix, found = cls.redis_worker_namespace_prefix, []
        for key in _members(connection, cls.redis_workers_keys):
            with suppress(ValueError):
                if key.startswith(prefix.encode()) and connection.exists(key):
                    name = key.decode().removeprefix(prefix)
                    worker = cls([], name, connection=connection, prepare_for_work=False, serializer=ShownSerializer)
                    worker.refresh()  # type: ignore[no-untyped-call]
                    found.append(worker)
        return found

    def get_current_job(self) -> Job | None:
        """Return a job that it works on: the first of a batch, or the one of a stock worker."""
        raw: Any = self.connection
        first_of_batch = raw.hget(self.key, "current_job")
        for each in [*([first_of_batch] if first_of_batch else []), *_members(raw, self.executions_key)]:
            with suppress(NoSuchJobError):
                job = ShownJob.fetch(_job_id_of(each), connection=raw)
                if job.get_status(refresh=False) is JobStatus.STARTED:
                    return job
        return None

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        """Keep the client's patience: RQ would raise it to minutes, for everybody who uses the client."""
        return connection


def has_queue(connection: redis.Redis, name: str) -> bool:
    """Whether this is a queue."""
    return bool(connection.sismember(QUEUES, f"rq:queue:{name}")) or name == QUEUE_NAME


def jobs_on_page(
    connection: redis.Redis, queue_name: str, registry_name: str, *, first: int, last: int
) -> tuple[int, list[Job]]:
    """Return how many jobs a queue or registry has, and those from ``first`` to ``last`` that can be shown.

    Negative numbers count from the end, as Redis has it.
    """
    raw: Any = connection
    if registry_name == QUEUED:
        key = f"rq:queue:{queue_name}"
        total, members = raw.llen(key), raw.lrange(key, first, last)
    else:
        key = REGISTRY_KEYS[registry_name].format(queue_name)
        total, members = raw.zcard(key), _ranked(raw, key, first, last)
    ids = [_job_id_of(each) for each in members]
    with raw.pipeline(transaction=False) as pipeline:
        for each in ids:
            pipeline.hgetall(ShownJob.key_for(each))
        hashes = pipeline.execute()
    jobs: list[Job] = []
    for each, fields in zip(ids, hashes, strict=True):
        with suppress(ValueError, NoSuchJobError):
            job = ShownJob(each, connection=connection)
            job.restore(fields)
            jobs.append(job)
    return total, jobs


def requeue(connection: redis.Redis, job_id: str, *, by: str) -> None:
    """Put a failed job back on its queue. A dead letter is reopened by the worker that then finds it there.

    Raises:
        NoSuchJobError: no failed job has this id.
    """
    queue_name = ShownJob.fetch(job_id, connection=connection).origin
    if not _requeue(connection, queue_name, [job_id], by=by):
        raise NoSuchJobError(job_id)


def requeue_all(connection: redis.Redis, queue_name: str, *, by: str) -> int:
    """Put all jobs back on a queue that are failed now, and return how many they were."""
    ids = [_job_id_of(each) for each in _ranked(connection, REGISTRY_KEYS["failed"].format(queue_name), 0, -1)]
    return sum(
        _requeue(connection, queue_name, ids[first : first + CHUNK], by=by) for first in range(0, len(ids), CHUNK)
    )


def _requeue(connection: redis.Redis, queue_name: str, ids: Sequence[str], *, by: str) -> int:
    count = RqKeys(connection).requeue(ids, queue_name=queue_name)
    if count:
        _log.warning("jobs requeued", job_ids=ids[:10], count=count, by=by)
    return count


def _members(connection: redis.Redis, key: str) -> list[bytes]:
    raw: Any = connection  # whose replies are typed for clients that decode as well as for those that do not
    return sorted(raw.smembers(key))


def _ranked(connection: redis.Redis, key: str, first: int, last: int) -> list[bytes]:
    raw: Any = connection
    found: list[bytes] = raw.zrange(key, first, last)
    return found


def _job_id_of(member: bytes | str) -> str:
    text = member.decode(errors="backslashreplace") if isinstance(member, bytes) else member
    return text.partition(":")[0]

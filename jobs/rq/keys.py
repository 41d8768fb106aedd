"""All that touches RQ's private keys: rq 3.0.0, pinned exactly.

Each step of a job's life is one Lua call (``lua/``), so it happens whole or not at all, and a batch of jobs costs what
one costs. The scripts keep to RQ's own keys and fields (``tests/jobs/rq/test_keys.py`` compares what is left behind
with what stock RQ leaves), so that rq-dashboard, ``rq info`` and ``Job.fetch`` read our jobs like any others. Fields of
our own in a job's hash, which RQ ignores:

* ``lease``: the execution that holds the job; its member in the started registry is ``<job id>:<lease>``.
* ``dead``: the transfer's generation that was booked as a dead letter. A job that carries it and stands on the queue
  was requeued by somebody, for nothing else moves a booked dead letter.
* ``lost``: how many leases have run out on it. It may be of an earlier generation of the transfer: PostgreSQL knows.
"""

import base64
import re
import time
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import redis
from redis.exceptions import OutOfMemoryError

from jobs.killers import ALONE_AFTER_LOST, MAX_LOST
from jobs.transport import Fed
from models.ledger.transfer import MAX_ID
from models.redis_line import line
from models.redis_line.memory import find_memory

if TYPE_CHECKING:
    from redis.client import Pipeline
    from redis.commands.core import Script

QUEUE_NAME = "transfers"
JOB_FUNCTION = "jobs.transfers.run"
# What rq-dashboard shows. The arguments would only repeat the id, in every job's memory.
JOB_DESCRIPTION = "transfer"
# Seconds that a finished job stays readable in Redis. PostgreSQL has its outcome for ever.
RESULT_TTL_S = 60
# A dead letter stays until somebody requeues it.
FAILURE_TTL_S = -1
# RQ's own bound on a job, for stock workers; the database's are much tighter.
JOB_TIMEOUT_S = 60

# The name of the worker whose turn it is, for as long as it is (RqKeys.rest). Not one of RQ's keys.
TURN = "wallet:turn"
# A turn ends by itself when its batch takes longer than this: then others take what has gathered.
TURN_MS = 50
# What is waited for company after a batch, at most. Measured at 350 jobs a second: batches of 9 with 15, of 13 with 25
# (22 ms from accepted to posted), of 21 with 40 (41 ms); of 1.5 without (5 ms).
REST_MS = 25
# So below 200 jobs a second, where few would come in that time, it is hardly waited at all.
REST_MS_PER_JOB = 5
# How much longer the others wait than the one whose turn it was.
STANDBY_MS = 20

# Jobs that may wait in Redis, some 100 MB: a backlog of more waits in PostgreSQL, which has it anyway, and the relay
# feeds it in. The longer the list, the longer the walks along it.
MOST_WAITING = 200_000
# No more than fit into this share of maxmemory, together with all else that is there (the cache stops before, see
# models/cache/pulse.py); but always as many as these, some 5 MB: whatever fills Redis, settling goes on.
MEMORY_SHARE = 0.8
FEWEST_WAITING = 10_000
# What a waiting job takes: 486 bytes in Valkey 9.
JOB_BYTES = 500
# Of all these, so many are only for those that have waited in PostgreSQL: who has just been accepted must not overtake
# them. More than workers take between two passes of the relay.
RESERVED_WAITING = 5_000
# Jobs that are shown as scheduled, some 5 MB, before those that are furthest off have to go. PostgreSQL has them all.
MOST_SCHEDULED = 10_000
# How many may wait by the memory that there is, as long as that is fresh (lua/room.lua). Not one of RQ's keys.
MOST = "wallet:queue:most"
# How soon a worker looks again whom a full Redis does not let wait for a job.
FULL_PAUSE_S = 0.05

QUEUE = f"rq:queue:{QUEUE_NAME}"
QUEUES = "rq:queues"
# The names of all workers; with a queue's name behind it, of those that work for that.
WORKERS = "rq:workers"
STARTED = f"rq:wip:{QUEUE_NAME}"
FINISHED = f"rq:finished:{QUEUE_NAME}"
FAILED = f"rq:failed:{QUEUE_NAME}"
SCHEDULED = f"rq:scheduled:{QUEUE_NAME}"
_REGISTRIES = {"started": STARTED, "failed": FAILED, "scheduled": SCHEDULED, "finished": FINISHED}
# The field of a job's hash that marks a booked dead letter, see above.
DEAD = "dead"
_TRANSFER_ID = re.compile(r"[1-9][0-9]{0,18}")

# rq.results.Result.Type.FAILED
_FAILED_RESULT = 2

_LUA = Path(__file__).parent / "lua"


class Claim(NamedTuple):
    """Jobs taken from the queue under one lease; ``dead``: those that were dead letters, by their generation.

    ``wait_s``: none were taken, for what waits is soon to have company; to be asked again then.
    """

    lease: str
    ids: list[str]
    dead: dict[str, int]
    wait_s: float = 0.0


class NewJob(NamedTuple):
    """A job to put on the queue."""

    id: int
    trace: str | None
    lost: int = 0


class ComingJob(NamedTuple):
    """A job to show as scheduled."""

    id: int
    trace: str | None
    due: datetime


@dataclass(frozen=True, slots=True)
class Reaped:
    """Leases that had run out: what went back to the queue, with how often by now, and what kills its workers."""

    moved: dict[str, int]
    killers: list[str]


class RqKeys:
    """The steps of a job's life, each one call to Redis. All raise :class:`redis.RedisError`."""

    def __init__(self, connection: redis.Redis) -> None:
        self.connection = connection
        self._enqueue: Script = connection.register_script(ENQUEUE.text)
        self._claim: Script = connection.register_script(_script("claim"))
        self._renew: Script = connection.register_script(_script("renew"))
        self._finish: Script = connection.register_script(FINISH.text)
        self._plan: Script = connection.register_script(PLAN.text)
        self._hand_back: Script = connection.register_script(_script("hand_back"))
        self._postpone: Script = connection.register_script(_script("postpone"))
        self._bury: Script = connection.register_script(_script("bury"))
        self._reap: Script = connection.register_script(_script("reap"))
        self._spare: Script = connection.register_script(_script("spare"))
        self._examine: Script = connection.register_script((_LUA / "examine.lua").read_text())
        self._requeue: Script = connection.register_script(_script("requeue"))
        self._register: Script = connection.register_script(_script("register"))

    def enqueue(self, jobs: Iterable[NewJob], *, lost: bool = False) -> int:
        """Put jobs on the queue, as long as there is room, and return how many were not there.

        Args:
            jobs: what to enqueue.
            lost: False leaves a job alone that has a hash, as RQ's ``unique`` does. True looks closer, whether it
                stands in the list or is held under a lease, and begins anew with one that does not.
        """
        return self.feed(jobs, lost=lost).pushed

    def feed(self, jobs: Iterable[NewJob], *, lost: bool = True) -> Fed:
        """Put jobs on the queue, see :meth:`enqueue`; tell also how many found no room."""
        return Fed(*self._enqueue(keys=_ENQUEUE_KEYS, args=_enqueue_arguments(jobs, lost=lost)))

    def claim(  # noqa: PLR0913 - each is a word of its own
        self, *, worker_key: str, worker_name: str, lease: str, limit: int, lease_s: float, in_turn: bool = False
    ) -> Claim:
        """Take up to ``limit`` jobs from the queue under a lease of ``lease_s`` seconds of Redis's clock.

        Args:
            worker_key: of the worker, in Redis.
            worker_name: of the worker.
            lease: its name.
            limit: jobs, at most.
            lease_s: seconds.
            in_turn: leave fewer than ``limit`` alone as long as somebody has his turn, see :meth:`rest`.
        """
        arguments: list[Any] = [limit, _now(), lease_s, worker_name, lease, ALONE_AFTER_LOST]
        if in_turn:
            arguments += [TURN_MS, STANDBY_MS]
        ids, dead, wait_ms = self._claim(keys=[QUEUE, STARTED, worker_key, TURN], args=arguments)
        generations = dict(zip(map(_text, dead[::2]), map(int, dead[1::2]), strict=True))
        return Claim(lease, [_text(each) for each in ids], generations, int(wait_ms) / 1000)

    def renew(self, lease: str, ids: Sequence[str], *, lease_s: float) -> int:
        """Prolong a lease and return how many of the jobs it still holds."""
        return int(self._renew(keys=[STARTED], args=[lease_s, lease, *ids]))

    def finish(self, lease: str, ids: Sequence[int]) -> None:
        """Book jobs whose transfers are final and are no dead letters, whoever holds them by now."""
        self._finish(keys=_FINISH_KEYS, args=_finish_arguments(lease, ids))

    def show(self, jobs: Iterable[ComingJob]) -> int:
        """Show jobs as scheduled that nobody is to have before they are due, and return how many were not shown yet.

        Those that a worker or the queue has are left alone; of more than may be shown those are that come first.
        """
        return int(self._plan(keys=_PLAN_KEYS, args=_plan_arguments(jobs)))

    def hand_back(self, lease: str, ids: Sequence[int]) -> int:
        """Put jobs back where they were taken from, those that the lease still holds; return how many."""
        return int(self._hand_back(keys=[STARTED, QUEUE], args=[lease, *ids]))

    def postpone(self, lease: str, due: Mapping[int, datetime]) -> int:
        """Show jobs as scheduled that will be tried again, those that the lease still holds; return how many."""
        arguments: list[Any] = [_now(), lease]
        for transfer_id, instant in due.items():
            arguments += [transfer_id, instant.timestamp()]
        return int(self._postpone(keys=[STARTED, SCHEDULED], args=arguments))

    def bury(self, job_id: int | str, *, generation: int, error: str, lease: str = "", worker_name: str = "") -> bool:
        """Book a dead letter into RQ's failed registry.

        Args:
            job_id: which.
            generation: of the transfer that failed.
            error: what rq-dashboard shows.
            lease: only if it still holds the job; empty: whoever does, because PostgreSQL has it as failed.
            worker_name: who failed, if anyone is known.
        """
        arguments: list[Any] = [_now(), lease, generation, job_id, _data(job_id), "", JOB_DESCRIPTION]
        arguments += [JOB_TIMEOUT_S, RESULT_TTL_S, FAILURE_TTL_S]
        arguments += ["type", _FAILED_RESULT, "worker_name", worker_name, "exc_string", _packed(error)]
        return bool(self._bury(keys=[STARTED, FAILED, QUEUE, SCHEDULED, FINISHED], args=arguments))

    @staticmethod
    def rest(pipeline: "Pipeline", worker_name: str, *, jobs: int) -> None:
        """Let what comes wait for company, after a batch of this many jobs that was not a full one.

        A batch costs nearly the same whether there are two in it or twenty, so at a few hundred jobs a second it pays
        to let them gather. Who has taken several has his turn until they are posted, and for this rest: meanwhile
        nobody takes fewer than a full batch, he neither. Others stand by for a little longer, and take over should he
        not come. So of several workers one works, and the others find little to do until he no longer keeps up. A job
        that is alone gives nobody a turn, and what waits for nobody is taken at once.
        """
        if jobs > 1:
            pipeline.set(TURN, worker_name, px=min(REST_MS, jobs * REST_MS_PER_JOB))

    def reap(self, *, limit: int) -> Reaped:
        """Take back up to ``limit`` jobs whose lease has run out."""
        moved, killers = self._reap(keys=[STARTED, QUEUE], args=[limit, MAX_LOST])
        counts = dict(zip(map(_text, moved[::2]), map(int, moved[1::2]), strict=True))
        return Reaped(counts, [_text(each) for each in killers])

    def spare(self, leases: Mapping[int, int]) -> int:
        """Put jobs back on the queue that :meth:`reap` took for killers; return how many nobody had taken since.

        Args:
            leases: of each job, how many it has really lost.
        """
        arguments = [each for pair in leases.items() for each in pair]
        return int(self._spare(keys=[STARTED, QUEUE], args=arguments))

    def examine(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Tell which of these jobs nobody has, and which say of themselves that they are queued."""
        gone, queued = self._examine(keys=[STARTED], args=list(ids))
        return [int(each) for each in gone], [int(each) for each in queued]

    def requeue(self, ids: Sequence[str], *, queue_name: str = QUEUE_NAME) -> int:
        """Put failed jobs back on their queue, and return how many; what is not failed is left alone.

        RQ's own way takes a job out of the registry first and puts it on the queue later: killed in between, it is in
        neither. It also reads and writes back all of the job, which it cannot if somebody else's serializer wrote it.
        """
        keys = [f"rq:failed:{queue_name}", f"rq:queue:{queue_name}", QUEUES]
        return int(self._requeue(keys=keys, args=[_now(), *ids]))

    def forget_workers(self) -> int:
        """Forget the names of workers that died without signing off, and return how many they were.

        RQ would do that with the rest of its clean-up, which is off.
        """
        names: list[Any] = sorted(
            self.connection.smembers(WORKERS) | self.connection.smembers(f"{WORKERS}:{QUEUE_NAME}")
        )
        with self.connection.pipeline(transaction=False) as pipeline:
            for each in names:
                pipeline.exists(each)
            gone = [each for each, exists in zip(names, pipeline.execute(), strict=True) if not exists]
        if gone:
            self.connection.srem(WORKERS, *gone)
            self.connection.srem(f"{WORKERS}:{QUEUE_NAME}", *gone)
        return len(gone)

    def count(self) -> dict[str, int]:
        """Return how many jobs are in each state, by what Redis counts anyway."""
        with self.connection.pipeline(transaction=False) as pipeline:
            pipeline.llen(QUEUE)
            for registry in _REGISTRIES.values():
                pipeline.zcard(registry)
            counts: list[int] = pipeline.execute()
        return dict(zip(("queued", *_REGISTRIES), counts, strict=True))

    def queue_length(self) -> int:
        """Return how many jobs wait."""
        return int(self.connection.llen(QUEUE))

    def may_be_full(self) -> bool:
        """Whether so many jobs wait that others may have found no room: as enqueue.lua has it."""
        length, memory, most = self.queue_length(), find_memory(self.connection), MOST_WAITING
        if memory.limit_bytes:
            left = (memory.limit_bytes * MEMORY_SHARE - memory.used_bytes) / JOB_BYTES
            most = min(most, length + int(left))
        return length >= max(most, FEWEST_WAITING) - RESERVED_WAITING

    def queued_ids(self) -> set[int]:
        """Return the ids of all the jobs that wait."""
        return {int(each) for each in self.connection.lrange(QUEUE, 0, -1) if each.isdigit()}

    def look_at(self, key: str, offset: int, limit: int) -> list[str]:
        """Return a page of the queue's list or of a registry, as it stands. RQ's own reading would clean up."""
        read: Any = self.connection.lrange if key == QUEUE else self.connection.zrange
        return [_text(each) for each in read(key, offset, offset + limit - 1)]

    def run_out(self, limit: int) -> list[str]:
        """Return up to ``limit`` members of the started registry whose lease has run out."""
        seconds, microseconds = self.connection.time()
        expired: Any = self.connection.zrangebyscore(STARTED, "-inf", seconds + microseconds / 1e6, start=0, num=limit)
        return [_text(each) for each in expired]

    def find_present(self, key: str, members: Sequence[str]) -> list[str]:
        """Return those of the members that stand in the queue's list or in a registry: few, for each is a walk."""
        with self.connection.pipeline(transaction=False) as pipeline:
            for each in members:
                pipeline.lpos(key, each) if key == QUEUE else pipeline.zscore(key, each)
            return [each for each, place in zip(members, pipeline.execute(), strict=True) if place is not None]

    def find_lost(self, ids: Sequence[int]) -> list[int]:
        """Return those of the jobs that neither the list nor a worker has: few, for each is a walk along the list."""
        gone, _ = self._examine(keys=[STARTED, QUEUE], args=list(ids))
        return [int(each) for each in gone]

    def wait_for_jobs(self, timeout_s: int) -> None:
        """Return when a job waits, or when the time is over. Takes nothing: it moves the first to where it is."""
        try:
            self.connection.blmove(QUEUE, QUEUE, timeout_s, "LEFT", "LEFT")
        except OutOfMemoryError:  # to move a job is to add one
            time.sleep(FULL_PAUSE_S)

    def register(self, worker_key: str, fields: Mapping[str, Any], *, groups: Sequence[str], ttl_s: int) -> None:
        """Show that a worker lives, whether Redis knows it already or not.

        Args:
            worker_key: of the worker, in Redis.
            fields: what is shown of it.
            groups: the keys of the sets of workers that it belongs to.
            ttl_s: seconds until it counts as dead, unless it is shown again.
        """
        pairs = [part for field in fields.items() for part in field]
        self._register(keys=[worker_key, f"{worker_key}:executions", *groups], args=[ttl_s, *pairs])


def _script(*names: str) -> str:
    """Read ``lua/<name>.lua`` one after the other, with what all of them share before it."""
    return "".join((_LUA / f"{part}.lua").read_text() for part in ("shared", *names))


# Those for the ways of a request, which has them called by a RedisLine.
ENQUEUE = line.Script(_script("room", "enqueue"))
PLAN = line.Script(_script("room", "plan"))
FINISH = line.Script(_script("room", "finish"))
_ENQUEUE_KEYS = [QUEUE, QUEUES, SCHEDULED, FAILED, FINISHED, STARTED, MOST]
_PLAN_KEYS = [SCHEDULED, QUEUE, MOST]
_FINISH_KEYS = [STARTED, FINISHED, FAILED, SCHEDULED, QUEUE, MOST]


def enqueueing(jobs: Iterable[NewJob], *, lost: bool = False) -> line.Command:
    """Return the command for what :meth:`RqKeys.enqueue` does."""
    return ENQUEUE.call(_ENQUEUE_KEYS, *_enqueue_arguments(jobs, lost=lost))


def _enqueue_arguments(jobs: Iterable[NewJob], *, lost: bool) -> list[Any]:
    arguments: list[Any] = [
        _now(), JOB_TIMEOUT_S, RESULT_TTL_S, FAILURE_TTL_S, JOB_DESCRIPTION, "lost" if lost else "new",
        MOST_WAITING, FEWEST_WAITING, 0 if lost else RESERVED_WAITING, MEMORY_SHARE, JOB_BYTES,
    ]  # fmt: skip
    for job in jobs:
        arguments += [job.id, _data(job.id), _meta(job.trace), job.lost]
    return arguments


def showing(jobs: Iterable[ComingJob]) -> line.Command:
    """Return the command for what :meth:`RqKeys.show` does."""
    return PLAN.call(_PLAN_KEYS, *_plan_arguments(jobs))


def _plan_arguments(jobs: Iterable[ComingJob]) -> list[Any]:
    arguments: list[Any] = [
        _now(), JOB_TIMEOUT_S, RESULT_TTL_S, FAILURE_TTL_S, JOB_DESCRIPTION, MOST_SCHEDULED, MEMORY_SHARE, JOB_BYTES
    ]  # fmt: skip
    for job in jobs:
        arguments += [job.id, _data(job.id), _meta(job.trace), job.due.timestamp()]
    return arguments


def finishing(ids: Iterable[int]) -> line.Command:
    """Return the command for what :meth:`RqKeys.finish` does, whoever holds the jobs."""
    return FINISH.call(_FINISH_KEYS, *_finish_arguments("", ids))


def _finish_arguments(lease: str, ids: Iterable[int]) -> list[Any]:
    return [_now(), RESULT_TTL_S, lease, MEMORY_SHARE, JOB_BYTES, *ids]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _data(job_id: int | str) -> bytes:
    # As RQ wraps it, with the smallest of windows: setting up zlib's usual one takes longer than all the rest of this.
    packer = zlib.compressobj(1, zlib.DEFLATED, 9, 1)
    return packer.compress(orjson.dumps((JOB_FUNCTION, None, [str(job_id)], {}))) + packer.flush()


def _meta(trace: str | None) -> bytes:
    # 64 bytes, and no more: beyond that Redis keeps the whole job as a hash table of twice the size.
    return orjson.dumps({"tp": trace}) if trace else b""


def _packed(text: str) -> str:
    """Spell a result's text as RQ does."""
    return base64.b64encode(zlib.compress(text.encode())).decode()


def _text(value: bytes | str) -> str:
    # Anything may stand on a queue, text or not, and must not stop the worker that finds it.
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def transfer_id_of(job_id: str) -> int | None:
    """Return the id of a job's transfer, None if there can be none: anything may stand on a queue."""
    transfer_id = int(job_id) if _TRANSFER_ID.fullmatch(job_id) else None
    return transfer_id if transfer_id is not None and transfer_id <= MAX_ID else None


def new_lease() -> str:
    """Return a name for a lease that nobody has used."""
    return uuid.uuid4().hex

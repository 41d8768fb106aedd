"""All that touches RQ's private keys: rq 3.0.0, pinned exactly.

Each step of a job's life is one Lua call, so it happens whole or not at all, and a batch of jobs costs what one costs.
The scripts keep to RQ's own keys and fields (``tests/jobs/test_rq_keys.py`` compares what is left behind with what
stock RQ leaves), so that rq-dashboard, ``rq info`` and ``Job.fetch`` read our jobs like any others. Fields of our own
in a job's hash, which RQ ignores:

* ``lease``: the execution that holds the job; its member in the started registry is ``<job id>:<lease>``.
* ``dead``: the transfer's generation that was booked as a dead letter. A job that carries it and stands on the queue
  was requeued by somebody, for nothing else moves a booked dead letter.
* ``lost``: how many leases have run out on it.
"""

import re
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import redis
from rq.results import Result

from models.transfer import MAX_ID

if TYPE_CHECKING:
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
# From this many lost leases on a job runs alone, so that it can take no neighbour with it.
ALONE_AFTER_LOST = 2
# This many lost leases are no accident: the transfer kills its workers.
MAX_LOST = 5

QUEUE = f"rq:queue:{QUEUE_NAME}"
QUEUES = "rq:queues"
STARTED = f"rq:wip:{QUEUE_NAME}"
FINISHED = f"rq:finished:{QUEUE_NAME}"
FAILED = f"rq:failed:{QUEUE_NAME}"
SCHEDULED = f"rq:scheduled:{QUEUE_NAME}"
# The field of a job's hash that marks a booked dead letter, see above.
DEAD = "dead"
_TRANSFER_ID = re.compile(r"[1-9][0-9]{0,18}")

# Everything that waits or lives in a list of ids is walked in slices: unpack() takes no more.
_LUA_SLICES = """
local function sliced(command, key, values)
  for first = 1, #values, 4000 do
    redis.call(command, key, unpack(values, first, math.min(first + 3999, #values)))
  end
end
local function now()
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end
"""

# KEYS queue queues scheduled failed finished started | ARGV now timeout result_ttl failure_ttl description, then
# per job: id data meta lost; mode 'new' leaves any job that has a hash alone, 'lost' those that are alive.
_ENQUEUE = (
    _LUA_SLICES
    + """
local queue = string.match(KEYS[1], '[^:]+$')
local pushed = {}
local function is_alive(id, key)
  local job = redis.call('HMGET', key, 'status', 'lease')
  if job[1] == 'queued' then return redis.call('LPOS', KEYS[1], id) ~= false end
  if job[1] ~= 'started' then return false end
  if job[2] then return redis.call('ZSCORE', KEYS[6], id .. ':' .. job[2]) ~= false end
  return redis.call('EXISTS', 'rq:executions:' .. id) == 1
end
for i = 7, #ARGV, 4 do
  local id, key = ARGV[i], 'rq:job:' .. ARGV[i]
  local exists = redis.call('EXISTS', key) == 1
  if not exists or (ARGV[6] == 'lost' and not is_alive(id, key)) then
    if exists then
      redis.call('ZREM', KEYS[3], id)
      redis.call('ZREM', KEYS[4], id)
      redis.call('ZREM', KEYS[5], id)
      redis.call('DEL', key, 'rq:results:' .. id)
    end
    redis.call('HSET', key, 'status', 'queued', 'origin', queue, 'data', ARGV[i + 1], 'description', ARGV[5],
      'created_at', ARGV[1], 'enqueued_at', ARGV[1], 'timeout', ARGV[2], 'result_ttl', ARGV[3],
      'failure_ttl', ARGV[4], 'started_at', '', 'ended_at', '', 'last_heartbeat', '', 'worker_name', '')
    if ARGV[i + 2] ~= '' then redis.call('HSET', key, 'meta', ARGV[i + 2]) end
    if ARGV[i + 3] ~= '0' then redis.call('HSET', key, 'lost', ARGV[i + 3]) end
    pushed[#pushed + 1] = id
  end
end
if #pushed > 0 then
  redis.call('SADD', KEYS[2], KEYS[1])
  sliced('RPUSH', KEYS[1], pushed)
end
return #pushed
"""
)

# KEYS queue started worker | ARGV limit now lease_s worker lease alone_after
_CLAIM = (
    _LUA_SLICES
    + """
local limit, ids, dead, members = tonumber(ARGV[1]), {}, {}, {}
local expires = now() + ARGV[3]
local function put_back(popped, first)
  for i = #popped, first, -1 do redis.call('LPUSH', KEYS[1], popped[i]) end
end
local full = false
while #ids < limit and not full do
  local popped = redis.call('LPOP', KEYS[1], limit - #ids)
  if not popped then break end
  for i, id in ipairs(popped) do
    local key = 'rq:job:' .. id
    local job = redis.call('HMGET', key, 'status', 'dead', 'lost')
    if job[1] == 'queued' then
      local alone = tonumber(job[3] or 0) >= tonumber(ARGV[6])
      if alone and #ids > 0 then
        put_back(popped, i)
        full = true
        break
      end
      redis.call('HSET', key, 'status', 'started', 'started_at', ARGV[2], 'last_heartbeat', ARGV[2],
        'worker_name', ARGV[4], 'lease', ARGV[5])
      ids[#ids + 1] = id
      if job[2] then dead[#dead + 1] = id; dead[#dead + 1] = job[2] end
      members[#members + 1] = expires
      members[#members + 1] = id .. ':' .. ARGV[5]
      if alone then
        put_back(popped, i + 1)
        full = true
        break
      end
    end
  end
end
if #ids > 0 then
  sliced('ZADD', KEYS[2], members)
  redis.call('HSET', KEYS[3], 'state', 'busy', 'current_job', ids[1])
end
return {ids, dead}
"""
)

# KEYS started | ARGV lease_s lease id…
_RENEW = (
    _LUA_SLICES
    + """
local expires, held = now() + ARGV[1], 0
for i = 3, #ARGV do
  if redis.call('ZSCORE', KEYS[1], ARGV[i] .. ':' .. ARGV[2]) then
    redis.call('ZADD', KEYS[1], expires, ARGV[i] .. ':' .. ARGV[2])
    held = held + 1
  end
end
return held
"""
)

# KEYS started finished failed scheduled | ARGV now result_ttl lease id…
_FINISH = (
    _LUA_SLICES
    + """
local instant, ttl = now(), tonumber(ARGV[2])
local leases, done, ids = {}, {}, {}
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', instant)
for i = 4, #ARGV do
  local id, key = ARGV[i], 'rq:job:' .. ARGV[i]
  leases[#leases + 1] = id .. ':' .. ARGV[3]
  ids[#ids + 1] = id
  local job = redis.call('HMGET', key, 'status', 'lease', 'dead')
  if job[1] then
    if job[2] and job[2] ~= ARGV[3] then leases[#leases + 1] = id .. ':' .. job[2] end
    redis.call('HSET', key, 'status', 'finished', 'ended_at', ARGV[1], 'last_heartbeat', ARGV[1])
    if job[3] then redis.call('HDEL', key, 'dead') end
    if job[3] or job[1] ~= 'started' then redis.call('EXPIRE', 'rq:results:' .. id, ttl) end
    redis.call('EXPIRE', key, ttl)
    done[#done + 1] = instant + ttl
    done[#done + 1] = id
  end
end
sliced('ZREM', KEYS[1], leases)
sliced('ZREM', KEYS[3], ids)
sliced('ZREM', KEYS[4], ids)
if #done > 0 then sliced('ZADD', KEYS[2], done) end
return #done / 2
"""
)

# KEYS started queue | ARGV lease id…: back to where they were taken from, in their order.
_HAND_BACK = """
local given = 0
for i = #ARGV, 2, -1 do
  local id, key = ARGV[i], 'rq:job:' .. ARGV[i]
  if redis.call('ZREM', KEYS[1], id .. ':' .. ARGV[1]) == 1 and redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'status', 'queued')
    redis.call('HDEL', key, 'lease')
    redis.call('LPUSH', KEYS[2], id)
    given = given + 1
  end
end
return given
"""

# KEYS started scheduled | ARGV now lease, then per job: id due
_POSTPONE = """
local postponed = 0
for i = 3, #ARGV, 2 do
  local id, key = ARGV[i], 'rq:job:' .. ARGV[i]
  if redis.call('ZREM', KEYS[1], id .. ':' .. ARGV[2]) == 1 and redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'status', 'scheduled', 'ended_at', ARGV[1], 'last_heartbeat', ARGV[1])
    redis.call('HDEL', key, 'lease')
    redis.call('ZADD', KEYS[2], ARGV[i + 1], id)
    postponed = postponed + 1
  end
end
return postponed
"""

# KEYS started failed queue scheduled finished | ARGV now lease generation id, the hash's fields if there is none
# (data meta description timeout result_ttl failure_ttl), and the result's fields. Without a lease: whatever holds it.
_BURY = """
local id, key = ARGV[4], 'rq:job:' .. ARGV[4]
local held = redis.call('HGET', key, 'lease')
if ARGV[2] ~= '' then
  if redis.call('ZREM', KEYS[1], id .. ':' .. ARGV[2]) == 0 then return 0 end
elseif held then
  redis.call('ZREM', KEYS[1], id .. ':' .. held)
end
if redis.call('EXISTS', key) == 0 then
  redis.call('HSET', key, 'origin', string.match(KEYS[3], '[^:]+$'), 'data', ARGV[5], 'description', ARGV[7],
    'timeout', ARGV[8], 'result_ttl', ARGV[9], 'failure_ttl', ARGV[10], 'created_at', ARGV[1],
    'enqueued_at', ARGV[1], 'started_at', '', 'worker_name', '')
  if ARGV[6] ~= '' then redis.call('HSET', key, 'meta', ARGV[6]) end
end
redis.call('HSET', key, 'status', 'failed', 'ended_at', ARGV[1], 'last_heartbeat', ARGV[1], 'dead', ARGV[3])
redis.call('HDEL', key, 'lease', 'lost')
redis.call('PERSIST', key)
redis.call('LREM', KEYS[3], 0, id)
redis.call('ZREM', KEYS[4], id)
redis.call('ZREM', KEYS[5], id)
redis.call('ZADD', KEYS[2], '+inf', id)
redis.call('XADD', 'rq:results:' .. id, 'MAXLEN', '~', 10, '*', unpack(ARGV, 11))
return 1
"""

# KEYS started queue | ARGV limit max_lost: leases that have run out. Those of jobs that somebody else has finished or
# taken since are only removed; the others go back to the front. Returns moved (id, lost)… and killers.
_REAP = (
    _LUA_SLICES
    + """
local instant, moved, killers = now(), {}, {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', instant, 'LIMIT', 0, ARGV[1])) do
  local id, lease = string.match(member, '^(.-):(.*)$')
  local key = 'rq:job:' .. (id or member)
  local job = redis.call('HMGET', key, 'status', 'lease')
  if not id or job[1] ~= 'started' or (job[2] and job[2] ~= lease) then
    redis.call('ZREM', KEYS[1], member)
  else
    local lost = redis.call('HINCRBY', key, 'lost', 1)
    if lost >= tonumber(ARGV[2]) then
      -- It stays until PostgreSQL has it as failed; should that not come to pass, it is looked at again.
      redis.call('ZADD', KEYS[1], instant + 5, member)
      killers[#killers + 1] = id
    else
      redis.call('ZREM', KEYS[1], member)
      redis.call('HSET', key, 'status', 'queued')
      redis.call('HDEL', key, 'lease')
      redis.call('LPUSH', KEYS[2], id)
      moved[#moved + 1] = id
      moved[#moved + 1] = lost
    end
  end
end
return {moved, killers}
"""
)

# KEYS started | ARGV id…: those that no worker holds and no list is thought to have; and those said to be queued.
_EXAMINE = """
local gone, queued = {}, {}
for _, id in ipairs(ARGV) do
  local job = redis.call('HMGET', 'rq:job:' .. id, 'status', 'lease')
  if job[1] == 'queued' then
    queued[#queued + 1] = id
  elseif job[1] ~= 'started' then
    gone[#gone + 1] = id
  elseif job[2] then
    if not redis.call('ZSCORE', KEYS[1], id .. ':' .. job[2]) then gone[#gone + 1] = id end
  elseif redis.call('EXISTS', 'rq:executions:' .. id) == 0 then
    gone[#gone + 1] = id
  end
end
return {gone, queued}
"""


class Claim(NamedTuple):
    """Jobs taken from the queue under one lease; ``dead``: those that were dead letters, by their generation."""

    lease: str
    ids: list[str]
    dead: dict[str, int]


class NewJob(NamedTuple):
    """A job to put on the queue."""

    id: int
    trace: str | None
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Reaped:
    """Leases that had run out: what went back to the queue, with how often by now, and what kills its workers."""

    moved: dict[str, int]
    killers: list[str]


class RqKeys:
    """The steps of a job's life, each one call to Redis. All raise :class:`redis.RedisError`."""

    def __init__(self, connection: redis.Redis) -> None:
        self.connection = connection
        self._enqueue: Script = connection.register_script(_ENQUEUE)
        self._claim: Script = connection.register_script(_CLAIM)
        self._renew: Script = connection.register_script(_RENEW)
        self._finish: Script = connection.register_script(_FINISH)
        self._hand_back: Script = connection.register_script(_HAND_BACK)
        self._postpone: Script = connection.register_script(_POSTPONE)
        self._bury: Script = connection.register_script(_BURY)
        self._reap: Script = connection.register_script(_REAP)
        self._examine: Script = connection.register_script(_EXAMINE)

    def enqueue(self, jobs: Iterable[NewJob], *, lost: bool = False) -> int:
        """Put jobs on the queue and return how many were not there.

        Args:
            jobs: what to enqueue.
            lost: False leaves a job alone that has a hash, as RQ's ``unique`` does. True looks closer, whether it
                stands in the list or is held under a lease, and begins anew with one that does not.
        """
        arguments: list[Any] = [
            _now(), JOB_TIMEOUT_S, RESULT_TTL_S, FAILURE_TTL_S, JOB_DESCRIPTION, "lost" if lost else "new",
        ]  # fmt: skip
        for job in jobs:
            arguments += [job.id, _data(job.id), _meta(job.trace), job.lost]
        keys = [QUEUE, QUEUES, SCHEDULED, FAILED, FINISHED, STARTED]
        return int(self._enqueue(keys=keys, args=arguments))

    def claim(self, *, worker_key: str, worker_name: str, lease: str, limit: int, lease_s: float) -> Claim:
        """Take up to ``limit`` jobs from the queue under a lease of ``lease_s`` seconds of Redis's clock."""
        arguments: list[Any] = [limit, _now(), lease_s, worker_name, lease, ALONE_AFTER_LOST]
        ids, dead = self._claim(keys=[QUEUE, STARTED, worker_key], args=arguments)
        generations = dict(zip(map(_text, dead[::2]), map(int, dead[1::2]), strict=True))
        return Claim(lease, [_text(each) for each in ids], generations)

    def renew(self, lease: str, ids: Sequence[str], *, lease_s: float) -> int:
        """Prolong a lease and return how many of the jobs it still holds."""
        return int(self._renew(keys=[STARTED], args=[lease_s, lease, *ids]))

    def finish(self, lease: str, ids: Sequence[int]) -> None:
        """Book jobs whose transfers are final and are no dead letters, whoever holds them by now."""
        self._finish(keys=[STARTED, FINISHED, FAILED, SCHEDULED], args=[_now(), RESULT_TTL_S, lease, *ids])

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
        result = Result(str(job_id), Result.Type.FAILED, self.connection, exc_string=error, worker_name=worker_name)
        arguments: list[Any] = [_now(), lease, generation, job_id, _data(job_id), "", JOB_DESCRIPTION]
        arguments += [JOB_TIMEOUT_S, RESULT_TTL_S, FAILURE_TTL_S]
        arguments += [part for pair in result.serialize().items() for part in pair]
        return bool(self._bury(keys=[STARTED, FAILED, QUEUE, SCHEDULED, FINISHED], args=arguments))

    def reap(self, *, limit: int) -> Reaped:
        """Take back up to ``limit`` jobs whose lease has run out."""
        moved, killers = self._reap(keys=[STARTED, QUEUE], args=[limit, MAX_LOST])
        counts = dict(zip(map(_text, moved[::2]), map(int, moved[1::2]), strict=True))
        return Reaped(counts, [_text(each) for each in killers])

    def examine(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Tell which of these jobs nobody has, and which say of themselves that they are queued."""
        gone, queued = self._examine(keys=[STARTED], args=list(ids))
        return [int(each) for each in gone], [int(each) for each in queued]

    def queue_length(self) -> int:
        """Return how many jobs wait."""
        return int(self.connection.llen(QUEUE))

    def queued_ids(self) -> set[int]:
        """Return the ids of all the jobs that wait."""
        return {int(each) for each in self.connection.lrange(QUEUE, 0, -1) if each.isdigit()}

    def wait_for_jobs(self, timeout_s: int) -> None:
        """Return when a job waits, or when the time is over. Takes nothing: it moves the first to where it is."""
        self.connection.blmove(QUEUE, QUEUE, timeout_s, "LEFT", "LEFT")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _data(job_id: int | str) -> bytes:
    return zlib.compress(orjson.dumps((JOB_FUNCTION, None, [str(job_id)], {})))


def _meta(trace: str | None) -> bytes:
    # 64 bytes, and no more: beyond that Redis keeps the whole job as a hash table of twice the size.
    return orjson.dumps({"tp": trace}) if trace else b""


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

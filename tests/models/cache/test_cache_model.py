"""Every interleaving of writers, readers and a FLUSHALL on one wallet, by the real scripts: nobody reads what is over.

PostgreSQL is two numbers here, the state that is committed and its version, which a freeze does not change: a reader's
snapshot and a writer's commit are one step each.
All else is the cache itself. That this finds stale reads is shown by taking away one part of the protocol at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import pytest
import redis
from sqlalchemy import Engine

from models.cache import wallet_cache
from models.cache.wallet_cache import Eviction, Miss, WalletCache
from models.redis_line.line import Script
from tests.models.cache.caching import FIELD, cache_at

# What a writer does, in this order. One that ends earlier was killed.
WRITE = ("lock", "evict", "commit", "evict_again")
FREEZE = ("lock", "evict", "freeze", "evict_again")
ROLLBACK = ("lock", "evict", "roll_back")
READ = ("ask", "load", "fill")
FLUSH = ("flush",)
ENDS = {"evict_again", "roll_back", "fill", "flush"}
COMMITS = {"commit", "freeze"}
KILLED = [WRITE[:steps] for steps in (1, 2, 3)]

Plan = tuple[int, ...]
Actors = Sequence[tuple[str, ...]]
_wallet_ids = count(1)


@dataclass(slots=True)
class Reader:
    """``floor``: what had been answered when it began."""

    floor: int = 0
    noted: Miss | None = None
    loaded: int = 0
    version: int = 0


@dataclass(slots=True)
class World:
    """One wallet, from its first version on; ``committed`` is the number of its state."""

    cache: WalletCache
    client: redis.Redis
    is_warm: bool
    wallet_id: int = field(default_factory=lambda: next(_wallet_ids))
    committed: int = 1
    version: int = 1
    answered: int = 1
    holder: int | None = None
    stale: int = 0
    readers: dict[int, Reader] = field(default_factory=dict)
    evictions: dict[int, Eviction] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.is_warm:
            for step in READ:
                self.do(-1, step, is_killed=False)

    def do(self, actor: int, step: str, *, is_killed: bool) -> bool:
        """Do one step; False: it would have to wait, so there is no such interleaving."""
        match step:
            case "lock":
                if self.holder is not None:
                    return False
                self.holder = actor
            case "evict":
                self.evictions[actor] = self.cache.evict(self.next_version)
                assert not self.evictions[actor].kept
            case "commit" | "freeze":
                self.committed += 1
                self.version += step == "commit"
            case "evict_again":
                self.cache.evict_again(self.evictions.get(actor, Eviction({self.wallet_id: self.version})))
            case "flush":
                self.client.flushdb()
            case "ask" | "load" | "fill":
                self._read(self.readers.setdefault(actor, Reader()), step)
        if step in COMMITS | {"roll_back"} or (is_killed and step not in COMMITS and self.holder == actor):
            self.holder = None
        # Of a commit whose writer was killed, the client learns when it asks again.
        if step == "evict_again" or (is_killed and step in COMMITS):
            self.answered = self.committed
        return True

    @property
    def next_version(self) -> Mapping[int, int]:
        return {self.wallet_id: self.version + 1}

    def ask(self, floor: int) -> bytes | Miss | None:
        """Ask the cache; whatever it has is not older than ``floor``."""
        found = self.cache.look(self.wallet_id, FIELD)
        assert found is not None
        if isinstance(found, bytes):
            self.stale += int(found) < floor
        return found

    def _read(self, reader: Reader, step: str) -> None:
        if step == "ask":
            reader.floor = self.answered
            found = self.ask(reader.floor)
            reader.noted = found if isinstance(found, Miss) else None
        elif step == "load":
            reader.loaded, reader.version = self.committed, self.version
        elif reader.noted is not None:
            payload = str(reader.loaded).encode()
            self.cache.fill(self.wallet_id, FIELD, reader.noted, reader.version, payload)


def plans(lengths: Sequence[int]) -> Iterator[Plan]:
    """Every order in which actors can take so many steps each."""
    if not any(lengths):
        yield ()
    for actor, left in enumerate(lengths):
        if left:
            rest = [each - (number == actor) for number, each in enumerate(lengths)]
            for plan in plans(rest):
                yield (actor, *plan)


Explore = Callable[..., list[list[str]]]


@pytest.fixture
def explore(redis_client: redis.Redis, redis_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Explore:
    """Go through all interleavings of some actors, and return those in which somebody reads what is over."""

    def explore(
        *actors: tuple[str, ...], changed: Mapping[str, tuple[str, str]] | None = None, warm: bool = False
    ) -> list[list[str]]:
        for name, (part, other) in (changed or {}).items():
            whole = getattr(wallet_cache, name)
            assert part in whole.text
            monkeypatch.setattr(wallet_cache, name, Script(whole.text.replace(part, other)))
        redis_client.flushdb()
        with cache_at(redis_url, engine) as cache:
            # When it may be believed is not the question here: tests/models/cache/test_pulse.py.
            monkeypatch.setattr(cache.pulse, "believes", lambda: True)
            monkeypatch.setattr(cache.pulse, "believed", lambda _: True)
            found = [run(World(cache, redis_client, warm), actors, plan) for plan in plans([*map(len, actors)])]
        return [steps for steps in found if steps]

    return explore


def run(world: World, actors: Actors, plan: Plan) -> list[str] | None:
    """Run one interleaving, and return its steps if somebody read what was over."""
    taken = [0] * len(actors)
    steps = []
    for actor in plan:
        step = actors[actor][taken[actor]]
        taken[actor] += 1
        ends = taken[actor] == len(actors[actor])
        if not world.do(actor, step, is_killed=ends and step not in ENDS):
            return None
        steps.append(step)
    world.ask(world.answered)
    return steps if world.stale else None


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("writer", [WRITE, ROLLBACK, *KILLED], ids=lambda steps: f"up to {steps[-1]}")
def test_no_interleaving_of_a_writer_and_two_readers_is_stale(
    explore: Explore, writer: tuple[str, ...], warm: bool
) -> None:
    # Who asks a warm cache first needs no second one beside him to find out.
    readers = [READ] if warm else [READ, READ]
    assert explore(writer, *readers, warm=warm) == []


def test_no_interleaving_of_two_writers_and_a_reader_is_stale(explore: Explore) -> None:
    assert explore(WRITE, WRITE, READ) == []
    assert explore(WRITE, KILLED[2], READ, warm=True) == []


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("writer", [WRITE, ROLLBACK, *KILLED[:2]], ids=lambda steps: f"up to {steps[-1]}")
def test_no_interleaving_with_redis_emptied_at_any_point_is_stale(
    explore: Explore, writer: tuple[str, ...], warm: bool
) -> None:
    assert explore(writer, READ, FLUSH, warm=warm) == []


def test_all_that_is_left_needs_redis_emptied_within_the_posting_of_a_writer_that_is_then_killed(
    explore: Explore,
) -> None:
    stale = explore(KILLED[2], READ, FLUSH)
    assert stale
    # A reader that came after the flush read the old row before the commit. Its entry lives for CACHE_TTL at most.
    for steps in stale:
        order = [steps.index(step) for step in ("evict", "flush", "ask", "load", "commit")]
        assert order == sorted(order), steps


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("steps", [4, 3, 2])
def test_no_interleaving_of_who_freezes_and_two_readers_is_stale(explore: Explore, steps: int, warm: bool) -> None:
    readers = [READ] if warm else [READ, READ]
    assert explore(FREEZE[:steps], *readers, warm=warm) == []


@pytest.mark.parametrize("other", [FREEZE, WRITE], ids=["lets go", "writes"])
def test_no_interleaving_of_who_freezes_another_writer_and_a_reader_is_stale(
    explore: Explore, other: tuple[str, ...]
) -> None:
    assert explore(FREEZE, other, READ) == []


def test_no_interleaving_of_who_freezes_with_redis_emptied_is_stale(explore: Explore) -> None:
    assert explore(FREEZE, READ, FLUSH) == []


def test_with_the_fence_at_the_version_that_stays_a_freeze_is_read_over(explore: Explore) -> None:
    fence = ("then fence = ARGV[i + 1] end", "then fence = ARGV[i + 1] - 1 end")
    stale = explore(FREEZE, READ, changed={"EVICT": fence})
    assert ["ask", "load", "lock", "evict", "freeze", "evict_again", "fill"] in stale


def test_without_the_fence_it_finds_the_classic_stale_fill(explore: Explore) -> None:
    stale = explore(WRITE, READ, changed={"FILL": ("fence and tonumber(fence) > version", "false")})
    assert ["ask", "load", "lock", "evict", "commit", "evict_again", "fill"] in stale


def test_without_the_eviction_before_the_commit_it_finds_the_killed_writer(explore: Explore) -> None:
    assert explore(("lock", "commit", "evict_again"), READ, warm=True) == []
    assert explore(("lock", "commit"), READ, warm=True)


def test_without_the_eviction_after_the_commit_it_finds_redis_emptied_in_between(explore: Explore) -> None:
    assert explore(WRITE, READ, FLUSH) == []
    assert explore(("lock", "evict", "commit"), READ, FLUSH)


def test_a_writer_who_cannot_tell_whether_redis_still_knows_tells_it_again(explore: Explore) -> None:
    assert explore(WRITE, READ, FLUSH, changed={"EVICT": ("redis.call('GET', KEYS[1])", "'another'")}) == []


def test_without_the_epoch_it_finds_a_fill_whose_fence_was_lost(explore: Explore) -> None:
    # One that never changes is none.
    stale = explore(
        WRITE,
        READ,
        FLUSH,
        changed={
            "READ": ("redis.call('GET', KEYS[1])", "'the same'"),
            "FILL": ("redis.call('GET', KEYS[1]) ~= ARGV[1]", "false"),
        },
    )
    assert ["ask", "load", "lock", "evict", "commit", "evict_again", "flush", "fill"] in stale

"""Reading for a scrape: one at a time and one a second, however many ask; and nobody waits for what hangs."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest
from sqlalchemy import Engine, create_engine

from api.readings import FRESH_S, Reader, Reading, Unreadable, read_postgres
from models.ledger.frontier import Frontier
from observe import background, metrics

LONG_S = 60.0


class Dependency:
    """Something to read, which may hang or be away."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.readings = 0
        self.is_up = True
        self.flows = threading.Event()
        self.flows.set()
        self.reader = Reader(self._read, clock=lambda: self.now_s)

    def ask(self, patience_s: float = LONG_S) -> Reading | None:
        self.reader.begin()
        return self.reader.find(self.now_s + patience_s)

    def _read(self) -> Reading:
        self.readings += 1
        self.flows.wait(LONG_S)
        if not self.is_up:
            raise Unreadable
        return [metrics.db_lock_waits.of(self.readings)]


def test_what_was_read_just_now_is_not_read_again() -> None:
    dependency = Dependency()
    first = dependency.ask()
    assert first is not None
    dependency.now_s += FRESH_S - 0.01
    assert dependency.ask() == first
    dependency.now_s += 0.02
    assert dependency.ask() != first
    assert dependency.readings == 2


def test_what_is_away_is_not_asked_again_at_once_and_found_when_it_is_back() -> None:
    dependency = Dependency()
    dependency.is_up = False
    assert dependency.ask() is None
    dependency.is_up = True
    assert dependency.ask() is None
    assert dependency.readings == 1
    dependency.now_s += FRESH_S
    assert dependency.ask() is not None


def test_what_hangs_is_read_by_one_thread_however_many_ask() -> None:
    dependency = Dependency()
    dependency.flows.clear()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: dependency.ask(patience_s=0.0), range(100))) == [None] * 100
    dependency.now_s += 10 * FRESH_S
    assert dependency.ask(patience_s=0.0) is None
    assert dependency.readings == 1
    dependency.flows.set()
    assert dependency.ask() is not None


def test_many_who_ask_at_once_share_a_reading() -> None:
    dependency = Dependency()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: dependency.ask(), range(100)))
    assert None not in found
    assert dependency.readings == 1


def test_a_defect_is_logged_and_told_as_absent(capsys: pytest.CaptureFixture[str]) -> None:
    def read() -> Reading:
        raise ZeroDivisionError

    reader = Reader(read)
    reader.begin()
    assert reader.find(time.monotonic() + LONG_S) is None
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_what_could_not_be_read_for_want_of_a_thread_is_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    dependency = Dependency()
    with monkeypatch.context() as scarce:
        scarce.setattr(background, "start", lambda *_: None)
        assert dependency.ask() is None
    dependency.now_s += FRESH_S
    assert dependency.ask() is not None


def _connections(engine: Engine) -> dict[str, float]:
    """How many there are by the kind of process, whatever they do."""
    own = create_engine(engine.url)
    (family,) = [each for each in read_postgres(own, Frontier(own)) if each.name == metrics.db_pool_connections.name]
    found: dict[str, float] = {}
    for sample in family.samples:
        found[sample.labels["service"]] = found.get(sample.labels["service"], 0) + sample.value
    return found


@pytest.mark.parametrize(("name", "kind"), [("wallet-grpc", "grpc"), ("wallet-testkind", "other")])
def test_a_connection_is_counted_with_the_kind_of_its_process(engine: Engine, name: str, kind: str) -> None:
    before = _connections(engine)
    assert before.keys() == {"api", "grpc", "worker", "webhooks", "other"}
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with closing(psycopg2.connect(url, application_name=name)):
        assert _connections(engine)[kind] == before[kind] + 1

"""What is wrong with a PostgreSQL, or with the books in it, is found and named with how to mend it."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, text

from models import checkup
from models.checkup import MAX_COUNTED, Finding, Level, check_postgres, check_skew
from ops.local.servers import PostgresServer
from tests.models.ledger.ordering import bounded_engine
from tests.proxy import TcpProxy

OK, WARN, FAIL = Level.OK, Level.WARN, Level.FAIL


def look(engine: Engine, *, wanted: int = 10) -> dict[str, Finding]:
    findings = {each.name: each for each in check_postgres(engine, connections_wanted=wanted)}
    # Who says that something is wrong says how to mend it.
    assert all((each.remedy is None) == (each.level is OK) for each in findings.values())
    return findings


def levels(engine: Engine, *, wanted: int = 10) -> dict[str, Level]:
    return {name: each.level for name, each in look(engine, wanted=wanted).items() if each.level is not OK}


@pytest.fixture(scope="module")
def careless_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that forgets what it has confirmed."""
    home = tmp_path_factory.mktemp("careless")
    careless = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "20"}
    with PostgresServer(Path(home), settings=careless) as server:
        yield server.url


def test_with_a_sound_server_all_is_ok(engine: Engine) -> None:
    findings = look(engine)
    assert [*findings] == [
        "postgres", "fsync", "synchronous_commit", "full_page_writes", "postgres clock", "connections", "migrations",
        "guards", "snowflake nodes", "dead letters", "pending",
    ]  # fmt: skip
    assert {each.level for each in findings.values()} == {OK}


def test_a_server_that_forgets_what_it_confirmed_is_named(careless_url: str) -> None:
    with bounded_engine(careless_url) as engine:
        assert levels(engine, wanted=18) == {
            "fsync": FAIL, "synchronous_commit": FAIL, "full_page_writes": FAIL, "connections": WARN,
            "migrations": FAIL,
        }  # fmt: skip
        assert look(engine)["migrations"].what == "not migrated"
        assert "connections" not in levels(engine, wanted=17)


def test_a_guard_that_is_off_is_named_with_how_to_switch_it_on(own_database_url: str) -> None:
    with bounded_engine(own_database_url) as engine:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE transfers DISABLE TRIGGER transfers_final"))
            connection.execute(text("DROP TRIGGER wallets_versioned ON wallets"))
        finding = look(engine)["guards"]
        assert (finding.level, finding.what) == (WARN, "off or gone: transfers_final, wallets_versioned")
        assert finding.remedy == (
            "ALTER TABLE transfers ENABLE TRIGGER transfers_final; create wallets_versioned as its migration does"
        )


def test_a_server_that_is_away_is_one_finding(postgres_proxy: TcpProxy) -> None:
    with bounded_engine(postgres_proxy.url) as engine:
        postgres_proxy.refuse()
        assert levels(engine) == {"postgres": FAIL}


def test_a_server_that_hangs_is_one_finding_too(postgres_proxy: TcpProxy) -> None:
    with bounded_engine(postgres_proxy.url, statement_ms=100) as engine:
        postgres_proxy.hold()
        assert levels(engine) == {"postgres": FAIL}
        postgres_proxy.resume()


def test_dead_letters_are_counted(engine: Engine) -> None:
    _add_transfers(engine, 3, "failed")
    found = look(engine)["dead letters"]
    assert (found.level, found.what) == (WARN, "3")
    _add_transfers(engine, MAX_COUNTED, "failed")
    assert look(engine)["dead letters"].what == f"more than {MAX_COUNTED}"


@pytest.mark.parametrize(("age_s", "level"), [(5, OK), (100, WARN)])
def test_a_transfer_that_waits_too_long_is_named(engine: Engine, age_s: int, level: Level) -> None:
    _add_transfers(engine, 1, "pending", age_s=age_s)
    assert look(engine)["pending"].level is level


def test_a_retry_that_is_not_due_yet_does_not_wait_too_long(engine: Engine) -> None:
    _add_transfers(engine, 1, "pending", age_s=1_000, due_in_s=1_000)
    assert look(engine)["pending"] == Finding("pending", OK, "no transfer is due")


@pytest.mark.parametrize(("free", "level"), [(64, OK), (63, WARN), (0, FAIL)])
def test_snowflake_nodes_that_run_out_are_named(engine: Engine, free: int, level: Level) -> None:
    take = text("""
        UPDATE snowflake_nodes SET expires_at = now() + interval '1 hour'
        WHERE node IN (SELECT node FROM snowflake_nodes WHERE expires_at <= now() ORDER BY node OFFSET :free)
        RETURNING node
    """)
    give_back = text("UPDATE snowflake_nodes SET expires_at = '-infinity' WHERE node = ANY (:nodes)")
    with engine.begin() as connection:
        taken = [*connection.execute(take, {"free": free}).scalars()]
    try:
        found = look(engine)["snowflake nodes"]
    finally:
        with engine.begin() as connection:
            connection.execute(give_back, {"nodes": taken})
    assert (found.level, found.what) == (level, f"{free} free")


@pytest.mark.parametrize(
    ("skew_s", "level"), [(0.9, OK), (-0.9, OK), (1.0, WARN), (-14.9, WARN), (15.0, FAIL), (-3_600.0, FAIL)]
)
def test_clocks_that_differ_are_judged_by_how_much(skew_s: float, level: Level) -> None:
    found = check_skew("a clock", skew_s)
    assert found.level is level
    assert ("ahead of" in found.what) == (skew_s > 0)


def test_a_clock_here_that_is_behind_makes_the_servers_ahead(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "time", SimpleNamespace(time=lambda: time.time() - 100))
    found = look(engine)["postgres clock"]
    assert (found.level, found.what.partition(".")[2][1:]) == (FAIL, " s ahead of this machine's")


def test_books_that_cannot_be_read_are_a_finding_like_others(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE transfers RENAME TO elsewhere"))
    try:
        found = look(engine)["books"]
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO transfers"))
    assert found.level is FAIL
    assert 'relation "transfers" does not exist' in found.what


def _add_transfers(engine: Engine, count: int, status: str, *, age_s: int = 0, due_in_s: int | None = None) -> None:
    statement = text("""
        INSERT INTO transfers
            (id, kind, source, destination, amount, status, reason, completed_at, created_at, next_attempt_at)
        SELECT (SELECT count(*) FROM transfers) + n, 'transfer', 1, 2, 1, :status,
            CASE WHEN :status = 'failed' THEN 'attempts_exhausted' END, CASE WHEN :status = 'failed' THEN now() END,
            now() - :age_s * interval '1 second', now() + :due_in_s * interval '1 second'
        FROM generate_series(1, :count) n
    """)
    values = {"count": count, "status": status, "age_s": age_s, "due_in_s": due_in_s}
    with engine.begin() as connection:
        connection.execute(statement, values)

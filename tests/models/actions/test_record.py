"""The record of what administrators did: nothing is done that is not written down, and what is written stays."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg2.errors
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError
from structlog.testing import capture_logs

from models.actions import record
from models.actions.record import BEGUN, DONE, KEPT_DAYS, MAX_TEXT, UNCHANGED
from models.errors import Unavailable
from observe import metrics
from tests.models.actions.acts import act, acts
from tests.models.ledger.ordering import bounded_engine

TABLES = ("actions", "action_outcomes")


@pytest.fixture
def service(service_database_url: str, engine: Engine) -> Iterator[Engine]:
    """An engine of the service's, on empty tables."""
    del engine  # asked for to be emptied
    with bounded_engine(service_database_url) as service:
        yield service


@contextmanager
def broken(engine: Engine, table: str) -> Iterator[None]:
    """Have PostgreSQL refuse every row of a table."""
    with engine.begin() as connection:
        connection.execute(
            text(f"""
            CREATE FUNCTION break_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
            CREATE TRIGGER breaks BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION break_it();
            """)
        )
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP TRIGGER breaks ON {table}; DROP FUNCTION break_it"))


def test_an_act_is_there_with_all_that_there_is_to_know(service: Engine) -> None:
    with service.connect() as connection:
        before = connection.execute(text("SELECT now()")).scalar_one()
    act(service)
    (found,) = acts(service)
    assert (found.who, found.what, found.subject, found.origin) == ("admin", "wallet.test", "7", "192.0.2.1")
    assert (found.outcome, found.at >= before) == (DONE, True)


def test_what_has_changed_nothing_says_so(service: Engine) -> None:
    act(service, changed=False)
    assert [each.outcome for each in acts(service)] == [UNCHANGED]


def test_what_was_refused_is_there_with_its_code_and_the_error_goes_its_way(service: Engine) -> None:
    with pytest.raises(ValueError, match="job_not_found"):
        act(service, error=ValueError("job_not_found"))
    assert [each.outcome for each in acts(service)] == ["job_not_found"]


def test_while_it_is_done_it_is_begun_and_so_it_stays_if_whoever_does_it_is_cut_off(service: Engine) -> None:
    class CutOffError(BaseException):
        pass

    with (
        suppress(CutOffError),
        record.acting(service, who="admin", what="wallet.test", on="7", origin="x", code_of=str),
    ):
        assert [each.outcome for each in acts(service)] == [BEGUN]
        raise CutOffError
    assert [each.outcome for each in acts(service)] == [BEGUN]


def test_what_cannot_be_written_down_is_not_begun(engine: Engine, service: Engine) -> None:
    with broken(engine, "actions"), pytest.raises(Unavailable):
        act(service, error=AssertionError("it was begun"))
    assert acts(service) == []


def test_what_is_done_stays_done_when_its_outcome_cannot_be_written_down(engine: Engine, service: Engine) -> None:
    with broken(engine, "action_outcomes"), capture_logs() as logged:
        act(service)
    assert [each.outcome for each in acts(service)] == [BEGUN]
    (line,) = logged
    assert (line["event"], line["log_level"], line["outcome"]) == ("outcome not recorded", "error", DONE)
    assert line["action_id"] == str(acts(service)[0].id)


def test_the_error_that_an_act_ends_with_is_told_when_its_outcome_cannot_be_written_down(
    engine: Engine, service: Engine
) -> None:
    with broken(engine, "action_outcomes"), pytest.raises(ValueError, match="why"):
        act(service, error=ValueError("why"))


@pytest.mark.parametrize(
    ("on", "shown"),
    [
        ("", "unknown"),
        ("x" * (MAX_TEXT + 1), "x" * MAX_TEXT),
        ("a\0b\nc\x1b[31m\ud800", "a\ufffdb\ufffdc\ufffd[31m\ufffd"),
        ("ü 🙂", "ü 🙂"),
    ],
)
def test_whatever_somebody_asks_for_can_be_written_down(service: Engine, on: str, shown: str) -> None:
    act(service, on=on)
    assert [each.subject for each in acts(service)] == [shown]


def test_pages_are_newest_first_and_have_no_gaps(service: Engine) -> None:
    for number in range(5):
        act(service, on=f"n{number}")
    first = record.get_page(service, size=2)
    assert first.next_id is not None
    act(service, on="later")
    second = record.get_page(service, size=2, before_id=first.next_id)
    assert second.next_id is not None
    third = record.get_page(service, size=2, before_id=second.next_id)
    found = [each.subject for page in (first, second, third) for each in page.actions]
    assert (found, third.next_id) == (["n4", "n3", "n2", "n1", "n0"], None)


def test_it_is_counted(service: Engine) -> None:
    counted = metrics._actions.labels("wallet.test", DONE)._value
    before = counted.get()
    act(service)
    assert counted.get() == before + 1


def test_what_is_too_old_is_forgotten_with_its_outcome(engine: Engine, service: Engine) -> None:
    for number in range(14):
        act(service, on=f"n{number}")
    with engine.begin() as connection:
        aged = text("UPDATE actions SET at = now() - make_interval(days => :days, mins => 1) WHERE subject <> 'n13'")
        connection.execute(aged, {"days": KEPT_DAYS})
        connection.execute(text("UPDATE actions SET at = at + interval '2 minutes' WHERE subject = 'n12'"))
    act(service)  # ten at a time
    assert [each.subject for each in acts(service)] == ["7", "n13", "n12", "n11", "n10"]
    act(service)
    assert [each.subject for each in acts(service)] == ["7", "7", "n13", "n12"]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM action_outcomes")).scalar_one() == 4


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "TRUNCATE {}", "UPDATE {} SET {}", "DROP TABLE {}"])
def test_the_service_can_neither_change_nor_delete(service: Engine, table: str, statement: str) -> None:
    act(service)
    column = "who = 'somebody else'" if table == "actions" else "outcome = 'done'"
    with service.connect() as connection, pytest.raises(ProgrammingError) as refused:
        connection.execute(text(statement.format(table, column)))
    assert isinstance(refused.value.orig, psycopg2.errors.InsufficientPrivilege)


def test_the_service_cannot_say_when_it_was(service: Engine) -> None:
    new = "INSERT INTO actions (at, who, what, subject, origin) VALUES (now(), 'a', 'b', 'c', 'd')"
    with service.connect() as connection, pytest.raises(ProgrammingError) as refused:
        connection.execute(text(new))
    assert isinstance(refused.value.orig, psycopg2.errors.InsufficientPrivilege)

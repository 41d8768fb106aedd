"""The record of audits: one under way at most, which anybody can go on with; results are kept, the oldest are not."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from models.audit import record
from models.audit.audit import Finding, Progress
from models.audit.record import BROKEN_KEPT_DAYS, KEPT
from tests.models.audit.auditing import begun

FOUND = Finding(invariant="running_balance", count=2, ids=["1-2", "1-3"], detail="why")


def begin(engine: Engine, interval_s: float = 300.0) -> Progress:
    progress = record.begin_or_resume(engine, first_check="books", interval_s=interval_s)
    assert isinstance(progress, Progress)
    return progress


def test_nothing_is_known_before_the_first(engine: Engine) -> None:
    assert record.find_last(engine) is None
    assert record.find_under_way(engine) is None


def test_what_was_saved_is_gone_on_with(engine: Engine) -> None:
    progress = begin(engine)
    assert (progress.check, progress.position, progress.checked["entries"], progress.findings) == ("books", {}, 0, {})
    progress.check, progress.position = "queue", {"at": 2**70, "cut": None}
    progress.checked = {"wallets": 1, "entries": 2, "transfers": 3}
    progress.findings = {"running_balance": FOUND}
    assert record.save(engine, progress)
    assert begin(engine) == progress
    under_way = record.find_under_way(engine)
    assert under_way is not None
    assert (under_way.ok, under_way.finished_at, under_way.findings) == (None, None, [FOUND])
    assert (under_way.wallets, under_way.entries, under_way.transfers) == (1, 2, 3)
    assert record.find_last(engine) is None


@pytest.mark.parametrize("findings", [{}, {"running_balance": FOUND}])
def test_what_it_came_to_is_told(engine: Engine, findings: dict[str, Finding]) -> None:
    progress = begin(engine)
    progress.checked, progress.findings = {"wallets": 1, "entries": 2, "transfers": 3}, findings
    finished = record.finish(engine, progress)
    assert finished == record.find_last(engine)
    assert finished is not None
    assert finished.finished_at is not None
    assert finished.started_at == progress.started_at <= finished.finished_at
    assert (finished.ok, finished.findings) == (not findings, list(findings.values()))
    assert record.find_under_way(engine) is None


def test_the_next_is_begun_when_it_is_due(engine: Engine) -> None:
    record.finish(engine, begin(engine))
    left_s = record.begin_or_resume(engine, first_check="books", interval_s=300.0)
    assert isinstance(left_s, float)
    assert 0 < left_s <= 300
    with engine.begin() as connection:
        connection.execute(text("UPDATE audits SET started_at = now() - interval '299 seconds'"))
    assert isinstance(record.begin_or_resume(engine, first_check="books", interval_s=300.0), float)
    with engine.begin() as connection:
        connection.execute(text("UPDATE audits SET started_at = now() - interval '301 seconds'"))
    begin(engine)


def test_a_clock_that_was_ahead_puts_off_no_audit(engine: Engine) -> None:
    """Neither PostgreSQL's, nor that of whoever audits in the foreground."""
    begin(engine)
    with engine.begin() as connection:
        ahead = "UPDATE audits SET started_at = now() + interval '1 day', finished_at = now(), ok = true, cursor = NULL"
        connection.execute(text(ahead))
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    result = record.record(engine, Progress(started_at=tomorrow, check=None))
    assert result.started_at < tomorrow - timedelta(hours=23)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM audits WHERE started_at < now()"))
    begin(engine)


def test_of_many_that_begin_at_once_all_get_the_same(engine: Engine) -> None:
    """Or nothing yet, and are told to look again at once."""
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: record.begin_or_resume(engine, first_check="books", interval_s=9.0), range(8)))
    ids = {each.id for each in got if isinstance(each, Progress)}
    assert len(ids) == 1
    assert {each for each in got if not isinstance(each, Progress)} <= {0.0}


def test_whoever_comes_late_neither_saves_nor_finishes(engine: Engine) -> None:
    late = begin(engine)
    finished = record.finish(engine, begin(engine))
    late.checked = {"wallets": 99}
    assert not record.save(engine, late)
    assert record.finish(engine, late) is None
    assert record.find_last(engine) == finished


def test_what_another_release_has_begun_is_begun_again(engine: Engine) -> None:
    progress = begin(engine)
    progress.check, progress.checked = "queue", {"wallets": 1}
    record.save(engine, progress)
    with engine.begin() as connection:
        connection.execute(text("""UPDATE audits SET cursor = cursor || '{"format": 0}'"""))
    again = begin(engine)
    assert (again.id, again.check, again.position, again.checked) == (progress.id, "books", {}, {})


def test_an_audit_in_the_foreground_is_recorded_beside_the_one_under_way(engine: Engine) -> None:
    under_way = begin(engine)
    recorded = record.record(engine, begun())
    assert record.find_last(engine) == recorded
    assert begin(engine) == under_way


def count(engine: Engine, what: str = "true") -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM audits WHERE {what}")).scalar_one())  # noqa: S608


def test_the_last_hundred_are_kept(engine: Engine) -> None:
    for _ in range(KEPT):
        record.record(engine, begun())
    progress = begin(engine, interval_s=0)
    last = record.finish(engine, progress)
    assert count(engine) == KEPT
    assert record.find_last(engine) == last


def test_what_was_found_is_kept_for_longer_and_not_for_ever(engine: Engine) -> None:
    for _ in range(KEPT + 2):
        record.record(engine, begun(findings={"running_balance": FOUND}))
    assert count(engine, "NOT ok") == KEPT + 2
    with engine.begin() as connection:
        age = text("UPDATE audits SET finished_at = now() - make_interval(days => :days)")
        connection.execute(age, {"days": BROKEN_KEPT_DAYS - 1})
    for _ in range(KEPT + 1):
        record.record(engine, begun())
    assert (count(engine, "NOT ok"), count(engine, "ok")) == (KEPT + 2, KEPT)
    with engine.begin() as connection:
        connection.execute(age, {"days": BROKEN_KEPT_DAYS + 1})
    record.record(engine, begun())
    assert (count(engine, "NOT ok"), count(engine, "ok")) == (KEPT, KEPT)

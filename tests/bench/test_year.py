"""The years that are made for measuring are books like any others: the service's own audit finds nothing wrong."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import text

from bench.page import BEGIN, END, fill
from bench.year import looking, making
from bench.year.making import Shape
from bench.year.report import Findings, markdown
from models.ledger.history import History
from models.ledger.settlement import EntryType
from tests.books import check_books
from tests.models.ledger.ordering import bounded_engine
from tests.project import ROOT

SMALL = Shape(wallets=7, long=5, rounds=4)


def test_a_year_that_was_made_balances_and_has_what_its_shape_says(own_database_url: str) -> None:
    with bounded_engine(own_database_url) as own:
        site: Any = SimpleNamespace(url=lambda _database: own_database_url, engines={"wallet": own})
        making.make(site, SMALL)
        check_books(own)
        looking.prove(site)
        with own.connect() as connection:
            counts = connection.execute(
                text("SELECT (SELECT count(*) FROM transfers), (SELECT count(*) FROM entries), count(*) FROM wallets")
            ).one()
        assert counts == (SMALL.transfers, SMALL.entries, SMALL.wallets + 1)
        long_life = History(own).get_page(SMALL.long_life, EntryType.WITHDRAWAL, size=30)
        assert len(long_life.entries) == SMALL.long * SMALL.rounds // 2


def test_a_shape_is_of_about_as_many_transfers_as_are_asked_for() -> None:
    for wanted in (50_000, 10_000_000):
        assert abs(Shape.of(wanted).transfers - wanted) < wanted / 50
    # Page 100,000 of thirty.
    assert Shape.of(10_000_000).long * making.ROUNDS >= 3_000_000


def test_what_was_found_is_told_in_tables() -> None:
    found = Findings(
        shape=SMALL,
        sizes={"entries": 2**30},
        first_vacuum={"entries": (1.0, 10)},
        later_vacuum={"entries": (0.5, 5)},
        pages_ms={"page 1": 0.5},
        medians={"old": {"v1": 70.0}, "empty": {"v1": 100.0}},
        ratios={"v1": 0.7},
        audit={"hours of 100 million": 5.0},
        kept={"dump_s": 1.0, "bytes": 2**30, "restore_s": 2.0},
    )
    told = markdown(found)
    assert "| `entries` | 1.00 |" in told
    assert "| v1 over HTTP | 70.00 | 100 | 0.70 | MISSED |" in told
    assert "| goal 6 hours of 100 million | met |" in told
    assert set(found.as_json()) == {each.name for each in dataclasses.fields(Findings)}


def test_the_tables_take_the_place_of_those_before_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "growing-old.md").read_text())
    for told in ("the first\n", "the second\n"):
        fill(page, told)
    written = page.read_text()
    assert "the second" in written
    assert "the first" not in written
    assert written.startswith("# ")
    assert written.count(BEGIN) == written.count(END) == 1

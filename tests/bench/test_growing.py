"""What is computed and drawn about growing is right where it can be checked by eye, and its tables are whole."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.cost import KAFKA, METERS, PARTS, WAYS, of_way
from bench.growing import __main__ as growing
from bench.growing import report, simulation
from bench.growing.report import HOT, HOT_V1, markdown
from bench.page import BEGIN, END, fill
from bench.report import Summary

ONE = Summary(median=1.0, least=1.0, most=1.0)


def test_a_rate_takes_what_each_transfer_does_and_leaves_cores_room() -> None:
    load = simulation.load_of(1_000, {"api": 600.0}, log_bytes=2_000, disk_bytes=500)
    assert load.cores["api"] == pytest.approx(1.0)  # 0.6 s of a core each second, and it is 60 % busy
    assert load.log_bytes_s == 2_000_000
    assert load.log_bytes_day == 172_800_000_000
    assert load.disk_bytes_day == 43_200_000_000


@pytest.mark.parametrize("shards", [2, 4, 16])
def test_of_transfers_between_any_two_all_cross_but_one_in_as_many_as_there_are_shards(shards: int) -> None:
    drawn = simulation.spread(shards, wallets=2_000, transfers=20_000, skew=0.0)
    assert drawn.crossing == pytest.approx(1 - 1 / shards, abs=0.02)
    assert 1.0 <= drawn.fullest < 1.3


def test_popular_wallets_fill_one_shard() -> None:
    alike, skewed = (simulation.spread(64, wallets=2_000, transfers=20_000, skew=skew) for skew in (0.0, 1.0))
    assert skewed.fullest > 2 * alike.fullest


def test_on_one_shard_nothing_crosses() -> None:
    assert simulation.spread(1, wallets=10, transfers=100, skew=1.0) == simulation.Spread(crossing=0.0, fullest=1.0)


def test_the_most_popular_wallet_has_its_share_by_zipfs_law() -> None:
    # 1 / (1 + 1/2 + 1/3) = 6/11
    assert simulation.hottest_share(3, 1.0) == pytest.approx(6 / 11)
    assert simulation.rates_at_which_one_wallet_is_too_hot(600.0, 3, [1.0]) == {1.0: pytest.approx(1_100.0)}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw few transfers: how tables look does not depend on it."""
    monkeypatch.setattr(report, "WALLETS", 100)
    monkeypatch.setattr(report, "DRAWN", 200)


def all_found(ways: Iterable[str]) -> dict[str, Summary]:
    keys = [f"cost_{way}_{what}" for way in ways for what in (*of_way(way, PARTS), *of_way(way, METERS))]
    return dict.fromkeys([*keys, "cost_v2_waiting", HOT, HOT_V1, "lag_p50", "lag_p99", "lag_most"], ONE)


@pytest.mark.usefixtures("few")
def test_the_tables_are_whole_and_take_the_place_of_those_before(tmp_path: Path) -> None:
    page = tmp_path / "growing.md"
    page.write_text(f"before\n{BEGIN}old{END}after\n")
    fill(page, markdown(all_found(WAYS)) + "\n")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 10 + 2 + 10 + 2 + 12 + 2 + 4 + 2 + 2 + 2 + 3


@pytest.mark.usefixtures("few")
def test_without_java_the_tables_are_whole_but_for_kafka() -> None:
    text = markdown(all_found(way for way in WAYS if way != KAFKA))
    assert "Kafka" not in text
    assert "broker" not in text
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 2 + 8 + 2 + 10 + 2 + 4 + 2 + 2 + 2 + 3


def test_the_page_has_a_place_for_them() -> None:
    text = growing.PAGE.read_text()
    assert text.index(BEGIN) < text.index(END)


def test_a_page_says_that_others_were_busy() -> None:
    facts = dict.fromkeys(("cpu", "cores", "memory", "filesystem", "postgresql", "valkey", "python"), "x")
    assert "To be measured again" in growing._where(facts, "2026-11-29T00:00:00+00:00", 5, 0.5)
    assert "To be measured again" not in growing._where(facts, "2026-11-29T00:00:00+00:00", 5, 0.99)

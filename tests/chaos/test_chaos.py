"""Short chaos runs; ``make chaos`` is a longer one."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests import small_disk
from tests.chaos.drawing import EVERYTHING
from tests.chaos.faults import OF_KAFKA
from tests.chaos.faults.disk import HOME_SIZE
from tests.chaos.report import Report
from tests.chaos.run import run

# What each of them begins with, however slow the machine is. What is drawn after that is up to the seed.
OF_ALL = ("worker", "flush", "postgres")


@pytest.mark.long
@pytest.mark.stack
def test_nothing_is_lost_doubled_or_wrong_after_chaos(tmp_path: Path) -> None:
    report = run_short(tmp_path / "home", seconds=12, seed=112, first=OF_ALL)
    assert all(report.faults[name] for name in OF_ALL)


@pytest.mark.long
@pytest.mark.stack
@pytest.mark.timeout(600)  # of which most is for who has to fetch the broker first
@pytest.mark.usefixtures("java")
def test_nor_is_it_when_kafka_carries_transfers(tmp_path: Path) -> None:
    report = run_short(tmp_path / "home", seconds=20, seed=364, first=tuple(OF_KAFKA), TRANSPORT="kafka")
    assert report.transport == "kafka"
    assert all(report.faults[name] for name in OF_KAFKA)


def run_short(home: Path, *, seconds: float, seed: int, first: Sequence[str], **settings: str) -> Report:
    with ExitStack() as mounts:
        with suppress(PermissionError):  # then the disk is never full
            mounts.enter_context(small_disk.mounted(home, size=HOME_SIZE))
        report = run(home, seconds=seconds, seed=seed, first=first, pause_s=1.5, client_pause_s=0.03, **settings)
    assert report.is_clean, "\n".join(report.lines())
    assert report.told.keys() == {"REST", "gRPC"}
    assert all(told.orders for told in report.told.values()), "\n".join(report.lines())
    assert report.events >= report.calls / 2
    assert report.asked.keys() == EVERYTHING.keys()
    assert all((report.items["posted"], report.canceled, report.freezes)), "\n".join(report.lines())
    return report

"""A short chaos run; ``make chaos`` is a longer one."""

from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests import small_disk
from tests.chaos.faults.disk import HOME_SIZE
from tests.chaos.run import run


@pytest.mark.long
@pytest.mark.stack
@pytest.mark.timeout(240)
def test_nothing_is_lost_doubled_or_wrong_after_chaos(tmp_path: Path) -> None:
    with ExitStack() as mounts:
        with suppress(PermissionError):  # then the disk is never full
            mounts.enter_context(small_disk.mounted(tmp_path / "home", size=HOME_SIZE))
        report = run(tmp_path / "home", seconds=12, seed=112, pause_s=1.5, client_pause_s=0.03)
    assert report.is_clean, "\n".join(report.lines())
    assert report.told.keys() == {"REST", "gRPC"}
    assert all(told.orders for told in report.told.values()), "\n".join(report.lines())
    assert sum(report.faults.values()) >= 3

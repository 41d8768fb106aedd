"""A short chaos run; ``make chaos`` is a longer one."""

from pathlib import Path

import pytest

from tests.chaos.run import run


@pytest.mark.long
@pytest.mark.stack
@pytest.mark.timeout(240)
def test_nothing_is_lost_doubled_or_wrong_after_chaos(tmp_path: Path) -> None:
    report = run(tmp_path / "home", seconds=12, seed=7, pause_s=1.5, client_pause_s=0.03)
    assert report.is_clean, "\n".join(report.lines())
    assert report.calls > 0
    assert sum(report.faults.values()) >= 3

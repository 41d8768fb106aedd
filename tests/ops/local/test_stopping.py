"""Whoever asks for a stop is heard, and only an impatient second request forces."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.local.processes import wait_for
from ops.local.stopping import SAME_SIGNAL_S, STOP_SIGNALS, StopRequests
from tests.patience import PATIENCE_S
from tests.project import ROOT

FOLLOWER = """
import sys
from pathlib import Path
from ops.local.stopping import StopRequests

with StopRequests(follow_parent=True) as stop:
    Path(sys.argv[1], "up").touch()
    while stop.is_wanted():
        stop.sleep(0.1)
Path(sys.argv[1], "forced" if stop.forced else "stopped").touch()
"""


@pytest.fixture(autouse=True)
def _not_ignored() -> Iterator[None]:
    """Signals do what they usually do: what nohup or a shell's & has started ignores some, and so do its children."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def signal_myself(stop: StopRequests, number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    stop.sleep(5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_request(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequests() as stop:
        assert stop.is_wanted()
        signal_myself(stop, number)
        assert not stop.is_wanted()
        assert not stop.forced
    assert signal.getsignal(number) is before


def test_a_hangup_may_be_something_else_than_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup: it is still heard
    with StopRequests(stops_at_hangup=False) as stop:
        signal_myself(stop, signal.SIGHUP)
        assert stop.hung_up
        assert stop.is_wanted()
        signal_myself(stop, signal.SIGTERM)
        monkeypatch.setattr("ops.local.stopping.time.monotonic", lambda: 1e9)
        signal_myself(stop, signal.SIGHUP)
        assert not stop.is_wanted()
        assert not stop.forced
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_the_same_signal_by_two_ways_does_not_force_but_a_later_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("ops.local.stopping.time.monotonic", lambda: now)
    with StopRequests() as stop:
        signal_myself(stop, signal.SIGTERM)
        now = SAME_SIGNAL_S
        signal_myself(stop, signal.SIGTERM)
        assert not stop.forced
        now = SAME_SIGNAL_S + 0.1
        signal_myself(stop, signal.SIGHUP)
        assert not stop.forced
        signal_myself(stop, signal.SIGINT)
        assert stop.forced


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals and /proc are Linux's")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_make_alone_stops_what_it_runs(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "follower.py").write_text(FOLLOWER)
    (tmp_path / "Makefile").write_text(f"run:\n\t@exec '{sys.executable}' '{tmp_path}/follower.py' '{tmp_path}'\n")
    with subprocess.Popen(
        ["make", "-f", tmp_path / "Makefile", "run"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as make:
        try:
            assert wait_for((tmp_path / "up").exists, PATIENCE_S)
            make.send_signal(number)
            assert wait_for((tmp_path / "stopped").exists, PATIENCE_S)
        finally:
            make.kill()  # or a failure would be followed by a wait without an end

"""What runs in the background lives on, whatever happens in it, and is counted by name."""

import ast
import sys
import threading
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from observe import background, metrics
from tests.observe.test_metrics import exposed
from tests.patience import PATIENCE_S
from tests.project import ROOT


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PAUSE_S", 0.0)


def faults(task: str) -> float:
    return exposed().value("wallet_background_faults_total", task=task)


def failing(times: int, error: Exception) -> tuple[Callable[[], None], list[int]]:
    """Something that fails so many times, and the list of its calls."""
    calls: list[int] = []

    def body() -> None:
        calls.append(len(calls) + 1)
        if len(calls) <= times:
            raise error

    return body, calls


@pytest.mark.parametrize("error", [ZeroDivisionError("told to"), MemoryError(), OSError(28, "no space"), KeyError(1)])
def test_it_goes_on_after_any_exception_until_it_returns(error: Exception) -> None:
    before = faults("relay")
    body, calls = failing(3, error)
    with capture_logs() as logged:
        thread = background.start("relay", body)
        assert thread is not None
        thread.join(PATIENCE_S)
    assert (calls, thread.is_alive(), thread.name, thread.daemon) == ([1, 2, 3, 4], False, "relay", True)
    assert faults("relay") - before == 3
    assert [(line["event"], line["task"], line["exc_info"]) for line in logged] == [
        ("background task fails", "relay", error)
    ] * 3


def test_a_log_that_cannot_be_written_ends_it_as_little(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(background._log, "error", full)
    body, calls = failing(1, ValueError("told to"))
    thread = background.start("relay", body)
    assert thread is not None
    thread.join(PATIENCE_S)
    assert calls == [1, 2]


def test_when_there_is_no_thread_to_be_had_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def none_left(thread: threading.Thread) -> None:
        if thread.name != "reading":  # what other tests have left behind may want one meanwhile
            return start(thread)
        raise RuntimeError("can't start new thread")

    before = faults("reading")
    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert background.start("reading", bool) is None
    assert faults("reading") - before == 1


def test_guarded_reports_and_lets_go_on() -> None:
    before = faults("audit")
    body, calls = failing(1, LookupError("told to"))
    for _ in range(2):
        with background.guarded("audit"):
            body()
    assert calls == [1, 2]
    assert faults("audit") - before == 1


def test_who_ends_the_process_is_not_held_up() -> None:
    with pytest.raises(SystemExit), background.guarded("audit"):
        sys.exit(1)


def test_every_task_is_there_from_the_start() -> None:
    found = {dict(series.labels)["task"] for series in exposed() if series.name == "wallet_background_faults_total"}
    assert found == set(metrics.TASKS)


def _tasks_that_run() -> set[str]:
    """What is written where something is begun, guarded or reported."""
    files = [file for room in ("api", "jobs", "models", "observe", "ops") for file in (ROOT / room).rglob("*.py")]
    calls = [node for file in files for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    asked = [call for call in calls if ast.unparse(call.func) in {f"background.{name}" for name in _ENTRIES}]
    return {ast.literal_eval(call.args[0]) for call in asked}


_ENTRIES = (background.start.__name__, background.guarded.__name__, background.report.__name__)


def test_whatever_runs_in_the_background_is_counted_and_nothing_else_is() -> None:
    assert _tasks_that_run() == set(metrics.TASKS)

"""What dies is replaced, what is told to stop stops: with small programs in the place of the service's."""

import json
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from config import ConfigurationError
from ops.local.private_files import write_private
from ops.local.processes import Child, Command, Spec, StackError, wait_for
from ops.local.supervisor import Restarts, Supervisor
from tests.patience import PATIENCE_S

FOREVER = "import time; time.sleep(600)"
# Says something, and something else when there is a folder.
TELL = """
import pathlib, sys, time
print("before", flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
print("after", flush=True)
"""
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"
)

# Ends when it and another one have been told to, each by a file.
TOGETHER = """
import pathlib, signal, sys, time
mine, others = map(pathlib.Path, sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: mine.touch())
print("here", flush=True)
while not (mine.exists() and others.exists()):
    time.sleep(0.01)
"""


class Nudge:
    """Sleeps on nothing; a test says when to stop."""

    def __init__(self) -> None:
        self.forced = False
        self.requested = False
        self.slept_s: list[float] = []
        self.on_sleep: Callable[[], None] = lambda: None

    def sleep(self, timeout_s: float) -> None:
        self.slept_s.append(timeout_s)
        self.on_sleep()

    def is_wanted(self) -> bool:
        return not self.requested


class Scene:
    """A supervisor with its surroundings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1000.0
        self.nudge = Nudge()
        self.said: list[str] = []
        self.replaced = 0
        self.supervisor = Supervisor(self.nudge, say=self._say, on_replaced=self._count, clock=lambda: self.now)

    def child(self, name: str, script: str, *, stop_timeout_s: float = 10) -> Command:
        return Command(
            Spec(
                name=name,
                command=[sys.executable, "-I", "-c", script],
                log=self.folder / f"{name}.log",
                pid_file=self.folder / f"{name}.pid",
                cwd=self.folder,
                environment={},
                stop_timeout_s=stop_timeout_s,
            )
        )

    def _say(self, event: str, **_fields: object) -> None:
        self.said.append(event)

    def _count(self) -> None:
        self.replaced += 1


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.nudge.forced = True
    scene.supervisor.stop()


def end(child: Child) -> None:
    child.send(signal.SIGKILL)
    assert child.wait(5)


def test_only_the_process_that_died_is_replaced(scene: Scene) -> None:
    first, second = scene.child("first", FOREVER), scene.child("second", FOREVER)
    scene.supervisor.add_layer([first, second])
    pids = first.pid, second.pid
    scene.supervisor.run_once()
    assert (first.pid, second.pid, scene.replaced) == (*pids, 0)
    scene.now += 60
    end(first)
    scene.supervisor.run_once()
    assert first.pid != pids[0]
    assert first.is_running
    assert (second.pid, scene.replaced) == (pids[1], 1)


def test_pauses_grow_while_a_process_keeps_dying_and_shrink_once_it_lives() -> None:
    restarts = Restarts()
    restarts.launched(0)
    assert [restarts.died(1) for _ in range(9)] == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30]
    restarts.launched(100)
    assert restarts.died(105) == 0  # it lived for five seconds
    restarts.launched(105)
    assert restarts.died(109) == 0.25


def test_a_pause_is_waited_for(scene: Scene) -> None:
    child = scene.child("child", FOREVER)
    scene.supervisor.add_layer([child])
    end(child)
    scene.supervisor.run_once()
    assert not child.is_running  # it lived for less than five seconds: a pause of 0.25 s
    scene.supervisor.run_once()
    assert scene.nudge.slept_s[-1] == pytest.approx(0.25)
    scene.now += 0.25
    scene.supervisor.run_once()
    assert child.is_running


def test_a_process_that_cannot_be_launched_is_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    child = scene.child("child", FOREVER)
    scene.supervisor.add_layer([child])
    scene.now += 60
    end(child)

    def refuse(_self: Child) -> None:
        raise StackError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Command, "launch", refuse)
        scene.supervisor.run_once()
    assert scene.said[-1] == "child cannot be started: no"
    scene.now += 60
    scene.supervisor.run_once()
    assert child.is_running


def test_without_a_descriptor_left_a_process_is_replaced_later(scene: Scene) -> None:
    child = scene.child("child", FOREVER)
    scene.supervisor.add_layer([child])
    scene.now += 60
    end(child)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        scene.supervisor.run_once()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert scene.replaced == 0
    assert "child cannot be started: [Errno 24] Too many open files" in " ".join(scene.said)
    scene.now += 60
    scene.supervisor.run_once()
    assert child.is_running
    assert child.spec.pid_file.exists()


def test_who_runs_is_written_down_when_it_can_be(scene: Scene) -> None:
    child = scene.child("child", FOREVER)
    child = Command(replace(child.spec, pid_file=scene.folder / "later" / "child.pid"))
    scene.supervisor.add_layer([child])
    for _ in range(2):
        scene.supervisor.changed()
        scene.supervisor.run_once()
    assert scene.replaced == 0
    assert [said.partition(":")[0] for said in scene.said] == ["cannot write down what runs, trying again"]
    (scene.folder / "later").mkdir()
    scene.supervisor.run_once()
    assert child.spec.pid_file.read_text().startswith(f"{child.pid} ")
    assert scene.replaced == 1
    assert scene.said[1:] == ["what runs is written down again"]
    scene.supervisor.run_once()
    assert scene.replaced == 1


@pytest.mark.parametrize("wrap_stdout", [True, False])
def test_a_process_without_a_log_runs_and_gets_one_when_it_can_be_made(scene: Scene, wrap_stdout: bool) -> None:
    log = scene.folder / "later" / "child.log"
    spec = scene.child("child", "").spec
    command = [sys.executable, "-I", "-c", TELL, str(log.parent)]
    child = Command(replace(spec, log=log, wrap_stdout=wrap_stdout, command=command))
    scene.supervisor.add_layer([child])
    assert wait_for(lambda: "before" in child.last_lines, PATIENCE_S)
    log.parent.mkdir()
    assert wait_for(lambda: "after" in child.last_lines and log.exists(), PATIENCE_S)
    assert child.wait(10)
    child.kill()
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events == ["log lines were lost", "after"]


def test_a_wrong_setting_stops_everything(scene: Scene) -> None:
    child = scene.child("child", "import sys; print('configuration error: PORT: no', file=sys.stderr); sys.exit(2)")
    scene.supervisor.add_layer([child])
    assert child.wait(10)
    with pytest.raises(ConfigurationError, match=r"^PORT: no$"):
        scene.supervisor.run_once()


def test_the_last_layer_stops_first(scene: Scene) -> None:
    lower, upper = scene.child("lower", FOREVER), scene.child("upper", FOREVER)
    scene.supervisor.add_layer([lower])
    scene.supervisor.add_layer([upper])
    order: list[tuple[bool, bool]] = []
    scene.nudge.on_sleep = lambda: order.append((lower.is_running, upper.is_running))
    scene.supervisor.stop()
    assert not lower.is_running
    assert not upper.is_running
    assert (False, True) not in order
    assert not list(scene.folder.glob("*.pid"))


def pair(scene: Scene) -> list[Command]:
    """Two that end only if both are told to before either has ended."""
    files = [str(scene.folder / name) for name in ("first", "second")]
    children = []
    for name, arguments in zip(("first", "second"), (files, files[::-1]), strict=True):
        spec = scene.child(name, TOGETHER).spec
        children.append(Command(replace(spec, command=[*spec.command, *arguments])))
    return children


@pytest.mark.parametrize("is_layer", [True, False])
def test_those_of_a_layer_are_told_to_stop_together_and_so_are_others(scene: Scene, is_layer: bool) -> None:
    children = pair(scene)
    if is_layer:
        scene.supervisor.add_layer(children)
    for child in children:
        if not is_layer:
            child.launch()
        assert wait_for(lambda: "here" in child.last_lines, PATIENCE_S)  # noqa: B023 - called within the loop
    if is_layer:
        scene.supervisor.stop()
    else:
        scene.supervisor.stop_together(children)
    assert [child.exit_status for child in children] == [0, 0]
    assert scene.said == []


def test_a_process_that_does_not_stop_is_killed_after_its_time(scene: Scene) -> None:
    child = scene.child("child", STUBBORN, stop_timeout_s=5)
    scene.supervisor.add_layer([child])
    assert wait_for(lambda: "here" in child.last_lines, PATIENCE_S)

    def pass_time() -> None:
        scene.now += 1

    scene.nudge.on_sleep = pass_time
    scene.supervisor.stop()
    assert child.exit_status == -signal.SIGKILL
    assert scene.now == pytest.approx(1006, abs=1)
    assert scene.said == ["child does not stop, killing it"]


def test_a_second_signal_forces(scene: Scene) -> None:
    child = scene.child("child", STUBBORN)
    scene.supervisor.add_layer([child])
    assert wait_for(lambda: "here" in child.last_lines, PATIENCE_S)
    scene.nudge.forced = True
    scene.supervisor.stop()
    assert child.exit_status == -signal.SIGKILL
    assert scene.now == 1000


def test_the_log_has_a_json_object_a_line_and_the_error_is_the_complaint(scene: Scene) -> None:
    child = scene.child(
        "child", "print('{\"event\": \"as it is\"}'); print('half', flush=True); raise ValueError('bad')"
    )
    child.launch()
    assert child.wait(10)
    assert child.complaint() == "ValueError: bad"
    lines = child.spec.log.read_text().splitlines()
    assert lines[0] == '{"event": "as it is"}'
    assert '"event": "half"' in lines[1]
    assert all(line.startswith("{") for line in lines)
    child.kill()


def test_a_missing_program_is_a_complaint(tmp_path: Path, scene: Scene) -> None:
    child = scene.child("child", "")
    child = Command(Spec(**{**child.spec.__dict__, "command": ["/nowhere/program"]}))
    child.launch()
    assert child.wait(10)
    assert child.complaint() == "cannot start /nowhere/program: [Errno 2] No such file or directory"
    child.kill()
    assert not list(tmp_path.glob("*.pid"))


def test_a_child_is_launched_once(scene: Scene) -> None:
    child = scene.child("child", FOREVER)
    child.launch()
    with pytest.raises(StackError, match="child runs already"):
        child.launch()
    child.kill()


def test_every_round_is_told(scene: Scene) -> None:
    rounds: list[float] = []
    supervisor = Supervisor(scene.nudge, say=lambda *_, **__: None, on_round=lambda: rounds.append(scene.now))
    supervisor.run_once()
    supervisor.run_once()
    assert len(rounds) == 2


def test_a_private_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]

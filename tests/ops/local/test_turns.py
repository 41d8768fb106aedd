"""However many are told to leave at once, and however they end: one at a time is gone, and nobody waits for them."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.local.processes import wait_for
from ops.local.turns import MOST, Turns
from tests.nursery import Forked
from tests.patience import PATIENCE_S
from tests.project import ROOT

# Does what it is told, a line at a time, and says what came of it.
OBEY = """
import sys
from pathlib import Path
from ops.local.turns import Turns

turns = Turns(Path(sys.argv[1]), int(sys.argv[2]))
for line in sys.stdin:
    name, *numbers = line.split()
    print(getattr(turns, name)(*map(float, numbers)), flush=True)
"""
# Serves, and leaves when it is its turn, as often as it is started anew: the rest of a reload is up to the others.
RELOAD = """
import signal, sys, time
from pathlib import Path
from ops.local.turns import Turns

told = []
signal.signal(signal.SIGHUP, lambda *_: told.append(1))
turns = Turns(Path(sys.argv[1]), int(sys.argv[2]))
turns.serving()
print("serving", flush=True)
while not told:
    time.sleep(0.01)
if not turns.wait_for_turn(int(sys.argv[3]), 30):
    sys.exit("it never was its turn")
print(turns.count_serving(), flush=True)
turns.leave()
"""


class Sibling:
    """A process that holds what it is told to."""

    def __init__(self, folder: Path, number: int) -> None:
        self.process = start(OBEY, folder, number)

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return str(self.process.stdout.readline()).strip()

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.answer()

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.communicate(timeout=PATIENCE_S)


def start(script: str, folder: Path, *numbers: int) -> "subprocess.Popen[str]":
    return Forked(
        [sys.executable, "-c", script, str(folder), *map(str, numbers)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


Start = Callable[[int], Sibling]


@pytest.fixture
def sibling(tmp_path: Path) -> Iterator[Start]:
    """A starter of siblings."""
    started: list[Sibling] = []

    def begin(number: int) -> Sibling:
        started.append(Sibling(tmp_path, number))
        return started[-1]

    yield begin
    for each in started:
        each.process.kill()
        each.process.communicate()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Turns]:
    """Who looks."""
    turns = Turns(tmp_path)
    yield turns
    turns.close()


def test_who_serves_is_counted_until_it_leaves_or_ends(sibling: Start, supervisor: Turns) -> None:
    first, second, last = sibling(1), sibling(2), sibling(MOST)
    assert first.ask("count_serving") == "0"
    for each in (first, second, last):
        each.ask("serving")
    assert supervisor.count_serving() == 3
    assert first.ask("count_serving") == "2"
    second.ask("leave")
    assert supervisor.count_serving() == 2
    last.end()
    assert supervisor.count_serving() == 1


def test_a_number_is_one_processs(sibling: Start, tmp_path: Path) -> None:
    first = sibling(1)
    first.ask("serving")
    twin = Turns(tmp_path, 1)
    with pytest.raises(BlockingIOError):
        twin.serving()
    first.end()
    twin.serving()
    twin.close()


@pytest.mark.parametrize("number", [-1, MOST + 1])
def test_there_are_no_other_numbers(tmp_path: Path, number: int) -> None:
    with pytest.raises(ValueError, match="there is no number"):
        Turns(tmp_path, number)


def test_a_supervisor_does_not_serve(supervisor: Turns) -> None:
    with pytest.raises(ValueError, match="does not serve"):
        supervisor.serving()


def test_nobody_leaves_before_all_others_serve(sibling: Start) -> None:
    first, second = sibling(1), sibling(2)
    first.ask("serving")
    assert first.ask("wait_for_turn 1 0.1") == "False"
    first.tell(f"wait_for_turn 1 {PATIENCE_S}")
    second.ask("serving")
    assert first.answer() == "True"


def test_who_waits_in_vain_gives_the_turn_back(sibling: Start) -> None:
    first, second = sibling(1), sibling(2)
    first.ask("serving")
    assert first.ask("wait_for_turn 1 0.1") == "False"
    assert second.ask(f"wait_for_turn 1 {PATIENCE_S}") == "True"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_turn_of_one_that_ends_is_the_next_ones_once_there_is_a_successor(
    sibling: Start, end: signal.Signals
) -> None:
    first, second = sibling(1), sibling(2)
    for each in (first, second):
        each.ask("serving")
    assert first.ask("wait_for_turn 1 1") == "True"
    assert second.ask("wait_for_turn 1 0.1") == "False"
    first.ask("leave")
    # Still on its way: the turn is not free, and there are not enough.
    assert second.ask("wait_for_turn 1 0.1") == "False"
    first.end(end)
    assert second.ask("wait_for_turn 1 0.1") == "False"
    successor = sibling(1)
    successor.ask("serving")
    assert second.ask(f"wait_for_turn 1 {PATIENCE_S}") == "True"


def test_who_is_not_wanted_any_more_stops_waiting(supervisor: Turns, tmp_path: Path, sibling: Start) -> None:
    turns = Turns(tmp_path, 3)
    wanted = iter([True, True, False])
    assert not turns.wait_for_turn(1, PATIENCE_S, lambda: next(wanted))
    other = sibling(1)
    other.ask("serving")
    assert supervisor.count_serving() == 1
    assert other.ask("wait_for_turn 0 0") == "True"
    turns.close()


def test_one_alone_waits_for_nobody(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "not" / "there", 1)
    turns.serving()
    assert turns.wait_for_turn(0, 0)
    turns.close()


def test_of_many_that_are_told_in_the_same_instant_never_two_are_gone(tmp_path: Path, supervisor: Turns) -> None:
    count = 4
    running = {number: start(RELOAD, tmp_path, number, count - 1) for number in range(1, count + 1)}
    followed: dict[int, subprocess.Popen[str]] = {}
    try:
        assert wait_for(lambda: supervisor.count_serving() == count, PATIENCE_S)
        for process in running.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "serving\n"
            process.send_signal(signal.SIGHUP)
        least = count

        def follow() -> bool:
            nonlocal least
            least = min(least, supervisor.count_serving())
            for number, process in running.items():
                if number not in followed and process.poll() is not None:
                    followed[number] = start(RELOAD, tmp_path, number, count - 1)
            return len(followed) == count and supervisor.count_serving() == count

        assert wait_for(follow, PATIENCE_S)
        assert least == count - 1
        for process in running.values():
            assert process.communicate()[0] == f"{count - 1}\n"
            assert process.returncode == 0
    finally:
        for process in (*running.values(), *followed.values()):
            process.kill()
            process.communicate()

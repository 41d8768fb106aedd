"""A process of its own that runs on greenlets, as the API does, and kills some of them.

python -m tests.models.ledger.greenlets_child '{"work": "leading"}'
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402 - nothing that makes a lock may be imported before
import signal  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402

from models.ledger.groups import Groups  # noqa: E402

PATIENCE_S = 5.0


class Scene:
    """Some greenlets of which one leads a group that is held, and the others wait."""

    def __init__(self, *, at_once: int = 1) -> None:
        self.ran: list[list[str]] = []
        self.turns = threading.Semaphore(0)
        self.groups: Groups[str] = Groups(self.run, most=3, at_once=at_once, patience_s=PATIENCE_S)
        self.greenlets: dict[str, Any] = {}
        self.seats_before = at_once

    def run(self, group: Sequence[str]) -> None:
        self.ran.append(list(group))
        self.turns.acquire()

    def join(self, *members: str) -> None:
        for each in members:
            self.greenlets[each] = gevent.spawn(self.groups.join, each)
            gevent.sleep(0)

    def kill(self, *members: str) -> None:
        gevent.killall([self.greenlets[each] for each in members], block=True, timeout=PATIENCE_S)

    def end(self, *expected: list[str]) -> None:
        for _ in range(20):
            self.turns.release()
        gevent.joinall(list(self.greenlets.values()), timeout=PATIENCE_S)
        hung = [name for name, each in self.greenlets.items() if not each.dead]
        told = {
            "hung": hung,
            "ran": self.ran,
            "expected": list(expected),
            "seats": self.groups._free,
            "seats_before": self.seats_before,
        }
        sys.stdout.write(json.dumps(told))
        sys.stdout.flush()


def waiting() -> None:
    scene = Scene()
    scene.join(*"abcdef")
    scene.kill("b", "d")
    scene.end(["a"], ["c", "e", "f"])


def leading() -> None:
    scene = Scene()
    scene.join(*"abcd")
    scene.kill("a")  # b leads, c and d follow
    gevent.sleep(0.01)
    scene.join(*"ef")
    scene.kill("b")
    scene.end(["a"], ["b", "c", "d"], ["e", "f"])


def heir() -> None:
    """Killed when it is to lead already, and has not been told so yet."""
    scene = Scene()
    scene.join(*"abcde")
    passed_on = scene.groups._pass_on

    def kill_and_pass_on() -> None:
        scene.groups._pass_on = passed_on  # type: ignore[method-assign]
        # Both take effect in the next turn of the loop, in this order.
        scene.greenlets["b"].kill(block=False)
        passed_on()

    scene.groups._pass_on = kill_and_pass_on  # type: ignore[method-assign]
    scene.turns.release()
    gevent.sleep(0.05)
    scene.end(["a"], ["c", "d", "e"])


def following() -> None:
    """Killed while its group runs: it is run all the same."""
    scene = Scene()
    scene.join(*"abcd")
    scene.turns.release()
    gevent.sleep(0.01)
    scene.kill("c")
    scene.join("e")
    scene.end(["a"], ["b", "c", "d"], ["e"])


def everybody() -> None:
    scene = Scene(at_once=2)
    scene.join(*"abcdefghij")
    scene.kill(*"abcdefghij")
    ran = len(scene.ran)
    scene.join("z")
    scene.end(*scene.ran[:ran], ["z"])


if __name__ == "__main__":
    signal.alarm(30)
    {each.__name__: each for each in (waiting, leading, heir, following, everybody)}[json.loads(sys.argv[1])["work"]]()

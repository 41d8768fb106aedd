"""Keeps a set of processes alive: one that exits is launched again, at once at first, then with growing pauses."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from config import ConfigurationError
from ops.local.processes import Child, StackError

# Longer than this, and a death counts as bad luck; shorter, and the process is about to die again.
LONG_LIFE_S = 5.0
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
# An upper bound only: signals and the end of children end the sleep. Finds out what sends no signal.
TICK_S = 0.5
# What an entry point exits with when a setting is wrong. Trying again cannot help then.
CONFIGURATION_STATUS = 2

Say = Callable[..., None]


class Sleeper(Protocol):
    """What the loop sleeps on; :class:`ops.local.stopping.StopRequests` in earnest."""

    forced: bool

    def sleep(self, timeout_s: float) -> None:
        """Return early at a signal."""

    def is_wanted(self) -> bool:
        """False once anyone has asked for a stop."""


@dataclass
class Restarts:
    """When one process is started again after its death."""

    launched_at: float = 0.0
    has_lived: bool = False
    quick_deaths: int = 0
    due_at: float | None = None

    def launched(self, now: float) -> None:
        """It runs."""
        self.launched_at, self.due_at = now, None

    def died(self, now: float) -> float:
        """It has exited: the pause before the next launch, in seconds."""
        lived_long = now - self.launched_at >= LONG_LIFE_S
        self.has_lived = self.has_lived or lived_long
        self.quick_deaths = 0 if lived_long else self.quick_deaths + 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (self.quick_deaths - 1)) if self.quick_deaths else 0.0
        self.due_at = now + pause_s
        return pause_s


def failure_of(child: Child) -> StackError | ConfigurationError:
    """Why a child has exited, as the error to stop with if it is one to stop for."""
    complaint = child.complaint()
    prefix = "configuration error: "
    if child.exit_status == CONFIGURATION_STATUS and complaint.startswith(prefix):
        return ConfigurationError(complaint.removeprefix(prefix))
    return StackError(f"{child.spec.name} has failed: {complaint} (see {child.spec.log})")


class Supervisor:
    """Processes in layers: each layer stands on those added before, and is stopped before them."""

    def __init__(
        self,
        stop: Sleeper,
        *,
        say: Say,
        on_replaced: Callable[[], None] = lambda: None,
        on_round: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Have nobody to look after yet.

        Args:
            stop: what is slept on.
            say: told of what happens.
            on_replaced: called whenever another process has taken the place of one; again if it raises an OSError.
            on_round: called now and then.
            clock: seconds that never go back.
        """
        self._stop = stop
        self._say = say
        self._on_replaced = on_replaced
        self._on_round = on_round
        self._clock = clock
        self._layers: list[list[Child]] = []
        self._restarts: dict[Child, Restarts] = {}
        self._is_noted = True
        self._trouble = ""

    @property
    def has_children(self) -> bool:
        """Whether there is anything to stop."""
        return bool(self._layers)

    def add_layer(self, children: Iterable[Child]) -> None:
        """Take charge of running children, or launch them."""
        layer: list[Child] = []
        self._layers.append(layer)
        for child in children:
            layer.append(child)
            self._restarts[child] = Restarts()
            if not child.is_running:
                child.launch()
            self._restarts[child].launched(self._clock())

    def run(self) -> None:
        """Keep them alive until told to stop.

        Raises:
            ConfigurationError: a process says that a setting is wrong.
        """
        while self._stop.is_wanted():
            self.run_once()

    def run_once(self) -> None:
        """Sleep until something happens, then launch again what has exited and is due."""
        due = [restarts.due_at for restarts in self._restarts.values() if restarts.due_at is not None]
        self._stop.sleep(min([TICK_S, *(at - self._clock() for at in due)]))
        replaced = [self._look_after(child) for layer in self._layers for child in layer]
        if any(replaced):
            self._is_noted = False
        self.keep_books()

    def changed(self) -> None:
        """Write down who runs now."""
        self._is_noted = False
        self.keep_books()

    def keep_books(self) -> None:
        """Do what files need that tell of the processes: whose trouble is no reason to stop what needs no disk."""
        trouble = ""
        try:
            if not self._is_noted:
                for child in self._restarts:
                    child.note()
                self._on_replaced()
                self._is_noted = True
            self._on_round()
        except OSError as error:
            trouble = str(error)
        if trouble and not self._trouble:
            self._say(f"cannot write down what runs, trying again: {trouble}", level="error")
        elif self._trouble and not trouble:
            self._say("what runs is written down again")
        self._trouble = trouble

    def stop(self) -> None:
        """Stop all, the last layer first; each process within its bound, and at once after a second signal."""
        while self._layers:
            self.stop_together(self._layers.pop())

    def stop_together(self, layer: Sequence[Child]) -> None:
        """Stop some at the same time, also those that are in no layer yet; bounded as :meth:`stop` is."""
        for child in layer:
            child.send(child.spec.stop_signal)
        begun_at = self._clock()
        hurried = False
        while running := [child for child in layer if child.is_running]:
            late = [child for child in running if self._clock() - begun_at > child.spec.stop_timeout_s]
            if self._stop.forced and not hurried:
                hurried, begun_at = True, self._clock()
                for child in running:
                    child.send(child.spec.force_signal)
            for child in late:
                self._say(f"{child.spec.name} does not stop, killing it", level="error", pid=child.pid)
                child.kill()
            self._stop.sleep(TICK_S)
        for child in layer:
            child.kill()

    def _look_after(self, child: Child) -> bool:
        """Launch one process again if it has exited and its pause is over; True if that was done."""
        restarts = self._restarts[child]
        if child.is_running or not self._stop.is_wanted():
            return False
        if restarts.due_at is None:
            self._mourn(child, restarts)
        if restarts.due_at is None or restarts.due_at > self._clock():
            return False
        try:
            child.launch()
        except (StackError, OSError, RuntimeError) as error:  # no room, no descriptor, no thread
            pause_s = restarts.died(self._clock())
            self._say(f"{child.spec.name} cannot be started: {error}", level="error", retry_in_s=pause_s)
            return False
        restarts.launched(self._clock())
        self._say(f"{child.spec.name} runs again", pid=child.pid)
        return True

    def _mourn(self, child: Child, restarts: Restarts) -> None:
        pause_s = restarts.died(self._clock())
        # What has run with its settings before can run with them again: a file that one of them names is away, say.
        if isinstance(failure := failure_of(child), ConfigurationError) and not restarts.has_lived:
            raise failure
        self._say(
            f"{child.spec.name} has exited, starting it again" + (f" in {pause_s:g} s" if pause_s else ""),
            level="warning",
            pid=child.pid,
            status=child.exit_status,
        )

"""Doing together what is asked for at the same time: the pattern that databases know as group commit.

Whoever comes first leads, and goes at once, alone if need be. Whoever comes while that runs waits, and the first of
those leads the next group, with all that are there by then. So a lone caller waits for nobody, and the more callers
there are the less each of them costs.

Those who come in one company (``models/company.py``) join at once, and one of them leads.

Written with threading's primitives, so that a caller may be a thread or, where they are patched, a greenlet.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from models import company

Member = TypeVar("Member")


class NotTakenError(Exception):
    """Nobody came round to it in time, and nothing of it has been done."""


class Groups(Generic[Member]):
    """Runs members in groups, in the order in which they came; some groups at a time."""

    def __init__(
        self,
        run: Callable[[Sequence[Member]], Callable[[], object] | None],
        *,
        most: int,
        at_once: int = 1,
        patience_s: float,
    ) -> None:
        """Run nothing yet.

        Args:
            run: does what a group is for, and tells each member what came of it; what it raises reaches the leader
                alone. May return what is still to be done before the members are told, while the next group runs.
            most: members of a group.
            at_once: groups that run at the same time.
            patience_s: how many seconds a member waits for its group to begin.
        """
        self._run = run
        self._most = most
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._waiting: deque[_Place[Member]] = deque()
        self._free = at_once

    def join(self, member: Member) -> None:
        """Return when the member's group is done, whoever led it.

        Raises:
            NotTakenError: its group did not begin in time.
        """
        if company.is_in_company():
            company.ask(self, member)
        else:
            self._join([self._place(member)])

    def answer_together(self, questions: Sequence[Member]) -> list[Exception | None]:
        """Let several members join at once, all in this thread, see :mod:`models.company`; return what each raises."""
        return self._join([self._place(member) for member in questions], raises=False)

    def _place(self, member: Member) -> "_Place[Member]":
        return _Place(member, time.monotonic() + self._patience_s)

    def _join(self, places: "Sequence[_Place[Member]]", *, raises: bool = True) -> list[Exception | None]:
        first = places[0]
        with self._lock:
            if self._free:
                self._free -= 1
                first.leads = True
            self._waiting.extend(places[1:] if first.leads else places)
        came_to: list[Exception | None] = []
        for place in places:
            try:
                if not place.leads:
                    self._wait(place)
                if place.leads:
                    self._lead(place)
            except Exception as error:
                if raises:
                    raise
                came_to.append(error)
            else:
                came_to.append(None)
        return came_to

    def _wait(self, place: "_Place[Member]") -> None:
        try:
            # Of several who have joined together each waits as long as if he were alone.
            if place.gate.acquire(timeout=max(0.0, place.until - time.monotonic())):
                return
            if self._withdraw(place):
                raise NotTakenError
            place.gate.acquire()  # its group has begun, or it is to lead the next one
        except BaseException:
            # Cancelled: nobody else may wait for this one.
            if not self._withdraw(place) and place.leads:
                self._pass_on()
            raise

    def _withdraw(self, place: "_Place[Member]") -> bool:
        with self._lock:
            try:
                self._waiting.remove(place)
            except ValueError:
                return False
            return True

    def _lead(self, leader: "_Place[Member]") -> None:
        group = [leader]
        with self._lock:
            while self._waiting and len(group) < self._most:
                group.append(self._waiting.popleft())
        finish = None
        try:
            try:
                finish = self._run([place.member for place in group])
            finally:
                self._pass_on()
            if finish is not None:
                finish()
        finally:
            # Also when the leader was cancelled: what has not been told anything knows that it has not been done.
            for place in group[1:]:
                place.gate.release()

    def _pass_on(self) -> None:
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            heir = self._waiting.popleft()
            heir.leads = True
        heir.gate.release()


class _Place(Generic[Member]):
    """A member that waits. Its gate is closed until its group is done, or until it is to lead one."""

    __slots__ = ("gate", "leads", "member", "until")

    def __init__(self, member: Member, until: float) -> None:
        self.member = member
        self.until = until
        self.leads = False
        self.gate = threading.Lock()
        self.gate.acquire()

"""Calls that one thread answers together: what they ask of the same server is asked in one go.

A thread that waits lets another one run, and has to be woken again; with many threads these changes cost more than what
they change for. So whoever has several calls to answer at once can give them to one thread, as a company. Each runs in
a greenlet of its own until it asks for something that can be asked for together (Redis, a place in a group of orders);
then the next one does. When all have asked, all are answered, and each goes on. What one of them waits for besides, all
of them wait for.

It needs no server of greenlets: where these are made by others (gevent, in the API), nobody is in a company, and each
asks for himself.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from greenlet import getcurrent, greenlet


class Together(Protocol):
    """What can be asked many things in one go."""

    def answer_together(self, questions: Sequence[Any]) -> Sequence[Any]:
        """Return an answer to each question, or the exception that it comes to. Raises what all of them come to."""


class _Member(greenlet):  # type: ignore[misc]  # it has no types
    """A call of a company."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self._call = call

    def run(self) -> None:
        """Run the call; what it returns is nobody's here."""
        self._call()


# What a member switches to its company with, whose answer it waits for; one that has returned switches with None.
_Question = tuple[_Member, Together, Any]


def is_in_company() -> bool:
    """Whether whoever asks this runs in a company."""
    return isinstance(getcurrent(), _Member)


def ask(whom: Together, question: Any) -> Any:
    """Ask together with the others of the company.

    Raises:
        Exception: what the question came to.
    """
    me = getcurrent()
    answer = me.parent.switch((me, whom, question))
    if isinstance(answer, Exception):
        raise answer
    return answer


def keep_company(calls: Iterable[Callable[[], object]]) -> None:
    """Run calls in this thread until all of them have returned. They must not raise."""
    asked: list[_Question] = [question for call in calls if (question := _Member(call).switch()) is not None]
    while asked:
        first = asked[0][1]
        others = [question for question in asked if question[1] is not first]
        asked = others + _answer(first, [question for question in asked if question[1] is first])


def _answer(whom: Together, asked: Sequence[_Question]) -> list[_Question]:
    """Ask for some who ask the same, let each of them go on, and return those who ask again."""
    try:
        answers = whom.answer_together([question for _, _, question in asked])
    except Exception as error:  # noqa: BLE001 - it is theirs
        answers = [error] * len(asked)
    went_on = [member.switch(answer) for (member, _, _), answer in zip(asked, answers, strict=True)]
    return [question for question in went_on if question is not None]

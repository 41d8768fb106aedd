"""The door between what is pending and what carries it to the workers.

A transport is a room beside this module (``rq/``, ``kafka/``), chosen by the setting TRANSPORT, which alone knows its
library. PostgreSQL has every transfer before a transport is told of it, so a transport may lose any, carry any twice,
and be away: it is a projection. What the rest of the service knows of it is here; a third one touches nothing else.

Each room has these modules, with a function ``make`` in each; they are apart because a process of the API needs one of
them only, and not the library behind the others:

* ``way_on``: :class:`WayOn`, of each process that accepts transfers.
* ``backlog``: :class:`Backlog`, the relay's and the auditor's.
* ``worker``: :class:`Worker`.
* ``checkup``: ``count_workers`` and ``look_over``, of ``flask doctor``, in place of ``make``.
"""

import importlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sqlalchemy import Engine

from config import Settings
from models.ledger.attempts import Due

# What settles, audits and looks over is for those who do: a process of the API is without it.
if TYPE_CHECKING:
    from jobs.settler import Settler
    from models.audit.audit import Check
    from models.checkup import Finding


class TransportAway(Exception):
    """It does not answer. The message has no secret in it."""


class Fed(NamedTuple):
    """How many transfers were put on, and for how many there was no room."""

    pushed: int
    refused: int


class WayOn(Protocol):
    """The way of accepted transfers to the workers. It waits for nothing, and raises nothing."""

    # What has to answer for it, as /readyz calls it.
    dependency: str

    def put_on(self, due: Due) -> None:
        """Have a recorded transfer carried, within moments. What is lost here the relay finds."""

    def put_all_on(self, dues: Sequence[Due]) -> None:
        """Have many recorded transfers carried, while the caller waits, and nobody else who puts something on does."""

    def show_planned(self, planned: Due, at: datetime) -> None:
        """Show a recorded transfer that is planned for later to whoever looks, where that can be shown.

        The relay has it carried then.
        """

    def take_off(self, transfer_id: int) -> None:
        """Show no more, and carry no more, what was called off. What is left here workers leave alone."""

    def put_back(self, dues: Sequence[Due]) -> bool:
        """Have transfers carried that were carried before, and are pending again; return whether they will be."""

    def ping(self) -> bool:
        """Whether it would be carried just now."""

    def close(self) -> None:
        """Send on what was put on, within a bounded time, and hang up."""


class Backlog(Protocol):
    """What the transport has, as the relay sees it."""

    # What its methods raise when the transport is away.
    faults: tuple[type[Exception], ...]

    def take_back(self) -> int:
        """Take back what workers held that died or hang, see to what else is to be tidied; return how many they were.

        Raises:
            Unavailable: PostgreSQL is away.
        """

    def find_missing(self, ids: Sequence[int]) -> list[int]:
        """Return those of some transfers, pending and due a moment ago, that neither waits for a worker nor is held.

        It may be wrong of any that has just been settled.
        """

    def feed(self, dues: Sequence[Due]) -> Fed:
        """Put transfers on that nobody has."""

    def announce(self) -> int:
        """Tell others of events that they have not been told of, a bounded amount, in order; return how many."""

    def make_check(self, engine: Engine) -> "Check":
        """Return what audits it."""


class Worker(Protocol):
    """What settles what is carried to this process."""

    def run(self) -> None:
        """Work until SIGTERM; what is in hand is ended first."""


def make_way_on(settings: Settings) -> WayOn:
    """Make the way on of one process. Connects to nothing yet."""
    way_on: WayOn = _room(settings, "way_on").make(settings)
    return way_on


def make_backlog(settings: Settings, engine: Engine) -> Backlog:
    """Make the relay's side. Connects to nothing yet."""
    backlog: Backlog = _room(settings, "backlog").make(settings, engine)
    return backlog


def make_worker(settings: Settings, engine: Engine, settler: "Settler") -> Worker:
    """Make a worker; returns when there is something to work on that answers."""
    worker: Worker = _room(settings, "worker").make(settings, engine, settler)
    return worker


def count_workers(settings: Settings) -> int:
    """Return how many workers there are, 0 if that is not to be found out."""
    count: int = _room(settings, "checkup").count_workers(settings)
    return count


def look_over(settings: Settings) -> "list[Finding]":
    """Look over all that the transport needs, and what waits in it. A server that is away is a finding like others."""
    findings: list[Finding] = _room(settings, "checkup").look_over(settings)
    return findings


def make_counter(settings: Settings) -> Callable[[], dict[str, int]]:
    """Return what counts a transport's jobs by their state, where that has states. It raises one of its faults."""
    counter: Callable[[], dict[str, int]] = _room(settings, "way_on").make_counter(settings)
    return counter


def _room(settings: Settings, module: str) -> Any:
    return importlib.import_module(f"jobs.{settings.transport}.{module}")

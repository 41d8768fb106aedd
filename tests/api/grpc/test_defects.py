"""A defect of ours is told to nobody: whoever calls is told whether money moved, and where to ask."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import product
from typing import Any, Protocol

import pytest
import redis
from google.protobuf.message import Message
from sqlalchemy import Engine

from api.access.identity import Identity
from api.access.token_bucket import BucketStorage, TokenBucket
from api.grpc import servicer
from api.grpc.metadata import Sent
from api.services import make_services
from config import Settings
from jobs.rq.way_on import RqWayOn
from models.ledger.history import History
from models.ledger.orders import Orders
from observe import metrics
from ops.grpc.server import Server
from tests.api.grpc.refusals import (
    EVERY_CALL,
    assert_done_once,
    refused,
)
from tests.api.grpc.server import MOVES, Answer, ask, connect, reserved_port
from tests.conftest import Books
from wallet.v1.wallet_pb2 import AmountRequest, JobRequest

# What each call asks of the inside, and what it makes of what it is told.
BREAKABLE = [
    *((method, (Orders, "accept" if method == "EnqueueTransfer" else "execute")) for method in MOVES),
    *((method, (History, "get_transfer")) for method in ("GetJob", "WatchJob")),
    ("GetBalance", (History, "get_balance")),
    ("ListTransactions", (History, "get_page")),
    ("ListTransactions", (servicer, "page_of")),
    ("GetBalance", (servicer, "Balance")),
    *((method, (Identity, "_authenticate")) for method in EVERY_CALL),
    *((method, (Sent, "check")) for method in EVERY_CALL),
]


class Inside(Protocol):
    """Calls a server that is in this process."""

    def __call__(
        self, method: str, message: Message | bytes | None = None, *, user: int = 1, key: str = "k"
    ) -> Answer[Any]:
        """Call it."""


@pytest.fixture
def inside(settings: Settings, engine: Engine, redis_client: redis.Redis) -> Iterator[Inside]:
    """A server in this very process, for defects that nobody can cause from without; with users 1 and 2."""
    del engine, redis_client  # asked for to be emptied
    with reserved_port() as port, ExitStack() as running:
        own = settings.model_copy(update={"grpc_port": port})
        services = make_services(own, lambda line: TokenBucket(BucketStorage(line=line)), application_name="tests")
        running.callback(services.close)
        served = Server(own, services)
        served.start()
        running.callback(served.stop)
        channel = running.enter_context(closing(connect(port)))

        def call(method: str, message: Message | bytes | None = None, *, user: int = 1, key: str = "k") -> Answer[Any]:
            return ask(channel, method, message, metadata=[("authorization", str(user)), ("idempotency-key", key)])

        for user in (1, 2):
            assert call("Deposit", AmountRequest(amount=10_000), user=user, key="opening").message
        yield call


def breaks(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("the secret is 42")


@pytest.mark.parametrize(("method", "broken"), BREAKABLE)
def test_a_defect_of_ours_is_unavailable_and_tells_nothing_of_itself(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, books: Callable[[], Books], method: str, broken: tuple[Any, str]
) -> None:
    before = books()
    monkeypatch.setattr(*broken, breaks)
    answer = refused(inside(method, EVERY_CALL[method]), "unavailable")
    assert "secret" not in repr(answer)
    assert books() == before


@pytest.mark.parametrize(
    ("method", "broken"),
    [*product(MOVES, ("counting", "answering")), ("EnqueueTransfer", "queueing")],
)
def test_a_defect_after_the_commit_is_no_reason_to_say_that_nothing_moved(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, method: str, broken: str
) -> None:
    with monkeypatch.context() as defect:
        if broken == "counting":
            defect.setattr(metrics, "transfers", {})
        elif broken == "queueing":
            defect.setattr(RqWayOn, "put_on", breaks)
        else:
            defect.setattr(servicer, "Job" if method == "EnqueueTransfer" else "MoneyReply", breaks)
        answer = inside(method, MOVES[method])
    assert "secret" not in repr(answer)
    assert_done_once(inside, method, refused(answer, "outcome_unknown"))


@pytest.mark.parametrize("method", EVERY_CALL)
def test_a_defect_in_telling_of_a_call_changes_nothing_of_its_answer(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    transfer_id = inside("Deposit", AmountRequest(amount=10_000), key="opening").message.transfer_id
    monkeypatch.setattr(metrics, "observe_call", breaks)
    message = JobRequest(job_id=transfer_id) if method in {"GetJob", "WatchJob"} else EVERY_CALL[method]
    assert inside(method, message).message is not None
    refused(inside(method, b"\xff"), "bad_input")

"""What each method answers when all is well: the same facts as REST, in the contract's messages."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from jobs.event_json import rfc3339
from models.ledger import cancellation
from tests.api.calls import ADMIN, is_instant
from tests.api.grpc.raw import call, framed
from tests.api.grpc.server import MOVES, GrpcServer
from tests.books import check_books
from wallet.v1.wallet_pb2 import AmountRequest, Job, JobRequest, TransactionsRequest, TransferRequest

OPENING = 10_000
# What the balance of user 1 is after each move, and what its entry in his history is of: type, amount, counterparty.
AFTER = {
    "Deposit": (OPENING + 67, (1, 67, 0)),
    "Withdraw": (OPENING - 67, (2, -67, 0)),
    "Transfer": (OPENING - 67, (3, -67, 2)),
}


def accept(server: GrpcServer, amount: int = 67) -> int:
    message = TransferRequest(destination_user_id=2, amount=amount)
    job_id: int = server.ask("EnqueueTransfer", message).message.job_id
    return job_id


@pytest.mark.parametrize("method", AFTER)
def test_money_has_moved_when_it_is_answered(server: GrpcServer, engine: Engine, method: str) -> None:
    balance, entry = AFTER[method]
    moved = server.ask(method, MOVES[method]).message
    assert moved.balance == balance
    assert server.ask("GetBalance").message.balance == balance
    newest = server.ask("ListTransactions").message.transactions[0]
    assert (newest.type, newest.amount, newest.counterparty_user_id) == entry
    assert (newest.transfer_id, newest.balance_after) == (moved.transfer_id, balance)
    job = server.ask("GetJob", JobRequest(job_id=moved.transfer_id)).message
    assert (job.status, job.amount, job.reason, job.last_error, job.next_attempt_at) == ("posted", 67, "", "", "")
    assert is_instant(job.created_at)
    assert is_instant(job.completed_at)
    check_books(engine)


def test_a_job_tells_its_parties_and_0_where_there_is_none(server: GrpcServer) -> None:
    parties = {}
    for method in AFTER:
        transfer_id = server.ask(method, MOVES[method]).message.transfer_id
        job = server.ask("GetJob", JobRequest(job_id=transfer_id)).message
        parties[method] = (job.source_user_id, job.destination_user_id)
    assert parties == {"Deposit": (0, 1), "Withdraw": (1, 0), "Transfer": (1, 2)}


def test_a_transfer_is_durable_when_it_is_answered_and_moves_nothing_yet(
    server: GrpcServer, settle: Callable[[str], None]
) -> None:
    accepted = server.ask("EnqueueTransfer", MOVES["EnqueueTransfer"])
    job = accepted.message
    assert job == Job(
        job_id=job.job_id, status="pending", source_user_id=1, destination_user_id=2, amount=67, kind="transfer"
    )
    assert accepted.initial["retry-after"] == "1"
    assert server.ask("GetBalance").message.balance == OPENING
    pending = server.ask("GetJob", JobRequest(job_id=job.job_id)).message
    assert (pending.status, pending.completed_at) == ("pending", "")
    settle(str(job.job_id))
    posted = server.ask("GetJob", JobRequest(job_id=job.job_id)).message
    assert (posted.status, posted.source_user_id, posted.destination_user_id) == ("posted", 1, 2)
    assert datetime.fromisoformat(posted.created_at) <= datetime.fromisoformat(posted.completed_at)
    assert server.ask("GetBalance").message.balance == OPENING - 67
    assert server.ask("GetBalance", user=2).message.balance == OPENING + 67


def test_a_rejected_job_says_why(server: GrpcServer, settle: Callable[[str], None]) -> None:
    job_id = accept(server, OPENING)
    server.ask("Withdraw", AmountRequest(amount=1))
    settle(str(job_id))
    job = server.ask("GetJob", JobRequest(job_id=job_id)).message
    assert (job.status, job.reason) == ("rejected", "balance_insufficient")


def test_a_dead_letter_says_what_it_died_of(server: GrpcServer, engine: Engine) -> None:
    job_id = accept(server)
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE transfers SET status = 'failed', reason = 'attempts_exhausted', attempts = 4,"
                " last_error = 'slow', completed_at = now() WHERE id = :id"
            ),
            {"id": job_id},
        )
    job = server.ask("GetJob", JobRequest(job_id=job_id)).message
    assert (job.status, job.reason, job.attempts, job.last_error) == ("failed", "attempts_exhausted", 4, "slow")


def test_both_parties_and_administrators_see_a_job(server: GrpcServer) -> None:
    job_id = accept(server)
    for method in ("GetJob", "WatchJob"):
        for user in (1, 2, ADMIN):
            # Not for long: it stays pending.
            answer = server.ask(
                method, JobRequest(job_id=job_id), user=user, timeout_s=1.0 if method == "WatchJob" else 60
            )
            assert [each.job_id for each in answer.messages] == [job_id]


def test_a_job_that_has_ended_is_watched_to_its_end_at_once(server: GrpcServer) -> None:
    transfer_id = server.ask("Deposit", MOVES["Deposit"]).message.transfer_id
    answer = server.ask("WatchJob", JobRequest(job_id=transfer_id))
    assert answer.message == server.ask("GetJob", JobRequest(job_id=transfer_id)).message


def test_a_history_is_walked_by_pages_and_by_cursors_and_by_type(server: GrpcServer) -> None:
    for _ in range(3):
        server.ask("Deposit", AmountRequest(amount=1))
        server.ask("Withdraw", AmountRequest(amount=1))
    whole = [each.transaction_id for each in server.ask("ListTransactions").message.transactions]
    assert whole == [f"1-{number}" for number in range(7, 0, -1)]
    for read in (by_pages, by_cursors):
        assert read(server, 0) == whole
        assert read(server, 1) == ["1-6", "1-4", "1-2", "1-1"]
        assert read(server, 2) == ["1-7", "1-5", "1-3"]
        assert read(server, 3) == []


def by_pages(server: GrpcServer, kind: int) -> list[str]:
    found: list[str] = []
    for number in range(1, 10):
        page = server.ask("ListTransactions", TransactionsRequest(type=kind, page=number, page_size=2)).message
        assert page.statement_balance == OPENING
        found += [each.transaction_id for each in page.transactions]
        if not page.has_more:
            assert page.next_cursor == ""
            break
    return found


def by_cursors(server: GrpcServer, kind: int) -> list[str]:
    page = server.ask("ListTransactions", TransactionsRequest(type=kind, page_size=2)).message
    found = [each.transaction_id for each in page.transactions]
    while page.has_more:
        # A page's number means nothing beside a cursor.
        asked = TransactionsRequest(type=kind, page_size=2, cursor=page.next_cursor, page=9)
        page = server.ask("ListTransactions", asked).message
        found += [each.transaction_id for each in page.transactions]
    return found


def test_a_page_has_30_entries_unless_told_otherwise_and_up_to_100(server: GrpcServer) -> None:
    for _ in range(100):
        server.ask("Deposit", AmountRequest(amount=1))
    assert len(server.ask("ListTransactions").message.transactions) == 30
    assert len(server.ask("ListTransactions", TransactionsRequest(page_size=100)).message.transactions) == 100


@pytest.mark.parametrize("method", MOVES)
def test_the_same_call_gets_the_first_answer_again_and_moves_nothing(server: GrpcServer, method: str) -> None:
    first = server.ask(method, MOVES[method], key="k")
    assert not first.is_replay
    server.ask("Deposit", AmountRequest(amount=5))  # what happens in between does not show
    balance = server.ask("GetBalance").message.balance
    # HTTP has no blanks around a value, and so a key has none, whoever brings it.
    for key in ("k", " k", "k "):
        again = server.ask(method, MOVES[method], key=key)
        assert again.is_replay
        assert again.message == first.message
    assert server.ask("GetBalance").message.balance == balance


def test_who_has_gone_before_the_answer_leaves_a_line_and_the_money_has_moved(
    server: GrpcServer, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(text("SELECT FROM wallets WHERE id = 1 FOR UPDATE"))
        given_up = server.ask("Deposit", MOVES["Deposit"], key="k", timeout_s=0.5, metadata=[("x-request-id", "gone")])
        assert given_up.code.name == "DEADLINE_EXCEEDED"
    (line,) = server.wait_for_lines(request_id="gone")
    # The caller's clock began before ours: on a busy machine he has hung up long before the deadline has passed here.
    assert line["method"] == "Deposit"
    assert line["code"] in {"DEADLINE_EXCEEDED", "CANCELLED"}
    again = server.ask("Deposit", MOVES["Deposit"], key="k")
    assert again.is_replay
    assert again.message.balance == OPENING + 67


def test_what_is_sent_by_hand_is_a_call_as_any(server: GrpcServer) -> None:
    """What other tests send by hand is refused for what is wrong with it, and not for how it is sent."""
    fields = [(b"authorization", b"1"), (b"x-request-id", b"by-hand"), (b"idempotency-key", b" k ")]
    assert call(server.port, "Deposit", fields, framed(MOVES["Deposit"].SerializeToString()))
    (line,) = server.wait_for_lines(request_id="by-hand")
    assert line["code"] == "OK"
    assert server.ask("Deposit", MOVES["Deposit"], key="k").is_replay


def test_a_transfer_can_be_planned_and_is_watched_until_it_is_called_off(server: GrpcServer, engine: Engine) -> None:
    instant = datetime.now(UTC) + timedelta(days=1)
    message = TransferRequest(destination_user_id=2, amount=50_000, not_before=instant.isoformat())
    accepted = server.ask("EnqueueTransfer", message, key="k").message
    spelled = rfc3339(instant)
    assert (accepted.status, accepted.not_before, accepted.next_attempt_at) == ("pending", spelled, spelled)
    pending = server.ask("GetJob", JobRequest(job_id=accepted.job_id)).message
    assert (pending.status, pending.not_before, pending.next_attempt_at) == ("pending", spelled, spelled)
    assert server.ask("EnqueueTransfer", message, key="k").message.job_id == accepted.job_id
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(server.ask, "WatchJob", JobRequest(job_id=accepted.job_id))
        assert cancellation.cancel(engine, accepted.job_id)
        assert watching.result().messages[-1].status == "canceled"
    check_books(engine)

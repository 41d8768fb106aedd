"""The calls of users and administrators, on a real server: what they ask, what they get, how they go on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice

import pytest
from sqlalchemy import Engine, text

from jobs.feed import Feed
from tests.client.conftest import FUNDS, Pauses
from tests.client.stand_in import StandIn
from tests.conftest import Books
from tests.proxy import CountingProxy
from wallet_client import (
    NEWEST,
    AdminClient,
    EventsMissed,
    NotFinal,
    NotFound,
    Payment,
    Refused,
    Retries,
    WalletClient,
)
from wallet_client.client import LONGEST_WAIT_S

pytestmark = pytest.mark.xdist_group("client")


@pytest.fixture
def bury(engine: Engine) -> Callable[[int], None]:
    """Make a transfer a dead letter, as a worker does when its attempts have run out."""

    def bury(job_id: int) -> None:
        statement = (
            "UPDATE transfers SET status = 'failed', reason = 'attempts_exhausted', attempts = 4, last_error = 'slow',"
            " completed_at = now() WHERE id = :id"
        )
        with engine.begin() as connection:
            connection.execute(text(statement), {"id": job_id})

    return bury


def test_money_moves_by_every_way_and_the_books_say_so(
    wallet: WalletClient, payee: WalletClient, settle: Callable[[str], None], books: Callable[[], Books]
) -> None:
    assert wallet.deposit(7).balance == FUNDS + 7
    assert wallet.withdraw(6).balance == FUNDS + 1
    paid = wallet.transfer_now(2, 5, description="rent", reference="INV-1", metadata={"flat": "4b"})
    assert (paid.balance, paid.success, paid.replayed) == (FUNDS - 4, True, False)
    job = wallet.transfer_later(2, 3)
    settle(str(job.job_id))
    assert wallet.wait_for(job.job_id).is_posted
    assert [wallet.balance().balance, payee.balance().balance] == [FUNDS - 7, FUNDS + 8]
    assert books().wallets == {1: FUNDS - 7, 2: FUNDS + 8}

    found = payee.job(paid.transfer_id)
    assert (found.source_user_id, found.destination_user_id, found.amount, found.kind) == (1, 2, 5, "transfer")
    assert (found.description, found.reference, found.metadata) == ("rent", "INV-1", {"flat": "4b"})
    assert found.completed_at is not None
    assert abs((datetime.now(UTC) - found.completed_at).total_seconds()) < 60


def test_what_was_paid_is_given_back_in_parts(wallet: WalletClient, payee: WalletClient) -> None:
    paid = wallet.transfer_now(2, 100).transfer_id
    assert payee.reverse(paid, 30, description="one was broken").balance == FUNDS + 70
    assert payee.reverse(paid).balance == FUNDS
    assert payee.job(paid).reversed_amount == 100
    with pytest.raises(Refused) as no:
        payee.reverse(paid, 1)
    assert no.value.code == "reversal_exceeds"
    newest = next(wallet.transactions())
    assert (newest.amount, wallet.job(newest.transfer_id).reverses) == (70, paid)


def test_many_are_paid_at_once_and_waited_for(
    wallet: WalletClient, payee: WalletClient, engine: Engine, settle: Callable[[str], None]
) -> None:
    payments = [Payment(destination_user_id=2, amount=amount, reference=f"wage-{amount}") for amount in (1, 2, 3)]
    sent = wallet.transfer_bulk(payments, idempotency_key="wages")
    assert (sent.count, sent.replayed) == (3, False)
    assert wallet.transfer_bulk(payments, idempotency_key="wages").replayed
    assert not wallet.bulk(sent.bulk_id).is_final
    with engine.connect() as connection:
        waiting = connection.execute(text("SELECT id FROM transfers WHERE status = 'pending'")).scalars().all()
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(wallet.wait_for_bulk, sent.bulk_id)
        for each in waiting:
            settle(str(each))
        done = ending.result()
    assert (done.count, done.amount, done.posted, done.pending) == (3, 6, 3, 0)
    assert payee.balance().balance == FUNDS + 6


def test_the_same_key_is_the_same_movement(wallet: WalletClient, books: Callable[[], Books]) -> None:
    first = wallet.withdraw(67, idempotency_key="order 7")
    again = wallet.withdraw(67, idempotency_key="order 7")
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.transfer_id, again.balance) == (first.transfer_id, first.balance)
    other = wallet.withdraw(67)
    assert other.idempotency_key not in {"order 7", wallet.withdraw(67).idempotency_key}
    assert books().wallets == {1: FUNDS - 3 * 67}


def test_whoever_waits_is_told_as_soon_as_it_is_final(
    wallet: WalletClient, payee: WalletClient, settle: Callable[[str], None]
) -> None:
    del payee
    job = wallet.transfer_later(2, 67)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wallet.wait_for, job.job_id)
        settle(str(job.job_id))
        assert waiting.result().status == "posted"


def test_who_waits_in_vain_is_told_so_and_the_transfer_goes_on(
    wallet: WalletClient, payee: WalletClient, settle: Callable[[str], None]
) -> None:
    del payee
    job = wallet.transfer_later(2, 67)
    with pytest.raises(NotFinal, match=str(job.job_id)):
        wallet.wait_for(job.job_id, timeout_s=0.05)
    settle(str(job.job_id))
    assert wallet.wait_for(job.job_id, timeout_s=0).is_final


def test_who_is_not_kept_waiting_pauses_by_himself(stand_in: StandIn) -> None:
    now_s, slept = [0.0], []
    stand_in.answer = (
        b'{"bulk_id": "5", "count": 2, "amount": 9, "atomic": false, "pending": 1, "posted": 1, "rejected": 0,'
        b' "failed": 0, "canceled": 0, "created_at": "2026-11-23T14:47:38.155688Z", "completed_at": null}'
    )

    def sleep(pause_s: float) -> None:
        now_s[0] += pause_s
        slept.append(pause_s)

    retries = Retries(sleep=sleep, clock=lambda: now_s[0], spread=lambda: 1.0)
    with WalletClient(stand_in.url, user_id=1, retries=retries) as client, pytest.raises(NotFinal, match="bulk 5"):
        client.wait_for_bulk(5, timeout_s=2)
    # 0.1, 0.2, 0.4, 0.8, and what is left of the two seconds.
    assert slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 0.5])


def test_the_whole_history_comes_page_by_page_while_new_entries_arrive(wallet: WalletClient) -> None:
    for amount in range(1, 6):
        wallet.deposit(amount)
    history = wallet.transactions(page_size=2)
    first = list(islice(history, 2))
    wallet.deposit(6)
    amounts = [entry.amount for entry in (*first, *history)]
    assert amounts == [5, 4, 3, 2, 1, FUNDS]
    assert [entry.amount for entry in wallet.transactions(type_=2)] == []
    page = wallet.transactions_page(page=2, page_size=3)
    assert [entry.amount for entry in page.transactions] == [3, 2, 1]
    assert page.statement_balance == FUNDS + 21


def test_dead_letters_are_listed_and_put_back(
    wallet: WalletClient, payee: WalletClient, admin: AdminClient, bury: Callable[[int], None]
) -> None:
    del payee
    jobs = [wallet.transfer_later(2, amount).job_id for amount in (1, 2, 3)]
    for job in jobs:
        bury(job)
    assert wallet.wait_for(jobs[0]).status == "failed"
    assert [each.job_id for each in admin.dead_letters(page_size=2)] == jobs[::-1]
    one = admin.requeue(jobs[0])
    assert (one.requeued, one.job.status, one.job.attempts) == (True, "pending", 0)
    assert admin.requeue(jobs[0]).requeued is False
    assert admin.requeue_all() == 2
    assert list(admin.dead_letters()) == []
    with pytest.raises(NotFound):
        admin.requeue(7)


def test_events_are_followed_each_once_from_wherever_one_was(
    wallet: WalletClient, admin: AdminClient, engine: Engine
) -> None:
    feed = Feed(engine, days=30)
    feed.run_once()
    start = admin.events_page(after=NEWEST).next_after
    with ThreadPoolExecutor(1) as pool:
        heard = admin.follow(start)
        waiting = pool.submit(list, islice(heard, 2))
        moved = [wallet.deposit(1).transfer_id, wallet.deposit(2).transfer_id]
        feed.run_once()
        told = waiting.result()
    assert [event.event_id for event in told] == [start + 1, start + 2]
    assert [event.data and event.data.job_id for event in told] == moved
    assert {event.type for event in told} == {"transfer.posted"}
    (again,) = islice(admin.follow(start + 1), 1)
    assert again == told[1]


def test_who_has_missed_events_is_told_instead_of_going_on(
    wallet: WalletClient, admin: AdminClient, engine: Engine
) -> None:
    Feed(engine, days=30).run_once()
    start = admin.events_page(after=NEWEST).next_after
    wallet.deposit(1)
    # Whatever is older than no time at all is forgotten.
    Feed(engine, days=0).run_once()
    wallet.deposit(2)
    Feed(engine, days=30).run_once()
    with pytest.raises(EventsMissed, match="1 events are kept no more") as missed:
        next(admin.follow(start))
    assert missed.value.missed == 1
    # Whoever says nothing of where he was begins at the oldest one kept.
    assert next(admin.follow()).event_id == start + 2


def test_what_anybody_may_ask(wallet: WalletClient, admin: AdminClient) -> None:
    assert wallet.health().status == "ok"
    assert wallet.readiness().dependencies["postgres"] == "ok"
    assert "wallet_up" in wallet.metrics()
    assert "/api/jobs/v1/{job_id}" in wallet.document()["paths"]
    assert admin.audit().under_way is None


def test_a_service_that_is_not_ready_says_so_and_that_is_no_error(stand_in: StandIn) -> None:
    stand_in.status, stand_in.answer = 503, b'{"status": "stopping", "dependencies": {"postgres": "ok"}}'
    with WalletClient(stand_in.url, user_id=1) as client:
        assert client.readiness().status == "stopping"
    assert len(stand_in.heard) == 1


def test_the_longest_wait_is_the_services(way: CountingProxy, wallet: WalletClient) -> None:
    transfer_id = wallet.deposit(1).transfer_id
    wallet.wait_for(transfer_id, timeout_s=1_000)
    assert any(f"/api/jobs/v1/{transfer_id}?wait={LONGEST_WAIT_S}".encode() in data for data in way.sent)
    with pytest.raises(NotFound, match="bulk_not_found"):
        wallet.wait_for_bulk(1, timeout_s=1_000)
    assert any(f"/api/bulks/v1/1?wait={LONGEST_WAIT_S}".encode() in data for data in way.sent)


def test_a_time_without_a_zone_is_refused_before_anything_is_sent(stand_in: StandIn) -> None:
    with WalletClient(stand_in.url, user_id=1) as client, pytest.raises(ValueError, match="zone"):
        client.transfer_later(2, 67, not_before=datetime(2026, 11, 23, 14))  # noqa: DTZ001 - that is the mistake
    assert stand_in.heard == []


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host", "http://", "http://user:secret@host", "http://h?x=1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        WalletClient(url, user_id=1)


@pytest.mark.parametrize("credentials", [{}, {"user_id": 1, "token": "t"}])
def test_a_caller_is_one(credentials: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="one of user_id and token"):
        WalletClient("http://127.0.0.1", **credentials)  # type: ignore[arg-type]


def test_secrets_are_not_shown(pauses: Pauses) -> None:
    with AdminClient("http://127.0.0.1:1", password="pass-word", retries=pauses.retries(tries=1)) as admin:
        shown = f"{admin!r} {vars(admin)!r}"
        with pytest.raises(Exception) as error:  # noqa: PT011 - whatever it is
            admin.audit()
    assert "pass-word" not in shown + repr(error.value)

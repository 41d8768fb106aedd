"""Whatever happens on the way, money moves once, and the caller is told what is known of it."""

import json
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import lose_reply_and_refuse
from tests.api.server import gunicorn
from tests.api.waiters import wait_for
from tests.client.conftest import FUNDS, Pauses
from tests.client.stand_in import StandIn
from tests.conftest import ADMIN_PASSWORD, Books
from tests.proxy import CountingProxy, TcpProxy
from wallet_client import (
    NO_RETRIES,
    AdminClient,
    BadRequest,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Refused,
    Retries,
    Unauthorized,
    Unavailable,
    WalletClient,
    WalletError,
)

pytestmark = pytest.mark.xdist_group("client")

Connect = Callable[..., WalletClient]
BooksOf = Callable[[], Books]
# More than can be made in a second each, on the slowest machine.
MANY = 60
AWAY = json.dumps({"code": "unavailable", "status": 503, "detail": "away", "message": "away"}).encode()


def _keys(way: CountingProxy, path: str) -> list[str]:
    """Under which keys something was asked for, try by try."""
    sent = [data for data in way.sent if f"POST {path} ".encode() in data]
    return [re.findall(rb"(?i)idempotency-key: (\S+)", data)[0].decode() for data in sent]


def _requests(way: CountingProxy) -> int:
    """How many requests there were. A body comes by itself."""
    return sum(data.startswith((b"GET /", b"POST /")) for data in way.sent)


def _withdraws(data: bytes) -> bool:
    return b"POST /api/withdraw/v1 " in data


def test_a_lost_reply_is_asked_for_again_under_the_same_key_and_money_moves_once(
    wallet: WalletClient, way: CountingProxy, books: BooksOf
) -> None:
    way.lose_reply_to(_withdraws)
    moved = wallet.withdraw(67)
    assert way.cuts == 1
    assert (moved.balance, moved.replayed) == (FUNDS - 67, True)
    assert _keys(way, "/api/withdraw/v1") == [moved.idempotency_key] * 2
    assert books().wallets == {1: FUNDS - 67}


def test_who_gives_up_in_doubt_is_told_the_key_to_go_on_with_another_time(
    connect: Connect, wallet: WalletClient, way: CountingProxy, books: BooksOf
) -> None:
    way.lose_reply_to(_withdraws)
    with pytest.raises(OutcomeUnknown) as doubt:
        connect(1, retries=NO_RETRIES).withdraw(67)
    assert (doubt.value.code, doubt.value.status) == ("no_answer", None)
    key = doubt.value.idempotency_key
    assert key
    assert key in str(doubt.value)
    again = wallet.withdraw(67, idempotency_key=key)
    assert (again.replayed, again.balance) == (True, FUNDS - 67)
    assert books().wallets == {1: FUNDS - 67}


def test_what_is_said_later_does_not_hide_that_an_earlier_try_may_have_moved_money(
    connect: Connect, wallet: WalletClient, way: CountingProxy, to_postgres: TcpProxy, books: BooksOf
) -> None:
    def lose_the_database(_: float) -> None:
        to_postgres.refuse()

    way.lose_reply_to(_withdraws)
    # By the second try it says that nothing moved: by that try.
    with pytest.raises(OutcomeUnknown) as doubt:
        connect(1, retries=Retries(tries=2, sleep=lose_the_database)).withdraw(67)
    assert doubt.value.code == "unavailable"
    to_postgres.refuse(refusing=False)
    assert books().wallets == {1: FUNDS - 67}
    assert wallet.withdraw(67, idempotency_key=doubt.value.idempotency_key).replayed


def test_an_outcome_that_the_service_does_not_know_is_asked_for_until_it_does(
    connect: Connect, wallet: WalletClient, to_postgres: TcpProxy, books: BooksOf
) -> None:
    del wallet

    def bring_the_database_back(_: float) -> None:
        to_postgres.refuse(refusing=False)

    lose_reply_and_refuse(to_postgres, b"COMMIT")
    with pytest.raises(OutcomeUnknown) as doubt:
        connect(1, retries=NO_RETRIES).withdraw(67)
    assert (doubt.value.code, doubt.value.status) == ("outcome_unknown", 503)
    assert doubt.value.transfer_id
    again = connect(1, retries=Retries(sleep=bring_the_database_back))
    moved = again.withdraw(67, idempotency_key=doubt.value.idempotency_key)
    assert (moved.transfer_id, moved.replayed) == (doubt.value.transfer_id, True)
    assert books().wallets == {1: FUNDS - 67}


def test_with_the_database_away_it_is_asked_again_no_sooner_than_the_service_says(
    connect: Connect, wallet: WalletClient, to_postgres: TcpProxy, books: BooksOf
) -> None:
    del wallet
    slept: list[float] = []

    def sleep(pause_s: float) -> None:
        slept.append(pause_s)
        if len(slept) == 3:
            to_postgres.refuse(refusing=False)

    to_postgres.refuse()
    assert connect(1, retries=Retries(sleep=sleep, spread=lambda: 1.0)).withdraw(67).balance == FUNDS - 67
    # Retry-After is a second; what is added grows: 0.1, 0.2, 0.4.
    assert slept == pytest.approx([1.1, 1.2, 1.4])
    assert books().wallets == {1: FUNDS - 67}


def test_with_the_database_away_for_good_it_ends_and_says_that_nothing_moved(
    wallet: WalletClient, way: CountingProxy, pauses: Pauses, to_postgres: TcpProxy, books: BooksOf
) -> None:
    to_postgres.refuse()
    with pytest.raises(Unavailable) as away:
        wallet.withdraw(67)
    with pytest.raises(Unavailable):
        wallet.job(1)
    to_postgres.refuse(refusing=False)
    assert (away.value.status, away.value.retry_after_s) == (503, 1.0)
    assert away.value.trace_id
    assert _keys(way, "/api/withdraw/v1") == [away.value.idempotency_key] * 8
    assert len(pauses.slept_s) == 7 + 7
    assert books().wallets == {1: FUNDS}


def test_silence_is_given_up_on_and_what_was_held_moves_nothing_more(
    connect: Connect, wallet: WalletClient, way: CountingProxy, books: BooksOf
) -> None:
    way.hold()
    # The first try is on its way still when the second is made.
    hasty = connect(1, timeout_s=0.3, retries=Retries(tries=50, sleep=lambda _: way.resume()))
    moved = hasty.withdraw(67)
    assert moved.balance == FUNDS - 67
    assert set(_keys(way, "/api/withdraw/v1")) == {moved.idempotency_key}
    assert wallet.balance().balance == FUNDS - 67
    assert books().wallets == {1: FUNDS - 67}


def test_a_kept_connection_that_was_closed_meanwhile_is_replaced_at_once(
    wallet: WalletClient, way: CountingProxy, pauses: Pauses
) -> None:
    assert wallet.balance().balance == FUNDS
    assert way.accepted == 1, "one connection is kept"
    way.break_all()
    assert wallet.withdraw(67).balance == FUNDS - 67
    assert pauses.slept_s == [0.0]


def test_where_nobody_listens_nothing_was_sent(pauses: Pauses) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        WalletClient(f"http://127.0.0.1:{port}", user_id=1, retries=pauses.retries(tries=3)) as client,
        pytest.raises(Unavailable) as away,
    ):
        client.deposit(67)
    assert (away.value.code, away.value.status) == ("unreachable", None)
    assert away.value.idempotency_key
    assert pauses.slept_s == pytest.approx([0.1, 0.2])


def test_a_no_is_never_asked_for_twice(
    wallet: WalletClient, way: CountingProxy, pauses: Pauses, books: BooksOf
) -> None:
    key = "the shop's order 7"
    assert wallet.withdraw(1, idempotency_key=key).balance == FUNDS - 1
    before, requests = books(), _requests(way)
    refusals: list[tuple[type[WalletError], str, Callable[[], object]]] = [
        (Refused, "balance_insufficient", lambda: wallet.withdraw(FUNDS + 1)),
        (Refused, "self_transfer_invalid", lambda: wallet.transfer_later(1, 1)),
        (Refused, "idempotency_key_reused", lambda: wallet.withdraw(2, idempotency_key=key)),
        (NotFound, "wallet_not_found", lambda: wallet.transfer_now(99, 1)),
        (NotFound, "job_not_found", lambda: wallet.job(7)),
        (BadRequest, "invalid_amount", lambda: wallet.deposit(-1)),
        (BadRequest, "bad_input", lambda: wallet.deposit(1, reference="\n")),
    ]
    for kind, code, call in refusals:
        with pytest.raises(kind) as refused:
            call()
        assert (type(refused.value), refused.value.code) == (kind, code)
        assert refused.value.detail == refused.value.message
    assert _requests(way) - requests == len(refusals)
    assert pauses.slept_s == []
    assert books() == before


def test_wrong_credentials_are_not_tried_again(way: CountingProxy, server: object) -> None:
    del server
    url = f"http://127.0.0.1:{way.port}"
    with AdminClient(url, password="wrong") as stranger, pytest.raises(Unauthorized):
        stranger.audit()
    with WalletClient(url, token="no token") as stranger, pytest.raises(Unauthorized):
        stranger.balance()
    assert _requests(way) == 2


def test_who_is_throttled_waits_as_long_as_he_is_told_and_gets_there(
    tmp_path: Path, service_database_url: str, redis_url: str, books: BooksOf, redis_client: object
) -> None:
    del redis_client  # asked for to be emptied
    slept: list[float] = []

    def sleep(pause_s: float) -> None:
        slept.append(pause_s)
        time.sleep(pause_s)

    with gunicorn(
        tmp_path / "api.log",
        DATABASE_URL=service_database_url,
        REDIS_URL=redis_url,
        ADMIN_PASSWORD=ADMIN_PASSWORD,
        API_PROCESSES="1",
        RATE_LIMIT="1/second;burst=1",
    ) as throttling:
        url = f"http://127.0.0.1:{throttling.port}"
        with WalletClient(url, user_id=1, retries=Retries(sleep=sleep)) as patient:
            for _ in range(MANY):
                if not slept:  # however slow this machine is, some two of them come within a second
                    patient.deposit(67)
        with (
            WalletClient(url, user_id=1, retries=Retries(deadline_s=0.5)) as hasty,
            pytest.raises(RateLimited) as throttled,
        ):
            [hasty.deposit(1) for _ in range(MANY)]
    assert slept
    assert min(slept) >= 1
    assert (throttled.value.status, throttled.value.retry_after_s) == (429, 1.0)
    assert books().wallets[1] % 67 < MANY


def test_an_answer_that_breaks_off_is_none(stand_in: StandIn, pauses: Pauses) -> None:
    stand_in.answer, stand_in.missing = b'{"balance": 7, "transfer_id": "8"', 10
    with WalletClient(stand_in.url, user_id=1, retries=pauses.retries(tries=3)) as client:
        with pytest.raises(OutcomeUnknown) as doubt:
            client.deposit(67)
        with pytest.raises(Unavailable):  # nobody need be in doubt of a question
            client.balance()
    assert doubt.value.code == "no_answer"
    keys = [each.headers.get("Idempotency-Key") for each in stand_in.heard]
    assert keys == [doubt.value.idempotency_key] * 3 + [None] * 3


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"balance": "much", "transfer_id": "8"}', b'{"balance": true}'])
def test_an_answer_that_makes_no_sense_is_none(stand_in: StandIn, pauses: Pauses, answer: bytes) -> None:
    stand_in.answer = answer
    with (
        WalletClient(stand_in.url, user_id=1, retries=pauses.retries(tries=2)) as client,
        pytest.raises(OutcomeUnknown) as doubt,
    ):
        client.deposit(67)
    assert doubt.value.code == "no_answer"
    assert len(stand_in.heard) == 2


def test_an_error_of_what_stands_before_the_service_leaves_in_doubt(stand_in: StandIn, pauses: Pauses) -> None:
    stand_in.status, stand_in.answer = 502, b"<html>"
    with (
        WalletClient(stand_in.url, user_id=1, retries=pauses.retries(tries=3)) as client,
        pytest.raises(OutcomeUnknown) as doubt,
    ):
        client.deposit(67)
    assert (doubt.value.status, doubt.value.code, len(stand_in.heard)) == (502, "unexpected_status", 3)
    stand_in.status = 301
    with (
        WalletClient(stand_in.url, user_id=1) as client,
        pytest.raises(WalletError, match="unexpected_status: status 301"),
    ):
        client.deposit(67)


def test_what_would_be_done_twice_is_repeated_only_when_nothing_was_done(stand_in: StandIn, pauses: Pauses) -> None:
    with AdminClient(stand_in.url, password="secret", retries=pauses.retries(tries=3)) as client:
        stand_in.status = 502
        with pytest.raises(OutcomeUnknown):
            client.rotate_webhook(5)
        assert len(stand_in.heard) == 1
        stand_in.status, stand_in.kind, stand_in.answer = 503, "application/problem+json", AWAY
        with pytest.raises(Unavailable):
            client.rotate_webhook(5)
        assert len(stand_in.heard) == 1 + 3


def test_a_token_is_asked_for_before_each_try_and_a_refused_one_is_no_answer_to_an_earlier_try(
    stand_in: StandIn, pauses: Pauses
) -> None:
    tokens = iter("abc")
    retries = pauses.retries(tries=3)

    def forbid(_: float) -> None:
        stand_in.status, stand_in.kind = 403, "application/problem+json"
        stand_in.answer = b'{"code": "forbidden", "detail": "expired", "message": "expired"}'

    with WalletClient(stand_in.url, token=lambda: next(tokens), retries=retries) as client:
        stand_in.status = 502
        with pytest.raises(OutcomeUnknown):
            client.deposit(67)
    assert [each.headers["Authorization"] for each in stand_in.heard] == ["Bearer a", "Bearer b", "Bearer c"]
    stand_in.status = 502
    with WalletClient(stand_in.url, token="d", retries=Retries(sleep=forbid)) as client:
        with pytest.raises(OutcomeUnknown) as doubt:
            client.deposit(67)
        with pytest.raises(Forbidden):
            client.deposit(67)
    assert doubt.value.code == "forbidden"


def test_a_trace_goes_along_and_a_key_may_be_any_text(stand_in: StandIn) -> None:
    stand_in.answer = b'{"balance": 7, "transfer_id": "8"}'
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with WalletClient(f"{stand_in.url}/wallets/", user_id=1, traceparent=lambda: trace) as client:
        client.deposit(67, idempotency_key="Bestellung für März €")
    (heard,) = stand_in.heard
    assert heard.target == "/wallets/api/deposit/v1"
    assert heard.headers["traceparent"] == trace
    assert heard.headers["Idempotency-Key"].encode("latin-1").decode() == "Bestellung für März €"


def test_a_key_that_would_be_another_header_is_not_sent(stand_in: StandIn) -> None:
    with WalletClient(stand_in.url, user_id=1) as client, pytest.raises(ValueError, match="Invalid header value"):
        client.deposit(67, idempotency_key="a\r\nAuthorization: 2")
    assert stand_in.heard == []


def test_threads_share_a_client_and_its_connections(wallet: WalletClient, way: CountingProxy, books: BooksOf) -> None:
    threads, each = 4, 10
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(wallet.deposit, [1] * threads * each))
    assert books().wallets == {1: FUNDS + threads * each}
    assert way.accepted <= 1 + threads


def test_however_many_kept_connections_were_closed_it_costs_one_try(
    wallet: WalletClient, way: CountingProxy, pauses: Pauses, books: BooksOf
) -> None:
    many = 12
    way.hold()  # so that each needs a connection of its own
    with ThreadPoolExecutor(many) as pool:
        made = [pool.submit(wallet.deposit, 1) for _ in range(many)]
        wait_for(lambda: way.accepted == many > Retries().tries)
        way.resume()
        assert all(each.result().success for each in made)
    way.break_all()
    assert wallet.deposit(1).balance == FUNDS + many + 1
    assert pauses.slept_s == [0.0]
    assert books().wallets == {1: FUNDS + many + 1}


@pytest.mark.parametrize(
    ("tried", "retry_after_s", "least_s", "most_s"),
    [
        (1, None, 0.0, 0.1),
        (2, None, 0.0, 0.2),
        (4, None, 0.0, 0.8),  # 0.1 · 2³
        (7, None, 0.0, 5.0),  # 0.1 · 2⁶ is 6.4
        (5_000, None, 0.0, 5.0),
        (1, 3.0, 3.0, 3.1),
    ],
)
def test_a_pause_is_anything_up_to_a_bound_that_doubles(
    tried: int, retry_after_s: float | None, least_s: float, most_s: float
) -> None:
    assert Retries(spread=lambda: 0.0).pause_s(tried, retry_after_s) == pytest.approx(least_s)
    assert Retries(spread=lambda: 1.0).pause_s(tried, retry_after_s) == pytest.approx(most_s)


def test_a_pause_beyond_the_deadline_is_not_begun(stand_in: StandIn) -> None:
    now_s = [0.0]

    def sleep(pause_s: float) -> None:
        now_s[0] += pause_s

    stand_in.status, stand_in.kind, stand_in.answer = 503, "application/problem+json", AWAY
    retries = Retries(tries=1_000, deadline_s=1.0, sleep=sleep, clock=lambda: now_s[0], spread=lambda: 1.0)
    with WalletClient(stand_in.url, user_id=1, retries=retries) as client, pytest.raises(Unavailable):
        client.balance()
    # After 0.1, 0.2 and 0.4 s the next would be 0.8: 1.5 in all.
    assert now_s[0] == pytest.approx(0.7)
    assert len(stand_in.heard) == 4


@pytest.mark.parametrize("bounds", [{"tries": 0}, {"deadline_s": 0}, {"first_pause_s": -1}, {"longest_pause_s": -1}])
def test_bounds_that_are_none_are_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="should be"):
        Retries(**bounds)

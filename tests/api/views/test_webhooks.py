"""Webhooks: administrators set them up, look at what was sent, and have it sent again."""

from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

import pytest
import redis
import standardwebhooks
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from jobs.retries import RetryPolicy
from jobs.rq.webhook_queue import WebhookQueue
from jobs.webhooks.feeder import Feeder
from jobs.webhooks.posting import Poster
from jobs.webhooks.sender import Sender
from models.webhooks.endpoints import MOST_WEBHOOKS
from tests.api.calls import ADMIN, DEPOSIT, Json, answer, ask, basic, get, is_instant, post, problem
from tests.api.conftest import AppMaker
from tests.jobs.webhooks.driving import Driver, number_all
from tests.jobs.webhooks.receivers import Receiver, Reply

WEBHOOKS = "/api/webhooks/v1"
URL = "https://unknown.invalid/hooks?key=1"
CALLS = pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", WEBHOOKS),
        ("GET", WEBHOOKS),
        ("DELETE", f"{WEBHOOKS}/1"),
        *(("POST", f"{WEBHOOKS}/1/{word}") for word in ("rotate", "test", "enable", "replay")),
        ("GET", f"{WEBHOOKS}/1/deliveries"),
    ],
)


@pytest.fixture
def client(make_app: AppMaker) -> FlaskClient:
    """A client of an application that may reach receivers on loopback."""
    return make_app(webhook_allow_networks="127.0.0.0/8").test_client()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def send(engine: Engine, redis_client: redis.Redis) -> Iterator[Callable[[], int]]:
    """Send whatever is due, and return how many attempts that were."""
    queue = WebhookQueue(redis_client)
    poster = Poster((ip_network("127.0.0.0/8"),))
    sender = Sender(engine, poster, RetryPolicy((0.0,)))
    driver = Driver(Feeder(engine, queue, days=30), queue, sender)

    def send() -> int:
        number_all(engine)
        return driver.run()

    yield send
    poster.close()


def add(client: FlaskClient, url: str = URL, **given: Any) -> Json:
    return answer(post(client, WEBHOOKS, {"url": url, "types": ["*"]} | given, user=ADMIN), 201)


def do(client: FlaskClient, webhook_id: str, word: str, body: Json | None = None) -> Json:
    return answer(ask(client, "POST", f"{WEBHOOKS}/{webhook_id}/{word}", user=ADMIN, body=body))


def deliveries(client: FlaskClient, webhook_id: str, query: str = "") -> Json:
    return answer(get(client, f"{WEBHOOKS}/{webhook_id}/deliveries{query}", user=ADMIN))


@CALLS
@pytest.mark.parametrize(
    ("credentials", "code"), [(1, "forbidden"), (None, "unauthorized"), (basic("admin", "no"), "unauthorized")]
)
def test_only_administrators_may(
    client: FlaskClient, method: str, path: str, credentials: int | str | None, code: str
) -> None:
    problem(ask(client, method, path, user=credentials), code)


@CALLS
def test_an_unknown_query_parameter_is_refused(client: FlaskClient, method: str, path: str) -> None:
    problem(ask(client, method, f"{path}?x=1", user=ADMIN), "bad_input")


@pytest.mark.parametrize("webhook_id", ["1", "0", "x", "9" * 19, "9" * 40, "1.0", "-1"])
def test_a_webhook_that_is_not_there(client: FlaskClient, webhook_id: str) -> None:
    for method, word in (
        ("DELETE", ""), ("POST", "/rotate"), ("POST", "/test"), ("POST", "/enable"), ("GET", "/deliveries"),
    ):  # fmt: skip
        problem(ask(client, method, f"{WEBHOOKS}/{webhook_id}{word}", user=ADMIN), "webhook_not_found")
    for body in ({"event_id": 1}, {"since": "2026-01-01T00:00:00Z"}):
        problem(post(client, f"{WEBHOOKS}/{webhook_id}/replay", body, user=ADMIN), "webhook_not_found")


def test_a_webhook_is_shown_without_its_secret_once_it_was_added(client: FlaskClient) -> None:
    first = add(client)
    second = add(client, types=["transfer.posted", "transfer.failed", "transfer.posted"], user_id="7")
    secret = first.pop("secret")
    assert secret.startswith("whsec_")
    assert second.pop("secret") != secret
    assert (second["types"], second["user_id"]) == (["transfer.posted", "transfer.failed"], "7")
    assert is_instant(first["created_at"])
    assert (first["url"], first["types"], first["user_id"]) == (URL, ["*"], None)
    assert (first["status"], first["why"]) == ("enabled", None)
    assert answer(get(client, WEBHOOKS, user=ADMIN)) == {"webhooks": [first, second]}


@pytest.mark.parametrize(
    "url",
    [
        "http://unknown.invalid/", "http://8.8.8.8/", "https://10.0.0.1/", "https://[::1]/", "https://169.254.169.254/",
        "https://user:password@unknown.invalid/", "ftp://unknown.invalid/", "nothing", "https://a.test/#x",
    ],
)  # fmt: skip
def test_a_url_that_nothing_is_sent_to_is_refused_by_its_name(client: FlaskClient, url: str) -> None:
    told = problem(post(client, WEBHOOKS, {"url": url, "types": ["*"]}, user=ADMIN), "bad_input")
    assert told["detail"].startswith("body: url: ")
    assert "password@" not in told["detail"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"types": ["*"]}, "url"),
        ({"url": 1, "types": ["*"]}, "url"),
        ({"url": "", "types": ["*"]}, "url"),
        ({"url": URL}, "types"),
        ({"url": URL, "types": []}, "types"),
        ({"url": URL, "types": "transfer.posted"}, "types"),
        ({"url": URL, "types": ["transfer.lost"]}, "transfer.lost"),
        ({"url": URL, "types": ["*"], "user_id": 0}, "user_id"),
        ({"url": URL, "types": ["*"], "secret": "mine"}, "secret"),
    ],
)
def test_a_field_that_is_wrong_is_named(client: FlaskClient, body: Json, named: str) -> None:
    assert named in problem(post(client, WEBHOOKS, body, user=ADMIN), "bad_input")["detail"]


def test_plain_http_goes_to_loopback_where_it_is_allowed(
    client: FlaskClient, make_app: AppMaker, receiver: Receiver
) -> None:
    add(client, receiver.url)
    strict = make_app().test_client()
    problem(post(strict, WEBHOOKS, {"url": receiver.url, "types": ["*"]}, user=ADMIN), "bad_input")


def test_there_may_be_so_many(client: FlaskClient, engine: Engine) -> None:
    added = add(client)
    with engine.begin() as connection:
        more = text("""
            INSERT INTO webhooks (id, url, types, secret, upto)
            SELECT n, 'https://a.test/', '{*}', :secret, 0 FROM generate_series(1, :count) AS n
        """)
        connection.execute(more, {"secret": b"s" * 32, "count": MOST_WEBHOOKS - 1})
    problem(post(client, WEBHOOKS, {"url": URL, "types": ["*"]}, user=ADMIN), "bad_input")
    answer(ask(client, "DELETE", f"{WEBHOOKS}/{added['webhook_id']}", user=ADMIN))
    add(client)


def test_what_was_deleted_is_gone(client: FlaskClient, receiver: Receiver, send: Callable[[], int]) -> None:
    added = add(client, receiver.url)
    path = f"{WEBHOOKS}/{added['webhook_id']}"
    assert answer(ask(client, "DELETE", path, user=ADMIN)) == {"deleted": True}
    problem(ask(client, "DELETE", path, user=ADMIN), "webhook_not_found")
    assert answer(get(client, WEBHOOKS, user=ADMIN)) == {"webhooks": []}
    post(client, DEPOSIT, {"amount": 1})
    assert send() == 0


def test_an_event_is_followed_from_its_first_attempt_to_its_last(
    client: FlaskClient, receiver: Receiver, send: Callable[[], int]
) -> None:
    added = add(client, receiver.url)
    receiver.answering(Reply(500, body=b"no"), Reply(200, body=b"yes"))
    answer(post(client, DEPOSIT, {"amount": 1}))
    assert send() == 2

    page = deliveries(client, added["webhook_id"])
    (delivery,) = page.pop("deliveries")
    assert page == {"page_size": 30, "has_more": False, "next_cursor": None}
    (event,) = answer(get(client, "/api/events/v1", user=ADMIN))["events"]
    assert (delivery["event_id"], delivery["type"]) == (event["event_id"], event["type"])
    assert delivery["created_at"] == event["created_at"]
    assert (delivery["status"], delivery["next_attempt_at"]) == ("delivered", None)
    assert [(each["http_status"], each["answer"], each["error"]) for each in delivery["attempts"]] == [
        (500, "no", None), (200, "yes", None),
    ]  # fmt: skip
    assert all(is_instant(each["at"]) for each in delivery["attempts"])
    for request in receiver.received:
        told = standardwebhooks.Webhook(added["secret"]).verify(request.body, dict(request.headers))
        assert told == event


def test_deliveries_are_filtered_by_status_and_pages_have_no_gaps(
    client: FlaskClient, receiver: Receiver, send: Callable[[], int]
) -> None:
    webhook_id = add(client, receiver.url)["webhook_id"]
    for _ in range(5):
        post(client, DEPOSIT, {"amount": 1})
    send()
    walked, query = [], "?page_size=2"
    while True:
        page = deliveries(client, webhook_id, query)
        walked += [each["event_id"] for each in page["deliveries"]]
        if not page["has_more"]:
            break
        query = f"?page_size=2&cursor={page['next_cursor']}"
    assert walked == ["5", "4", "3", "2", "1"]
    assert len(deliveries(client, webhook_id, "?status=delivered")["deliveries"]) == 5
    assert deliveries(client, webhook_id, "?status=pending")["deliveries"] == []
    problem(get(client, f"{WEBHOOKS}/{webhook_id}/deliveries?status=lost", user=ADMIN), "bad_input")


def test_a_secret_that_was_rotated_signs_along(
    client: FlaskClient, receiver: Receiver, send: Callable[[], int]
) -> None:
    added = add(client, receiver.url)
    rotated = do(client, added["webhook_id"], "rotate")
    (shown,) = answer(get(client, WEBHOOKS, user=ADMIN))["webhooks"]
    assert shown["old_secret_until"] == rotated["old_secret_until"]
    post(client, DEPOSIT, {"amount": 1})
    send()
    (request,) = receiver.received
    for secret in (added["secret"], rotated["secret"]):
        standardwebhooks.Webhook(secret).verify(request.body, dict(request.headers))


def test_a_test_is_sent_once_also_to_who_is_disabled(
    client: FlaskClient, receiver: Receiver, send: Callable[[], int]
) -> None:
    added = add(client, receiver.url, types=["transfer.failed"])
    webhook_id = added["webhook_id"]
    receiver.answering(Reply(410), Reply(500), Reply(200))
    first = do(client, webhook_id, "test")
    assert first["type"] == "webhook.test"
    assert send() == 1
    (shown,) = answer(get(client, WEBHOOKS, user=ADMIN))["webhooks"]
    assert (shown["status"], shown["why"]) == ("disabled", "gone")
    assert is_instant(shown["disabled_at"])
    for _ in range(2):
        do(client, webhook_id, "test")
        assert send() == 1
    told = standardwebhooks.Webhook(added["secret"]).verify(
        receiver.received[0].body, dict(receiver.received[0].headers)
    )
    assert told["event_id"] == first["event_id"]
    assert (told["type"], told["data"]) == ("webhook.test", {"webhook_id": webhook_id})
    assert [each["status"] for each in deliveries(client, webhook_id)["deliveries"]] == [
        "delivered",
        "failed",
        "failed",
    ]
    enabled = do(client, webhook_id, "enable")
    assert (enabled["status"], enabled["why"], enabled["disabled_at"]) == ("enabled", None, None)
    do(client, webhook_id, "replay", {"event_id": first["event_id"]})
    assert send() == 1


def test_events_are_sent_again_on_demand(client: FlaskClient, receiver: Receiver, send: Callable[[], int]) -> None:
    webhook_id = add(client, receiver.url)["webhook_id"]
    for _ in range(3):
        post(client, DEPOSIT, {"amount": 1})
    assert send() == 3
    assert do(client, webhook_id, "replay", {"event_id": "2"}) == {"after": "1"}
    assert send() == 1
    since = deliveries(client, webhook_id)["deliveries"][-1]["created_at"]
    # The second is as early as there is anything.
    for spelled in (since.lower(), "0001-01-01T00:00:00Z"):
        assert do(client, webhook_id, "replay", {"since": spelled}) == {"after": "0"}
        assert send() == 3
    assert do(client, webhook_id, "replay", {"since": "2100-01-01T00:00:00+02:00"}) == {"after": "3"}
    assert send() == 0


@pytest.mark.parametrize(
    "body",
    [
        {}, {"since": None}, {"event_id": 1, "since": "2026-01-01T00:00:00Z"}, {"event_id": "x"}, {"event_id": 4},
        {"since": "yesterday"}, {"since": "2026-01-01T00:00:00"}, {"since": 1}, {"event_id": 2**63 - 1},
        {"since": "0001-01-01T00:00:00+01:00"},
    ],
)  # fmt: skip
def test_a_replay_of_nothing_is_refused(client: FlaskClient, body: Json) -> None:
    webhook_id = add(client)["webhook_id"]
    problem(post(client, f"{WEBHOOKS}/{webhook_id}/replay", body, user=ADMIN), "bad_input")


def test_an_event_that_a_webhook_is_not_told_of_is_not_replayed_to_it(
    client: FlaskClient, engine: Engine, receiver: Receiver
) -> None:
    post(client, DEPOSIT, {"amount": 1})
    number_all(engine)
    for given in ({"types": ["transfer.failed"]}, {"user_id": 2}):
        webhook_id = add(client, receiver.url, **given)["webhook_id"]
        problem(post(client, f"{WEBHOOKS}/{webhook_id}/replay", {"event_id": 1}, user=ADMIN), "bad_input")

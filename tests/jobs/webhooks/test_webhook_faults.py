"""Whatever happens to receivers, to who sends, and to PostgreSQL: every event arrives, and none before its commit."""

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text

from models.webhooks import endpoints
from models.webhooks.deliveries import CLAIMED_S, MOST_HELD
from ops.local.processes import wait_for
from ops.local.servers import PostgresServer
from tests.jobs.webhooks.driving import Endpoints, Happen, Senders, have_ended, lose_what_is_held, rows, webhook
from tests.jobs.webhooks.receivers import Received, Receiver, Reply
from tests.jobs.workers import kills
from tests.patience import PATIENCE_S

# Of an attempt: long enough for whoever answers at once.
SHORT_S = 1.0
_IS_POSTED = text("SELECT count(*) FROM transfers WHERE id = :id AND status = 'posted'")


class Slow:
    """Answers each first attempt when the next one is there: long after anybody has waited for it."""

    def __init__(self) -> None:
        self._again: defaultdict[int, threading.Event] = defaultdict(threading.Event)
        self._seen: Counter[int] = Counter()

    def __call__(self, request: Received) -> Reply:
        self._seen[request.event_id] += 1
        if self._seen[request.event_id] == 1:
            self._again[request.event_id].wait(PATIENCE_S)
        else:
            self._again[request.event_id].set()
        return Reply()


def test_every_event_arrives_however_its_receiver_behaves(
    engine: Engine, start: Senders, happen: Happen, add: Endpoints, make_receiver: Callable[[], Receiver]
) -> None:
    """All of these at the same time, at one process; what they get is true by then."""
    names = "elsewhere", "well", "fails", "redirects", "is busy", "is away", "is slow", "hangs up", "is gone", "is down"
    receivers = {name: make_receiver() for name in names}
    elsewhere = receivers.pop("elsewhere")
    receivers["fails"].answering(Reply(500), Reply(500), Reply())
    receivers["redirects"].answering(
        Reply(302, {"Location": elsewhere.url}), Reply(308, {"Location": elsewhere.url}), Reply()
    )
    receivers["is busy"].answering(Reply(429, {"Retry-After": "1"}), Reply())
    receivers["is away"].answering(Reply(503, {"Retry-After": "Mon, 01 Jan 2024 00:00:00 GMT"}), Reply())
    receivers["is slow"].answer = Slow()
    receivers["hangs up"].answering(Reply(hangs_up=True))
    receivers["is gone"].answering(Reply(410), Reply())
    receivers["is down"].close()
    ids = {name: add(each.url) for name, each in receivers.items()}
    untrue: list[bytes] = []

    def check_first(answer: Callable[[Received], Reply]) -> Callable[[Received], Reply]:
        def checking(request: Received) -> Reply:
            with engine.connect() as connection:
                if not connection.execute(_IS_POSTED, {"id": json.loads(request.body)["data"]["job_id"]}).scalar():
                    untrue.append(request.body)
            return answer(request)

        return checking

    for each in receivers.values():
        each.answer = check_first(each.answer)
    process = start(constants={"jobs.webhooks.sender:ATTEMPT_S": SHORT_S}, delays="0.2")
    wanted = happen(3)

    def failures(name: str) -> int:
        found = rows(engine, "webhook_id", "attempts")
        return max([attempts for webhook_id, attempts in found if webhook_id == ids[name]], default=0)

    assert wait_for(lambda: webhook(engine, ids["is gone"]).why == "gone", PATIENCE_S)
    assert wait_for(lambda: failures("is down") >= 2, PATIENCE_S)
    endpoints.enable(engine, ids["is gone"])
    with Receiver(port=receivers["is down"].port) as receivers["is down"]:
        everything = len(wanted) * len(ids)
        assert wait_for(have_ended(engine, everything), PATIENCE_S), rows(engine, "webhook_id", "status", "log")
    assert {name: set(each.event_ids) for name, each in receivers.items()} == {name: set(wanted) for name in ids}
    assert {each for (each,) in rows(engine, "status")} == {"delivered"}
    assert elsewhere.received == []
    assert untrue == []
    assert {name for name in ids if failures(name) > 1} == ids.keys() - {"well", "hangs up"}
    process.stop()


@pytest.mark.parametrize(
    ("point", "when", "is_sent"),
    [
        ("jobs.webhooks.feeder:plan", "after", False),
        ("jobs.rq.webhook_queue:WebhookQueue.put_on", "before", False),
        ("models.webhooks.deliveries:claim", "after", False),
        ("jobs.webhooks.posting:Poster.post", "after", True),
        ("models.webhooks.deliveries:tell", "after", True),
    ],
    ids=["planned", "held", "claimed and not sent", "answered and not written down", "written down"],
)
def test_who_sends_may_be_killed_at_any_point(
    engine: Engine,
    start: Senders,
    happen: Happen,
    add: Endpoints,
    receiver: Receiver,
    point: str,
    when: str,
    *,
    is_sent: bool,
) -> None:
    add(receiver.url)
    wanted = happen(3)
    start(kills(point, when)).wait_until_killed()
    assert bool(receiver.received) == is_sent
    lose_what_is_held(engine)
    start()
    assert wait_for(have_ended(engine, len(wanted)), PATIENCE_S), rows(engine, "event_id", "status", "log")
    assert {each for (each,) in rows(engine, "status")} == {"delivered"}
    assert set(receiver.event_ids) == set(wanted)


def test_postgresql_may_be_started_anew_while_something_is_sent(
    engine: Engine,
    start: Senders,
    happen: Happen,
    add: Endpoints,
    receiver: Receiver,
    postgres_server: PostgresServer,
) -> None:
    """What is answered meanwhile is written down when it is back, and not sent again for that."""
    add(receiver.url)
    receiver.answer = receiver.hang
    process = start(constants={"jobs.webhooks.sender:TELL_S": CLAIMED_S})
    wanted = happen(MOST_HELD + 3)
    assert wait_for(lambda: len(receiver.received) == MOST_HELD, PATIENCE_S)
    postgres_server.stop()
    try:
        receiver.over.set()
        assert wait_for(lambda: "nothing is fed" in process.log.read_text(), PATIENCE_S)
    finally:
        postgres_server.start()
    wanted += happen(2)
    assert wait_for(have_ended(engine, len(wanted)), PATIENCE_S), process.log.read_text()
    assert sorted(receiver.event_ids) == wanted
    assert set(rows(engine, "status", "attempts")) == {("delivered", 1)}
    process.stop()

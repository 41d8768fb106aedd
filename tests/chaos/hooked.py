"""Who is told of all events by webhook while the service is being killed, and believes what is signed."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from tests.chaos.faces.rest import Rest
from tests.chaos.follower import sign_in
from tests.chaos.report import Report
from tests.jobs.webhooks.receivers import Received, Receiver, Reply
from wallet_client.webhooks import NotVerified, verify

_PATH = "/api/webhooks/v1"
_ALWAYS = {"since": "2000-01-01T00:00:00Z"}


class Hooked:
    """A receiver, and its webhook. Use it as a context manager."""

    def __init__(self, port: int, admin: Mapping[str, str]) -> None:
        """Set it up for all events, past ones too; ``admin``: user and password, as stack.json has them."""
        self.events: dict[int, dict[str, Any]] = {}
        self.wrong: list[str] = []
        self._receiver = Receiver()
        rest, authorization = Rest(port), sign_in(admin)
        given = {"url": self._receiver.url, "types": ["*"]}
        status, made = rest.ask(authorization, "POST", _PATH, given)
        assert status == HTTPStatus.CREATED, made
        self._secret = made["secret"]
        self._receiver.answer = self._hear
        status, answer = rest.ask(authorization, "POST", f"{_PATH}/{made['webhook_id']}/replay", _ALWAYS)
        assert status == HTTPStatus.OK, answer
        rest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._receiver.close()

    def _hear(self, request: Received) -> Reply:
        # The clock of who sends may be wrong, for that is one of the faults.
        try:
            sent_at = float(request.headers["webhook-timestamp"])
            event_id = int(verify(self._secret, request.headers, request.body, now=sent_at).event_id)
        except NotVerified as error:
            self.wrong.append(f"a webhook with {request.headers} and {request.body!r}: {error}")
            return Reply(HTTPStatus.BAD_REQUEST)
        event = json.loads(request.body)
        if self.events.setdefault(event_id, event) != event:
            self.wrong.append(f"event {event_id} has come as {event}, and before as {self.events[event_id]}")
        return Reply()


def check_hooked(events: Sequence[Mapping[str, Any]], heard: Mapping[int, Mapping[str, Any]], report: Report) -> None:
    """Each event of the feed has come, as it stands there, and nothing else has."""
    feed = {int(event["event_id"]): event for event in events}
    report.lost += [f"event {number} has not come by webhook" for number in sorted(feed.keys() - heard.keys())]
    report.wrong += [
        f"event {number} has come by webhook as {heard[number]}, and the feed has {feed.get(number)}"
        for number in sorted(heard)
        if heard[number] != feed.get(number)
    ]

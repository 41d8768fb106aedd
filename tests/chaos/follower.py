"""Who follows the feed of events while the service is being killed, from its beginning and by REST."""

import base64
import http.client
import threading
from collections.abc import Mapping
from typing import Any

from tests.chaos.client import PAUSE_S
from tests.chaos.faces.rest import RETRIED, Rest

PAGE_SIZE = 100
# How long an answer waits for something new.
WAIT_S = 2


def sign_in(admin: Mapping[str, str]) -> str:
    """Return the header that says who somebody is, of whom stack.json has user and password."""
    word = base64.b64encode(f"{admin['user']}:{admin['password']}".encode()).decode()
    return f"Basic {word}"


class Follower(threading.Thread):
    """Asks for what follows what it was told last, as an administrator, and keeps all of it, in the order told."""

    def __init__(self, port: int, admin: Mapping[str, str]) -> None:
        """``admin``: user and password of an administrator, as stack.json has them."""
        super().__init__(name="follower", daemon=True)
        self.events: list[dict[str, Any]] = []
        self.wrong: list[str] = []
        self._rest = Rest(port)
        self._authorization = sign_in(admin)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Have it end with the request under way."""
        self._stopping.set()

    @property
    def transfers(self) -> set[str]:
        """Those of which it was told."""
        return {event["data"]["job_id"] for event in self.events.copy()}

    def run(self) -> None:
        after = "0"
        while not self._stopping.is_set():
            path = f"/api/events/v1?after={after}&page_size={PAGE_SIZE}&wait={WAIT_S}"
            try:
                status, page = self._rest.ask(self._authorization, "GET", path)
            except (OSError, http.client.HTTPException):
                self._stopping.wait(PAUSE_S)
                continue
            if status == http.HTTPStatus.OK:
                self.events += page["events"]
                after = page["next_after"]
                continue
            if status not in RETRIED:
                self.wrong.append(f"the feed after {after} was answered {status}: {page}")
            self._stopping.wait(PAUSE_S)
        self._rest.close()

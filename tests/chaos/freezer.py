"""An administrator who freezes one wallet now and then, and lets it go again."""

import http.client
import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.client import PAUSE_S
from tests.chaos.faces.rest import RETRIED, Rest
from tests.chaos.follower import sign_in

# In seconds: how long a wallet is frozen, and how long none is.
SHORTEST, LONGEST = 0.2, 1.2
SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 2.0
SIDES = ({"debits": True, "credits": False}, {"debits": False, "credits": True}, {"debits": True, "credits": True})


@dataclass(slots=True)
class Freeze:
    """One time that a wallet was frozen, by this process's monotonic clock.

    It may have been frozen from ``asked`` to ``lifted``, and was from ``frozen`` to ``lifting``.
    """

    user: int
    debits: bool
    credits: bool
    asked: float
    frozen: float = math.inf
    lifting: float = math.inf
    lifted: float = math.inf


class Freezer(threading.Thread):
    """Freezes and lets go, one wallet at a time, until told to stop; then all of them are as they were."""

    def __init__(self, port: int, admin: Mapping[str, str], *, users: Sequence[int], seed: int) -> None:
        """``admin``: user and password of an administrator, as stack.json has them."""
        super().__init__(name="freezer", daemon=True)
        self.freezes: list[Freeze] = []
        self.wrong: list[str] = []
        self._rest = Rest(port)
        self._authorization = sign_in(admin)
        self._users = users
        self._random = random.Random(seed)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Have it end once no wallet is frozen."""
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.wait(self._random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)):
            self._freeze(self._random.choice(self._users), self._random.choice(SIDES))
        for user in self._users:
            told = self._ask("GET", f"/api/wallets/v1/{user}")
            if told.get("frozen") is not None:
                self.wrong.append(f"the wallet of user {user} was let go, and is {told}")
        self._rest.close()

    def _freeze(self, user: int, sides: dict[str, bool]) -> None:
        freeze = Freeze(user, **sides, asked=time.monotonic())
        self.freezes.append(freeze)
        told = self._ask("POST", f"/api/wallets/v1/{user}/freeze", {**sides, "reason": f"freeze {len(self.freezes)}"})
        freeze.frozen = time.monotonic()
        if {name: (told.get("frozen") or {}).get(name) for name in sides} != sides:
            self.wrong.append(f"{freeze} was answered {told}")
        self._stopping.wait(self._random.uniform(SHORTEST, LONGEST))
        freeze.lifting = time.monotonic()
        self._ask("POST", f"/api/wallets/v1/{user}/unfreeze")
        freeze.lifted = time.monotonic()

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Ask until there is an answer: each of these may be repeated as it is."""
        while True:
            try:
                status, answer = self._rest.ask(self._authorization, method, path, body)
            except (OSError, http.client.HTTPException):
                status, answer = http.HTTPStatus.SERVICE_UNAVAILABLE, {}
            if status not in RETRIED:
                break
            time.sleep(PAUSE_S)
        if status != http.HTTPStatus.OK:
            self.wrong.append(f"{method} {path} was answered {status}: {answer}")
        found: dict[str, Any] = answer
        return found

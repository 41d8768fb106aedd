"""REST, by one connection that is made anew when it has died, or for each request."""

import http.client
import json
from collections import Counter
from typing import Any

from ops.local.server import LOOPBACK
from tests.chaos.calls import Answer, Call, Job, Page
from tests.chaos.faces import ANSWER_TIMEOUT_S, PAGE_SIZE, NoAnswerError, WrongAnswerError

# Answers after which the same request may be sent again, and must be: it is not known what came of it, or nothing did.
RETRIED = frozenset({429, 500, 502, 503})
# A kernel answers at once, if it is there.
CONNECT_TIMEOUT_S = 2.0
PATHS = {
    "Deposit": "/api/deposit/v1",
    "Withdraw": "/api/withdraw/v1",
    "Transfer": "/api/transfer/v1",
    "EnqueueTransfer": "/api/transfer/v2",
}


class Rest:
    """One client's."""

    name = "REST"

    def __init__(self, port: int, *, host: str = LOOPBACK, keeps_alive: bool = True) -> None:
        """Without ``keeps_alive`` every request has a connection of its own."""
        if host != LOOPBACK:
            self.name = f"REST at {host}"
        self.words: Counter[int | str] = Counter()
        self._host, self._port = host, port
        self._keeps_alive = keeps_alive
        self._connection: http.client.HTTPConnection | None = None

    def move(self, call: Call) -> Answer:
        """Give an order."""
        body = {"amount": call.amount}
        if call.destination is not None:
            body["destination_user_id"] = call.destination
        status, answer = self._ask(call.user, "POST", PATHS[call.method], body, call.key)
        if status == 422:
            return Answer(self.name)
        if status not in {200, 202}:
            raise WrongAnswerError(f"{call} was answered {status}: {answer}")
        return Answer(self.name, int(answer.get("job_id") or answer["transfer_id"]), answer.get("balance"))

    def find_job(self, user: int, transfer_id: int) -> Job | None:
        """Ask how a transfer stands."""
        return self.follow_job(user, transfer_id, 0)

    def follow_job(self, user: int, transfer_id: int, seconds: int) -> Job | None:
        """Wait for the end of a transfer."""
        status, answer = self._ask(user, "GET", f"/api/jobs/v1/{transfer_id}?wait={seconds}")
        if status == 404:
            return None
        return Job(_found(status, answer)["status"], answer["last_error"] or "")

    def read_balance(self, user: int) -> int:
        """Ask for a balance."""
        return int(_found(*self._ask(user, "GET", "/api/wallet/balance/v1"))["balance"])

    def read_history(self, user: int) -> Page:
        """Ask for the newest entries."""
        page = _found(*self._ask(user, "GET", f"/api/transactions/v1?page_size={PAGE_SIZE}"))
        entries = ((int(each["transfer_id"]), each["balance_after"]) for each in page["transactions"])
        return Page(page["statement_balance"], tuple(entries))

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ask(
        self, user: int | str, method: str, path: str, body: object = None, key: str | None = None
    ) -> tuple[int, Any]:
        """Send one request and return status and body, whatever they are.

        Args:
            user: who asks; or all of the header that says so.
            method: HTTP's.
            path: with what is asked.
            body: JSON, if any.
            key: for idempotency.

        Raises:
            OSError, http.client.HTTPException: no answer.
        """
        headers = {"Authorization": str(user)}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if key is not None:
            headers["Idempotency-Key"] = key
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = self._connection.getresponse()
            return response.status, json.loads(response.read())
        except BaseException:
            self.close()
            raise
        finally:
            if not self._keeps_alive:
                self.close()

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_TIMEOUT_S)
        connection.connect()
        connection.timeout = ANSWER_TIMEOUT_S  # of the next one, should the server hang up between two requests
        connection.sock.settimeout(ANSWER_TIMEOUT_S)
        return connection

    def _ask(self, user: int, method: str, path: str, body: object = None, key: str | None = None) -> tuple[int, Any]:
        try:
            status, answer = self.ask(user, method, path, body, key)
        except (OSError, http.client.HTTPException) as error:
            self.words[type(error).__name__] += 1
            raise NoAnswerError from error
        self.words[status] += 1
        if status in RETRIED:
            raise NoAnswerError
        return status, answer


def _found(status: int, answer: Any) -> Any:
    if status != 200:
        raise WrongAnswerError(f"a read was answered {status}: {answer}")
    return answer

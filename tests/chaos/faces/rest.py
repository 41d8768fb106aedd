"""REST, by one connection that is made anew when it has died, or for each request."""

import http.client
import json
from collections import Counter
from typing import Any

from ops.local.server import LOOPBACK
from tests.chaos.calls import Answer, Bulk, Call, Item, Job, Page, SentItem
from tests.chaos.faces import ANSWER_TIMEOUT_S, PAGE_SIZE, REFUSALS, NoAnswerError, WrongAnswerError

# Answers after which the same request may be sent again, and must be: it is not known what came of it, or nothing did.
RETRIED = frozenset({429, 500, 502, 503})
# A kernel answers at once, if it is there.
CONNECT_TIMEOUT_S = 2.0
PATHS = {
    "Deposit": "/api/deposit/v1",
    "Withdraw": "/api/withdraw/v1",
    "Transfer": "/api/transfer/v1",
    "EnqueueTransfer": "/api/transfer/v2",
    "Plan": "/api/transfer/v2",
    "Reverse": "/api/transfers/v1/{of}/reverse",
    "Cancel": "/api/jobs/v1/{of}/cancel",
    "Bulk": "/api/transfers/bulk/v1",
}
# Of a list.
MOST_OF_A_PAGE = 100


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
        key = None if call.method == "Cancel" else call.key
        status, answer = self._ask(call.user, "POST", PATHS[call.method].format(of=call.of), _body(call), key)
        if status == 422 and answer["code"] in REFUSALS[call.method]:
            return Answer(self.name, refusal=answer["code"])
        if status not in {200, 202}:
            raise WrongAnswerError(f"{call} was answered {status}: {answer}")
        told = next(int(answer[name]) for name in ("bulk_id", "job_id", "transfer_id") if answer.get(name))
        return Answer(self.name, told, answer.get("balance"))

    def find_job(self, user: int, transfer_id: int) -> Job | None:
        """Ask how a transfer stands."""
        return self.follow_job(user, transfer_id, 0)

    def follow_job(self, user: int, transfer_id: int, seconds: int) -> Job | None:
        """Wait for the end of a transfer."""
        status, answer = self._ask(user, "GET", f"/api/jobs/v1/{transfer_id}?wait={seconds}")
        if status == 404:
            return None
        job = _found(status, answer)
        last_error, reason, ended_at = (job[name] or "" for name in ("last_error", "reason", "completed_at"))
        return Job(job["status"], last_error, reason, job["amount"], ended_at)

    def find_bulk(self, user: int, bulk_id: int) -> Bulk | None:
        """Ask how a bulk stands, and each of its transfers; None: there is none."""
        status, told = self._ask(user, "GET", f"/api/bulks/v1/{bulk_id}")
        if status == 404:
            return None
        counts = {name: int(each) for name, each in _found(status, told).items() if isinstance(each, int)}
        items, cursor, has_more = [], "", True
        while has_more:
            path = f"/api/transfers/v1?bulk_id={bulk_id}&page_size={MOST_OF_A_PAGE}{cursor}"
            page = _found(*self._ask(user, "GET", path))
            items += [_sent(each) for each in page["transfers"]]
            cursor, has_more = f"&cursor={page['next_cursor']}", page["has_more"]
        return Bulk(counts, tuple(items))

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


def _body(call: Call) -> dict[str, Any] | None:
    if call.method == "Cancel":
        return None
    if call.method == "Bulk":
        items = [
            {"destination_user_id": each.destination, "amount": each.amount, "reference": each.reference}
            for each in call.items
        ]
        return {"transfers": items, "atomic": call.is_atomic}
    body: dict[str, Any] = {"amount": call.amount} if call.amount else {}
    if call.destination is not None and not call.of:
        body["destination_user_id"] = call.destination
    if call.not_before is not None:
        body["not_before"] = call.not_before.isoformat()
    if call.of or call.not_before is not None:
        body |= {"reference": call.key, "description": str(call)}
    return body


def _sent(told: Any) -> SentItem:
    item = Item(int(told["destination_user_id"]), told["amount"], told["reference"])
    return SentItem(item, told["status"], told["reason"] or "")


def _found(status: int, answer: Any) -> Any:
    if status != 200:
        raise WrongAnswerError(f"a read was answered {status}: {answer}")
    return answer

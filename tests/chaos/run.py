"""The run itself: clients and a killer side by side, then silence, then the audit."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
from sqlalchemy import Connection, create_engine, text

from tests.books import check_books
from tests.chaos.client import Call, Client
from tests.chaos.faults import FAULTS
from tests.chaos.faults.clock import environment_of_clock
from tests.chaos.stack import Stack, wait_until

USERS = 8
OPENING_CENTS = 50_000
CLIENTS = 6
# Longer than a lease (10 s) after the last kill, with room for a slow machine.
SETTLE_TIMEOUT_S = 90.0
_TRANSFERS_BY_KEY = text(
    "SELECT coalesce(source, destination) AS user_id, idempotency_key AS key, count(*) AS transfers FROM transfers"
    " WHERE idempotency_key IS NOT NULL GROUP BY 1, 2"
)
_AUDITS = text("SELECT finished_at IS NOT NULL AS is_finished, findings FROM audits")
_PENDING = "SELECT count(*) FROM transfers WHERE status = 'pending'"


@dataclass
class Report:
    """What was done and what was found."""

    calls: int = 0
    statuses: Counter[int | str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    left_out: list[str] = field(default_factory=list)
    repeated: int = 0
    settled_after_s: float = 0.0
    audits: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return it for people."""
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        answers = ", ".join(f"{name} {count}" for name, count in sorted(self.statuses.items(), key=str))
        return [
            f"faults: {faults}",
            *(f"left out: {each}" for each in self.left_out),
            f"requests answered: {self.calls} ({self.repeated} only after being sent again); answers: {answers}",
            f"all transfers final {self.settled_after_s:.1f} s after the last fault",
            f"audits finished: {self.audits}",
            f"lost {len(self.lost)}, doubled {len(self.doubled)}, wrong {len(self.wrong)}",
            *self.lost[:5],
            *self.doubled[:5],
            *self.wrong[:5],
        ]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled or wrong."""
        return not (self.lost or self.doubled or self.wrong)


def run(home: Path, *, seconds: float, seed: int, pause_s: float = 3.0, client_pause_s: float = 0.0) -> Report:
    """Run chaos for a while, with a fault about every ``pause_s``, and audit what is left."""
    rng = random.Random(seed)

    def trouble(stack: Stack, _clients: list[Client], report: Report) -> None:
        _cause_faults(stack, rng, report, seconds=seconds, pause_s=pause_s)

    # Audits come one upon the other: none may find anything, whatever is killed meanwhile.
    settings = {"WORKERS": "2", "RETRY_DELAYS": "0.2,0.5,1,2,4", "LOG_LEVEL": "WARNING", "AUDIT_INTERVAL_S": "1"}
    service = Stack(home, **settings, **environment_of_clock(home))
    report = run_under_load(service, trouble, rng, pause_s=client_pause_s)
    report.left_out = [] if "clock" in FAULTS else ["clock (libfaketime is not installed)"]
    return report


def run_under_load(
    service: Stack,
    trouble: Callable[[Stack, list[Client], Report], None],
    rng: random.Random,
    *,
    pause_s: float = 0.0,
) -> Report:
    """Load a service while it is given trouble, let it settle, and audit what is left.

    Half of the clients keep their connections, the others make a new one for each request.
    """
    report = Report()
    with service as stack:
        clients = [
            Client(
                f"client{n}",
                stack.port,
                users=USERS,
                seed=rng.randrange(2**32),
                keeps_alive=n % 2 == 0,
                pause_s=pause_s,
            )
            for n in range(CLIENTS)
        ]
        opening = Client("opening", stack.port, users=USERS, seed=0)
        for user in range(1, USERS + 1):
            opening.ask(user, "POST", "/api/deposit/v1", {"amount": OPENING_CENTS}, "opening")
        for client in clients:
            client.start()
        trouble(stack, clients, report)
        for client in clients:
            client.stop()
        for client in clients:
            client.join(SETTLE_TIMEOUT_S)
        report.settled_after_s = wait_until(lambda: _count_pending(stack) == 0, SETTLE_TIMEOUT_S, "all are final")
        _audit(stack, opening, clients, report)
        opening.close()
    return report


def _cause_faults(stack: Stack, rng: random.Random, report: Report, *, seconds: float, pause_s: float) -> None:
    end = time.monotonic() + seconds
    while (left_s := end - time.monotonic()) > 0:
        time.sleep(min(rng.uniform(0.5, 1.5) * pause_s, left_s))  # the rhythm of the faults is the experiment
        name = rng.choices(list(FAULTS), [fault.weight for fault in FAULTS.values()])[0]
        report.faults[name] += FAULTS[name].cause(stack, rng)


def _count_pending(stack: Stack) -> int:
    try:
        connection = psycopg2.connect(stack.state()["postgres"]["url"], connect_timeout=2)
    except psycopg2.OperationalError:
        return -1
    try:
        with connection.cursor() as cursor:
            cursor.execute(_PENDING)
            return int((cursor.fetchone() or (-1,))[0])
    finally:
        connection.close()


def _audit(stack: Stack, reader: Client, clients: list[Client], report: Report) -> None:
    """Hold what the clients were told against what the service says now, and the service against itself."""
    calls = [call for client in clients for call in client.calls]
    report.calls = len(calls)
    report.repeated = sum(call.tries > 1 for call in calls)
    for client in clients:
        report.statuses += client.statuses
        if client.is_alive():
            report.lost.append(f"{client.name} never got an answer to {client.calls[-1].key}")
    expected = dict.fromkeys(range(1, USERS + 1), OPENING_CENTS)
    for demo in (1, 2):
        expected[demo] += 10_000
    for call in calls:
        _replay(call, reader, expected, report)
    for user, cents in expected.items():
        _, answer = reader.read(user, "/api/wallet/balance/v1")
        if answer["balance"] != cents:
            report.wrong.append(f"user {user} has {answer['balance']}, and was told of {cents}")
    engine = create_engine(stack.state()["postgres"]["url"].replace("postgresql", "postgresql+psycopg2"))
    try:
        check_books(engine)
        with engine.connect() as connection:
            _check_one_transfer_a_key(connection, calls, report)
            _check_audits(connection, report)
    except AssertionError as error:
        report.wrong.append(f"books: {error}")
    finally:
        engine.dispose()


def _check_audits(connection: Connection, report: Report) -> None:
    """See that the service's own audits, while all of it was going on, found nothing."""
    for row in connection.execute(_AUDITS):
        report.audits += row.is_finished
        report.wrong += [f"audit: {each}" for each in row.findings]


def _replay(call: Call, reader: Client, expected: dict[int, int], report: Report) -> None:
    """Do in memory what the client was told that the service did."""
    if call.status not in {200, 202, 422}:
        report.wrong.append(f"{call.path} {call.key} was answered {call.status}: {call.answer}")
    if call.status not in {200, 202}:
        return
    transfer_id = call.answer.get("job_id") or call.answer["transfer_id"]
    status, job = reader.read(call.user, f"/api/jobs/v1/{transfer_id}")
    if status != 200:
        report.lost.append(f"{call.key}: transfer {transfer_id} was accepted and is not there")
        return
    if job["status"] == "rejected" and call.status == 202:
        return
    if job["status"] != "posted":
        report.lost.append(f"{call.key}: transfer {transfer_id} is {job['status']}: {job['last_error']}")
        return
    amount = call.body["amount"]
    if "deposit" not in call.path:
        expected[call.user] -= amount
    if "withdraw" not in call.path:
        expected[call.body.get("destination_user_id", call.user)] += amount


def _check_one_transfer_a_key(connection: Connection, calls: list[Call], report: Report) -> None:
    """No key has two transfers, and none has one whose client was told of a refusal."""
    rows = connection.execute(_TRANSFERS_BY_KEY)
    found = {(row.user_id, row.key): row.transfers for row in rows}
    for call in calls:
        count = found.get((call.user, call.key), 0)
        if count > 1:
            report.doubled.append(f"{call.key}: {count} transfers")
        if count and call.status not in {200, 202}:
            report.doubled.append(f"{call.key}: refused with {call.status}, and yet recorded")

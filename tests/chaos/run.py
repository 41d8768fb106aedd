"""The run itself: clients and a killer side by side, then silence, then the audit."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import psycopg2

from ops.prepare import DEMO_CENTS, DEMO_USERS
from tests.chaos.audit import audit, audit_by_command, audit_feed, audit_webhook
from tests.chaos.client import Client
from tests.chaos.drawing import EVERYTHING, METHODS
from tests.chaos.faces.grpc import open_channels
from tests.chaos.faults import FAULTS, faults_of
from tests.chaos.faults.clock import environment_of_clock
from tests.chaos.follower import Follower
from tests.chaos.freezer import Freezer
from tests.chaos.hooked import Hooked
from tests.chaos.report import Report
from tests.chaos.stack import Stack, wait_until

USERS = range(1, 9)
OPENING_CENTS = 50_000
CLIENTS = 6
# Some clients share one.
CHANNELS = 3
# Longer than a lease (10 s) after the last kill, with room for a slow machine.
SETTLE_TIMEOUT_S = 90.0
_PENDING = "SELECT count(*) FROM transfers WHERE status = 'pending'"


def run(
    home: Path,
    *,
    seconds: float,
    seed: int,
    first: Sequence[str] = (),
    pause_s: float = 3.0,
    client_pause_s: float = 0.0,
    **settings: str,
) -> Report:
    """Run chaos for a while, with a fault about every ``pause_s``, and audit what is left.

    Args:
        home: WALLET_HOME.
        seconds: how long, or until the first faults have come about.
        first: names of the faults to begin with, whatever is drawn after them.
        seed: of what is asked, and of what is done.
        pause_s: between two faults, about.
        client_pause_s: of each client, after each answer.
        settings: of the service, among them TRANSPORT.
    """
    rng = random.Random(seed)

    def trouble(stack: Stack, _clients: list[Client], report: Report) -> None:
        _cause_faults(stack, rng, report, seconds=seconds, first=first, pause_s=pause_s)

    # Audits come one upon the other: none may find anything, whatever is killed meanwhile.
    ours = {"WORKERS": "2", "RETRY_DELAYS": "0.2,0.5,1,2,4", "LOG_LEVEL": "WARNING", "AUDIT_INTERVAL_S": "1"}
    ours |= {"WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8", "WEBHOOK_DELAYS": ",".join(["1"] * 20)}
    service = Stack(home, grpc=True, **ours, **environment_of_clock(home), **settings)
    report = run_under_load(service, trouble, rng, pause_s=client_pause_s, freezer_seed=seed)
    report.left_out = [] if "clock" in FAULTS else ["clock (libfaketime is not installed)"]
    return report


def run_under_load(
    service: Stack,
    trouble: Callable[[Stack, list[Client], Report], None],
    rng: random.Random,
    *,
    pause_s: float = 0.0,
    freezer_seed: int | None = None,
) -> Report:
    """Load a service while it is given trouble, let it settle, and audit what is left.

    With ``freezer_seed`` clients ask for all that there is, an administrator freezes wallets meanwhile, and a webhook
    is told of all events.
    """
    report = Report(transport=service.transport)
    methods = METHODS if freezer_seed is None else EVERYTHING
    with (
        service as stack,
        _make_clients(stack, rng, pause_s=pause_s, methods=methods) as (reader, *clients),
        Hooked(stack.port, stack.state()["admin"]) if freezer_seed is not None else nullcontext() as hooked,
    ):
        follower = Follower(stack.port, stack.state()["admin"])
        follower.start()
        for user in USERS:
            reader.ask(user, "POST", "/api/deposit/v1", {"amount": OPENING_CENTS}, "opening")
        freezer = Freezer(stack.port, stack.state()["admin"], users=USERS, seed=freezer_seed or 0)
        under_way: list[Client | Freezer] = [*clients, *([] if freezer_seed is None else [freezer])]
        for each in under_way:
            each.start()
        trouble(stack, clients, report)
        for each in under_way:
            each.stop()
        for each in under_way:
            each.join(SETTLE_TIMEOUT_S)
        if freezer.is_alive():
            report.lost.append("who freezes wallets never got an answer")
        report.wrong += freezer.wrong
        report.settled_after_s = wait_until(lambda: _count_pending(stack) == 0, SETTLE_TIMEOUT_S, "all are final")
        balances = dict.fromkeys(USERS, OPENING_CENTS)
        for demo in DEMO_USERS:
            balances[demo] += DEMO_CENTS
        audit(stack.state()["postgres"]["url"], reader, clients, balances, report, freezes=freezer.freezes)
        audit_feed(stack, follower, report)
        if hooked is not None:
            audit_webhook(stack, follower, hooked, report)
        audit_by_command(stack, report)
        reader.close()
    return report


@contextmanager
def _make_clients(
    stack: Stack, rng: random.Random, *, pause_s: float, methods: Mapping[str, int]
) -> Iterator[list[Client]]:
    """Have who opens the wallets and reads in the end, and then those who load the service.

    Half of these keep their connections by REST, the others make a new one for each request. Where there is gRPC, all
    of them call that as well.
    """
    with open_channels(stack.grpc_target, CHANNELS) as channels:

        def make(name: str, number: int, seed: int) -> Client:
            channel = channels[number % CHANNELS] if channels else None
            keeps_alive = number % 2 == 0
            return Client(
                name,
                stack.port,
                users=USERS,
                seed=seed,
                channel=channel,
                keeps_alive=keeps_alive,
                pause_s=pause_s,
                methods=methods,
            )

        load = [make(f"client{n}", n, rng.randrange(2**32)) for n in range(CLIENTS)]
        yield [make("opening", 0, 0), *load]


def _cause_faults(
    stack: Stack, rng: random.Random, report: Report, *, seconds: float, first: Sequence[str], pause_s: float
) -> None:
    faults, end = faults_of(stack.transport), time.monotonic() + seconds

    def pause(at_most_s: float) -> None:
        time.sleep(min(rng.uniform(0.5, 1.5) * pause_s, at_most_s))  # the rhythm of the faults is the experiment

    for name in first:
        pause(pause_s)
        # What it needs may still be away, from the fault before it.
        wait_until(partial(faults[name].cause, stack, rng), SETTLE_TIMEOUT_S, f"{name} comes about")
        report.faults[name] += 1
    while (left_s := end - time.monotonic()) > 0:
        pause(left_s)
        name = rng.choices(list(faults), [fault.weight for fault in faults.values()])[0]
        report.faults[name] += faults[name].cause(stack, rng)


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

"""Whether what the service has told, by either face, is true: it is asked once more, and so are the books."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial

import psycopg2
from confluent_kafka import KafkaException
from sqlalchemy import Connection, create_engine, text

from tests.books import check_books
from tests.chaos import bulks, frozen, judging, undoing
from tests.chaos.calls import Bulk, Call, Job, Page
from tests.chaos.client import Client
from tests.chaos.faces import Face
from tests.chaos.faults.kafka import find_upto
from tests.chaos.follower import Follower
from tests.chaos.freezer import Freeze
from tests.chaos.hooked import Hooked, check_hooked
from tests.chaos.report import Report, Told
from tests.chaos.stack import Stack, wait_until
from tests.patience import PATIENCE_S

# And to send by webhook what had to wait for the end of the last fault, on a machine that has much else to do.
SENDING_S = 90.0
_TRANSFERS_BY_KEY = text(
    "SELECT coalesce(key_owner, source, destination) AS user_id, idempotency_key AS key, count(*) AS transfers"
    " FROM transfers WHERE idempotency_key IS NOT NULL GROUP BY 1, 2"
)
_BALANCES = text("SELECT wallet_id, transfer_id, balance_after FROM entries")
_BULKS = text("SELECT id FROM bulks WHERE user_id = ANY (:users)")
_ORIGINALS = text(
    "SELECT id, amount, reversed_amount FROM transfers"
    " WHERE reversed_amount IS NOT NULL AND (source = ANY (:users) OR destination = ANY (:users))"
)
_STATUSES = text("SELECT CAST(id AS text) AS id, status FROM transfers")
_POSTINGS = text("SELECT wallet_id, transfer_id FROM entries ORDER BY wallet_id, seq")
_LET_GO = text("UPDATE webhook_deliveries SET held_until = now() WHERE held_until IS NOT NULL")
_AUDITS = text("SELECT finished_at IS NOT NULL AS is_finished, findings FROM audits")


def audit(
    url: str,
    reader: Client,
    clients: list[Client],
    balances: dict[int, int],
    report: Report,
    *,
    freezes: Sequence[Freeze] = (),
) -> None:
    """Write into a report what was told, and whatever of it is not true.

    Args:
        url: the owner's, of the books.
        reader: asks by each face that there is.
        clients: who were told.
        balances: what each user had at first, in cents.
        report: of the run.
        freezes: of their wallets, all that there were.
    """
    _count(reader, clients, report)
    calls = [call for client in clients for call in client.calls]
    jobs, sent = _replay(reader, calls, balances, report)
    undoing.check_plans(calls, jobs, report)
    undoing.check_cancels(calls, jobs, report)
    report.freezes = len(freezes)
    frozen.check_freezes(calls, jobs, sent, freezes, report)
    judging.check_wallets({face.name: _read_wallets(reader, face, balances) for face in reader.faces}, balances, report)
    engine = create_engine(url.replace("postgresql", "postgresql+psycopg2"))
    try:
        check_books(engine)
        with engine.connect() as connection:
            found = {(row.user_id, row.key): row.transfers for row in connection.execute(_TRANSFERS_BY_KEY)}
            judging.check_keys(found, calls, report)
            known = {(row.wallet_id, row.transfer_id): row.balance_after for row in connection.execute(_BALANCES)}
            judging.check_balances(known, calls, report)
            judging.check_reads(known, (read for client in clients for read in client.reads), report)
            ours = {"users": list(balances)}
            bulks.check_bulks(connection.execute(_BULKS, ours).scalars(), calls, report)
            originals = {row.id: (row.amount, row.reversed_amount) for row in connection.execute(_ORIGINALS, ours)}
            undoing.check_reversals(calls, jobs, originals, report)
            _check_audits(connection, report)
    except AssertionError as error:
        report.wrong.append(f"books: {error}")
    finally:
        engine.dispose()


def audit_feed(stack: Stack, follower: Follower, report: Report) -> None:
    """Write into a report what was told of events, over REST and on Kafka's topics, that is not true or not all."""
    engine = create_engine(stack.state()["postgres"]["url"].replace("postgresql", "postgresql+psycopg2"))
    try:
        with engine.connect() as connection:
            statuses = {row.id: row.status for row in connection.execute(_STATUSES)}
            postings: dict[int, list[int]] = defaultdict(list)
            for row in connection.execute(_POSTINGS):
                postings[row.wallet_id].append(row.transfer_id)
    finally:
        engine.dispose()
    try:
        wait_until(lambda: follower.transfers >= statuses.keys(), PATIENCE_S, "the feed tells of all transfers")
    except TimeoutError as error:
        report.wrong.append(str(error))
    follower.stop()
    follower.join(PATIENCE_S)
    report.wrong += follower.wrong
    report.events = len(follower.events)
    judging.check_feed(follower.events, statuses, postings, report)
    if stack.transport == "kafka":
        _hear_the_rest(stack, report)
        judging.check_announced(follower.events, stack.announced, report)


def audit_webhook(stack: Stack, follower: Follower, hooked: Hooked, report: Report) -> None:
    """Write into a report what was not told by webhook, or otherwise than by the feed."""
    engine = create_engine(stack.state()["postgres"]["url"].replace("postgresql", "postgresql+psycopg2"))
    try:
        # What somebody had claimed who was killed comes again after half a minute.
        with engine.begin() as connection:
            connection.execute(_LET_GO)
    finally:
        engine.dispose()
    with suppress(TimeoutError):  # what has not come is found by its number
        wait_until(lambda: len(hooked.events) >= len(follower.events), SENDING_S, "a webhook is told of all events")
    report.wrong += hooked.wrong
    check_hooked(follower.events, hooked.events, report)


def _hear_the_rest(stack: Stack, report: Report) -> None:
    def has_all() -> bool:
        try:
            if find_upto(stack) < report.events:
                return False
            stack.announced.read(stack.state()["kafka"]["brokers"])
        except (psycopg2.Error, KafkaException, TimeoutError):
            return False
        return True

    try:
        wait_until(has_all, PATIENCE_S, "all events are announced")
    except TimeoutError as error:
        report.wrong.append(str(error))


def audit_by_command(stack: Stack, report: Report) -> None:
    """Have the service audit itself, now that all is quiet."""
    told = stack.flask("audit")
    if told.returncode != 0:
        report.wrong.append(f"flask audit ends with {told.returncode}: {told.stdout}{told.stderr}")


def _count(reader: Client, clients: Iterable[Client], report: Report) -> None:
    report.told = {face.name: Told() for face in reader.faces}
    for client in clients:
        report.wrong += client.wrong
        report.calls += len(client.calls)
        for face in client.faces:
            report.told[face.name].words += face.words
        for read in client.reads:
            report.told[read.face].reads += 1
        for call in client.calls:
            report.asked[call.method] += 1
            report.refused[call.method] += bool(call.refusal)
            report.repeated += len(call.tries) > len(call.answers)
            report.by_both += len(set(call.tries)) > 1
            for answer in call.answers[:1]:
                report.told[answer.face].orders += 1
            if call.followed:
                report.told[call.followed.face].followed += 1
        if client.is_alive():
            report.lost.append(f"{client.name} never got an answer to {client.calls[-1]}")


def _replay(
    reader: Client, calls: Sequence[Call], balances: dict[int, int], report: Report
) -> tuple[dict[int, Job | None], dict[int, Bulk | None]]:
    """Ask what became of each order, do it in memory, and return it: of those that are one transfer, and of bulks."""
    jobs: dict[int, Job | None] = {}
    sent: dict[int, Bulk | None] = {}
    for number, call in enumerate(calls):
        if not call.transfer_id or call.method == "Cancel":
            continue
        if call.method == "Bulk":
            sent[call.transfer_id] = bulk = _find_bulk(reader, call)
            bulks.replay_bulk(call, bulk, balances, report)
        else:
            jobs[call.transfer_id] = job = _find_job(reader, number, call)
            judging.replay(call, job, balances, report)
            report.canceled += job is not None and job.status == "canceled"
    return jobs, sent


def _find_bulk(reader: Client, call: Call) -> Bulk | None:
    rest = reader.rest
    return reader.until_answered(
        lambda _: rest.find_bulk(call.user, call.transfer_id), rest, patience_s=PATIENCE_S, only=True
    )


def _find_job(reader: Client, number: int, call: Call) -> Job | None:
    """Ask how an order stands, by the faces in turns."""
    face = reader.faces[number % len(reader.faces)]
    return reader.until_answered(lambda each: each.find_job(call.user, call.transfer_id), face, patience_s=PATIENCE_S)


def _read_wallets(reader: Client, face: Face, users: Iterable[int]) -> dict[int, tuple[int, Page]]:
    """Ask a face, and no other, for what each user has, and what has come of it last."""

    def read(user: int, face: Face) -> tuple[int, Page]:
        return face.read_balance(user), face.read_history(user)

    return {user: reader.until_answered(partial(read, user), face, patience_s=PATIENCE_S, only=True) for user in users}


def _check_audits(connection: Connection, report: Report) -> None:
    """See that the service's own audits, while all of it was going on, found nothing."""
    for row in connection.execute(_AUDITS):
        report.audits += row.is_finished
        report.wrong += [f"audit: {each}" for each in row.findings]

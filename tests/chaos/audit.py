"""What clients were told, by either face, held against the books; and the books against themselves."""

from collections.abc import Iterable, Mapping
from functools import partial

from sqlalchemy import Connection, create_engine, text

from tests.books import check_books
from tests.chaos.calls import Call, Job, Page, Read
from tests.chaos.client import Client
from tests.chaos.faces import Face
from tests.chaos.report import Report, Told

# What a service that is left in peace may take to answer.
PATIENCE_S = 30.0
_TRANSFERS_BY_KEY = text(
    "SELECT coalesce(source, destination) AS user_id, idempotency_key AS key, count(*) AS transfers FROM transfers"
    " WHERE idempotency_key IS NOT NULL GROUP BY 1, 2"
)
_BALANCES = text("SELECT wallet_id, transfer_id, balance_after FROM entries")
_AUDITS = text("SELECT finished_at IS NOT NULL AS is_finished, findings FROM audits")

# By wallet and transfer: the balance just after it, in cents.
Balances = Mapping[tuple[int, int], int]


def audit(url: str, reader: Client, clients: list[Client], balances: dict[int, int], report: Report) -> None:
    """Write into a report what was told, and whatever of it is not true.

    Args:
        url: the owner's, of the books.
        reader: asks by each face that there is.
        clients: who were told; they have ended.
        balances: what each user had at first, in cents.
        report: of the run.
    """
    _count(reader, clients, report)
    calls = [call for client in clients for call in client.calls]
    for number, call in enumerate(calls):
        _replay(call, reader, number, balances, report)
    _check_what_is_read_now(reader, balances, report)
    engine = create_engine(url.replace("postgresql", "postgresql+psycopg2"))
    try:
        check_books(engine)
        with engine.connect() as connection:
            _check_one_transfer_a_key(connection, calls, report)
            _check_audits(connection, report)
            known = {(row.wallet_id, row.transfer_id): row.balance_after for row in connection.execute(_BALANCES)}
        _check_balances_told(known, calls, report)
        _check_reads(known, (read for client in clients for read in client.reads), report)
    except AssertionError as error:
        report.wrong.append(f"books: {error}")
    finally:
        engine.dispose()


def _count(reader: Client, clients: list[Client], report: Report) -> None:
    report.told = {face.name: Told() for face in reader.faces}
    for client in clients:
        report.wrong += client.wrong
        report.calls += len(client.calls)
        for face in client.faces:
            report.told[face.name].words += face.words
        for read in client.reads:
            report.told[read.face].reads += 1
        for call in client.calls:
            report.repeated += len(call.tries) > len(call.answers)
            report.by_both += len(set(call.tries)) > 1
            for answer in call.answers[:1]:
                report.told[answer.face].orders += 1
            if call.followed:
                report.told[call.followed.face].followed += 1
        if client.is_alive():
            report.lost.append(f"{client.name} never got an answer to {client.calls[-1]}")


def _replay(call: Call, reader: Client, number: int, balances: dict[int, int], report: Report) -> None:
    """Do in memory what the client was told that the service did; the faces are asked in turns how it stands."""
    if not call.transfer_id:
        return
    if len({(answer.transfer_id, answer.balance) for answer in call.answers}) > 1:
        report.doubled.append(f"{call} has several answers: {call.answers}")
    face = reader.faces[number % len(reader.faces)]
    job = reader.until_answered(lambda face: face.find_job(call.user, call.transfer_id), face, patience_s=PATIENCE_S)
    if call.followed and call.followed.job != job:
        report.wrong.append(f"{call} was seen to end by {call.followed}, and now is {job}")
    if not _is_posted(call, job, report):
        return
    if call.method != "Deposit":
        balances[call.user] -= call.amount
    if call.method != "Withdraw":
        balances[call.destination or call.user] += call.amount


def _is_posted(call: Call, job: Job | None, report: Report) -> bool:
    if job is None:
        report.lost.append(f"{call}: transfer {call.transfer_id} was accepted and is not there")
    elif job.status == "rejected" and call.method == "EnqueueTransfer":
        return False
    elif job.status != "posted":
        report.lost.append(f"{call}: transfer {call.transfer_id} is {job}")
    else:
        return True
    return False


def _check_what_is_read_now(reader: Client, balances: Mapping[int, int], report: Report) -> None:
    """Each face is to say what came of all that was answered, and all are to say the same of a history."""
    for user, cents in balances.items():
        pages = {}
        for face in reader.faces:
            balance = reader.until_answered(partial(_read_balance, user), face, patience_s=PATIENCE_S, only=True)
            pages[face.name] = reader.until_answered(
                partial(_read_history, user), face, patience_s=PATIENCE_S, only=True
            )
            if not cents == balance == pages[face.name].balance:
                found = f"{balance}, beside the history {pages[face.name].balance}"
                report.wrong.append(f"by {face.name} user {user} has {found}, and was told of {cents}")
        if len(set(pages.values())) > 1:
            report.wrong.append(f"user {user} has several histories: {pages}")


def _read_balance(user: int, face: Face) -> int:
    return face.read_balance(user)


def _read_history(user: int, face: Face) -> Page:
    return face.read_history(user)


def _check_one_transfer_a_key(connection: Connection, calls: Iterable[Call], report: Report) -> None:
    """No key has two transfers, and none has one whose client was told of a refusal."""
    rows = connection.execute(_TRANSFERS_BY_KEY)
    found = {(row.user_id, row.key): row.transfers for row in rows}
    for call in calls:
        count = found.get((call.user, call.key), 0)
        if count > 1:
            report.doubled.append(f"{call}: {count} transfers")
        if count and not call.transfer_id:
            report.doubled.append(f"{call}: refused, and yet recorded")


def _check_audits(connection: Connection, report: Report) -> None:
    """See that the service's own audits, while all of it was going on, found nothing."""
    for row in connection.execute(_AUDITS):
        report.audits += row.is_finished
        report.wrong += [f"audit: {each}" for each in row.findings]


def _check_balances_told(known: Balances, calls: Iterable[Call], report: Report) -> None:
    """Whoever moved money was told the balance just after it, and no other."""
    for call in calls:
        for answer in call.answers:
            if answer.balance is not None and answer.balance != known.get((call.user, answer.transfer_id)):
                report.wrong.append(f"{call} was answered {answer}, and the books know nothing of that")


def _check_reads(known: Balances, reads: Iterable[Read], report: Report) -> None:
    """A balance that was read is one that the wallet has had, and so is each of a history."""
    had: dict[int, set[int]] = {}
    for (user, _), balance in known.items():
        had.setdefault(user, set()).add(balance)
    for read in reads:
        newest = read.page.entries[:1]
        is_known = all(known.get((read.user, transfer)) == balance for transfer, balance in read.page.entries)
        is_first = all(balance == read.page.balance for _, balance in newest)
        if not (is_known and is_first and read.page.balance in had[read.user]):
            report.wrong.append(f"the books know nothing of {read}")

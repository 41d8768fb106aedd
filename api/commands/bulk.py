"""``flask bulk``: send the transfers of a file, see them through, and write down what became of each."""

import csv
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click
from flask.cli import with_appcontext

from api.actions import bulks
from api.commands import bulk_file
from api.commands.acting import acting
from api.commands.bulk_file import Line
from api.commands.conclusion import concludes, examples
from api.commands.layout import refuse_file
from api.commands.output import opened, progress
from api.commands.parameters import ID, Key
from api.running import services
from models.errors import IdempotencyKeyReused, OutcomeUnknown, Unavailable
from models.ledger.bulks import MAX_ATOMIC_ITEMS, MAX_ITEMS, Bulk, BulkOrder
from models.ledger.import_file import FileRefused
from models.ledger.transfer import Status

# Transfers that go in one transaction. How a file was cut must not change while somebody is in the middle of it.
CHUNK = MAX_ITEMS
# Between two looks: at first what an idle worker needs, then what nobody notices.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
MAX_WAIT_S = 86_400.0
REPORT = ["line", "transfer_id", "status", "reason"]
# Of a run's name, which is a part of the key.
MAX_RUN = 64
# Bulks that are named when all of a file was sent before.
MAX_NAMED = 10
# Nothing was new and nothing pending: a script that pays must not take that for paid.
EXIT_SENT_BEFORE = 3
GO_ON = "Run the same command with the same file again to go on: what was sent is not sent twice."


class Sent(NamedTuple):
    """A bulk that is durable, and the lines that are in it."""

    bulk_id: int
    lines: Sequence[Line]
    replayed: bool


@click.command(
    "bulk",
    epilog=examples(
        "Examples:",
        "  flask bulk payouts.csv --user 1",
        "  flask bulk payouts.json --user 1 --atomic --report /tmp/outcome.csv",
        "  flask bulk wages.csv --user 1 --run 2026-12     # the same file as in November, once more",
        "",
        "payouts.csv (description, reference and metadata.<key> may be left out, and so may their fields):",
        "  destination_user_id,amount,description,reference,metadata.order",
        "  2,1003,rent for November,INV-1,17",
        "",
        "payouts.json:",
        '  [{"destination_user_id": 2, "amount": 1003, "reference": "INV-1"}]',
        "",
        "Exit status: 0 all posted (with --no-wait: all accepted); 1 not all, refused, or a fault; 2 wrong usage;",
        "3 all of it was sent and over before, so that nothing moved now (with --run: 0 or 1, as it had ended).",
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--user", "user_id", type=ID, required=True, help="Whose wallet pays.")
@click.option(
    "--run", type=Key(MAX_RUN), help="What this sending of the file is called: under another name it is sent once more."
)
@click.option("--atomic", is_flag=True, help=f"All of it is posted, or nothing: {MAX_ATOMIC_ITEMS} transfers at most.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What became of each line, as CSV. [default: FILE, with .report.csv in place of its ending]",
)
@click.option(
    "--no-wait",
    is_flag=True,
    help="Send, and leave it at that. Run again without it for the report, under the same --run.",
)
@with_appcontext
@concludes
def command(  # noqa: PLR0913 - each is an option
    file: Path, user_id: int, run: str | None, report: Path | None, *, atomic: bool, no_wait: bool
) -> None:
    """Send the transfers of FILE (.csv or .json, 1,000,000 at most), wait for all of them, and write a report.

    The whole file is checked first; if a line is wrong, nothing is sent. Then it goes in bulks of 10,000, each of them
    once: run again after a kill, with the same file, it sends what was not sent and goes on. A file that differs in a
    single byte is another file, and all of it is sent; so it is under another --run, which is best named after what is
    paid, say a month. What was all sent before is not sent again: it says so, and how to send it once more.
    """
    if file.suffix.lower() not in {".csv", ".json"}:
        raise click.BadParameter("its name must end with .csv or .json", param_hint="FILE")
    if report is not None and no_wait:
        raise click.UsageError("there is no report without waiting")
    report = report or file.with_suffix(".report.csv")
    # Now, and not when all is sent.
    if not os.access(report.parent, os.W_OK) or report.resolve() == file.resolve():
        raise click.BadParameter(f"{report} cannot be written", param_hint="--report")
    try:
        read = bulk_file.read(file, user_id=user_id, most=MAX_ATOMIC_ITEMS if atomic else bulk_file.MAX_LINES)
    except FileRefused as error:
        refuse_file(str(file), error, "sent")
    try:
        sent = _send(user_id, read.digest if run is None else f"{read.digest}:{run}", read.lines, atomic=atomic)
        if over := _find_over(sent, user_id):
            again = ["flask", "bulk", str(file), "--user", str(user_id), *(["--atomic"] if atomic else [])]
            _warn(over, f"all of {file}{'' if run is None else f', run {run},'}", again)
        # Who has named the run has said that it is this one: then a repetition is one, and no mistake.
        is_mistaken = bool(over) and run is None
        if no_wait:
            ids = " ".join(str(each.bulk_id) for each in sent)
            click.echo(f"{_told(sent)}, bulk_id {ids}")
            sys.exit(EXIT_SENT_BEFORE if is_mistaken else 0)
        statuses = _report(report, _follow(sent, user_id))
    except (KeyboardInterrupt, Unavailable, OutcomeUnknown):
        click.echo(GO_ON, err=True)
        raise
    except IdempotencyKeyReused as error:
        how = "without" if atomic else "with"
        raise click.ClickException(f"it was sent before {how} --atomic (transfer {error.transfer_id})") from None
    ended = ", ".join(f"{statuses[each]} {each.value}" for each in Status if each.is_final)
    click.echo(f"{_told(sent)}: {ended}; see {report}")
    ending = 0 if statuses[Status.POSTED] == len(read.lines) else 1
    sys.exit(EXIT_SENT_BEFORE if is_mistaken else ending)


def _send(user_id: int, name: str, lines: Sequence[Line], *, atomic: bool) -> list[Sent]:
    """Have all of it accepted, bulk by bulk: each under a key that stands for the file, the payer and its place.

    ``name``: of the file's bytes, and of the run.
    """
    sent: list[Sent] = []
    with acting("bulk.send", on=str(user_id)) as act, progress(len(lines), "sent") as tell:
        for number, begin in enumerate(range(0, len(lines), CHUNK), 1):
            chunk = lines[begin : begin + CHUNK]
            order = BulkOrder(
                user_id=user_id,
                items=[line.item for line in chunk],
                is_atomic=atomic,
                idempotency_key=f"flask bulk:{name}:{user_id}:{number}",
            )
            acceptance = services().bulks.accept(order)
            if not acceptance.replayed:
                bulks.put_on(services(), order, acceptance)
            sent.append(Sent(acceptance.bulk_id, chunk, acceptance.replayed))
            tell(len(chunk))
        act.note(changed=not all(each.replayed for each in sent))
    return sent


def _find_over(sent: Sequence[Sent], user_id: int) -> list[Bulk]:
    """Return the bulks of a file, if each was sent by an earlier run and none of their transfers is pending."""
    if not all(each.replayed for each in sent):
        return []
    found = [services().bulks.find(each.bulk_id, seen_by=user_id) for each in sent]
    return [] if any(bulk.pending for bulk in found) else found


def _warn(over: Sequence[Bulk], what: str, again: Sequence[str]) -> None:
    """Say loudly that nothing was sent, since when that is done, and how to send it once more."""
    click.echo(f"WARNING: NOTHING WAS SENT AND NO MONEY MOVED NOW: {what} was sent before, and is over:", err=True)
    for bulk in over[:MAX_NAMED]:
        ended = _spelled(bulk.completed_at or bulk.created_at)
        facts = f"{bulk.count} transfers, {bulk.amount_cents} cents, sent {_spelled(bulk.created_at)}, over {ended}"
        click.echo(f"  bulk {bulk.id}: {facts}", err=True)
    if (more := len(over) - MAX_NAMED) > 0:
        click.echo(f"  (and {more} more)", err=True)
    click.echo(f"If it is to be paid once more, name another run: {shlex.join(again)} --run NAME", err=True)


def _spelled(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _follow(sent: Sequence[Sent], user_id: int) -> list[tuple[Sent, Bulk]]:
    """Wait until all of it is final.

    Raises:
        click.ClickException: it is not within a day.
    """
    deadline, pause_s = time.monotonic() + MAX_WAIT_S, FIRST_PAUSE_S
    standing: dict[int, Bulk] = {}
    with progress(sum(len(each.lines) for each in sent), "final") as tell:
        while True:
            for bulk_id in [each.bulk_id for each in sent]:
                before = standing.get(bulk_id)
                if before is None or before.pending:
                    now = standing[bulk_id] = services().bulks.find(bulk_id, seen_by=user_id)
                    tell((now.count if before is None else before.pending) - now.pending)
            pending = sum(bulk.pending for bulk in standing.values())
            if not pending:
                return [(each, standing[each.bulk_id]) for each in sent]
            if time.monotonic() > deadline:
                raise click.ClickException(f"{pending} are still pending after a day. {GO_ON}")
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def _report(path: Path, followed: Sequence[tuple[Sent, Bulk]]) -> Counter[Status]:
    """Write what became of each line, and count it.

    Raises:
        click.ClickException: that is not known any more.
    """
    counted: Counter[Status] = Counter()
    with opened(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(REPORT)
        for (bulk_id, lines, _), bulk in followed:
            outcomes = list(services().bulks.outcomes(bulk))
            if len(outcomes) != len(lines):
                raise click.ClickException(f"transfers of bulk {bulk_id} have left for an archive: there is no report")
            for line, outcome in zip(lines, outcomes, strict=True):
                writer.writerow([line.number, outcome.transfer_id, outcome.status.value, outcome.reason or ""])
            counted.update(outcome.status for outcome in outcomes)
    return counted


def _told(sent: Sequence[Sent]) -> str:
    """Say what was sent, and how much of that by an earlier run."""
    count = sum(len(each.lines) for each in sent)
    cents = sum(line.item.amount_cents for each in sent for line in each.lines)
    before = sum(len(each.lines) for each in sent if each.replayed)
    since = "" if not before else ", all of them before" if before == count else f", {before} of them before"
    return f"sent {count} transfers with {cents} cents{since}"

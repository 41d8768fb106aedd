"""``flask transfers``: look at one, wait for one."""

import sys
import time
from collections.abc import Iterator

import click
import orjson
from flask.cli import AppGroup

from api.commands.conclusion import concludes, examples, told
from api.commands.layout import facts_of, show_facts
from api.commands.parameters import ID
from api.contract.jobs import JobOut
from api.running import services
from models.errors import TransferNotFound, Unavailable
from models.ledger.transfer import Status, Transfer

# Between two looks: at first what an idle worker needs, then what nobody notices.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
MAX_TIMEOUT_S = 86_400.0
EXIT_POSTED, EXIT_REFUSED, EXIT_UNKNOWN = 0, 1, 2

commands = AppGroup("transfers", help="Look at a transfer of any kind, or wait for it.")


@commands.command(
    "show",
    epilog=examples(
        "Examples:",
        "  flask transfers show 118361825078153216",
        "  flask transfers show 118361825078153216 --json | jq -r .status",
        "",
        "Exit status: 0 shown; 1 no such transfer, or a fault; 2 wrong usage.",
    ),
)
@click.argument("job_id", type=ID)
@click.option("--json", "as_json", is_flag=True, help="The JSON object that GET /api/jobs/v1/JOB_ID answers.")
@concludes
def show_command(job_id: int, *, as_json: bool) -> None:
    """Show how the transfer JOB_ID stands: parties, cents, status, attempts, last error."""
    facts = facts_of(JobOut.of(services().history.get_transfer(job_id, seen_by=None)))
    if as_json:
        click.echo(orjson.dumps(facts))
    else:
        show_facts(facts)


@commands.command(
    "watch",
    epilog=examples(
        "Examples:",
        "  flask transfers watch 118361825078153216 --timeout 5 && echo paid",
        "",
        "Exit status: 0 posted; 1 rejected, failed or canceled; 2 not final in time, no such transfer, or wrong usage.",
    ),
)
@click.argument("job_id", type=ID)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, MAX_TIMEOUT_S),
    default=60.0,
    show_default=True,
    help="Seconds to wait at most.",
)
@concludes
def watch_command(job_id: int, timeout_s: float) -> None:
    """Print each change of the transfer JOB_ID until its status is final.

    A database that is away for a while is waited for as well.
    """
    status = None
    try:
        for transfer in _changes(job_id, timeout_s):
            click.echo(_line(transfer))
            status = transfer.status
    except TransferNotFound as error:
        click.echo(f"Error: {told(error)}", err=True)
        sys.exit(EXIT_UNKNOWN)
    if status is None or not status.is_final:
        click.echo(f"Error: not final within {timeout_s:g} s", err=True)
        sys.exit(EXIT_UNKNOWN)
    sys.exit(EXIT_POSTED if status is Status.POSTED else EXIT_REFUSED)


def _changes(job_id: int, timeout_s: float) -> Iterator[Transfer]:
    """Yield the transfer as it stands, and again after each change, until it is final or the time is over."""
    deadline = time.monotonic() + timeout_s
    seen, complaint, pause_s = None, "", FIRST_PAUSE_S
    while seen is None or not seen.status.is_final:
        try:
            transfer = services().history.get_transfer(job_id, seen_by=None)
        except Unavailable as error:
            if told(error) != complaint:
                complaint = told(error)
                click.echo(f"waiting: {complaint}", err=True)
        else:
            if transfer != seen:
                yield transfer
                seen, pause_s = transfer, FIRST_PAUSE_S
                continue
        left_s = deadline - time.monotonic()
        if not left_s > 0:  # as it never is when somebody asks for nan seconds
            return
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def _line(transfer: Transfer) -> str:
    """Say where a transfer stands: its status, and what there is to add to it."""
    shown = JobOut.of(transfer).model_dump(
        mode="json", include={"reason", "attempts", "last_error", "next_attempt_at", "completed_at"}, exclude_none=True
    )
    return "\t".join([transfer.status.value, *(f"{name}={value}" for name, value in shown.items())])

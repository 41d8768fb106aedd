"""Dead letters, for administrators: over HTTP, and as ``flask dead-letters``."""

import getpass

import click
from flask import Blueprint
from flask.cli import AppGroup, with_appcontext

from api.access.identity import require_admin
from api.contract.schemas import DeadLettersOut, DeadLettersQuery, JobOut, NoQuery, RequeuedAllOut, RequeuedOut
from api.contract.validation import answers, read_query
from api.services import services
from api.views.jobs import read_job_id
from jobs.dead_letters import DeadLetterPage
from models.errors import WalletServiceError
from models.ledger.transfer import MAX_ID

blueprint = Blueprint("dead_letters", __name__)
commands = AppGroup("dead-letters", help="Transfers whose attempts ran out.")


@blueprint.get("/api/dead-letters/v1")
@answers
def dead_letters() -> DeadLettersOut:
    """Return a page of dead letters, newest first."""
    require_admin()
    query = read_query(DeadLettersQuery)
    page = _page(query.cursor, query.page_size)
    return DeadLettersOut(
        dead_letters=[JobOut.of(transfer) for transfer in page.transfers],
        page_size=query.page_size,
        has_more=page.next_id is not None,
        next_cursor=None if page.next_id is None else str(page.next_id),
    )


@blueprint.post("/api/dead-letters/v1/<job_id>/requeue")
@answers
def requeue(job_id: str) -> RequeuedOut:
    """Put one dead letter back with all its attempts; one that is not dead is left as it is."""
    require_admin()
    read_query(NoQuery)
    transfer, requeued = services().dead_letters.requeue(read_job_id(job_id), by=_administrator())
    return RequeuedOut(requeued=requeued, job=JobOut.of(transfer))


@blueprint.post("/api/dead-letters/v1/requeue")
@answers
def requeue_all() -> RequeuedAllOut:
    """Put all dead letters back."""
    require_admin()
    read_query(NoQuery)
    return RequeuedAllOut(requeued=services().dead_letters.requeue_all(by=_administrator()))


@commands.command("list")
@click.option("--limit", default=100, show_default=True, help="At most so many, newest first.")
@with_appcontext
def list_command(limit: int) -> None:
    """Show dead letters: job id, from, to, cents, attempts, reason, last error."""
    try:
        page = _page(None, limit)
    except WalletServiceError as error:
        raise click.ClickException(str(error)) from error
    for each in page.transfers:
        fields = (each.id, each.source, each.destination, each.amount_cents, each.attempts, each.reason)
        click.echo("\t".join(map(str, (*fields, each.last_error or ""))))
    if page.next_id is not None:
        click.echo(f"(more than {limit}; raise --limit to see them)", err=True)


@commands.command("requeue")
@click.argument("job_ids", nargs=-1, type=click.IntRange(1, MAX_ID))
@click.option("--all", "everything", is_flag=True, help="All that are dead now.")
@with_appcontext
def requeue_command(job_ids: tuple[int, ...], *, everything: bool) -> None:
    """Put dead letters back on the queue, with all their attempts."""
    if bool(job_ids) == everything:
        raise click.UsageError("name job ids, or give --all")
    by = f"{getpass.getuser()} (command line)"
    try:
        if everything:
            click.echo(f"requeued {services().dead_letters.requeue_all(by=by)}")
        for job_id in job_ids:
            transfer, requeued = services().dead_letters.requeue(job_id, by=by)
            click.echo(f"{job_id}\t{'requeued' if requeued else f'left alone, it is {transfer.status}'}")
    except WalletServiceError as error:
        raise click.ClickException(str(error)) from error


def _page(cursor: str | None, size: int) -> DeadLetterPage:
    return services().dead_letters.get_page(size=size, before_id=int(cursor) if cursor else MAX_ID)


def _administrator() -> str:
    return services().settings.admin_user

"""``flask dead-letters``: transfers whose attempts ran out."""

import click
from flask.cli import AppGroup, with_appcontext

from api.commands.acting import acting, user
from api.running import services
from models.actions.record import ALL
from models.errors import WalletServiceError
from models.ledger.transfer import MAX_ID

commands = AppGroup("dead-letters", help="Transfers whose attempts ran out.")


@commands.command("list")
@click.option("--limit", default=100, show_default=True, help="At most so many, newest first.")
@with_appcontext
def list_command(limit: int) -> None:
    """Show dead letters: job id, from, to, cents, attempts, reason, last error."""
    try:
        page = services().dead_letters.get_page(size=limit)
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
    by = f"{user()} (command line)"
    try:
        if everything:
            with acting("dead_letter.requeue_all", on=ALL) as act:
                count = services().dead_letters.requeue_all(by=by)
                act.note(changed=count > 0)
            click.echo(f"requeued {count}")
        for job_id in job_ids:
            with acting("dead_letter.requeue", on=str(job_id)) as act:
                transfer, requeued = services().dead_letters.requeue(job_id, by=by)
                act.note(changed=requeued)
            click.echo(f"{job_id}\t{'requeued' if requeued else f'left alone, it is {transfer.status}'}")
    except WalletServiceError as error:
        raise click.ClickException(str(error)) from error

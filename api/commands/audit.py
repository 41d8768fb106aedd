"""``flask audit``: an audit of books, queue and cache, at once."""

import sys

import click
from flask.cli import with_appcontext
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from api.commands.acting import acting
from api.commands.conclusion import concludes, examples, told
from api.commands.output import progress
from api.contract.audit import AuditedOut
from api.running import services
from api.settings import current_settings
from jobs.auditor import MAX_SLICE, make_checks
from jobs.transport import TransportAway, make_backlog
from models.actions.record import ALL
from models.audit import record
from models.audit.audit import run_whole
from models.audit.record import AuditResult
from models.errors import WalletServiceError
from models.redis_line.client import connect_redis

# Exit statuses.
CLEAN, BROKEN, COULD_NOT_RUN = 0, 1, 2
# Nobody waits for a command as for a request.
REDIS_ANSWER_TIMEOUT_S = 5.0


@click.command(
    "audit",
    epilog=examples(
        "Examples:",
        "  flask audit",
        "  flask audit --json | jq .findings",
        "",
        "Exit status: 0 nothing is wrong; 1 something is; 2 it could not be found out.",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, as GET /api/audit/v1 shows an audit.")
@with_appcontext
@concludes
def command(*, as_json: bool) -> None:
    """Audit all of the books, queue and cache now: a line for each invariant that is broken, with ids.

    It changes nothing, takes no locks, and may run while the service works. Its result is recorded like any audit's.
    """
    try:
        with acting("audit.run", on=ALL):
            result = _audit_now()
    except (WalletServiceError, SQLAlchemyError, RedisError, TransportAway) as error:
        click.echo(f"Error: not audited: {told(error)}", err=True)
        sys.exit(COULD_NOT_RUN)
    if as_json:
        click.echo(AuditedOut.of(result).model_dump_json())
    else:
        for each in result.findings:
            click.echo("\t".join((each.invariant, str(each.count), ",".join(each.ids), each.detail)))
        seen = f"{result.wallets} wallets, {result.entries} entries, {result.transfers} transfers"
        click.echo(f"{seen}: {len(result.findings)} invariants broken", err=True)
    sys.exit(BROKEN if result.findings else CLEAN)


def _audit_now() -> AuditResult:
    """Run an audit in the foreground, and record it.

    Raises:
        Unavailable: PostgreSQL is away.
        redis.RedisError, TransportAway: what caches, or what carries transfers, is away.
    """
    engine, settings = services().engine, current_settings()
    cache_url = settings.cache_url.get_secret_value()
    with (
        connect_redis(cache_url, answer_timeout_s=REDIS_ANSWER_TIMEOUT_S) as cache,
        progress(record.estimate_work(engine), "audit") as tell,
    ):
        checks = make_checks(engine, make_backlog(settings, engine), cache if settings.cache_ttl else None)
        for seen, done in run_whole(checks, limit=MAX_SLICE):
            tell(sum(count for what, count in done.checked.items() if what != "wallets"))
            last = seen
    return record.record(engine, last)

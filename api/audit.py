"""The audit of the books, for administrators: over HTTP its last result, and as ``flask audit`` one at once."""

import sys

import click
import redis
from flask import Blueprint
from flask.cli import with_appcontext

from api.identity import require_admin
from api.schemas import AuditedOut, AuditOut, NoQuery
from api.services import services
from api.validation import answers, read_query
from jobs.auditor import MAX_SLICE, make_checks
from jobs.queue import connect_redis
from models import audits
from models.audit import Progress, run_whole
from models.audits import AuditResult
from models.errors import WalletServiceError

# Exit statuses of the command.
CLEAN, BROKEN, COULD_NOT_RUN = 0, 1, 2
# Nobody's request waits for the command's answers from Redis.
ANSWER_TIMEOUT_S = 5.0

blueprint = Blueprint("audit", __name__)


@blueprint.get("/api/audit/v1")
@answers
def audit() -> AuditOut:
    """Return what the last audit came to, and how far the one under way is."""
    require_admin()
    read_query(NoQuery)
    engine = services().engine
    return AuditOut.of_both(audits.find_last(engine), audits.find_under_way(engine))


@click.command("audit")
@click.option("--json", "as_json", is_flag=True, help="Print the result as GET /api/audit/v1 shows it.")
@with_appcontext
def audit_command(*, as_json: bool) -> None:
    """Audit the books and the queue now, and record the result.

    Ends with status 0 if all is right, 1 if something is not, 2 if that could not be found out.
    """
    try:
        result = _audit_now()
    except (WalletServiceError, redis.RedisError) as error:
        click.echo(f"the audit could not be finished: {error}", err=True)
        sys.exit(COULD_NOT_RUN)
    if as_json:
        click.echo(AuditedOut.of(result).model_dump_json())
    else:
        for found in result.findings:
            click.echo("\t".join((found.invariant, str(found.count), ",".join(found.ids), found.detail)))
        click.echo(f"{result.wallets} wallets, {result.entries} entries, {result.transfers} transfers: {_verdict(result)}")
    sys.exit(CLEAN if result.ok else BROKEN)


def _verdict(result: AuditResult) -> str:
    return "all is right" if result.ok else f"{len(result.findings)} invariants are broken"


def _audit_now() -> AuditResult:
    """Run an audit in the foreground and record it.

    Raises:
        Unavailable: PostgreSQL is away.
        redis.RedisError: Redis is away.
    """
    settings, engine = services().settings, services().engine
    with connect_redis(settings.redis_url.get_secret_value(), answer_timeout_s=ANSWER_TIMEOUT_S) as connection:
        progress = _run_with_bar(make_checks(engine, connection))
    audits.finish(engine, progress)
    return audits.result_of(progress)

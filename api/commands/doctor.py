"""``flask doctor``: is everything as it has to be, and how to mend what is not."""

import importlib
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import click
import orjson
from flask.cli import with_appcontext
from pydantic import SecretStr
from sqlalchemy import Engine

import config
from api.commands.conclusion import concludes, examples
from api.running import services
from api.settings import current_settings
from config import Settings
from config.addresses import address_of, reachable, split_address
from jobs.checkup import check_cache
from jobs.connections import count_wanted
from jobs.transport import count_workers, look_over
from models.checkup import Finding, Level, check_postgres
from models.database.connecting import libpq_parameters
from models.errors import Unavailable
from models.redis_line.client import connect_redis
from models.vitals import find_webhook_backlog

# Nobody waits for a command as for a request: a server that is slow is not one that is down.
REDIS_ANSWER_TIMEOUT_S = 2.0
GRPC_ANSWER_TIMEOUT_S = 2.0
# What a webhook is still to be told of for so long.
WEBHOOKS_WARN_S = 3_600.0
DISK_WARN_BYTES, DISK_FAIL_BYTES = 1 << 30, 100 << 20


@click.command(
    "doctor",
    epilog=examples(
        "Examples:",
        "  flask doctor",
        "  flask doctor --json | jq '.checks[] | select(.level != \"ok\")'",
        "",
        "Exit status: 0 nothing FAILs (there may be warnings); 1 something does; 2 a setting is wrong.",
    ),
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object: level, and checks with name, level, what, mend."
)
@with_appcontext
@concludes
def command(*, as_json: bool) -> None:
    """Look over settings, PostgreSQL, Redis, queue, gRPC, disk and secrets: a line for each, with how to mend it.

    It changes nothing, and waits no more than seconds for a server that is down.
    """
    findings = [_without_secrets(each, current_settings()) for each in _findings()]
    worst = next((level for level in (Level.FAIL, Level.WARN) if level in {each.level for each in findings}), Level.OK)
    if as_json:
        checks = [{"name": each.name, "level": each.level, "what": each.what, "mend": each.remedy} for each in findings]
        click.echo(orjson.dumps({"level": worst, "checks": checks}))
    else:
        for each in findings:
            click.echo(f"{each.level:<4} {each.name}: {each.what}" + (f" — {each.remedy}" if each.remedy else ""))
        counts = Counter(each.level for each in findings)
        click.echo(", ".join(f"{counts[level]} {level}" for level in Level), err=True)
    sys.exit(1 if worst is Level.FAIL else 0)


def _findings() -> Iterator[Finding]:
    settings = current_settings()
    yield _settings(settings)
    wanted = sum(count_wanted(settings, workers=count_workers(settings)))
    yield from check_postgres(services().engine, connections_wanted=wanted)
    yield from look_over(settings)
    yield from _webhooks(services().engine)
    if settings.cache_ttl and settings.cache_redis_url is not None:
        url = settings.cache_redis_url.get_secret_value()
        with connect_redis(url, answer_timeout_s=REDIS_ANSWER_TIMEOUT_S) as cache:
            yield check_cache(cache)
    home = config.load(config.StackSettings).wallet_home
    yield _grpc(settings, home)
    if home.is_dir():
        yield _disk(home)
        yield _secrets(home)


def _webhooks(engine: Engine) -> Iterator[Finding]:
    """Whether they are told of what happens. A database that is away has been found already."""
    with suppress(Unavailable):
        backlog = find_webhook_backlog(engine)
        what = f"{backlog.enabled} enabled, {backlog.disabled} disabled, {backlog.pending} deliveries pending"
        if backlog.disabled or backlog.oldest_s > WEBHOOKS_WARN_S:
            remedy = "see why in GET /api/webhooks/v1, and whether python worker.py webhooks runs"
            yield Finding("webhooks", Level.WARN, f"{what}, the oldest for {backlog.oldest_s:.0f} s", remedy)
        else:
            yield Finding("webhooks", Level.OK, what)


def _settings(settings: Settings) -> Finding:
    """Name the servers. What is wrong with a setting has ended the command before it came here."""
    servers = [f"postgresql at {_database_address(settings.sqlalchemy_url)}"]
    for name, url in (("", settings.redis_url), ("cache: ", settings.cache_redis_url)):
        if url is not None:
            parts = urlsplit(url.get_secret_value())
            servers.append(f"{name}{parts.scheme} at {parts.netloc.rpartition('@')[2] or 'a local socket'}")
    return Finding("settings", Level.OK, ", ".join(servers))


def _database_address(url: str) -> str:
    """Name a server, or several, as the driver understands the URL."""
    parameters = libpq_parameters(url)
    hosts = [host for host in parameters.get("host", "").split(",") if host and not host.startswith("/")]
    ports = parameters.get("port", "").split(",")
    ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    named = [f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=True)]
    return ", ".join(named) or "a local socket"


def _grpc(settings: Settings, home: Path) -> Finding:
    """Whether gRPC answers: that of the stack that runs here, or else where these settings have it."""
    runs_here, target = config.find_local_grpc(home)
    if not runs_here and settings.grpc_port is not None:
        target = address_of(reachable(settings.host), settings.grpc_port)
    if target is None:
        return Finding("grpc", Level.OK, "off")
    host, port = split_address(target)
    # By name: its library is for those who ask.
    asking = importlib.import_module("api.grpc.asking")
    answer = asking.ask(host, port, timeout_s=GRPC_ANSWER_TIMEOUT_S)
    what = f"{answer} at {target}"
    if answer not in {asking.Answer.SERVES, asking.Answer.ENCRYPTED}:
        level = Level.FAIL if runs_here else Level.WARN  # it may run on another machine, or in another container
        return Finding("grpc", level, what, "see its log (grpc.log), start it (make run), or set GRPC_PORT=off")
    if answer is asking.Answer.SERVES and settings.auth_mode == "jwt" and not config.is_loopback(settings.host):
        what += f", and on HOST={settings.host} tokens come in plain text"
        return Finding("grpc", Level.WARN, what, "set GRPC_TLS_CERT and GRPC_TLS_KEY, or listen on 127.0.0.1")
    return Finding("grpc", Level.OK, what)


def _disk(home: Path) -> Finding:
    usage = shutil.disk_usage(home)
    level = Level.OK if usage.free > DISK_WARN_BYTES else Level.WARN if usage.free > DISK_FAIL_BYTES else Level.FAIL
    remedy = None if level is Level.OK else f"make room where {home} is: PostgreSQL stops when it cannot write"
    return Finding("disk", level, f"{usage.free / (1 << 30):.1f} GiB free in {home}", remedy)


def _secrets(home: Path) -> Finding:
    """Whether others on this machine can read the passwords of a local stack."""
    try:
        files = [path for path in (*(home / "secrets").glob("*"), home / config.STACK_STATE) if path.exists()]
        open_files = [str(path) for path in files if path.stat().st_mode & 0o077]
    except OSError as error:
        return Finding("secrets", Level.WARN, f"{home}: {error.strerror}", "run it as the user that runs the service")
    if open_files:
        remedy = f"chmod 600 {' '.join(open_files)}"
        return Finding("secrets", Level.FAIL, f"{len(open_files)} files can be read by others", remedy)
    return Finding("secrets", Level.OK, f"{len(files)} files in {home}, their owner's alone")


def _without_secrets(finding: Finding, settings: Settings) -> Finding:
    """Take out any password: what a driver says of a URL that it cannot read may have the URL in it."""
    what = finding.what
    for password in _passwords(settings):
        what = what.replace(password, "***")
    return finding._replace(what=what)


def _passwords(settings: Settings) -> Iterable[str]:
    for url in filter(None, (settings.database_url, settings.redis_url, settings.cache_redis_url)):
        parts = urlsplit(url.get_secret_value())
        given = [value for name, value in parse_qsl(parts.query) if "password" in name]
        for password in filter(None, (parts.password, *given)):
            yield from (password, unquote(password), quote(password, safe=""))
    secrets = (value for _, value in settings if isinstance(value, SecretStr))
    yield from filter(None, (secret.get_secret_value() for secret in secrets))

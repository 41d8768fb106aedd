"""``flask webhooks``: what would be sent to one."""

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from ipaddress import ip_network
from typing import NamedTuple

import click
import orjson
from flask.cli import AppGroup, with_appcontext

from api.commands.conclusion import concludes, examples
from api.contract.events import EVENT_TYPES
from api.running import services
from jobs.event_json import all_as_json
from jobs.webhooks import signing
from jobs.webhooks.posting import Poster, Undelivered
from jobs.webhooks.targets import BadTarget, check_url
from jobs.webhooks.trial import Received, TrialReceiver
from models.ledger.events import ToldEvent, find_last, find_told
from models.ledger.transfer import MAX_ID
from models.webhooks.endpoints import EVERY, SECRET_BYTES, wants

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
# Events that are looked through at once, and between two looks.
PAGE = 100
PAUSE_S = 0.25

commands = AppGroup("webhooks", help="Where events are sent.")


class _Wishes(NamedTuple):
    """What is to be shown, as an endpoint would have it."""

    types: Sequence[str]
    user_id: int | None


@commands.command(
    "listen",
    epilog=examples(
        "Examples:",
        "  flask webhooks listen",
        "  flask webhooks listen --type transfer.failed --after 0",
        "  flask webhooks listen --to http://127.0.0.1:3000/hooks --secret whsec_…",
        "",
        "Exit status: 0 after --count, or Ctrl-C; 1 a signature does not fit, or a fault.",
    ),
)
@click.option(
    "--type",
    "types",
    multiple=True,
    type=click.Choice(EVENT_TYPES),
    help="Only events of this kind; may be given more than once.",
)
@click.option("--user", "user_id", type=click.IntRange(1, MAX_ID), help="Only those of this user's transfers.")
@click.option("--after", type=click.IntRange(0, MAX_ID), help="Begin after this event. Without it: with what is new.")
@click.option("--to", "url", help="Send them on to your own receiver, on this machine.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Listen on this port; without it on any.")
@click.option("--secret", help="Sign with this one, whsec_…; without it with a new one, which is told.")
@click.option("--count", type=click.IntRange(1), help="End after so many.")
@with_appcontext
@concludes
def listen_command(  # noqa: PLR0913 - each is an option
    *,
    types: tuple[str, ...],
    user_id: int | None,
    after: int | None,
    url: str | None,
    port: int,
    secret: str | None,
    count: int | None,
) -> None:
    """Show what would be sent to a webhook, with its signature checked, as it happens.

    Each event is sent by HTTP, as a webhook's are, to a receiver on this machine alone: the command's own, or yours. No
    webhook has to be set up for that, and none hears of it.
    """
    key = _read_secret(secret)
    if url is not None:
        _check_loopback(url)
    engine = services().engine
    begin = find_last(engine) if after is None else after
    with closing(Poster(LOOPBACK)) as poster, TrialReceiver(port) if url is None else nullcontext() as own:
        target = own.url if own is not None else str(url)
        click.echo(f"sending to {target}, signed with {signing.show(key)} (Ctrl-C ends)", err=True)
        for number, event in enumerate(_follow(begin, _Wishes(types or (EVERY,), user_id)), 1):
            _send(poster, target, key, event)
            if own is not None:
                _show(own.received.get(timeout=1.0), key)
            if number == count:
                return


def _follow(after: int, wishes: _Wishes) -> Iterator[ToldEvent]:
    """Iterate over events for ever, as they come."""
    while True:
        events, reached = find_told(services().engine, after=after, limit=PAGE)
        yield from (event for event in events if wants(wishes, event))
        if reached <= after:
            time.sleep(PAUSE_S)
        after = max(after, reached)


def _send(poster: Poster, target: str, key: bytes, event: ToldEvent) -> None:
    body = orjson.dumps(next(all_as_json([event])))
    headers = signing.sign([key], message_id=str(event.event_id), timestamp=int(time.time()), body=body)
    click.echo(f"event {event.event_id}: {event.type}")
    try:
        answered = poster.post(target, {"Content-Type": "application/json"} | headers, body)
    except Undelivered as error:
        click.echo(f"  not delivered: {error}")
    else:
        click.echo(f"  answered {answered.status}")


def _show(received: Received, key: bytes) -> None:
    """Print what came, in ASCII: what callers wrote there may be anything, and is not to steer a terminal."""
    for name in (signing.ID, signing.TIMESTAMP, signing.SIGNATURE):
        click.echo(f"  {name}: {received.headers.get(name, '')}")
    try:
        signing.verify(key, received.headers, received.body, now_s=time.time())
    except signing.Unverified as error:
        raise click.ClickException(f"the signature does not fit: {error}") from None
    click.echo("  the signature fits")
    click.echo(f"  {json.dumps(json.loads(received.body))}")


def _read_secret(text: str | None) -> bytes:
    if text is None:
        return secrets.token_bytes(SECRET_BYTES)
    try:
        return signing.read(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--secret") from None


def _check_loopback(url: str) -> None:
    try:
        check_url(url, allowed=LOOPBACK)
    except BadTarget as error:
        raise click.BadParameter(str(error), param_hint="--to") from None
    if not url.startswith("http://"):
        raise click.BadParameter("must be on this machine, by http://", param_hint="--to")

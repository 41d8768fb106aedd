"""Administrators who come by HTTP: with the password of HTTP Basic, and from no other site's page.

What only looks calls :func:`require_admin`. What changes something stands in :func:`acting`, which lets an
administrator pass just the same, and has what he does recorded::

    with acting("dead_letter.requeue", on=job_id):
        ...
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import structlog
from flask import Flask, current_app, request
from sqlalchemy import Engine

from api.access.cross_site import refuse_other_sites
from api.access.identity import Identity
from api.edge.edge import call_of
from api.edge.errors import code_of
from api.edge.proxies import Proxies
from config import Settings
from models.actions import record
from models.actions.record import Act

_EXTENSION = "wallet-administrators"

_log = structlog.get_logger("administrators")


class _Office(NamedTuple):
    """What an application knows of administrators: how they are told, what they are called, and the record's books."""

    identity: Identity
    proxies: Proxies
    admin_user: str
    engine: Engine


def install(app: Flask, settings: Settings, identity: Identity, engine: Engine) -> None:
    """Let an application's views ask for an administrator, and record in these books what he does."""
    app.extensions[_EXTENSION] = _Office(identity, Proxies(settings.trusted_proxies), settings.admin_user, engine)


def require_admin() -> None:
    """Let Flask's request pass if an administrator sends it, and if it changes something, no other site's page does.

    Raises:
        ApiError: as :meth:`api.access.identity.Identity.require_admin`; ``forbidden`` for another site's page.
    """
    office = _office()
    office.identity.require_admin(call_of(request.environ))
    refuse_other_sites(request.environ, office.proxies)


@contextmanager
def acting(what: str, *, on: str) -> Iterator[Act]:
    """Let an administrator's request change something, and record it with its outcome, refused or not.

    Whoever is no administrator leaves no line: that is logged, and throttled, by those who tell.

    Args:
        what: is done: one of a few words with dots. Whoever does it may note that nothing changed.
        on: what it is done to, as it was asked for.

    Raises:
        ApiError: as :func:`require_admin`.
        Unavailable: it cannot be recorded; nothing was done.
    """
    office = _office()
    office.identity.require_admin(call_of(request.environ))
    with _recorded(office, what, on) as act:
        yield act


@contextmanager
def acting_or_user(what: str, *, on: str) -> Iterator[int | None]:
    """Do what :func:`acting` does for what users may change as well, who leave no line.

    Returns:
        The id of the user whose request Flask has, None for an administrator's.

    Raises:
        ApiError: as :meth:`api.access.identity.Identity.require_user`; ``forbidden`` as :func:`acting`.
        Unavailable: as :func:`acting`.
    """
    office = _office()
    caller = office.identity.require_user_or_admin(call_of(request.environ))
    if caller is not None:
        yield caller
        return
    with _recorded(office, what, on):
        yield None


@contextmanager
def _recorded(office: _Office, what: str, on: str) -> Iterator[Act]:
    """Record what an administrator's request does, and refuse another site's page."""
    who, origin = office.admin_user, call_of(request.environ).find_address()
    act = None
    try:
        with record.acting(office.engine, who=who, what=what, on=on, origin=origin, code_of=code_of) as act:
            refuse_other_sites(request.environ, office.proxies)
            yield act
    finally:
        if act is not None:
            _log.info("action", **{"who": who, "what": what, "on": on, "from": origin, "outcome": act.outcome})


def _office() -> _Office:
    return cast("_Office", current_app.extensions[_EXTENSION])

"""Freezing wallets, for administrators."""

from collections.abc import Callable

from flask import Blueprint, request

from api.access.administrators import acting, require_admin
from api.contract.schemas import FreezeBody, NoQuery, UnfreezeBody, WalletStateOut
from api.contract.validation import answers, has_body, read_body, read_query
from api.running import services
from api.settings import current_settings
from api.views.jobs import read_id
from models.errors import WalletNotFound
from models.ledger.freezes import Change

blueprint = Blueprint("freezes", __name__)


@blueprint.get("/api/wallets/v1/<user_id>")
@answers
def wallet(user_id: str) -> WalletStateOut:
    """Return a user's wallet: balance, version, when it was opened, and whether it is frozen, why, and by whom."""
    require_admin()
    read_query(request.environ, NoQuery)
    return _show(_read_user_id(user_id))


@blueprint.post("/api/wallets/v1/<user_id>/freeze")
@answers
def freeze(user_id: str) -> WalletStateOut:
    """Forbid money to leave a wallet (debits), or to come (credits), until it is allowed again."""
    with acting("wallet.freeze", on=user_id) as act:
        body = read_body(request.environ, FreezeBody, most_bytes=services().max_body_bytes)
        wallet_id, changed = _change(user_id, body.change)
        act.note(changed=changed)
    return _show(wallet_id)


@blueprint.post("/api/wallets/v1/<user_id>/unfreeze")
@answers
def unfreeze(user_id: str) -> WalletStateOut:
    """Allow again what was frozen: all of it without a body, or the sides that are named."""
    with acting("wallet.unfreeze", on=user_id) as act:
        body = UnfreezeBody()
        if has_body(request.environ):
            body = read_body(request.environ, UnfreezeBody, most_bytes=services().max_body_bytes)
        wallet_id, changed = _change(user_id, body.change)
        act.note(changed=changed)
    return _show(wallet_id)


def _change(user_id: str, wanted: Callable[..., Change]) -> tuple[int, bool]:
    read_query(request.environ, NoQuery)
    wallet_id = _read_user_id(user_id)
    return wallet_id, services().freezes.change(wallet_id, wanted(by=current_settings().admin_user))


def _show(wallet_id: int) -> WalletStateOut:
    return WalletStateOut.of(services().statements.get_wallet(wallet_id, newest=0))


def _read_user_id(user_id: str) -> int:
    """Read a user's id from a path.

    Raises:
        WalletNotFound: no user can have it.
    """
    wallet_id = read_id(user_id)
    if wallet_id is None:
        raise WalletNotFound
    return wallet_id

"""Freezing wallets, for administrators."""

from collections.abc import Callable
from functools import partial

from flask import Blueprint, request

from api.access.administrators import acting, require_admin
from api.contract.freezes import FreezeBody, UnfreezeBody, WalletStateOut
from api.contract.validation import answers, read_body, read_optional_body, refuse_query
from api.running import services
from api.settings import current_settings
from api.views.jobs import read_id
from models.errors import WalletNotFound

blueprint = Blueprint("freezes", __name__)


@blueprint.get("/api/wallets/v1/<user_id>")
@answers
def wallet(user_id: str) -> WalletStateOut:
    """Return a user's wallet: balance, version, when it was opened, and whether it is frozen, why, and by whom."""
    require_admin()
    refuse_query(request.environ)
    return _show(read_id(user_id, WalletNotFound()))


@blueprint.post("/api/wallets/v1/<user_id>/freeze")
@answers
def freeze(user_id: str) -> WalletStateOut:
    """Forbid money to leave a wallet (debits), or to come (credits), until it is allowed again."""
    return _change("wallet.freeze", user_id, partial(read_body, model=FreezeBody))


@blueprint.post("/api/wallets/v1/<user_id>/unfreeze")
@answers
def unfreeze(user_id: str) -> WalletStateOut:
    """Allow again what was frozen: all of it without a body, or the sides that are named."""
    return _change("wallet.unfreeze", user_id, partial(read_optional_body, model=UnfreezeBody))


def _change(what: str, user_id: str, read: Callable[..., FreezeBody | UnfreezeBody]) -> WalletStateOut:
    with acting(what, on=user_id) as act:
        body = read(request.environ, most_bytes=services().max_body_bytes)
        refuse_query(request.environ)
        wallet_id = read_id(user_id, WalletNotFound())
        act.note(changed=services().freezes.change(wallet_id, body.change(by=current_settings().admin_user)))
    return _show(wallet_id)


def _show(wallet_id: int) -> WalletStateOut:
    return WalletStateOut.of(services().statements.get_wallet(wallet_id, newest=0))

"""The page on the client has every method of it, and every class of errors."""

import inspect

import wallet_client
from tests.docs.pages import DOCS, codes, rows, section
from wallet_client import AdminClient, WalletClient, WalletError

PAGE = DOCS / "client.md"


def _methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def test_every_method_stands_with_who_has_it() -> None:
    user, administrator = _methods(WalletClient), _methods(AdminClient)
    existing = {
        "both": user & administrator,
        "user": user - administrator,
        "administrator": administrator - user,
    }
    told: dict[str, list[str]] = {}
    for row in rows(section(PAGE, "Calls")):
        told.setdefault(row["who"], []).extend(codes(row["methods"]))
    assert {who: set(names) for who, names in told.items()} == existing
    assert sum(map(len, told.values())) == len(user | administrator)


def test_every_error_stands_with_what_is_known() -> None:
    told = {name for row in rows(section(PAGE, "When it does not succeed")) for name in codes(row["class"])}
    errors = {
        name for name, each in vars(wallet_client).items() if inspect.isclass(each) and issubclass(each, WalletError)
    }
    assert told == errors - {WalletError.__name__}

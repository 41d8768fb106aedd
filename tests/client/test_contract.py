"""The client knows all that ``/openapi.json`` knows: every call, every field that is sent, every field that comes."""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
from flask import Flask

from api.contract.openapi import make_document
from api.contract.routes import OPERATIONS
from tests.client.stand_in import StandIn
from wallet_client import AdminClient, Payment, WalletClient
from wallet_client.operations import ALL, Operation

Json = dict[str, Any]

_TRANSFER: Json = OPERATIONS["jobs.job"].answers[200].example
_ENTRY: Json = OPERATIONS["wallets.transactions"].answers[200].example["transactions"][0]
_NOON = "2026-11-23T12:00:00Z"
_ACTION = {"at": _NOON, "who": "admin", "what": "freeze", "on": "1", "from": "127.0.0.1", "outcome": "ok"}
_LAST_PAGE = {"page_size": 30, "has_more": False, "next_cursor": None}


_AT = datetime(2026, 11, 23, 14, 47, 38, tzinfo=UTC)
_DETAILS: Any = {"description": "rent", "reference": "INV-1", "metadata": {"flat": "4b"}}
_NOVEMBER = (date(2026, 11, 1), date(2026, 11, 30))
_PAGE: Any = {"page_size": 7, "cursor": "8"}
_FILTERS: Any = {
    "status": "posted",
    "kind": "transfer",
    "direction": "in",
    "counterparty_user_id": 2,
    "reference": "INV-1",
    "idempotency_key": "k",
    "bulk_id": 3,
    "amount_min": 1,
    "amount_max": 9,
    "created_from": _AT,
    "created_to": _AT,
    "user_id": 1,
}

# Every call with all that it can be given.
CALLS: dict[str, Callable[[WalletClient, AdminClient], object]] = {
    "POST /api/deposit/v1": lambda wallet, _: wallet.deposit(67, **_DETAILS),
    "POST /api/withdraw/v1": lambda wallet, _: wallet.withdraw(67, **_DETAILS),
    "POST /api/transfer/v1": lambda wallet, _: wallet.transfer_now(2, 67, **_DETAILS),
    "POST /api/transfer/v2": lambda wallet, _: wallet.transfer_later(2, 67, not_before=_AT, **_DETAILS),
    "POST /api/transfers/bulk/v1": lambda wallet, _: wallet.transfer_bulk(
        [Payment(destination_user_id=2, amount=67, **_DETAILS)], atomic=True
    ),
    "POST /api/transfers/v1/{}/reverse": lambda wallet, _: wallet.reverse(5, 67, **_DETAILS),
    "POST /api/jobs/v1/{}/cancel": lambda wallet, _: wallet.cancel(5),
    "GET /api/jobs/v1/{}": lambda wallet, _: wallet.job(5, wait_s=0.5),
    "GET /api/transfers/v1/{}": lambda wallet, _: wallet.transfer(5),
    "GET /api/transfers/v1": lambda _, admin: admin.transfers_page(**_PAGE, **_FILTERS),
    "GET /api/bulks/v1/{}": lambda wallet, _: wallet.bulk(5, wait_s=0.5),
    "GET /api/wallet/balance/v1": lambda wallet, _: wallet.balance(at=_AT),
    "GET /api/transactions/v1": lambda wallet, _: wallet.transactions_page(type_=3, page=2, **_PAGE),
    "GET /api/statements/v1": lambda wallet, admin: (
        wallet.statement(*_NOVEMBER),
        admin.statement(1, *_NOVEMBER),
    )[1],
    "GET /api/dead-letters/v1": lambda _, admin: admin.dead_letters_page(**_PAGE),
    "POST /api/dead-letters/v1/{}/requeue": lambda _, admin: admin.requeue(5),
    "POST /api/dead-letters/v1/requeue": lambda _, admin: admin.requeue_all(),
    "GET /api/events/v1": lambda _, admin: admin.events_page(after=4, page_size=7, wait_s=0.5),
    "GET /api/audit/v1": lambda _, admin: admin.audit(),
    "GET /api/actions/v1": lambda _, admin: admin.actions_page(**_PAGE),
    "POST /api/wallets/v1/{}/freeze": lambda _, admin: admin.freeze(5, reason="a court", credits_=False),
    "POST /api/wallets/v1/{}/unfreeze": lambda _, admin: admin.unfreeze(
        5, reason="cleared", debits=True, credits_=True
    ),
    "GET /api/wallets/v1/{}": lambda _, admin: admin.wallet(5),
    "POST /api/webhooks/v1": lambda _, admin: admin.add_webhook("https://example.org", types=["*"], user_id=1),
    "GET /api/webhooks/v1": lambda _, admin: admin.webhooks(),
    "DELETE /api/webhooks/v1/{}": lambda _, admin: admin.remove_webhook(5),
    "POST /api/webhooks/v1/{}/rotate": lambda _, admin: admin.rotate_webhook(5),
    "POST /api/webhooks/v1/{}/test": lambda _, admin: admin.test_webhook(5),
    "POST /api/webhooks/v1/{}/enable": lambda _, admin: admin.enable_webhook(5),
    "GET /api/webhooks/v1/{}/deliveries": lambda _, admin: admin.deliveries_page(5, status="failed", **_PAGE),
    "POST /api/webhooks/v1/{}/replay": lambda _, admin: (
        admin.replay_webhook(5, since=_AT),
        admin.replay_webhook(5, event_id=4),
    ),
    "GET /healthz": lambda wallet, _: wallet.health(),
    "GET /readyz": lambda wallet, _: wallet.readiness(),
    "GET /metrics": lambda wallet, _: wallet.metrics(),
    "GET /openapi.json": lambda wallet, _: wallet.document(),
}


def _key(method: str, path: str) -> str:
    return f"{method.upper()} {re.sub('{[^}]*}', '{}', path)}"


@pytest.fixture
def document(app: Flask) -> Json:
    return json.loads(json.dumps(make_document(app)))  # type: ignore[no-any-return]


@pytest.fixture
def documented(document: Json) -> dict[str, Json]:
    """Every operation of the document."""
    return {_key(method, path): each for path, item in document["paths"].items() for method, each in item.items()}


@pytest.fixture
def clients(stand_in: StandIn) -> Iterator[tuple[WalletClient, AdminClient]]:
    with WalletClient(stand_in.url, user_id=1) as wallet, AdminClient(stand_in.url, password="secret") as admin:
        yield wallet, admin


KNOWN: dict[str, Operation[Any]] = {}
for _operation in ALL:
    KNOWN.setdefault(_key(_operation.method, _operation.path), _operation)


def test_every_call_of_the_document_is_there_and_no_other(documented: dict[str, Json]) -> None:
    assert set(CALLS) == set(KNOWN) == set(documented)


def test_every_field_and_parameter_of_the_document_is_sent(
    document: Json, documented: dict[str, Json], stand_in: StandIn, clients: tuple[WalletClient, AdminClient]
) -> None:
    differing = {}
    for key, operation in documented.items():
        stand_in.heard.clear()
        _answer_as(stand_in, operation)
        CALLS[key](*clients)
        sent = set().union(*(each.names for each in stand_in.heard))
        known = _names(document, operation)
        if sent ^ known:
            differing[key] = sent ^ known
    assert differing == {}


def test_what_moves_money_goes_under_a_key_and_nothing_else_does(
    document: Json, documented: dict[str, Json], stand_in: StandIn, clients: tuple[WalletClient, AdminClient]
) -> None:
    takes = {key for key, each in documented.items() if "Idempotency-Key" in _parameters(document, each, "header")}
    assert {key for key, each in KNOWN.items() if each.moves_money} == takes
    keys = []
    for key, operation in documented.items():
        stand_in.heard.clear()
        _answer_as(stand_in, operation)
        CALLS[key](*clients)
        sent = [each.headers["Idempotency-Key"] for each in stand_in.heard if "Idempotency-Key" in each.headers]
        assert bool(sent) == (key in takes)
        keys += sent
    assert len(set(keys)) == len(takes), "each has one of its own"


def test_every_field_of_every_answer_is_known(document: Json, documented: dict[str, Json]) -> None:
    unknown: list[str] = []
    for key, operation in documented.items():
        content = _content(operation)
        unknown += _unknown(document, content["schema"], KNOWN[key].answer, key)
    assert unknown == []


def test_every_example_of_the_document_is_read_as_it_is_written(
    documented: dict[str, Json], stand_in: StandIn, clients: tuple[WalletClient, AdminClient]
) -> None:
    for key, operation in documented.items():
        example = _answer_as(stand_in, operation)
        found: Any = CALLS[key](*clients)
        # Of some the only thing that they tell is returned; that something is gone needs no word.
        if only := {"POST /api/dead-letters/v1/requeue": "requeued", "GET /api/webhooks/v1": "webhooks"}.get(key):
            example = example[only]
        found = found[0] if key == "POST /api/webhooks/v1/{}/replay" else found  # asked for in both ways
        assert (found is None) if key == "DELETE /api/webhooks/v1/{}" else _is_same(example, found), (key, found)


def test_all_that_the_iterators_walk_through_comes_page_by_page(
    stand_in: StandIn, clients: tuple[WalletClient, AdminClient]
) -> None:
    wallet, admin = clients
    walks: list[tuple[str, Json, Callable[[], Iterator[object]]]] = [
        ("transfers", _TRANSFER, lambda: wallet.transfers(reference="INV-1", page_size=1)),
        ("actions", _ACTION, lambda: admin.actions(page_size=1)),
    ]
    for name, one, walk in walks:
        stand_in.heard.clear()
        stand_in.answer = json.dumps({name: [one], **_LAST_PAGE, "has_more": True, "next_cursor": "8"}).encode()
        found = walk()
        first = next(found)
        stand_in.answer = json.dumps({name: [one, one], **_LAST_PAGE}).encode()
        assert [first, *found] == [first] * 3
        assert ["cursor=8" in heard.target for heard in stand_in.heard] == [False, True]


def test_a_statement_comes_as_a_file_too(stand_in: StandIn, clients: tuple[WalletClient, AdminClient]) -> None:
    stand_in.answer = b"transaction_id,amount\n1-1,67\n"
    wallet, admin = clients
    assert wallet.statement_csv(*_NOVEMBER) == admin.statement_csv(1, *_NOVEMBER) == stand_in.answer.decode()
    assert [heard.names - {"from", "to", "format"} for heard in stand_in.heard] == [set(), {"user_id"}]


def test_one_of_two_is_replayed(stand_in: StandIn, clients: tuple[WalletClient, AdminClient]) -> None:
    with pytest.raises(ValueError, match="one of since and event_id"):
        clients[1].replay_webhook(5)
    assert stand_in.heard == []


def test_what_a_newer_service_says_besides_is_left_out(
    stand_in: StandIn, clients: tuple[WalletClient, AdminClient]
) -> None:
    stand_in.answer = b'{"balance": 7, "frozen": null, "currency": "EUR"}'
    assert clients[0].balance().balance == 7


def _answer_as(stand_in: StandIn, operation: Json) -> Any:
    example = _content(operation)["example"]
    stand_in.status = int(_success(operation)[0])
    stand_in.answer = example.encode() if isinstance(example, str) else json.dumps(example).encode()
    return example


def _success(operation: Json) -> tuple[str, Json]:
    return next((status, each) for status, each in operation["responses"].items() if status.startswith("2"))


def _content(operation: Json) -> Json:
    """Return what an operation answers, as JSON where it can be that; nothing, if it answers nothing."""
    kinds: dict[str, Json] = _success(operation)[1].get("content", {})
    return kinds.get("application/json") or next(iter(kinds.values()), {"schema": {}, "example": None})


def _resolve(document: Json, schema: Json) -> Json:
    while "$ref" in schema:
        found: Any = document
        for name in schema["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        schema = found
    return schema


def _parameters(document: Json, operation: Json, place: str) -> set[str]:
    given = [_resolve(document, each) for each in operation["parameters"]]
    return {each["name"] for each in given if each["in"] == place}


def _names(document: Json, operation: Json) -> set[str]:
    body = operation.get("requestBody", {"content": {}})["content"].get("application/json", {"schema": {}})
    return _parameters(document, operation, "query") | set(_resolve(document, body["schema"]).get("properties", ()))


def _unknown(document: Json, schema: Json, kind: Any, path: str) -> list[str]:
    """Return the fields of a schema that a resource does not have, below what they are in."""
    schema = _resolve(document, schema)
    for one in ("anyOf", "allOf"):
        if one in schema:
            return [each for part in schema[one] for each in _unknown(document, part, kind, path)]
    if typing.get_origin(kind) is types.UnionType:
        (kind,) = [each for each in typing.get_args(kind) if each is not types.NoneType]
    if typing.get_origin(kind) is tuple:
        return _unknown(document, schema.get("items", {}), typing.get_args(kind)[0], f"{path}[]")
    if not dataclasses.is_dataclass(kind):
        return []
    kinds = {name.rstrip("_"): each for name, each in typing.get_type_hints(kind).items()}
    unknown = []
    for name, each in schema.get("properties", {}).items():
        unknown += (
            _unknown(document, each, kinds[name], f"{path} {name}") if name in kinds else [f"{path} {name} of {kind}"]
        )
    return unknown


def _is_same(example: Any, found: Any) -> bool:
    """Whether what was read is what was written: numbers of 64 bits, times and all."""
    if dataclasses.is_dataclass(found):
        return all(_is_same(each, _field(found, name)) for name, each in example.items())
    if isinstance(found, tuple):
        return len(example) == len(found) and all(map(_is_same, example, found))
    if isinstance(found, date):
        return type(found).fromisoformat(example) == found
    return example == found or (isinstance(found, int) and example == str(found))


def _field(found: Any, name: str) -> Any:
    return getattr(found, name) if hasattr(found, name) else getattr(found, f"{name}_")

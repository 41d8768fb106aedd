"""What is not well-formed is refused as such, whatever it is that is wrong, and moves nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.calls import MAX_INT64
from tests.api.grpc.conftest import Shared
from tests.api.grpc.refusals import AMOUNTS, EVERY_CALL, TRANSFERS, Ask, asks, pays, refused
from tests.api.grpc.server import MOVES, GrpcServer, fund
from tests.conftest import Books
from wallet.v1.wallet_pb2 import AmountRequest, TransactionsRequest, TransferRequest

LIMIT = 300
# A field that the contract does not have, of each kind that the wire has.
UNKNOWN = {
    "varint": b"\xf8\x07\x01",  # field 127
    "64 bits": b"\xf9\x07" + bytes(8),
    "bytes": b"\xfa\x07\x01x",
    "group": b"\xfb\x07\xfc\x07",
    "32 bits": b"\xfd\x07" + bytes(4),
    "the largest number": b"\xf8\xff\xff\xff\x0f\x01",
    "our first, of another kind": b"\x0a\x01x",
}
MALFORMED = {
    "cut off": b"\x08",
    "noise": b"\xff\xff\xff",
    "field 0": b"\x00\x01",
    "a length beyond the end": b"\x12\x7fx",
    "a group that does not end": b"\x0b",
    "text that is none": b"\x12\x02\xc3\x28",
}
# As in REST, of which the tests have more.
TOO_LONG: dict[str, Any] = {"description": "d" * 141, "reference": "r" * 65, "metadata": {"a": "b" * 501}}
BAD: dict[str, Ask] = {
    **{
        f"{method}: {name}": asks(
            method, pays(**{name: value}) if method in TRANSFERS else AmountRequest(amount=1, **{name: value})
        )
        for method in MOVES
        for name, value in TOO_LONG.items()
    },
    "what is waited for is planned": asks("Transfer", pays(not_before="2026-01-01T00:00:00Z")),
    **{
        f"planned for {instant}": asks("EnqueueTransfer", pays(not_before=instant))
        for instant in ("9999-01-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01", "soon", " ")
    },
    **{
        f"{method}: {destination} is no destination": asks(method, pays(destination_user_id=destination))
        for method in TRANSFERS
        for destination in (0, -1, -MAX_INT64)
    },
    # As in REST: an amount has a code of its own only where nothing else is wrong.
    "neither destination nor amount": asks("Transfer", TransferRequest()),
    **{
        f"{name} given twice": asks("GetBalance", metadata=[(name, "1"), (name, "1")], user=None)
        for name in ("authorization", "idempotency-key")
    },
    **{f"the key {key[:4]!r}": asks("Deposit", MOVES["Deposit"], key=key) for key in ("", " ", "k" * 256)},
    **{
        f"a history by {fields}": asks("ListTransactions", TransactionsRequest(**fields))
        for fields in (
            {"cursor": "x"},
            {"cursor": "0"},
            {"cursor": "-1"},
            {"cursor": "1.0"},
            {"cursor": " 1"},
            {"cursor": "9" * 19},
            {"cursor": "1" * 20},
            {"cursor": "\u0661"},
            {"page": -1},
            {"page": -(2**31)},
            {"page_size": -1},
            {"page_size": 101},
            {"page_size": 2**31 - 1},
            {"type": -1},
            {"type": 4},
            {"type": 2**31 - 1},
        )
    },
    **{
        f"{method}: unknown, {kind}": asks(method, message.SerializeToString() + more)
        for method, message in EVERY_CALL.items()
        for kind, more in UNKNOWN.items()
        if not (kind == "our first, of another kind" and method == "GetBalance")  # it has none
    },
    **{
        f"{method}: {kind}": asks(method, raw)
        for method in EVERY_CALL
        for kind, raw in MALFORMED.items()
        if method in MOVES or kind != "text that is none"
    },
}


@pytest.mark.parametrize("ask", BAD.values(), ids=BAD)
def test_what_is_not_well_formed_is_refused_and_moves_nothing(
    server: GrpcServer, books: Callable[[], Books], ask: Ask
) -> None:
    before = books()
    refused(ask(server), "bad_input")
    assert books() == before


@pytest.mark.parametrize("amount", [0, -1, -67, -MAX_INT64 - 1])
@pytest.mark.parametrize("method", MOVES)
def test_an_amount_that_is_none_is_refused(
    server: GrpcServer, books: Callable[[], Books], method: str, amount: int
) -> None:
    before = books()
    message = pays(amount=amount) if method in TRANSFERS else AmountRequest(amount=amount)
    refused(server.ask(method, message, key="k"), "invalid_amount")
    assert books() == before
    assert server.ask(method, MOVES[method], key="k").message  # it has bound no key


def padded(message: bytes, size: int) -> bytes:
    """Fill a message up with a field that nobody knows."""
    filler = size - len(message) - 4  # two bytes that name the field, two of its length
    return message + b"\xfa\x07" + bytes([filler % 128 + 128, filler // 128]) + b"x" * filler


@pytest.mark.parametrize("method", EVERY_CALL)
def test_a_message_may_be_so_large_and_not_a_byte_larger(
    shared: Shared, books: Callable[[], Books], method: str
) -> None:
    server = shared(MAX_BODY_BYTES=str(LIMIT))
    fund(server, 1, 2)
    before = books()
    message = EVERY_CALL[method].SerializeToString()
    refused(server.ask(method, padded(message, LIMIT)), "bad_input")  # it is read
    for size in (LIMIT + 1, 16_000):
        refused(server.ask(method, padded(message, size)), "payload_too_large")
    assert books() == before


@pytest.mark.parametrize("method", AMOUNTS)
def test_a_message_is_as_large_as_it_was_sent(shared: Shared, books: Callable[[], Books], method: str) -> None:
    """Of a field that is given again and again the last counts: what is read of it has two bytes."""
    server = shared(MAX_BODY_BYTES=str(LIMIT))
    fund(server, 1)
    before = books()
    refused(server.ask(method, b"\x08\x01" * (LIMIT // 2 + 1)), "payload_too_large")
    assert books() == before
    assert server.ask(method, b"\x08\x01" * (LIMIT // 2)).message


def test_beyond_all_bounds_grpc_itself_refuses(server: GrpcServer, books: Callable[[], Books]) -> None:
    before = books()
    for size, code in (
        (262_144, "INVALID_ARGUMENT"),
        (262_145, "RESOURCE_EXHAUSTED"),
        (4_000_000, "RESOURCE_EXHAUSTED"),
    ):
        assert server.ask("Deposit", b"\x08\x01" * (size // 2) + b"x" * (size % 2)).code.name == code
    assert books() == before

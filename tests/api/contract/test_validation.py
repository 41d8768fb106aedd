"""What is not well-formed is refused by name, and moves nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.api.calls import (
    BALANCE,
    DEPOSIT,
    HISTORY,
    JOBS,
    MAX_INT64,
    MOVES,
    TRANSFER,
    TRANSFER_LATER,
    WITHDRAW,
    accept,
    answer,
    ask,
    get,
    post,
    problem,
)
from tests.conftest import Books

EVERY_MOVE = pytest.mark.parametrize("path", MOVES)
TRANSFERS = (TRANSFER, TRANSFER_LATER)


@pytest.fixture
def refused(funded: FlaskClient, books: Callable[[], Books]) -> Callable[..., str]:
    """Post something and see it refused under a code, with nothing moved; returns what the problem says."""

    def check(path: str, body: Any, code: str, **options: Any) -> str:
        before = books()
        found = problem(post(funded, path, body, **options), code)
        assert books() == before
        return str(found["detail"])

    return check


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"amount=67",
        b"{",
        b'{"amount": 67',
        b'{"amount": 67}}',
        b"{'amount': 67}",
        b'{"amount": NaN}',
        b'{"amount": Infinity}',
        b'{"amount": -Infinity}',
        b'{"amount": NaN, "x": 1e400}',
        b'{"amount": 067}',
        b'{"amount": +67}',
        b'{"amount": 0x43}',
        b'{"amount": 67} // cents',
        b'\xff\xfe{"amount": 67}',
        '{"amount": 67}'.encode("utf-16"),
        b'{"amount\xff": 67}',
        b'{"amount": 1e400, "\xff": 1}',
        rb'{"\ud800": 67}',
        rb'{"\ud800": 1e400}',
        b"[" * 8_000,
        b"[" * 8_000 + b"1e400",
        b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
        b"[" * 2_000 + b"1e400" + b"]" * 2_000,
    ],
    ids=repr,
)
def test_what_is_not_json_is_refused(refused: Callable[..., str], body: bytes) -> None:
    for path in MOVES:
        refused(path, body, "bad_input")


@pytest.mark.parametrize(
    "body",
    [b"null", b"true", b"67", b'"67"', b"[]", b'[{"amount": 67}]', b"[1e400]", b"1e400", b"9" * 5_000],
    ids=lambda body: repr(body[:20]),
)
def test_json_that_is_no_object_is_refused(refused: Callable[..., str], body: bytes) -> None:
    for path in MOVES:
        refused(path, body, "bad_input")


@pytest.mark.parametrize(
    "body",
    [
        b'{"amount": 1, "amount": 500}',
        b'{"amount": 500, "amount": 500}',
        b'{"amount": 1, "\\u0061mount": 500}',
        b'{"amount":1,"destination_user_id":2,"amount":1}',
        b'{"amount"\n:\t1, "amount" :500}',
        b'{"amount": 1e400, "amount": 500}',
        b'{"amount": 500, "amount": 1e400}',
        b'{"amount": 1, "x": {"a": 1, "a": 2}}',
        b'{"amount": 1, "x": [[{"a": 1}, {"a": 1, "b": {"": 1, "": 1}}]]}',
        b'{"a:b": 1, "a:b": 1}',
        '{"\N{GRINNING FACE}": 1, "\\ud83d\\ude00": 1}'.encode(),
    ],
    ids=repr,
)
def test_a_name_that_stands_there_twice_is_refused(refused: Callable[..., str], body: bytes) -> None:
    for path in MOVES:
        assert "must be given once" in refused(path, body, "bad_input")


@pytest.mark.parametrize("value", [b'"a:b:c"', b'{"amount": 1}', b'[{"a": 1}, {"a": 1}]', b'{"a": {"a": 1}}', b'":"'])
def test_names_of_different_objects_and_colons_in_text_are_no_repetition(
    refused: Callable[..., str], value: bytes
) -> None:
    for path in MOVES:
        found = refused(path, b'{"amount": 1, "destination_user_id": 2, "x": %b}' % value, "bad_input")
        assert "must be given once" not in found


@EVERY_MOVE
def test_a_missing_field_is_named(refused: Callable[..., str], path: str) -> None:
    for name in MOVES[path]:
        assert name in refused(path, {key: value for key, value in MOVES[path].items() if key != name}, "bad_input")
    refused(path, {}, "bad_input")


@pytest.mark.parametrize(
    "name", ["x", "Amount", "user_id", "currency", "", "a" * 1_000, "\N{GRINNING FACE}", "__class__"]
)
def test_an_unknown_field_is_named(refused: Callable[..., str], name: str) -> None:
    for path, body in MOVES.items():
        assert name[:64] in refused(path, body | {name: 1}, "bad_input")


@pytest.mark.parametrize("path", [DEPOSIT, WITHDRAW])
def test_a_destination_is_unknown_where_there_is_none(refused: Callable[..., str], path: str) -> None:
    refused(path, {"amount": 67, "destination_user_id": 2}, "bad_input")


@pytest.mark.parametrize(
    "destination",
    [
        b"0",
        b"-1",
        b"2.0",
        b"true",
        b"null",
        b"[2]",
        b'{"id": 2}',
        b'""',
        b'"0"',
        b'"-2"',
        b'"2.0"',
        b'" 2"',
        b'"2 "',
        b'"2_0"',
        b'"0x2"',
        b'"two"',
        '"٢"'.encode(),
        b"9223372036854775808",  # 2^63
        b'"9223372036854775808"',
        b"1e400",
        b"9" * 5_000,
        b'"' + b"9" * 5_000 + b'"',
    ],
    ids=lambda value: repr(value[:30]),
)
def test_an_ill_typed_destination_is_named(refused: Callable[..., str], destination: bytes) -> None:
    body = b'{"destination_user_id": ' + destination + b', "amount": 67}'
    for path in TRANSFERS:
        assert "destination_user_id" in refused(path, body, "bad_input")


@pytest.mark.parametrize(
    "amount",
    [
        b"0",
        b"-1",
        b"-9223372036854775808",
        b"9223372036854775808",  # 2^63
        b"18446744073709551616",  # 2^64
        b"1.0",
        b"1.5",
        b"1e2",
        b"-0.0",
        b"1e400",
        b"-1e400",
        b"9" * 400,
        b"9" * 5_000,
        b'"5"',
        b'""',
        b"true",
        b"false",
        b"null",
        b"[]",
        b"[67]",
        b"{}",
        b'{"cents": 67}',
    ],
    ids=lambda value: repr(value[:30]),
)
def test_an_amount_that_is_no_integer_from_1_to_int64_is_invalid(refused: Callable[..., str], amount: bytes) -> None:
    for path in MOVES:
        rest = b', "destination_user_id": 2' if path in TRANSFERS else b""
        assert "amount" in refused(path, b'{"amount": ' + amount + rest + b"}", "invalid_amount")


@EVERY_MOVE
def test_the_largest_amount_is_well_formed(funded: FlaskClient, path: str) -> None:
    code = "balance_overflow" if path == DEPOSIT else "balance_insufficient"
    problem(post(funded, path, MOVES[path] | {"amount": MAX_INT64}), code)


@EVERY_MOVE
def test_a_wrong_amount_beside_another_mistake_is_bad_input(refused: Callable[..., str], path: str) -> None:
    refused(path, MOVES[path] | {"amount": 0, "x": 1}, "bad_input")


def utf8(key: str) -> str:
    """A key as WSGI has it when a client has sent UTF-8."""
    return key.encode().decode("latin-1")


@pytest.mark.parametrize("key", ["", "k" * 256, "k" * 5_000, "\xe9" * 256, utf8("\u20ac" * 256)], ids=len)
def test_an_idempotency_key_has_1_to_255_characters(refused: Callable[..., str], key: str) -> None:
    for path, body in MOVES.items():
        assert "Idempotency-Key" in refused(path, body, "bad_input", key=key)


@pytest.mark.parametrize("key", ["\x01", "a\tb", "\x7f", "a\x00", "\x85", "a\x9f", "\xc2\x85"], ids=repr)
def test_an_idempotency_key_has_no_control_characters(refused: Callable[..., str], key: str) -> None:
    for path, body in MOVES.items():
        assert "control" in refused(path, body, "bad_input", key=key)


# As a header spells text: a character of WSGI's is a byte.
def _spelled(text: str, encoding: str = "utf-8") -> str:
    return text.encode(encoding).decode("latin-1")


@pytest.mark.parametrize("character", ["\xe9", "\N{EURO SIGN}", "\N{GRINNING FACE}"])
def test_a_key_is_as_long_as_it_has_characters(
    funded: FlaskClient, refused: Callable[..., str], character: str, books: Callable[[], Books]
) -> None:
    refused(DEPOSIT, {"amount": 1}, "bad_input", key=_spelled(character * 256))
    answer(post(funded, DEPOSIT, {"amount": 1}, key=_spelled(character * 255)))
    after = books()
    assert post(funded, DEPOSIT, {"amount": 1}, key=_spelled(character * 255)).headers["Idempotency-Replayed"] == "true"
    assert books() == after


def test_a_key_is_the_same_in_the_encoding_of_old(funded: FlaskClient) -> None:
    first = post(funded, DEPOSIT, {"amount": 1}, key=_spelled("caf\xe9"))
    again = post(funded, DEPOSIT, {"amount": 1}, key=_spelled("caf\xe9", "latin-1"))
    assert answer(again) == answer(first)
    assert again.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("key", ["k", "k" * 255, "a key, with spaces; & \"quotes'", "caf\xe9", "\xa0\xff", "%s %(id)s"])
def test_every_key_of_1_to_255_characters_is_taken(funded: FlaskClient, key: str) -> None:
    first = post(funded, TRANSFER_LATER, MOVES[TRANSFER_LATER], key=key)
    again = post(funded, TRANSFER_LATER, MOVES[TRANSFER_LATER], key=key)
    assert answer(again, 202) == answer(first, 202)
    assert again.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/xml", "*/*", ""]
)
def test_a_body_that_is_not_called_json_is_refused(refused: Callable[..., str], media_type: str) -> None:
    for path, body in MOVES.items():
        refused(path, body, "unsupported_media_type", headers={"Content-Type": media_type})


@pytest.mark.parametrize("coding", ["gzip", "br", "chunked", "utf-8", "gzip, identity"])
def test_a_body_in_a_coding_that_nobody_undoes_is_refused(refused: Callable[..., str], coding: str) -> None:
    for path, body in MOVES.items():
        refused(path, body, "unsupported_media_type", headers={"Content-Encoding": coding})


def test_a_body_may_be_said_to_be_as_it_is(funded: FlaskClient) -> None:
    for path, body in MOVES.items():
        assert post(funded, path, body, headers={"Content-Encoding": "Identity"}).status_code in {200, 202}


@EVERY_MOVE
def test_a_body_without_a_media_type_is_refused(funded: FlaskClient, books: Callable[[], Books], path: str) -> None:
    before = books()
    problem(ask(funded, "POST", path), "unsupported_media_type")
    assert books() == before


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_may_name_its_charset(funded: FlaskClient, media_type: str) -> None:
    for path, body in MOVES.items():
        assert post(funded, path, body, headers={"Content-Type": media_type}).status_code in {200, 202}


@EVERY_MOVE
def test_a_body_that_is_too_large_is_refused(refused: Callable[..., str], path: str) -> None:
    refused(path, b" " * 16_385, "payload_too_large")


@EVERY_MOVE
def test_a_body_of_the_largest_size_is_read(funded: FlaskClient, path: str) -> None:
    body = b'{"destination_user_id": 2, "amount": 67}' if "transfer" in path else b'{"amount": 67}'
    assert post(funded, path, body.ljust(16_384)).status_code in {200, 202}


UNKNOWN = ("x=1", "x", "=1", "%ff=1", "Page=1", "amount=67", "x[]=1&x[]=2", "%f0%9f%98%80=1")


@pytest.mark.parametrize("path", [*MOVES, BALANCE, HISTORY, f"{JOBS}/JOB", "/healthz", "/readyz"])
def test_an_unknown_query_parameter_is_refused_on_every_route(
    funded: FlaskClient, books: Callable[[], Books], path: str
) -> None:
    url = path.replace("JOB", accept(funded))
    before = books()
    for query in UNKNOWN:
        response = ask(funded, "POST" if path in MOVES else "GET", f"{url}?{query}", body=MOVES.get(path))
        problem(response, "bad_input")
    assert books() == before


@pytest.mark.parametrize(
    "path",
    [f"{HISTORY}?page=1&page=1", f"{HISTORY}?type=1&type=2", f"{HISTORY}?cursor=1&cursor=1", f"{JOBS}/1?wait=0&wait=0"],
)
def test_a_repeated_query_parameter_is_refused(funded: FlaskClient, path: str) -> None:
    assert "once" in problem(get(funded, path), "bad_input")["detail"]


NO_NUMBERS = (
    "",
    "-1",
    "abc",
    "1.5",
    "1.0",
    "1_0",
    "%201",
    "1e1",
    "0x1",
    "true",
    "null",
    "%D9%A1",
    "1%0a",
    "%00",
    "nan",
)


@pytest.mark.parametrize("name", ["page", "page_size", "type", "cursor"])
def test_a_history_parameter_that_is_no_number_is_named(funded: FlaskClient, name: str) -> None:
    for value in (*NO_NUMBERS, "9" * 20, "9" * 4_000):
        assert name in problem(get(funded, f"{HISTORY}?{name}={value}"), "bad_input")["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "page=0",
        "page_size=0",
        "page_size=101",
        "type=4",
        "cursor=0",
        "cursor=9223372036854775808",
        "page=1000000000001",
    ],
)
def test_a_history_parameter_out_of_its_range_is_refused(funded: FlaskClient, query: str) -> None:
    assert query.partition("=")[0] in problem(get(funded, f"{HISTORY}?{query}"), "bad_input")["detail"]

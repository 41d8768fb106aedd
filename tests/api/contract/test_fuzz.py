"""Whatever is sent, the answer is one that the contract knows, and the books still balance."""

import json
from collections.abc import Callable
from typing import Any

from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.contract.finding import TransfersQuery
from tests.api.calls import (
    ADMIN,
    BALANCE,
    DEPOSIT,
    HISTORY,
    JOBS,
    MAX_INT64,
    MOVES,
    STATUS_OF,
    TRANSFER,
    WITHDRAW,
    decode,
    fund,
    post,
)
from tests.conftest import Books


def environ(headers: dict[str, str]) -> dict[str, str]:
    """Spell headers as WSGI does, past the client's own checks."""
    spelled = {name.upper().replace("-", "_"): value for name, value in headers.items()}
    return {name if name == "CONTENT_TYPE" else f"HTTP_{name}": value for name, value in spelled.items()}


# Both servers are up, so not even the contract's two kinds of 503 are right.
ANSWERS = {200, 202} | {status for status in STATUS_OF.values() if status < 500}
# A server's own parser lets no other characters into a header.
_in_headers = st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n"), max_size=300)
_integers = st.one_of(
    st.sampled_from([0, 1, -1, 2, 67, 10_000, 2**53 + 1, MAX_INT64, MAX_INT64 + 1, 2**64]), st.integers()
)
_scalars = st.one_of(st.none(), st.booleans(), _integers, st.floats(), st.text(max_size=20), _integers.map(str))
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
_names = st.one_of(st.sampled_from(["amount", "destination_user_id"]), st.text(max_size=10))
_wallets = st.sampled_from([1, 2, 3])
_good = st.fixed_dictionaries({"amount": st.integers(1, 20_000)}, optional={"destination_user_id": _wallets})
_bodies = st.one_of(
    _good.map(lambda body: json.dumps(body).encode()),
    st.dictionaries(_names, _values, max_size=3).map(lambda body: json.dumps(body).encode()),
    _values.map(lambda body: json.dumps(body, ensure_ascii=False).encode(errors="surrogatepass")),
    st.binary(max_size=200),
    st.just(b" " * 20_000),
)
FIND, STATEMENTS = "/api/transfers/v1", "/api/statements/v1"
_segments = st.one_of(st.integers(-1, 2**64).map(str), st.text(st.characters(codec="utf-8"), max_size=10))
_paths = st.one_of(
    st.sampled_from(
        [*MOVES, BALANCE, HISTORY, "/healthz", "/readyz", "/api/dead-letters/v1", "/api/dead-letters/v1/requeue"]
    ),
    st.sampled_from([FIND, STATEMENTS]),
    _segments.map(lambda segment: f"{FIND}/{segment}"),
    _segments.map(lambda segment: f"{JOBS}/{segment}"),
    _segments.map(lambda segment: f"/api/dead-letters/v1/{segment}/requeue"),
    st.lists(_segments, max_size=4).map(lambda segments: "/" + "/".join(segments)),
)
_queries: st.SearchStrategy[dict[str, str]] = st.one_of(
    st.just({}),
    st.dictionaries(
        st.one_of(
            st.sampled_from(
                ["type", "page", "page_size", "cursor", "at", "from", "to", "format", *TransfersQuery.model_fields]
            ),
            st.text(st.characters(codec="utf-8"), max_size=5),
        ),
        st.one_of(
            st.integers(-1, 10).map(str),
            _integers.map(str),
            st.sampled_from(["2026-11-01", "2026-12-01", "2026-11-01T00:00:00Z", "1-1", "in", "json", "failed"]),
            st.text(st.characters(codec="utf-8"), max_size=10),
        ),
        max_size=4,
    ),
)
_headers = st.fixed_dictionaries(
    {},
    optional={
        "Authorization": st.one_of(_wallets.map(str), st.just(ADMIN), _in_headers),
        "Content-Type": st.one_of(st.just("application/json"), st.just("application/json; charset=\xff"), _in_headers),
        "Idempotency-Key": st.one_of(st.sampled_from(["a", "b"]), _in_headers),
        "X-Request-ID": _in_headers,
        "traceparent": _in_headers,
        "Accept": _in_headers,
        "Range": _in_headers,
        "Expect": _in_headers,
        "Content-Encoding": _in_headers,
    },
)
_likely_headers = st.fixed_dictionaries(
    {"Authorization": _wallets.map(str), "Content-Type": st.just("application/json")},
    optional={"Idempotency-Key": st.sampled_from(["a", "b", "c"])},
)


_methods = st.one_of(
    st.sampled_from(["GET", "POST"]), st.sampled_from(["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "X"])
)
_requests = st.fixed_dictionaries(
    {
        "method": _methods,
        "query_string": _queries,
        "data": _bodies,
        "environ_overrides": st.builds(
            lambda headers, path: environ(headers) | {"PATH_INFO": path.encode().decode("latin-1")},
            st.one_of(_headers, _likely_headers),
            _paths,
        ),
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings().max_examples * 5)
@given(sent=_requests)
def test_no_request_gets_an_answer_that_the_contract_does_not_know(
    funded: FlaskClient, books: Callable[[], Books], sent: dict[str, Any]
) -> None:
    before = books()
    response = funded.open("/", **sent)
    assert response.status_code in ANSWERS, response.data
    if response.status_code >= 400 and sent["method"] != "HEAD":
        found = decode(response.data)
        assert STATUS_OF[found["code"]] == response.status_code == found["status"]
        assert response.content_type == "application/problem+json"
    after = books()
    if response.status_code >= 400 or sent["method"] != "POST":
        assert after == before
    assert_balanced(after)


_amounts = st.integers(1, 6_000)
_calls = st.one_of(
    st.tuples(st.sampled_from([DEPOSIT, WITHDRAW]), st.fixed_dictionaries({"amount": _amounts})),
    st.tuples(st.just(TRANSFER), st.fixed_dictionaries({"amount": _amounts, "destination_user_id": _wallets})),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=st.lists(st.tuples(_calls, st.sampled_from([1, 2]), st.sampled_from(["a", "b", None])), max_size=12))
def test_no_sequence_of_calls_makes_or_loses_money(
    client: FlaskClient,
    books: Callable[[], Books],
    calls: list[tuple[tuple[str, dict[str, int]], int, str | None]],
) -> None:
    fund(client, 1, 2)
    for (path, body), user, key in calls:
        assert post(client, path, body, user=user, key=key).status_code in {200, 404, 422}
    assert_balanced(books())


def assert_balanced(books: Books) -> None:
    """Every balance is the sum of its entries, and what its last entry says."""
    sums: dict[int, int] = dict.fromkeys(books.wallets, 0)
    last: dict[int, int] = dict(sums)
    for wallet_id, _, amount, balance_after in books.entries:
        sums[wallet_id] += amount
        last[wallet_id] = balance_after
        assert sums[wallet_id] == balance_after
        assert 0 <= balance_after <= MAX_INT64
    assert sums == last == books.wallets

"""What comes beside a message: peers, what is given twice, bytes; and gRPC's codes for all of the contract's."""

import grpc
import pytest

from api.access.limits import Limits
from api.calls.call import Call
from api.calls.problems import PROBLEMS, ApiError
from api.calls.tracing import Trace
from api.edge.proxies import Proxies
from api.grpc.metadata import Sent, initial, status_code
from config.values import read_networks

PROXY, CLIENT, SPOOFED = "10.0.0.1", "198.51.100.7", "203.0.113.9"
TRACE = Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "01", "r1")


def address_of(peer: str, *pairs: tuple[str, str], trusted: str = "") -> str:
    call = Sent(pairs).begin_call(peer, Proxies(read_networks(trusted) if trusted else ()))
    return call.find_address()


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:5000", "127.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("ipv6:[::1]:5000", "::1"),
        ("ipv6:%5B2001:db8::7%5D:5000", "2001:db8::7"),
        ("ipv6:%5B::ffff:198.51.100.7%5D:5000", "::ffff:198.51.100.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "fe80::1%eth0"),
        ("unix:", ""),
        ("unix:/run/wallet.sock", ""),
        ("unix-abstract:wallet", ""),
        ("", ""),
    ],
)
def test_where_a_call_comes_from_is_its_connection(peer: str, address: str) -> None:
    assert address_of(peer) == address


@pytest.mark.parametrize("peer", [f"ipv4:{PROXY}:5000", f"ipv6:%5B::ffff:{PROXY}%5D:5000", "ipv6:%5Bfd00::1%5D:1"])
@pytest.mark.parametrize(
    ("pairs", "address"),
    [
        ([("x-forwarded-for", CLIENT)], CLIENT),
        ([("x-forwarded-for", f"{SPOOFED}, {CLIENT}")], CLIENT),
        ([("x-forwarded-for", SPOOFED), ("x-forwarded-for", CLIENT)], CLIENT),  # each proxy may add a field of its own
        ([("forwarded", f"for={CLIENT}")], CLIENT),
        ([("forwarded", 'for="[2001:db8::7]:51234"')], "2001:db8::7"),
    ],
)
def test_a_trusted_proxy_says_where_a_call_comes_from(peer: str, pairs: list[tuple[str, str]], address: str) -> None:
    assert address_of(peer, *pairs, trusted="10.0.0.0/8, fd00::/8") == address
    assert address_of(f"ipv4:{SPOOFED}:5000", *pairs, trusted="10.0.0.0/8") == SPOOFED  # not one of them
    assert address_of(f"ipv4:{SPOOFED}:5000", *pairs) == SPOOFED


@pytest.mark.parametrize(
    "said", [[("x-forwarded-for", "unknown")], [("x-forwarded-for", CLIENT), ("forwarded", "for=x")]]
)
def test_a_proxy_that_cannot_be_read_is_the_caller_itself(said: list[tuple[str, str]]) -> None:
    assert address_of(f"ipv4:{PROXY}:5000", *said, trusted="10.0.0.0/8") == PROXY


@pytest.mark.parametrize("name", ["authorization", "idempotency-key"])
def test_what_can_be_meant_only_once_is_refused_twice(name: str) -> None:
    Sent([(name, "1")]).check()
    Sent([(name, "1"), ("traceparent", "x"), ("traceparent", "x")]).check()
    with pytest.raises(ApiError, match="must be given once") as refused:
        Sent([(name, "1"), ("x", "y"), (name, "1")]).check()
    assert (refused.value.code, name in refused.value.detail) == ("bad_input", True)


def test_a_key_is_what_it_is_in_http_whose_values_have_no_blanks_around_them() -> None:
    for spelled in ("k 1", " k 1", "\tk 1 \t"):
        assert Sent([("idempotency-key", spelled)]).read_idempotency_key() == "k 1"
    assert Sent([]).read_idempotency_key() is None
    assert Sent([("idempotency-key", "k" * 255)]).read_idempotency_key() == "k" * 255


@pytest.mark.parametrize(
    "key", ["", " ", "k" * 256, "a\x00b", "a\tb", "a\x7f", "é", "ÿþ", "a\u2028b", "\N{GRINNING FACE}"]
)
def test_what_can_be_no_key_is_refused(key: str) -> None:
    with pytest.raises(ApiError) as refused:
        Sent([("idempotency-key", key)]).read_idempotency_key()
    assert refused.value.code == "bad_input"


def test_bytes_are_read_as_http_reads_them() -> None:
    sent = Sent([("x-bin", b"\xff a"), ("y", "é")])
    assert (sent.get("x-bin"), sent.get("y"), sent.get("z")) == ("\xff a", "é", None)


@pytest.mark.parametrize("code", PROBLEMS.keys() - {"method_not_allowed", "unsupported_media_type"})
def test_every_code_that_grpc_can_give_has_one_of_its_own(code: str) -> None:
    assert status_code(code) not in {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}


def test_what_goes_out_before_an_answer_is_all_that_it_tells_and_its_trace() -> None:
    call = Call(TRACE, None, lambda: CLIENT)
    call.tell("RateLimit-Policy", "p")
    call.tell("Idempotency-Replayed", "true")
    assert initial(call) == (
        ("ratelimit-policy", "p"),
        ("idempotency-replayed", "true"),
        ("x-request-id", "r1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    )


def test_nobody_looks_for_an_address_that_is_not_needed() -> None:
    """A lookup costs a call; without limits nobody counts by address."""
    call = Call(TRACE, "x", lambda: pytest.fail("looked"))
    Limits(None, None).count_bad_credentials(call)

"""A token is who it says it is only if our key, our algorithm, our issuer and the time agree."""

import base64
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from api.access import tokens
from api.access.callers import BadCredentials, Caller, find_user_id
from api.access.provider_keys import ProviderKeys
from api.access.tokens import LEEWAY_S, SharedSecret, TokenVerifier
from tests.api.access.provider import ISSUER, SECRET, SigningKey, claims, provider, sign, signed
from tests.api.calls import MAX_INT64

DAY_S = 86_400


def verifier(**settings: Any) -> TokenVerifier:
    return TokenVerifier(SharedSecret(SECRET), **settings)


def refusal(token: str, **settings: Any) -> str:
    """Return why a token is refused."""
    with pytest.raises(BadCredentials) as bad:
        verifier(**settings).verify(token)
    return bad.value.reason


def segment(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def now() -> int:
    return int(time.time())


def test_a_good_token_is_its_user() -> None:
    assert verifier().verify(signed()) == Caller(1)


@pytest.mark.parametrize("subject", ["1", "2", str(MAX_INT64), 1, MAX_INT64])
def test_the_subject_is_the_user_id(subject: str | int) -> None:
    assert verifier().verify(signed(sub=subject)).user_id == int(subject)


@pytest.mark.parametrize(
    "subject",
    [
        *("", "0", "-1", "+1", "01", "007", "1.0", "1e3", " 1", "1 ", "1\n", "0x1", "1_0", "\u0661", "alice"),
        *(str(2**63), "9" * 4_000, 0, -1, 2**63, 10**300, 1.0, 1.5, 1e300, True, False, [1], ["1"], {"id": 1}),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_any_other_subject_is_nobody(subject: object) -> None:
    assert refusal(signed(sub=subject)) == "The token's sub is not a user id, a positive integer."


@pytest.mark.parametrize("claim", ["sub", "exp"])
def test_without_subject_or_expiry_it_is_refused(claim: str) -> None:
    assert refusal(signed(**{claim: None})) == f"The token has no {claim}."
    assert refusal(jwt.encode(claims() | {claim: None}, SECRET)) == f"The token has no {claim}."


def test_what_has_expired_is_refused_a_few_seconds_later() -> None:
    assert verifier().verify(signed(exp=now() - 1)) == Caller(1)
    assert refusal(signed(exp=now() - LEEWAY_S - 1)) == "The token has expired."


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_what_is_not_valid_yet_is_refused(claim: str) -> None:
    assert verifier().verify(signed(**{claim: now() + 1})) == Caller(1)
    assert refusal(signed(**{claim: now() + 60})) == "The token is not valid yet."


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["soon", [], {}, float("inf"), float("nan")], ids=repr)
def test_a_time_that_is_none_is_refused(claim: str, value: object) -> None:
    assert refusal(signed(**{claim: value}))


@pytest.mark.parametrize("issuer", [None, "https://evil.example", ISSUER + "/", [ISSUER], 1])
def test_another_issuer_is_refused(issuer: object) -> None:
    assert verifier(issuer=ISSUER).verify(signed(iss=ISSUER)) == Caller(1)
    # Not by the library's own encoder, which is too careful to sign some of these.
    token = jwt.api_jws.encode(json.dumps(claims(iss=issuer)).encode(), SECRET, "HS256")
    assert "iss" in refusal(token, issuer=ISSUER)


@pytest.mark.parametrize("audience", ["wallet", ["other", "wallet"]])
def test_our_audience_may_be_one_of_several(audience: object) -> None:
    assert verifier(audience="wallet").verify(signed(aud=audience)) == Caller(1)


@pytest.mark.parametrize("audience", [None, "", "Wallet", "wallet2", ["other"], [], 1, {"wallet": 1}, [1, "wallet"]])
def test_another_audience_is_refused(audience: object) -> None:
    assert "aud" in refusal(signed(aud=audience), audience="wallet")


def test_without_an_audience_of_ours_a_token_with_one_is_for_somebody_else() -> None:
    assert refusal(signed(aud="wallet")) == "The token is for another audience."


@pytest.mark.parametrize(
    ("given", "scopes"),
    [
        ({}, set()),
        ({"scope": "deposit"}, {"deposit"}),
        ({"scope": "read deposit"}, {"read", "deposit"}),
        ({"scp": ["read", "deposit"]}, {"read", "deposit"}),
        ({"scp": "deposit", "scope": "read"}, {"read", "deposit"}),
        ({"scp": [1, None, "x"], "scope": {"deposit": True}}, {"x"}),
    ],
)
def test_scopes_are_read_from_either_claim(given: dict[str, object], scopes: set[str]) -> None:
    assert verifier().verify(signed(**given)).scopes - {""} == scopes


NONE = segment({"alg": "none"}) + "." + segment(claims()) + "."


@pytest.mark.parametrize(
    "token",
    [
        NONE,
        NONE.replace(segment({"alg": "none"}), segment({"alg": "None"})),
        segment({"alg": "none", "typ": "JWT"}) + "." + segment(claims()) + "." + signed().rpartition(".")[2],
        segment({}) + "." + segment(claims()) + "." + signed().rpartition(".")[2],
        segment({"alg": ["HS256"]}) + "." + segment(claims()) + "." + signed().rpartition(".")[2],
        sign(SECRET * 2, "HS512", claims()),
        sign(SECRET * 2, "HS384", claims()),
        SigningKey("k", "RS256").sign(),
        SigningKey("k", "ES256").sign(),
    ],
    ids=lambda token: repr(jwt.get_unverified_header(token).get("alg")),
)
def test_the_token_does_not_choose_the_algorithm(token: str) -> None:
    assert refusal(token) == "The token is not signed by an algorithm that is accepted here."


def test_another_secret_signs_nothing() -> None:
    assert refusal(sign("another secret of thirty-two bytes", "HS256", claims())) == "The token's signature is wrong."


def test_a_public_key_is_no_secret() -> None:
    key = SigningKey("k", "RS256")
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    public = key.private.public_key().public_bytes(encoding, form)
    signing_input = segment({"alg": "HS256", "kid": "k"}) + "." + segment(claims())
    # By hand: the library would not sign with it either.
    signature = hmac.digest(public, signing_input.encode(), "sha256")
    with provider(key) as running:
        keys = TokenVerifier(ProviderKeys(running.url, seats=1))
        assert keys.verify(key.sign()) == Caller(1)
        with pytest.raises(BadCredentials, match="algorithm"):
            keys.verify(f"{signing_input}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}")


def test_a_key_verifies_its_own_algorithm_only() -> None:
    one, other = SigningKey("one", "RS256"), SigningKey("other", "ES256")
    with provider(one, other) as running:
        keys = TokenVerifier(ProviderKeys(running.url, seats=1))
        with pytest.raises(BadCredentials):
            keys.verify(sign(other.private, "ES256", claims(), kid="one"))


@pytest.mark.parametrize(
    "token",
    [
        *("", ".", "..", "...", "a.b.c", "1", "null", "\xe9.\xe9.\xe9", "x" * 8_000, signed() + "x", signed() + ".x"),
        *(signed()[:-1], signed().replace(".", " "), " ".join(signed()), signed().rpartition(".")[0] + "."),
        *(segment([]) + ".x.x", segment({"alg": "HS256", "kid": 1}) + ".x.x"),
        segment({"alg": "HS256", "crit": ["exp"], "exp": 1}) + signed()[signed().index(".") :],
        *(jwt.api_jws.encode(b"[1]", SECRET), jwt.api_jws.encode(b"1" * 5_000, SECRET)),
    ],
    ids=lambda token: repr(token)[:16],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refusal(token)


@given(st.text(alphabet=st.characters(max_codepoint=255)))
def test_no_text_does_any_harm(text: str) -> None:
    assert refusal(text)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_token_changed_in_any_place_is_refused(place: int, byte: int) -> None:
    good = signed(exp=4_000_000_000)
    place %= len(good)
    changed = good[:place] + chr(byte) + good[place + 1 :]
    if changed != good:
        assert refusal(changed)


def test_a_refusal_repeats_nothing_of_the_token() -> None:
    content = claims(iss="somebody", jti="number")
    token = sign("another secret of thirty-two bytes", "HS256", content, kid="whose")
    for reason in (refusal(token), refusal(signed(sub="alice")), refusal(signed(iss="somebody"), issuer=ISSUER)):
        assert not any(word in reason for word in ("whose", "somebody", "number", "alice", *token.split(".")))
        assert '"' not in reason


def test_what_was_remembered_expires_all_the_same() -> None:
    clock_s = [time.time()]
    remembering = verifier(clock=lambda: clock_s[0])
    token = signed()
    assert remembering.verify(token) == remembering.verify(token) == Caller(1)
    clock_s[0] += DAY_S
    with pytest.raises(BadCredentials, match="expired"):
        remembering.verify(token)


def test_no_more_is_remembered_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_REMEMBERED", 2)
    remembering = verifier()
    for user in (1, 2, 3, 2, 1):
        assert remembering.verify(signed(sub=str(user))) == Caller(user)
        assert len(remembering._remembered) <= 2


def test_what_was_refused_is_not_remembered() -> None:
    remembering = verifier()
    for _ in range(2):
        with pytest.raises(BadCredentials):
            remembering.verify(signed(sub="0"))
    assert not remembering._remembered


@pytest.mark.parametrize(("text", "user_id"), [("1", 1), (str(MAX_INT64), MAX_INT64), (str(MAX_INT64 + 1), None)])
def test_a_user_id_has_64_bits(text: str, user_id: int | None) -> None:
    assert find_user_id(text) == user_id

"""An instant is what RFC 3339 calls one, and nothing else that looks like it."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from api.contract.instants import InstantIn, read_instant

INSTANT = TypeAdapter[datetime](InstantIn)


@pytest.mark.parametrize(
    ("spelled", "instant"),
    [
        ("2026-11-23T14:47:38Z", datetime(2026, 11, 23, 14, 47, 38, tzinfo=UTC)),
        ("2026-11-23t14:47:38z", datetime(2026, 11, 23, 14, 47, 38, tzinfo=UTC)),
        ("2026-11-23T14:47:38.1Z", datetime(2026, 11, 23, 14, 47, 38, 100_000, tzinfo=UTC)),
        ("2026-11-23T14:47:38.123456789Z", datetime(2026, 11, 23, 14, 47, 38, 123_456, tzinfo=UTC)),
        ("2026-11-23T00:30:00+01:00", datetime(2026, 11, 22, 23, 30, tzinfo=UTC)),
        ("2026-11-23T14:47:38-00:00", datetime(2026, 11, 23, 14, 47, 38, tzinfo=UTC)),
        # Leap seconds: those of RFC 3339, 5.8, and a fraction of one.
        ("1990-12-31T23:59:60Z", datetime(1991, 1, 1, tzinfo=UTC)),
        ("1990-12-31T15:59:60-08:00", datetime(1991, 1, 1, tzinfo=UTC)),
        ("1990-12-31T23:59:60.5Z", datetime(1991, 1, 1, tzinfo=UTC)),
    ],
)
def test_an_instant_is_read_in_utc(spelled: str, instant: datetime) -> None:
    found = INSTANT.validate_python(spelled)
    assert (found, found.utcoffset()) == (instant, timedelta(0))


@pytest.mark.parametrize(
    "spelled",
    [
        "", "now", "2026-11-23", "2026-11-23T14:47:38", "2026-11-23 14:47:38Z", "2026-11-23T14:47:38 01:00",
        "2026-11-23T14:47Z", "20261123T144738Z", "2026-W48-1T00:00:00Z", "2026-11-23T14:47:38+0100",
        "2026-02-30T00:00:00Z", "2026-11-23T24:00:00Z", "2026-11-23T14:47:38+24:00", "2026-11-23T14:47:38+01:60",
        "2026-11-23T23:58:60Z", "2026-11-23T23:59:61Z", "9999-12-31T23:59:60Z", "2026-11-23T14:47:38-00:99",
        "2026-11-23T14:47:38,5Z", "2026-11-23T14:47:38.Z", "2026-11-23T14:47:38.0123456789Z",
        "\u0662026-11-23T14:47:38Z",
        "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "2026-11-23T14:47:38Z\n",
        1_795_444_058, None, True, datetime(2026, 11, 23, tzinfo=UTC),
    ],
)  # fmt: skip
def test_what_only_looks_like_one_is_refused(spelled: object) -> None:
    with pytest.raises(ValidationError, match="RFC 3339"):
        INSTANT.validate_python(spelled)


@given(
    seconds=st.integers(-50 * 10**9, 250 * 10**9),
    offset_min=st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_whatever_python_spells_so_is_read_as_the_same(seconds: int, offset_min: int) -> None:
    aware = datetime.fromtimestamp(seconds, timezone(timedelta(minutes=offset_min)))
    assert read_instant(aware.isoformat()) == aware

"""What an id is made of."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from models.snowflake.layout import EPOCH_MS, LAST_MS, NODES, Parts, decode, encode, instant_of

instants = st.integers(EPOCH_MS, LAST_MS)
node_ids = st.integers(0, NODES - 1)
sequences = st.integers(0, 4095)


def test_an_id_is_41_bits_of_milliseconds_then_10_of_node_then_12_of_sequence() -> None:
    assert encode(EPOCH_MS, 0, 0) == 0
    assert encode(EPOCH_MS + 1, 2, 3) == (1 << 22) + (2 << 12) + 3
    assert encode(LAST_MS, NODES - 1, 4095) == 2**63 - 1


@given(instants, node_ids, sequences)
def test_an_id_tells_what_it_was_made_of(instant_ms: int, node: int, sequence: int) -> None:
    assert decode(encode(instant_ms, node, sequence)) == Parts(instant_ms, node, sequence)


@given(st.tuples(instants, node_ids, sequences), st.tuples(instants, node_ids, sequences))
def test_ids_sort_by_time_then_node_then_sequence(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert (encode(*one) < encode(*other)) == (one < other)


def test_the_instant_of_an_id_is_in_utc_and_exact_to_the_millisecond() -> None:
    one_day_and_a_millisecond = 86_400_000 + 1

    assert instant_of(encode(EPOCH_MS + one_day_and_a_millisecond, 1023, 4095)) == datetime(
        2026, 1, 2, 0, 0, 0, 1000, tzinfo=UTC
    )
    assert instant_of(0) == datetime(2026, 1, 1, tzinfo=UTC)
    assert instant_of(0).tzinfo is UTC

"""An order knows who gives it and what its idempotency key is bound to."""

from dataclasses import replace

import pytest

from models.ledger.transfer import Details, Kind, Order, Status
from tests.models.ledger.ordering import deposit, transfer, withdrawal


def test_the_payer_gives_the_order_and_the_depositor_a_deposit() -> None:
    assert (deposit(1, 5).user_id, withdrawal(2, 5).user_id, transfer(3, 4, 5).user_id) == (1, 2, 3)


def test_an_order_without_parties_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="a source or a destination"):
        _ = Order(call="c", kind=Kind.TRANSFER, source=None, destination=None, amount_cents=1).user_id


def test_a_key_is_bound_to_call_parties_and_amount_and_to_nothing_else() -> None:
    order = transfer(1, 2, 5, key="k")
    others = [
        replace(order, call="transfer/v2"),
        replace(order, source=2, destination=1),
        replace(order, source=None),
        replace(order, destination=None),
        replace(order, destination=3),
        replace(order, amount_cents=6),
        replace(order, source=12, destination=5),  # 12|5 and 1|25 must not read the same
        replace(order, source=1, destination=25),
    ]
    assert len({each.request_hash for each in (order, *others)}) == 1 + len(others)
    assert replace(order, trace="00-a-b-01", idempotency_key="l").request_hash == order.request_hash


def test_a_key_that_is_kept_is_bound_to_the_same_for_ever() -> None:
    """However details are spelled in their columns."""
    details = Details("rent of May", "INV-7", {"zoë": "b", "a": '"1"'})
    for each in (details, details._replace(metadata={"a": '"1"', "zoë": "b"})):
        order = replace(transfer(1, 2, 5, call="transfer/v2"), details=each)
        assert order.request_hash.hex() == "342cac0c631bd90ee60319c5fe446526e5762aaeef5f1d8e9999c479e47ed0ca"


def test_only_pending_is_not_final() -> None:
    assert {status for status in Status if not status.is_final} == {Status.PENDING}


def test_the_words_are_those_of_the_contract() -> None:
    assert [status.value for status in Status] == ["pending", "posted", "rejected", "failed", "canceled"]
    assert [kind.value for kind in Kind] == ["deposit", "withdrawal", "transfer"]

"""Errors are facts: a message, ids and amounts, and for a business no the contract's code."""

from models.errors import REFUSALS, BalanceInsufficient, Fault, OutcomeUnknown, Refused, Unavailable, WalletNotFound


def test_the_codes_are_those_of_the_contract() -> None:
    assert set(REFUSALS) == {
        "wallet_not_found",
        "wallet_frozen",
        "balance_insufficient",
        "balance_overflow",
        "self_transfer_invalid",
        "not_reversible",
        "reversal_exceeds",
        "bulk_rejected",
        "idempotency_key_reused",
    }
    assert all(kind.code == code for code, kind in REFUSALS.items())


def test_every_refusal_can_be_made_of_its_code_alone() -> None:
    assert all(isinstance(kind(), Refused) for kind in REFUSALS.values())


def test_an_error_reads_as_its_message_and_its_facts() -> None:
    assert str(BalanceInsufficient()) == "The balance is below the amount."
    assert str(WalletNotFound(7)) == "The user has no wallet. (wallet_id=7)"
    assert str(OutcomeUnknown(7)).endswith("could not be looked up. (transfer_id=7)")


def test_a_fault_is_no_refusal() -> None:
    assert issubclass(Unavailable, Fault)
    assert issubclass(OutcomeUnknown, Fault)
    assert not issubclass(Fault, Refused)

"""Money is computed right: conserved, never negative, never past int64. The arithmetic stands beside each case."""

from itertools import product
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ledger.settlement import Decision, Entry, EntryType, Pending, Settlement, Wallet, settle

MAX = 2**63 - 1  # 9_223_372_036_854_775_807, spelled here and not imported: a wrong constant must not agree with itself


def reasons(settlement: Settlement) -> list[str | None]:
    return [decision.reason for decision in settlement.decisions]


def ends(settlement: Settlement) -> dict[int, int]:
    return {wallet_id: wallet.balance_cents for wallet_id, wallet in settlement.wallets.items()}


# balances before, transfers (source, destination, amount), reasons, balances of the wallets that changed
CASES = {
    "a deposit adds": ({1: 100}, [(None, 1, 67)], [None], {1: 167}),  # 100 + 67
    "a withdrawal takes": ({1: 100}, [(1, None, 67)], [None], {1: 33}),  # 100 - 67
    "a transfer does both": ({1: 100, 2: 5}, [(1, 2, 67)], [None], {1: 33, 2: 72}),  # 100 - 67, 5 + 67
    "the smallest amount moves": ({1: 1, 2: 0}, [(1, 2, 1)], [None], {1: 0, 2: 1}),
    # The payer's boundary: the whole balance may go, one cent more may not.
    "a withdrawal of the balance": ({1: 100}, [(1, None, 100)], [None], {1: 0}),
    "a withdrawal of the balance + 1": ({1: 100}, [(1, None, 101)], ["balance_insufficient"], {}),
    "a transfer of the balance": ({1: 100, 2: 0}, [(1, 2, 100)], [None], {1: 0, 2: 100}),
    "a transfer of the balance + 1": ({1: 100, 2: 0}, [(1, 2, 101)], ["balance_insufficient"], {}),
    "one cent from an empty wallet": ({1: 0, 2: 0}, [(1, 2, 1)], ["balance_insufficient"], {}),
    # The payee's boundary: 2^63-1 fits, one cent more does not.
    "a deposit up to int64": ({1: MAX - 5}, [(None, 1, 5)], [None], {1: MAX}),
    "a deposit one past int64": ({1: MAX - 5}, [(None, 1, 6)], ["balance_overflow"], {}),
    "a deposit of all of int64": ({1: 0}, [(None, 1, MAX)], [None], {1: MAX}),
    "a deposit of all of int64 on a cent": ({1: 1}, [(None, 1, MAX)], ["balance_overflow"], {}),
    "a transfer up to int64": ({1: 5, 2: MAX - 5}, [(1, 2, 5)], [None], {1: 0, 2: MAX}),
    "a transfer one past int64": ({1: 6, 2: MAX - 5}, [(1, 2, 6)], ["balance_overflow"], {}),
    "a transfer of all of int64": ({1: MAX, 2: 0}, [(1, 2, MAX)], [None], {1: 0, 2: MAX}),
    "a withdrawal from a full wallet": ({1: MAX}, [(1, None, MAX)], [None], {1: 0}),
    "a transfer out of a full wallet": ({1: MAX, 2: 0}, [(1, 2, 1)], [None], {1: MAX - 1, 2: 1}),
    # Who is missing.
    "no source": ({2: 100}, [(1, 2, 1)], ["wallet_not_found"], {}),
    "no destination": ({1: 100}, [(1, 2, 1)], ["wallet_not_found"], {}),
    "neither": ({3: 100}, [(1, 2, 1)], ["wallet_not_found"], {}),
    "a deposit to nobody": ({2: 100}, [(None, 1, 1)], ["wallet_not_found"], {}),
    "a withdrawal from nobody": ({2: 100}, [(1, None, 1)], ["wallet_not_found"], {}),
    # Which of two reasons: a missing wallet before an empty one, an empty payer before a full payee.
    "no destination and no money": ({1: 0}, [(1, 2, 1)], ["wallet_not_found"], {}),
    "no source and a full destination": ({2: MAX}, [(1, 2, 1)], ["wallet_not_found"], {}),
    "no money and a full destination": ({1: 0, 2: MAX}, [(1, 2, 1)], ["balance_insufficient"], {}),
    # Chains within a batch: each is decided on what those before it left.
    "an earlier transfer funds a later one": (
        {1: 50, 2: 0, 3: 0},
        [(1, 2, 50), (2, 3, 50)],
        [None, None],
        {1: 0, 2: 0, 3: 50},
    ),
    "a later transfer funds no earlier one": (
        {1: 50, 2: 0, 3: 0},
        [(2, 3, 50), (1, 2, 50)],
        ["balance_insufficient", None],
        {1: 0, 2: 50},
    ),
    "a deposit funds a transfer": ({1: 0, 2: 0}, [(None, 1, 10), (1, 2, 10)], [None, None], {1: 0, 2: 10}),
    "a withdrawal starves a transfer": (
        {1: 10, 2: 0},
        [(1, None, 1), (1, 2, 10)],
        [None, "balance_insufficient"],
        {1: 9},
    ),
    "a withdrawal makes room for a deposit": ({1: MAX}, [(1, None, 1), (None, 1, 1)], [None, None], {1: MAX}),
    "the first two of three are covered": (
        {1: 100, 2: 0},
        [(1, 2, 40), (1, 2, 60), (1, 2, 1)],
        [None, None, "balance_insufficient"],
        {1: 0, 2: 100},
    ),
    "what is refused does not hinder what follows": (
        {1: 100, 2: 0},
        [(1, 2, 101), (1, 9, 1), (1, 2, 100)],
        ["balance_insufficient", "wallet_not_found", None],
        {1: 0, 2: 100},
    ),
    "there and back": ({1: 7, 2: 0}, [(1, 2, 7), (2, 1, 7)], [None, None], {1: 7, 2: 0}),
    "round in a circle on one wallet's money": (
        {1: 7, 2: 0, 3: 0},
        [(1, 2, 7), (2, 3, 7), (3, 1, 7)],
        [None, None, None],
        {1: 7, 2: 0, 3: 0},
    ),
}


@pytest.mark.parametrize(("before", "transfers", "expected", "after"), CASES.values(), ids=CASES)
def test_each_transfer_is_decided_on_the_balances_before_it(
    before: dict[int, int],
    transfers: list[tuple[int | None, int | None, int]],
    expected: list[str | None],
    after: dict[int, int],
) -> None:
    wallets = {wallet_id: Wallet(cents, 0) for wallet_id, cents in before.items()}
    settlement = settle([Pending(number, *order) for number, order in enumerate(transfers, 1)], wallets)

    assert reasons(settlement) == expected
    assert ends(settlement) == after
    assert [decision.transfer_id for decision in settlement.decisions] == list(range(1, len(transfers) + 1))


def test_a_deposit_leaves_one_entry_and_no_counterparty() -> None:
    settlement = settle([Pending(70, None, 1, 67)], {1: Wallet(100, 3)})

    assert settlement.entries == [Entry(1, 4, 70, None, EntryType.DEPOSIT, 67, 167)]  # 3 + 1, 100 + 67
    assert settlement.decisions == [Decision(70, None, None, 4)]
    assert settlement.wallets == {1: Wallet(167, 4)}


def test_a_withdrawal_leaves_one_entry_and_no_counterparty() -> None:
    settlement = settle([Pending(70, 1, None, 67)], {1: Wallet(100, 3)})

    assert settlement.entries == [Entry(1, 4, 70, None, EntryType.WITHDRAWAL, -67, 33)]  # 3 + 1, 100 - 67
    assert settlement.decisions == [Decision(70, None, 4, None)]
    assert settlement.wallets == {1: Wallet(33, 4)}


def test_a_transfer_leaves_an_entry_on_either_side_each_naming_the_other() -> None:
    settlement = settle([Pending(70, 1, 2, 67)], {1: Wallet(100, 3), 2: Wallet(5, 8)})

    assert settlement.entries == [
        Entry(1, 4, 70, 2, EntryType.TRANSFER, -67, 33),  # 3 + 1, 100 - 67
        Entry(2, 9, 70, 1, EntryType.TRANSFER, 67, 72),  # 8 + 1, 5 + 67
    ]
    assert settlement.decisions == [Decision(70, None, 4, 9)]
    assert settlement.wallets == {1: Wallet(33, 4), 2: Wallet(72, 9)}


def test_entries_number_on_without_a_gap_across_a_batch_and_its_rejections() -> None:
    batch = [Pending(1, None, 1, 10), Pending(2, 1, 2, 99), Pending(3, 1, 2, 4), Pending(4, 2, 1, 1)]
    settlement = settle(batch, {1: Wallet(0, 0), 2: Wallet(0, 5)})

    assert settlement.decisions == [
        Decision(1, None, None, 1),
        Decision(2, "balance_insufficient"),
        Decision(3, None, 2, 6),
        Decision(4, None, 7, 3),
    ]
    assert [(each.wallet_id, each.seq, each.balance_after_cents) for each in settlement.entries] == [
        (1, 1, 10),
        (1, 2, 6),  # 10 - 4
        (2, 6, 4),
        (2, 7, 3),  # 4 - 1
        (1, 3, 7),  # 6 + 1
    ]
    assert settlement.wallets == {1: Wallet(7, 3), 2: Wallet(3, 7)}


@pytest.mark.parametrize(
    ("transfer", "reason"),
    [
        (Pending(1, 1, 2, 11), "balance_insufficient"),
        (Pending(1, 1, None, 11), "balance_insufficient"),
        (Pending(1, 1, 3, 1), "wallet_not_found"),
        (Pending(1, 3, 1, 1), "wallet_not_found"),
        (Pending(1, None, 3, 1), "wallet_not_found"),
        (Pending(1, 1, 2, 10), "balance_overflow"),
        (Pending(1, None, 2, 1), "balance_overflow"),
    ],
)
def test_what_is_rejected_changes_nothing(transfer: Pending, reason: str) -> None:
    settlement = settle([transfer], {1: Wallet(10, 1), 2: Wallet(MAX, 1)})

    assert settlement == Settlement(decisions=[Decision(1, reason, None, None)], entries=[], wallets={})


def test_an_empty_batch_comes_to_nothing() -> None:
    assert settle([], {1: Wallet(10, 1)}) == Settlement(decisions=[], entries=[], wallets={})


def test_the_balances_handed_in_are_left_as_they_were() -> None:
    wallets = {1: Wallet(10, 1), 2: Wallet(0, 0)}
    settle([Pending(1, 1, 2, 10)], MappingProxyType(wallets))
    assert wallets == {1: Wallet(10, 1), 2: Wallet(0, 0)}


def test_two_settlements_share_nothing() -> None:
    first, second = Settlement(), Settlement()
    first.decisions.append(Decision(1))
    first.wallets[1] = Wallet(0, 1)
    assert second == Settlement(decisions=[], entries=[], wallets={})


def test_the_types_are_the_numbers_that_the_api_and_the_table_know() -> None:
    assert [(kind.name, kind.value) for kind in EntryType] == [("DEPOSIT", 1), ("WITHDRAWAL", 2), ("TRANSFER", 3)]


FROZEN = [*product((False, True), repeat=2)]


@pytest.mark.parametrize(("debits_frozen", "credits_frozen"), FROZEN)
@pytest.mark.parametrize(
    ("source", "destination"), [(None, 1), (1, None), (1, 2), (2, 1)], ids=["deposit", "withdrawal", "pays", "is paid"]
)
@pytest.mark.parametrize("passes", [False, True])
def test_a_freeze_forbids_its_side_to_all_but_what_passes(
    debits_frozen: bool, credits_frozen: bool, source: int | None, destination: int | None, passes: bool
) -> None:
    wallets = {1: Wallet(10, 1, debits_frozen, credits_frozen), 2: Wallet(10, 1)}
    settlement = settle([Pending(7, source, destination, 1, passes)], wallets)
    is_forbidden = not passes and ((source == 1 and debits_frozen) or (destination == 1 and credits_frozen))
    assert reasons(settlement) == ["wallet_frozen" if is_forbidden else None]
    if is_forbidden:
        assert (settlement.entries, settlement.wallets) == ([], {})
    else:
        assert settlement.wallets[1][2:] == (debits_frozen, credits_frozen)


@pytest.mark.parametrize(
    ("transfer", "reason"),
    [
        (Pending(7, 1, 3, 99), "wallet_not_found"),
        (Pending(7, 1, 2, 99), "wallet_frozen"),
        (Pending(7, 2, 1, 99), "wallet_frozen"),
    ],
)
def test_that_there_is_no_wallet_is_said_before_that_one_is_frozen_and_that_before_its_funds(
    transfer: Pending, reason: str
) -> None:
    wallets = {1: Wallet(10, 1, debits_frozen=True, credits_frozen=True), 2: Wallet(10, 1)}
    assert reasons(settle([transfer], wallets)) == [reason]


# Few wallets and amounts near every boundary: what is tried meets, empties, fills and overflows.
wallet_ids = st.integers(1, 4)
amounts = st.one_of(st.integers(1, 20), st.sampled_from([MAX, MAX - 1, MAX - 10, MAX // 2]), st.integers(1, MAX))
cents = st.one_of(st.integers(0, 20), st.sampled_from([MAX, MAX - 1, MAX - 10]), st.integers(0, MAX))
seldom = st.sampled_from([False, False, False, True])
some_wallets = st.dictionaries(wallet_ids, st.builds(Wallet, cents, st.integers(0, 10), seldom, seldom), max_size=4)
parties = st.one_of(
    st.tuples(st.none(), wallet_ids),
    st.tuples(wallet_ids, st.none()),
    st.tuples(wallet_ids, wallet_ids).filter(lambda pair: pair[0] != pair[1]),
)


@st.composite
def batches(draw: st.DrawFn) -> list[Pending]:
    ordered = draw(st.lists(st.tuples(parties, amounts, seldom), max_size=25))
    return [
        Pending(number, payer, payee, amount, passes)
        for number, ((payer, payee), amount, passes) in enumerate(ordered, 1)
    ]


class Account:
    """A naive account that writes down what happens to it: its balance is the sum, recomputed every time."""

    def __init__(self, opening: int) -> None:
        self.movements = [opening]

    @property
    def total(self) -> int:
        return sum(self.movements)


def book_naively(batch: list[Pending], wallets: dict[int, Wallet]) -> tuple[list[str | None], dict[int, Account]]:
    """Move first and look afterwards: what made any total impossible is taken back."""
    accounts = {wallet_id: Account(wallet.balance_cents) for wallet_id, wallet in wallets.items()}
    verdicts: list[str | None] = []
    for _, payer, payee, amount, passes in batch:
        moves = [(party, sign * amount) for party, sign in ((payer, -1), (payee, +1)) if party is not None]
        if any(party not in accounts for party, _ in moves):
            verdicts.append("wallet_not_found")
            continue
        forbidden = [wallets[party].debits_frozen if sign < 0 else wallets[party].credits_frozen
                     for party, sign in moves]  # fmt: skip
        if any(forbidden) and not passes:
            verdicts.append("wallet_frozen")
            continue
        for party, movement in moves:
            accounts[party].movements.append(movement)
        totals = [accounts[party].total for party, _ in moves]
        verdict = "balance_insufficient" if min(totals) < 0 else "balance_overflow" if max(totals) >= 2**63 else None
        if verdict is not None:
            for party, _ in moves:
                accounts[party].movements.pop()
        verdicts.append(verdict)
    return verdicts, accounts


@given(batches(), some_wallets)
def test_settling_agrees_with_naive_bookkeeping(batch: list[Pending], wallets: dict[int, Wallet]) -> None:
    settlement = settle(batch, wallets)
    verdicts, accounts = book_naively(batch, wallets)

    assert reasons(settlement) == verdicts
    assert ends(settlement) == {
        wallet_id: account.total for wallet_id, account in accounts.items() if len(account.movements) > 1
    }
    for wallet_id, account in accounts.items():
        written = [entry.amount_cents for entry in settlement.entries if entry.wallet_id == wallet_id]
        assert written == account.movements[1:]


@given(batches(), some_wallets)
def test_money_is_conserved(batch: list[Pending], wallets: dict[int, Wallet]) -> None:
    settlement = settle(batch, wallets)
    after = {**wallets, **settlement.wallets}

    posted = {decision.transfer_id for decision in settlement.decisions if decision.reason is None}
    paid_in = sum(each.amount_cents for each in batch if each.id in posted and each.source is None)
    paid_out = sum(each.amount_cents for each in batch if each.id in posted and each.destination is None)
    total_before = sum(wallet.balance_cents for wallet in wallets.values())
    assert sum(wallet.balance_cents for wallet in after.values()) == total_before + paid_in - paid_out


@given(batches(), some_wallets)
def test_no_balance_ever_goes_below_zero_or_past_int64(batch: list[Pending], wallets: dict[int, Wallet]) -> None:
    settlement = settle(batch, wallets)

    assert all(0 <= entry.balance_after_cents <= MAX for entry in settlement.entries)
    assert all(0 <= wallet.balance_cents <= MAX for wallet in settlement.wallets.values())


@given(batches(), some_wallets)
def test_every_wallet_can_be_audited_from_its_entries(batch: list[Pending], wallets: dict[int, Wallet]) -> None:
    settlement = settle(batch, wallets)
    replayed = dict(wallets)
    for entry in settlement.entries:
        before = replayed[entry.wallet_id]
        assert entry.seq == before.version + 1
        assert entry.balance_after_cents == before.balance_cents + entry.amount_cents
        replayed[entry.wallet_id] = before._replace(balance_cents=entry.balance_after_cents, version=entry.seq)
    assert replayed == {**wallets, **settlement.wallets}


@given(batches(), some_wallets)
def test_every_transfer_is_decided_once_and_points_to_its_entries(
    batch: list[Pending], wallets: dict[int, Wallet]
) -> None:
    settlement = settle(batch, wallets)
    written = {(entry.wallet_id, entry.seq): entry for entry in settlement.entries}

    assert [decision.transfer_id for decision in settlement.decisions] == [each.id for each in batch]
    for transfer, decision in zip(batch, settlement.decisions, strict=True):
        sides = (
            (transfer.source, transfer.destination, decision.source_seq, -transfer.amount_cents),
            (transfer.destination, transfer.source, decision.destination_seq, transfer.amount_cents),
        )
        for wallet_id, counterparty, seq, signed_cents in sides:
            if wallet_id is None or decision.reason is not None:
                assert seq is None
                continue
            assert seq is not None
            entry = written.pop((wallet_id, seq))
            assert (entry.transfer_id, entry.counterparty, entry.amount_cents) == (
                transfer.id,
                counterparty,
                signed_cents,
            )
    assert not written


@given(batches(), batches(), some_wallets)
def test_where_a_batch_is_cut_in_two_makes_no_difference(
    first: list[Pending], second: list[Pending], wallets: dict[int, Wallet]
) -> None:
    whole = settle([*first, *second], wallets)
    head = settle(first, wallets)
    tail = settle(second, {**wallets, **head.wallets})

    assert whole.decisions == [*head.decisions, *tail.decisions]
    assert whole.entries == [*head.entries, *tail.entries]
    assert whole.wallets == {**head.wallets, **tail.wallets}

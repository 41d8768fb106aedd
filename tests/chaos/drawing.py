"""What a client asks for next. With the same seed, and the same answers, it is the same."""

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from tests.chaos.calls import Call, Item

METHODS = {"EnqueueTransfer": 60, "Transfer": 20, "Deposit": 10, "Withdraw": 10}
# All that there is, by REST as well as by REST alone.
BY_REST = {"Reverse": 12, "Plan": 12, "Cancel": 10, "Bulk": 3}
EVERYTHING = {**METHODS, **BY_REST}
# In cents, of what is moved at once; and one that nobody has.
MOST_CENTS, MOST_OF_AN_ITEM, TOO_MUCH = 500, 50, 10**9
LEAST_ITEMS, MOST_ITEMS = 2, 40
# In seconds.
SOONEST, LATEST = 0.5, 3.0
# Each so many of a client's bulks, one is atomic; of all, so many have an item that is too much for anybody.
ATOMIC_EVERY, HOPELESS = 3, 0.2
# Of what is given back, so much is all that is left.
THE_REST = 1 / 3
# What is given back is one of a client's so many last calls that could be; of those that plan so many are to come.
RECENT = 40
STILL_PLANNED = 5


class Drawing:
    """Draws one client's orders, from what there is and what he was answered."""

    def __init__(self, rng: random.Random, users: Sequence[int], name: str, methods: Mapping[str, int]) -> None:
        """``methods``: how often each is drawn, of their sum. ``name``: what keys begin with."""
        self._random = rng
        self._users = users
        self._name = name
        self._methods = methods
        self._bulks = 0
        self._special: dict[str, Callable[[Call, Sequence[Call]], Call | None]] = {
            "Plan": self._plan,
            "Reverse": self._reverse,
            "Cancel": self._cancel,
            "Bulk": self._bulk,
        }

    def draw(self, calls: Sequence[Call]) -> Call:
        """Draw what comes after these calls: one of each, and then as often as they are to be.

        Where there is nothing to give back or call off, a transfer is.
        """
        user, other = self._random.sample(self._users, 2)
        amount = self._random.randint(1, MOST_CENTS)
        drawn = self._random.choices(list(self._methods), list(self._methods.values()))[0]
        method = [*self._methods, drawn][min(len(calls), len(self._methods))]
        destination = None if method in {"Deposit", "Withdraw"} else other
        plain = Call(method, user, amount, destination, f"{self._name}-{len(calls)}")
        if method not in self._special:
            return plain
        return self._special[method](plain, calls) or Call("EnqueueTransfer", user, amount, other, plain.key)

    def _plan(self, plain: Call, _calls: Sequence[Call]) -> Call:
        plain.not_before = datetime.now(UTC) + timedelta(seconds=self._random.uniform(SOONEST, LATEST))
        return plain

    def _reverse(self, plain: Call, calls: Sequence[Call]) -> Call | None:
        original = self._pick(calls, {"Transfer", "EnqueueTransfer"})
        if original is None:
            return None
        amount = 0 if self._random.random() < THE_REST else self._random.randint(1, original.amount)
        payee = original.destination or 0
        return Call("Reverse", payee, amount, original.user, plain.key, of=original.transfer_id)

    def _cancel(self, plain: Call, calls: Sequence[Call]) -> Call | None:
        """What is planned is mostly still to come, as for the first; of what is not, only the very last may be."""
        is_first = not any(call.method == "Cancel" for call in calls)
        if is_first or self._random.random() < 0.5:
            order = self._pick(calls, {"Plan"}, recent=STILL_PLANNED)
        else:
            order = self._pick(calls, {"EnqueueTransfer"}, recent=1)
        if order is None:
            return None
        return Call("Cancel", order.user, order.amount, order.destination, plain.key, of=order.transfer_id)

    def _bulk(self, plain: Call, _calls: Sequence[Call]) -> Call:
        self._bulks += 1
        others = [each for each in self._users if each != plain.user]
        amounts = [
            self._random.randint(1, MOST_OF_AN_ITEM) for _ in range(self._random.randint(LEAST_ITEMS, MOST_ITEMS))
        ]
        if self._random.random() < HOPELESS:
            amounts[self._random.randrange(len(amounts))] = TOO_MUCH
        plain.items = tuple(
            Item(self._random.choice(others), amount, f"{plain.key}.{number}") for number, amount in enumerate(amounts)
        )
        plain.amount, plain.destination = sum(amounts), None
        plain.is_atomic = self._bulks % ATOMIC_EVERY == 0
        return plain

    def _pick(self, calls: Sequence[Call], methods: set[str], *, recent: int = RECENT) -> Call | None:
        """Pick one of the last calls by these methods that became something."""
        found = [call for call in calls[-RECENT * 4 :] if call.method in methods and call.transfer_id][-recent:]
        return self._random.choice(found) if found else None

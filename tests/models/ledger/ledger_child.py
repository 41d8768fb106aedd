"""A process of its own for the tests of the ledger: does one thing to one database, and prints JSON about it.

python -m tests.models.ledger.ledger_child '{"url": …, "work": "storm", "arguments": {…}}'
"""

import json
import os
import random
import select
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

from sqlalchemy import Engine, insert, text
from sqlalchemy.event import listen
from sqlalchemy.exc import SQLAlchemyError

from models.database.engine import create_bounded_engine
from models.database.session import Session, Statement
from models.errors import Fault, Refused
from models.ledger import events, orders
from models.ledger.orders import Orders
from models.ledger.posting import COMMIT
from models.ledger.transfer import Order
from models.schema.tables import transfers
from models.snowflake.ids import Snowflake
from models.snowflake.leases import NodeLease
from tests.models.ledger.ordering import deposit, later, post_now, transfer, withdrawal
from tests.models.ledger.together import groups_of_several, together
from tests.patience import PATIENCE_S

# Orders of one process that are given at the same time are posted together.
THREADS = 4

PENDING_SOME = text("SELECT id FROM transfers WHERE status = 'pending' ORDER BY random() LIMIT 15")
FINAL_SOME = text("SELECT id FROM transfers WHERE status <> 'pending' ORDER BY random() LIMIT 3")
COUNT_ENTRIES = Statement("count_entries", ("bigint",), "SELECT count(*) FROM entries WHERE seq > $1")


class Child:
    """One process's engine and orders, made as the service makes them."""

    def __init__(self, url: str) -> None:
        timeouts_ms = {
            "lock_timeout": 20_000,
            "statement_timeout": 20_000,
            "idle_in_transaction_session_timeout": 20_000,
        }
        self.engine: Engine = create_bounded_engine(
            url, timeouts_ms=timeouts_ms, pool_size=2 * THREADS, application_name="ledger-child"
        )
        self.ids = Snowflake(NodeLease(self.engine))
        orders.PATIENCE_S = 20.0  # that a machine is slow is no fault
        self.orders = Orders(self.engine, self.ids)
        self.ids.next_id()  # leases a node, with a commit of its own
        self.receipts: list[tuple[int, int]] = []
        self.accepted: list[int] = []
        self.outcomes: dict[int, str] = {}
        self.refused = 0
        self.faults: list[str] = []

    def storm(self, seed: int, steps: int, wallets: int) -> dict[str, Any]:
        """Move money about at random, waiting for each other's locks, once everybody is ready.

        So many steps at least, and until nobody is at the other end of stdin any more.
        """
        say("ready")
        sys.stdin.readline()
        with ThreadPoolExecutor(THREADS) as pool:
            for each in [pool.submit(self.rage, seed * THREADS + number, steps, wallets) for number in range(THREADS)]:
                each.result()
        return {
            "receipts": self.receipts,
            "accepted": self.accepted,
            "outcomes": list(self.outcomes.items()),
            "refused": self.refused,
            "faults": self.faults,
            "groups_of_several": groups_of_several(),
        }

    def rage(self, seed: int, steps: int, wallets: int) -> None:
        rng = random.Random(seed)
        for number in count(1):
            if number > steps and select.select([sys.stdin], [], [], 0)[0]:
                break
            try:
                self.step(rng, wallets)
            except Refused:
                self.refused += 1
            except (Fault, SQLAlchemyError) as error:
                self.faults.append(f"{type(error).__name__}: {error}")

    def step(self, rng: random.Random, wallets: int) -> None:
        source, destination = rng.sample(range(1, wallets + 1), 2)
        amount = rng.randint(1, 400)
        match rng.choices(["transfer", "deposit", "withdrawal", "accept", "batch"], [5, 1, 1, 4, 2])[0]:
            case "transfer":
                self.execute(transfer(source, destination, amount))
            case "deposit":
                self.execute(deposit(destination, amount))
            case "withdrawal":
                self.execute(withdrawal(source, amount))
            case "accept":
                self.accepted.append(self.orders.accept(later(source, destination, amount)).transfer_id)
            case "batch":
                self.post_some(rng)

    def execute(self, order: Order) -> None:
        receipt = self.orders.execute(order)
        self.receipts.append((receipt.transfer_id, receipt.balance_cents))

    def post_some(self, rng: random.Random) -> None:
        """Post what anybody accepted, in any order, beside some that are final already."""
        with self.engine.begin() as connection:
            ids = [*connection.execute(PENDING_SOME).scalars(), *connection.execute(FINAL_SOME).scalars()]
        rng.shuffle(ids)
        posting = post_now(self.engine, ids, wait_for_locks=rng.random() < 0.7)
        assert posting.outcomes.keys() == set(ids)
        self.outcomes |= {
            number: outcome.status.value for number, outcome in posting.outcomes.items() if outcome.status.is_final
        }

    def die_before_the_commit_of_an_order(self) -> None:
        """Move money from wallet 1 to wallet 2."""
        kill_at_commit()
        self.orders.execute(transfer(1, 2, 10))

    def die_before_the_commit_of_a_group(self) -> None:
        """The same with three orders at once, one of which opens wallet 3."""
        kill_at_commit()
        self.execute_three()

    def die_after_the_commit_of_a_group(self) -> None:
        kill_at_commit(after_it=True)
        self.execute_three()

    def execute_three(self) -> None:
        given = [transfer(1, 2, 10), deposit(3, 5), withdrawal(1, 4)]
        for each in together(self.orders._posting, [partial(self.orders.execute, order) for order in given]):
            each.result(PATIENCE_S)

    def die_before_the_commit_of_a_batch(self) -> None:
        """The same with a batch, which opens wallet 3 as well."""
        first, second = self.ids.next_id(), self.ids.next_id()
        with self.engine.begin() as connection:
            rows = [
                {"id": first, "kind": "transfer", "source": 1, "destination": 2, "amount": 10},
                {"id": second, "kind": "deposit", "source": None, "destination": 3, "amount": 5},
            ]
            connection.execute(insert(transfers), rows)
        kill_at_commit()
        post_now(self.engine, [first, second])

    def post_batches(self, ids: list[int], size: int) -> None:
        """Post all of these, so many at a time; then wait to be killed."""
        say("ready")
        for first in range(0, len(ids), size):
            post_now(self.engine, ids[first : first + size])
        signal.pause()

    def number_events(self, most: int) -> None:
        """Give numbers to events until killed."""
        say("ready")
        while True:
            events.number(self.engine, most=most)

    def die_before_the_commit_of_numbers(self) -> None:
        """Give numbers to events, all but the commit."""

        def die(_: object) -> None:
            say(json.dumps("numbered"))
            os.kill(os.getpid(), signal.SIGKILL)

        listen(self.engine, "commit", die)
        events.number(self.engine)


def kill_at_commit(*, after_it: bool = False) -> None:
    """Be killed when all is written and nothing committed, or right after that.

    Both travel in one message, so it is the message that is cut in two here.
    """
    run = Session.run

    def die(session: Session, statement: Statement, *parameters: object, then: str = "") -> None:
        run(session, statement, *parameters, then=then if after_it else "")
        if then.endswith(COMMIT):
            say(json.dumps({"entries_written": session.rows(COUNT_ENTRIES, 0)[0][0]}))
            os.kill(os.getpid(), signal.SIGKILL)

    Session.run = die  # type: ignore[method-assign, assignment]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do what the only argument says."""
    signal.alarm(int(PATIENCE_S) * 3)
    task = json.loads(sys.argv[1])
    child = Child(task["url"])
    say(json.dumps(getattr(child, task["work"])(**task["arguments"])))


if __name__ == "__main__":
    main()

"""A process of its own on greenlets, in which the leader of a group is killed once its COMMIT is on its way.

python -m tests.models.ledger.killed_leader_child postgresql+psycopg2://…
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402 - nothing that makes a lock may be imported before
import signal  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402

from models.database.session import Session, Statement  # noqa: E402
from models.ledger.orders import Orders  # noqa: E402
from tests.models.ledger.ordering import bounded_engine, deposit, transfer, withdrawal  # noqa: E402
from tests.patience import PATIENCE_S  # noqa: E402

GROUP = [transfer(1, 2, 10), transfer(3, 4, 10, key="k"), withdrawal(5, 10), deposit(6, 10), deposit(7, 10)]


class Ids:
    """Ids of this process."""

    last = 1_000

    def next_id(self) -> int:
        self.last += 1
        return self.last


def main() -> None:
    signal.alarm(int(PATIENCE_S))
    sent = Event()
    run = Session.run
    sizes: list[int] = []

    def note(session: Session, statement: Statement, *parameters: object, then: str = "") -> None:
        if then.endswith("COMMIT"):
            sent.set()
        run(session, statement, *parameters, then=then)

    Session.run = note  # type: ignore[method-assign, assignment]
    with bounded_engine(sys.argv[1]) as engine:
        orders = Orders(engine, Ids())
        groups: Any = orders._posting
        groups._free = 0
        place = groups._run

        def measured(group: Any) -> Any:
            sizes.append(len(group))
            return place(group)

        groups._run = measured
        greenlets = [gevent.spawn(orders.execute, each) for each in GROUP]
        gevent.sleep(0)
        groups._pass_on()
        sent.wait(PATIENCE_S)
        gevent.sleep(0.1)
        greenlets[0].kill()
        gevent.joinall(greenlets, timeout=PATIENCE_S, raise_error=True)
        killed = isinstance(greenlets[0].value, gevent.GreenletExit)
        told = {
            "leader": "killed" if killed else "answered",
            "balances": [each.value.balance_cents for each in greenlets[1:]],
            "group": sizes[0],
            "free": groups._free,
            "in_use": engine.pool.size() - engine.pool._seats._value,  # type: ignore[attr-defined]
        }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()

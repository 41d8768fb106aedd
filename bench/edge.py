"""What the API's own work costs: its requests a second beside those of a bare Flask route under gunicorn's threads.

Throttling, logs and metrics are on, as in production. Short windows of each kind of request take turns, so that
whatever else the machine does meets all of them alike.
"""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import cycle

from sqlalchemy import text

from bench import backlog
from bench.backlog import OPENING_CENTS, WALLETS, Spread
from bench.figures import BenchError, Figure, Plan, Ratio, Values
from bench.flood import FloodError, flood, request
from bench.site import SERVICE, Site
from models.ledger.history import History
from models.ledger.settlement import EntryType

WINDOWS = 3
WARM_UP_S = 0.7
# Those who read, each of whom finds in the cache what he has asked for before.
READERS = 200
PAGE = 30
# Between which money moves, drawn beforehand.
PAIRS = 5_000
# A wallet with a long life, and how deep it is looked into.
ENTRIES, DEEP_PAGE = 1_000_000, 30_000
PAGES_READ = 300

_BARE, _BALANCE, _HISTORY, _LATER, _NOW = "bare", "cached_balance", "cached_history", "v2_accept", "v1"
_PATHS = {_BARE: "/", _BALANCE: "/api/wallet/balance/v1", _HISTORY: f"/api/transactions/v1?page_size={PAGE}"}
_STATUS = {_LATER: 202}
# Every reader gets a page full of deposits of a cent.
_LENGTHEN = """
INSERT INTO transfers (id, kind, destination, amount, status, destination_seq, attempts, completed_at)
SELECT 1000000 + n * 1000 + seq, 'deposit', n, 1, 'posted', seq, 1, now()
FROM generate_series(1, :readers) AS n, generate_series(2, :last) AS seq;
INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after)
SELECT n, seq, 1000000 + n * 1000 + seq, 1, 1, :cents + seq - 1
FROM generate_series(1, :readers) AS n, generate_series(2, :last) AS seq;
UPDATE wallets SET version = :last, balance = balance + :last - 1 WHERE id <= :readers
"""
_LONG_LIFE = """
INSERT INTO wallets (id, balance, version) VALUES (1, :entries, :entries);
INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after)
SELECT 1, seq, seq, 1, 1, seq FROM generate_series(1, :entries) AS seq
"""


class Edge:
    """Requests a second, by kind."""

    name = "edge"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Rates, and their share of the bare route's."""
        goals = {_BALANCE: 0.50, _HISTORY: 0.45, _LATER: 0.30, _NOW: 0.25}
        labels = {
            _BALANCE: "balance, from the cache",
            _HISTORY: f"history page of {PAGE}, from the cache",
            _LATER: "transfer v2, accepted (no workers)",
            _NOW: "transfer v1, posted",
        }
        bare = Figure(key=_BARE, label="bare Flask route", unit="/s", is_yardstick=True)
        own = [
            Figure(key=key, label=labels[key], unit="/s", ratios=(Ratio(_BARE, goal),)) for key, goal in goals.items()
        ]
        return (*own, bare)

    def take(self, site: Site, plan: Plan) -> Values:
        """Ask in turns, for ``plan.window_s`` seconds each time."""
        backlog.lay_out(site, SERVICE, 0, Spread.UNIFORM)
        _run(site, _LENGTHEN, {"readers": READERS, "last": 2 * PAGE, "cents": OPENING_CENTS})
        rates: dict[str, list[float]] = {key: [] for key in (_BARE, _BALANCE, _HISTORY, _LATER, _NOW)}
        with ExitStack() as stack:
            ports = {_BARE: stack.enter_context(site.bare())}
            api = stack.enter_context(site.api())
            asks = {key: _asker(key) for key in rates}
            try:
                for key, ask in asks.items():
                    flood(ports.get(key, api), ask, seconds=WARM_UP_S, status=_STATUS.get(key, 200))
                for _ in range(WINDOWS):
                    for key, ask in asks.items():
                        rate = flood(ports.get(key, api), ask, seconds=plan.window_s, status=_STATUS.get(key, 200))
                        rates[key].append(rate)
            except FloodError as error:
                raise BenchError(str(error)) from error
        return {key: sum(found) / WINDOWS for key, found in rates.items()}


def _asker(key: str) -> Callable[[], bytes]:
    """Return what makes the next request of a kind."""
    draw = random.Random(1)
    if key in _PATHS:
        ready = cycle([request("GET", _PATHS[key], user=user) for user in range(1, READERS + 1)])
        return lambda: next(ready)
    path = f"/api/transfer/{'v2' if key == _LATER else 'v1'}"

    pairs = [draw.sample(range(1, WALLETS + 1), 2) for _ in range(PAIRS)]
    transfers = cycle(
        [
            request("POST", path, user=payer, body=b'{"destination_user_id":%d,"amount":67}' % payee)
            for payer, payee in pairs
        ]
    )
    return lambda: next(transfers)


class Depth:
    """Pages of a long history, out of PostgreSQL: the first ones, and deep ones."""

    name = "depth"

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Pages a second. A deep one may cost half as much again as a first one."""
        deep = Figure(
            key="page_deep",
            label=f"page {DEEP_PAGE:,} of {ENTRIES:,} entries",
            unit="/s",
            ratios=(Ratio("page_first", 1 / 1.5),),
        )
        return deep, Figure(key="page_first", label="page 1 of them", unit="/s", is_yardstick=True)

    def take(self, site: Site, plan: Plan) -> Values:
        """Read pages of both kinds in turns."""
        del plan
        backlog.lay_out(site, SERVICE, 0, Spread.UNIFORM)
        site.execute_as_admin(SERVICE, "TRUNCATE wallets, transfers, entries")
        _run(site, _LONG_LIFE, {"entries": ENTRIES})
        site.execute_as_admin(SERVICE, "VACUUM ANALYZE wallets, entries")
        history = History(site.engines[SERVICE])
        spent_s = {"page_first": 0.0, "page_deep": 0.0}
        for number in range(PAGES_READ):
            for key, page in (("page_first", 1), ("page_deep", DEEP_PAGE + number)):
                spent_s[key] += _time_of_page(history, page)
        return {key: PAGES_READ / seconds for key, seconds in spent_s.items()}


def _time_of_page(history: History, number: int) -> float:
    began = time.perf_counter()
    page = history.get_page(1, None, size=PAGE, page=number)
    seconds = time.perf_counter() - began
    if len(page.entries) != PAGE or page.entries[0].type != EntryType.DEPOSIT:
        raise BenchError(f"page {number} is not what it should be")
    return seconds


def _run(site: Site, statements: str, given: Mapping[str, int]) -> None:
    with site.engines[SERVICE].begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        for statement in statements.split(";"):
            names = {name: value for name, value in given.items() if f":{name}" in statement}
            connection.execute(text(statement), names)

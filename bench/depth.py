"""Pages of a long history, out of PostgreSQL: the first ones, and deep ones."""

import time

from bench import asks, backlog
from bench.asks import PAGE
from bench.backlog import Spread
from bench.figures import BenchError, Figure, Plan, Ratio, Values
from bench.site import SERVICE, Site
from models.ledger.history import History
from models.ledger.settlement import EntryType

# A wallet with a long life, and how deep it is looked into.
ENTRIES, DEEP_PAGE = 1_000_000, 30_000
PAGES_READ = 300
# Our connections give up a server that is silent for seconds, as a busy one might be over all of them.
WRITTEN_AT_ONCE = 100_000

_WALLET = "INSERT INTO wallets (id, balance, version) VALUES (1, :entries, :entries)"
_LONG_LIFE = """
INSERT INTO entries (wallet_id, seq, transfer_id, type, amount, balance_after)
SELECT 1, seq, seq, 1, 1, seq FROM generate_series(:first, :last) AS seq
"""


class Depth:
    """Pages a second."""

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
        site.execute_as_admin(SERVICE, "TRUNCATE wallets, transfers, transfer_references, entries, event_batches")
        asks.execute(site, _WALLET, {"entries": ENTRIES})
        for first in range(1, ENTRIES + 1, WRITTEN_AT_ONCE):
            asks.execute(site, _LONG_LIFE, {"first": first, "last": first + WRITTEN_AT_ONCE - 1})
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

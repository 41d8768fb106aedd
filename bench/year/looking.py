"""Looking at old books: what they take on disk, pages of histories, slices of an audit, vacuum."""

import math
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

from bench.figures import BenchError
from bench.flood import flood
from bench.site import SERVICE, Site
from bench.year.making import Shape
from jobs.auditor import MAX_SLICE, REST
from jobs.relay import PAUSE_S
from models.audit.audit import run_whole
from models.audit.books import BooksCheck
from models.ledger.history import History, HistoryPage
from models.ledger.settlement import EntryType

PAGE = 30
READS = 100
# Slices of an audit that are measured, of each of its two walks.
SLICES = 40
_TABLES = ("wallets", "transfers", "entries")
_LAST_SEQ = 2**63 - 1

_SIZES = """
SELECT c.relname, c.relkind = 'i' AS is_index, pg_table_size(c.oid) AS bytes
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'i')
    AND (c.relname = ANY (%s) OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid::regclass::text = ANY (%s)))
ORDER BY bytes DESC
"""
_BUFFERS = re.compile(r"(\d+) hits, (\d+) reads, (\d+) dirtied")


def sizes(site: Site) -> dict[str, int]:
    """Return the bytes of every table and every index, the largest first."""
    with closing(psycopg2.connect(site.url(SERVICE))) as connection, connection.cursor() as cursor:
        cursor.execute(_SIZES, (list(_TABLES), list(_TABLES)))
        return {name: size for name, _, size in cursor.fetchall()}


def vacuum(site: Site) -> dict[str, tuple[float, int]]:
    """Vacuum and analyze each table as autovacuum would, but without its pauses; return seconds and blocks touched."""
    found = {}
    with closing(psycopg2.connect(site.url(SERVICE))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = 0")
            for table in _TABLES:
                connection.notices.clear()
                began = time.monotonic()
                cursor.execute(f"VACUUM (VERBOSE, ANALYZE) {table}")
                spent_s = time.monotonic() - began
                blocks = [sum(map(int, each)) for each in _BUFFERS.findall("".join(connection.notices))]
                found[table] = (spent_s, sum(blocks))
    return found


def pages(site: Site, shape: Shape) -> dict[str, float]:
    """Return the median milliseconds of pages of histories, out of PostgreSQL; the labels say which."""
    history = History(site.engines[SERVICE])
    long_life = shape.long_life
    last = shape.long * shape.rounds // PAGE
    typical_last = max(1, (2 * shape.rounds + 1) // PAGE)
    asked: dict[str, Callable[[int], HistoryPage]] = {
        "typical wallet, page 1": lambda n: history.get_page(1 + n, None, size=PAGE),
        f"typical wallet, page {typical_last}": lambda n: history.get_page(1 + n, None, size=PAGE, page=typical_last),
        "long history, page 1": lambda _: history.get_page(long_life, None, size=PAGE),
        f"long history, page {last:,}": lambda n: history.get_page(long_life, None, size=PAGE, page=last - n % 10),
        "long history, withdrawals, page 1": lambda _: history.get_page(long_life, EntryType.WITHDRAWAL, size=PAGE),
        f"long history, withdrawals, page {last // 2:,}": lambda n: history.get_page(
            long_life, EntryType.WITHDRAWAL, size=PAGE, page=last // 2 - n % 10
        ),
        "the same, by its cursor": lambda n: history.get_page(
            long_life, EntryType.WITHDRAWAL, size=PAGE, before_seq=200 + n
        ),
    }
    return {label: _median_ms(read) for label, read in asked.items()}


def _median_ms(read: Callable[[int], HistoryPage]) -> float:
    times = []
    for number in range(READS):
        began = time.perf_counter()
        page = read(number)
        times.append((time.perf_counter() - began) * 1000)
        if not page.entries:
            raise BenchError("a page of history is empty")
    return statistics.median(times)


def audit_hours(site: Site, shape: Shape, *, port: int, ask: Callable[[], bytes]) -> dict[str, float]:
    """Measure slices of an audit while the service is busy, and return how long a whole round would take.

    Args:
        site: of the old books.
        shape: of them.
        port: of the API.
        ask: gives the transfers that it is kept busy with.

    Returns:
        The median milliseconds of a slice of each walk; the hours of a round of these books, and of one of 100 million
        transfers of the same shape, if one worker audits them in the pauses of its relay.
    """
    check = BooksCheck(site.engines[SERVICE])
    wallets, newest = shape.wallets, _newest(site)
    spent: dict[str, list[float]] = {"wallets": [], "transfers": []}
    with _busy(port, ask):
        for number in range(SLICES):
            places: dict[str, dict[str, Any]] = {
                "wallets": {"walk": "wallets", "wallet_id": wallets * number // SLICES, "seq": _LAST_SEQ},
                "transfers": {"walk": "transfers", "after": newest // SLICES * number, "through": newest},
            }
            for walk, place in places.items():
                began = time.perf_counter()
                if check.run(place, MAX_SLICE).findings:
                    raise BenchError(f"the audit finds something broken: {place}")
                spent[walk].append(time.perf_counter() - began)
    slice_s = {walk: statistics.median(times) for walk, times in spent.items()}
    slices = {"wallets": shape.entries / MAX_SLICE, "transfers": shape.transfers / MAX_SLICE}
    hours = sum(slices[walk] * _period_s(slice_s[walk]) for walk in slices) / 3_600
    return {
        "slice of the entries, ms": slice_s["wallets"] * 1000,
        "slice of the transfers, ms": slice_s["transfers"] * 1000,
        "hours": hours,
        "hours of 100 million": hours * 100e6 / shape.transfers,
    }


def _period_s(slice_s: float) -> float:
    """Return the seconds from one slice to the next: there is one in a pass of the relay, and none while it rests."""
    return slice_s + PAUSE_S * max(1, math.ceil(REST * slice_s / PAUSE_S))


def prove(site: Site) -> float:
    """Have the service's own audit go through all of the books, without its rests; return the seconds it took.

    Raises:
        BenchError: it finds something.
    """
    began = time.monotonic()
    *_, (found, _) = run_whole([BooksCheck(site.engines[SERVICE])], limit=MAX_SLICE)
    if found.findings:
        raise BenchError(f"the books do not balance: {', '.join(found.findings)}")
    return time.monotonic() - began


@contextmanager
def _busy(port: int, ask: Callable[[], bytes]) -> Iterator[None]:
    """Have transfers posted by one caller, one after the other, meanwhile."""
    over = threading.Event()

    def pay() -> None:
        while not over.is_set():
            flood(port, ask, connections=1, seconds=0.2, status=200)

    thread = threading.Thread(target=pay, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def count(site: Site) -> int:
    """Return how many transfers there are."""
    return _scalar(site, "SELECT count(*) FROM transfers")


def _newest(site: Site) -> int:
    return _scalar(site, "SELECT max(id) FROM transfers")


def _scalar(site: Site, query: str) -> int:
    with closing(psycopg2.connect(site.url(SERVICE))) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        (found,) = cursor.fetchone() or (0,)
        return int(found)

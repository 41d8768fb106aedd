"""Finding transfers by what is known of them, newest first.

A look takes a bounded number of rows off one range of one index (of two, for what a user has paid and was paid), and
what that range does not answer for is asked of these rows alone. So a page costs what is looked at, however large the
table and however rare what is looked for: where the looks of one request find too little, the page is short, or empty,
and the next one goes on where they have ended. What would be a walk through everybody's transfers for the sake of a few
is refused.

Order and cursor are the instant at which a transfer was accepted, and its id. Two lists are in another order, since no
index has that one: everybody's transfers in that of ids, which are drawn just before; and what anybody has ordered with
a key, which a whole import shares, in that of who did, administrators first. What comes while somebody walks is newer
than where he is.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Engine

from models.database.session import Statement, read_rows
from models.errors import NoIndexServes
from models.ledger.history import TransferRow, as_transfer
from models.ledger.transfer import MAX_CENTS, MAX_ID, Kind, Status, Transfer
from models.snowflake.layout import first_id_of

# Rows that a look takes off an index, if some of them may not be what is looked for.
LOOK = 1_000
# Looks a request, and the seconds after which it begins no other one.
MOST_LOOKS = 10
LOOKS_S = 1.0
# In everybody's transfers what is rare is looked for within so many days.
MOST_DAYS = 31
# By how much an id may have been drawn earlier than PostgreSQL says that its transfer was accepted, and, as clocks
# differ, later.
EARLIER_S, LATER_S = 60.0, 10.0

_BEGINNING, _END = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
# Outside of what ids can tell, and well inside of what instants can.
_FIRST, _LAST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What is known of transfers; None: nothing. The bounds of amounts (cents) and instants belong to them.

    ``user_id``: who has paid or was paid, or, with ``direction`` (``in``, ``out``), just one of these. With an
    idempotency key: whose it is.
    """

    user_id: int | None = None
    direction: str | None = None
    counterparty_user_id: int | None = None
    reference: str | None = None
    idempotency_key: str | None = None
    bulk_id: int | None = None
    status: Status | None = None
    kind: Kind | None = None
    amount_min: int | None = None
    amount_max: int | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None

    @property
    def given(self) -> set[str]:
        """The names of those that say something."""
        return {field.name for field in fields(self) if getattr(self, field.name) is not None}


class Place(NamedTuple):
    """Where something stands among transfers."""

    created_at: datetime
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferPage:
    """Some transfers, newest first; ``end``: where the next page goes on, None when there is none."""

    transfers: list[Transfer]
    end: Place | None


# $1 is the user, $2 the counterparty, $3 the reference, $4 the key, $5 the bulk, $6 the status, $7 the kind, $8 and $9
# bound the amount, $10 and $11 the instant. $12 says whether what the user has paid is wanted, $13 what he was paid.
# What is looked at lies after a place ($14, $15), and is no more than $16; $17 are shown. $18 is the lowest id.
_TYPES = (
    "bigint", "bigint", "text", "text", "bigint", "text", "text", "bigint", "bigint", "timestamptz", "timestamptz",
    "boolean", "boolean", "timestamptz", "bigint", "int", "int", "bigint",
)  # fmt: skip
_OWNER = "coalesce(key_owner, source, destination)"
_FACTS = f"source, destination, kind, status, amount, reference, bulk_id, {_OWNER} AS owner"
_NEWEST = "created_at DESC, id DESC"
_BEFORE = "created_at >= $10 AND (created_at, id) < ($14, $15)"
# Each filter once more, for the ranges that do not answer for it.
_ASKED_FOR = """
    ($6 IS NULL OR status = $6) AND ($7 IS NULL OR kind = $7) AND amount BETWEEN $8 AND $9
    AND created_at BETWEEN $10 AND $11 AND ($3 IS NULL OR reference = $3) AND ($5 IS NULL OR bulk_id = $5)
    AND ($1 IS NULL OR ($12 AND source = $1 AND ($2 IS NULL OR destination = $2))
        OR ($13 AND destination = $1 AND ($2 IS NULL OR source = $2)))
"""


def _look(name: str, *ranges: str, order: str = _NEWEST) -> Statement:
    """Make the statement that looks at some ranges, each of which has an index in this order.

    How many rows it has looked at and where they end stand beside each that it found, or alone. Each range has a limit
    of its own, which is no constant: so whoever plans it prefers the order of an index, whatever the tables hold.
    """
    limited = "\n    UNION ALL ".join(
        f"(SELECT id, created_at, {_FACTS} FROM transfers WHERE {each} ORDER BY {order} LIMIT $16)"  # noqa: S608
        for each in ranges
    )
    looked = f"SELECT * FROM ({limited}) AS ranges ORDER BY {order} LIMIT $16"  # noqa: S608 - made of constants
    return _statement(name, looked, order)


def _look_by_reference(name: str, *ranges: str) -> Statement:
    """Likewise, at ranges of what transfers are called; whatever else is asked, is asked of the transfers."""
    limited = "\n    UNION ALL ".join(
        f"""(SELECT transfer_id AS id, created_at FROM transfer_references
            WHERE {each} AND created_at >= $10 AND (created_at, transfer_id) < ($14, $15)
            ORDER BY created_at DESC, transfer_id DESC LIMIT $16)"""  # noqa: S608 - likewise
        for each in ranges
    )
    looked = f"""
    SELECT called.*, {_FACTS} FROM (
        SELECT * FROM ({limited}) AS ranges ORDER BY {_NEWEST} LIMIT $16
    ) AS called LEFT JOIN LATERAL (SELECT * FROM transfers WHERE id = called.id LIMIT 1) AS t ON true
"""  # noqa: S608 - likewise
    return _statement(name, looked, _NEWEST)


def _statement(name: str, looked: str, order: str) -> Statement:
    backwards = order.replace(" DESC", "") if " DESC" in order else f"{order} DESC"
    shown = ", ".join(f"t.{column}" for column in TransferRow._fields)
    sql = f"""
WITH looked AS MATERIALIZED ({looked}), page AS (
    SELECT id, created_at, owner FROM looked WHERE {_ASKED_FOR} ORDER BY {order} LIMIT $17
)
SELECT counted.rows, ends.created_at, ends.id, {shown}
FROM (SELECT count(*) AS rows FROM looked) AS counted
LEFT JOIN (SELECT created_at, id FROM looked ORDER BY {backwards} LIMIT 1) AS ends ON true
LEFT JOIN page ON true LEFT JOIN LATERAL (SELECT * FROM transfers WHERE id = page.id LIMIT 1) AS t ON true
ORDER BY {", ".join(f"page.{column}" for column in order.split(", "))}
"""  # noqa: S608 - likewise
    return Statement(f"list_{name}", _TYPES, sql)


# What holds of every id and every reference is said where an index wants to hear it (models/schema/tables.py).
_OF_USER_BY_KEY = _look("of_user_by_key", f"idempotency_key = $4 AND {_OWNER} = $1 AND {_BEFORE}")
# That the last look has ended with.
_LAST_OWNER = f"SELECT {_OWNER} FROM transfers WHERE id = $15 LIMIT 1"  # noqa: S608 - made of constants
_BY_KEY = _look("by_key", f"idempotency_key = $4 AND {_OWNER} > coalesce(({_LAST_OWNER}), -1)", order="owner")
_BY_BULK = _look("by_bulk", f"bulk_id = $5 AND {_BEFORE}")
_BY_REFERENCE = _look_by_reference("by_reference", "reference = $3 AND reference > ''")
_BY_STATUS = _look("by_status", f"status = $6 AND status <> 'posted' AND id > 0 AND {_BEFORE}")
_OF_USER = _look(
    "of_user",
    f"$12 AND source = $1 AND source > 0 AND {_BEFORE}",
    f"$13 AND destination = $1 AND destination > 0 AND {_BEFORE}",
)
_OF_USER_BY_REFERENCE = _look_by_reference(
    "of_user_by_reference",
    "$12 AND source = $1 AND reference = $3",
    "$13 AND destination = $1 AND reference = $3",
)
_OF_PAIR = _look(
    "of_pair",
    f"$12 AND source = $1 AND destination = $2 AND {_BEFORE}",
    f"$13 AND source = $2 AND destination = $1 AND {_BEFORE}",
)
_OF_ALL = _look("of_all", "id < $15 AND id >= $18", order="id DESC")

_TIMES = {"created_from", "created_to"}
_NEED_USER = ("direction", "counterparty_user_id")
_NEED_RANGE = ("kind", "amount_min", "amount_max")
_RANGES = (
    "user_id, idempotency_key, reference, bulk_id, a status other than posted, or created_from at most"
    f" {MOST_DAYS} days before created_to (or now)"
)


class Listing:
    """Reads one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get_page(self, filters: Filters, *, size: int, after: Place | None = None) -> TransferPage:
        """Return transfers that all filters hold of, newest first.

        Args:
            filters: what is known of them.
            size: how many at most. There may be fewer, though others follow.
            after: the ``end`` of an earlier page, of whatever filters. What is new does not shift it.

        Raises:
            NoIndexServes: it would be a walk through everybody's transfers.
            Unavailable: the database cannot be reached.
        """
        statement, answered = _choose(filters)
        is_exact = filters.given <= answered
        begins_at = time.monotonic()
        place = _begin(statement, filters, after)
        found: list[Transfer] = []
        for _ in range(MOST_LOOKS):
            look = size + 1 if is_exact else LOOK
            # One more than is wanted tells whether there is another.
            rows = read_rows(self._engine, statement, *_parameters(filters, place, look, size + 1 - len(found)))
            found += _transfers(rows)
            looked, *end = rows[0][:3]
            if len(found) > size:
                last = found[size - 1]
                return TransferPage(transfers=found[:size], end=Place(last.created_at, last.id))
            if looked < look:
                return TransferPage(transfers=found, end=None)
            place = Place(*end)
            if len(found) == size or time.monotonic() - begins_at >= LOOKS_S:
                break
        return TransferPage(transfers=found, end=place)


def _choose(filters: Filters) -> tuple[Statement, set[str]]:
    """Return what looks at the range with least in it that is not asked for, and the filters that hold of all of it.

    Raises:
        NoIndexServes: there is none.
    """
    given = filters.given
    if "user_id" not in given:
        return _choose_of_everybody(filters, given)
    if "idempotency_key" in given:
        return _OF_USER_BY_KEY, {"user_id", "idempotency_key"}
    if "bulk_id" in given:
        return _BY_BULK, _TIMES | {"bulk_id"}
    answered = _TIMES | {"user_id", "direction"}
    if "reference" in given:
        return _OF_USER_BY_REFERENCE, answered | {"reference"}
    if "counterparty_user_id" in given:
        return _OF_PAIR, answered | {"counterparty_user_id"}
    return _OF_USER, answered


def _choose_of_everybody(filters: Filters, given: set[str]) -> tuple[Statement, set[str]]:
    for asked in _NEED_USER:
        if asked in given:
            raise NoIndexServes(asked, "user_id")
    if "idempotency_key" in given:
        return _BY_KEY, {"idempotency_key"}
    if "bulk_id" in given:
        return _BY_BULK, _TIMES | {"bulk_id"}
    if "reference" in given:
        return _BY_REFERENCE, _TIMES | {"reference"}
    if "status" in given and filters.status is not Status.POSTED:
        return _BY_STATUS, _TIMES | {"status"}
    for asked in _NEED_RANGE:
        if asked in given and not _is_narrow(filters):
            raise NoIndexServes(asked, _RANGES)
    return _OF_ALL, set()


def _is_narrow(filters: Filters) -> bool:
    begin, end = filters.created_from, filters.created_to or datetime.now(UTC)
    return begin is not None and end - begin <= timedelta(days=MOST_DAYS)


def _begin(statement: Statement, filters: Filters, after: Place | None) -> Place:
    """Return where a statement is to go on from, for all that is looked for."""
    first = Place(filters.created_to or _END, MAX_ID)
    if statement is _BY_KEY:
        return after or first
    if statement is _OF_ALL:
        first = Place(first.created_at, _first_id(filters.created_to, LATER_S) if filters.created_to else MAX_ID)
        return first if after is None or after.id > first.id else after
    return first if after is None else min(first, after)


def _parameters(filters: Filters, place: Place, look: int, size: int) -> tuple[object, ...]:
    begin, end = filters.created_from or _BEGINNING, filters.created_to or _END
    return (
        filters.user_id, filters.counterparty_user_id, filters.reference, filters.idempotency_key, filters.bulk_id,
        filters.status and filters.status.value, filters.kind and filters.kind.value,
        filters.amount_min or 0, MAX_CENTS if filters.amount_max is None else filters.amount_max, begin, end,
        filters.direction != "in", filters.direction != "out", *place, look, size, _first_id(begin, -EARLIER_S),
    )  # fmt: skip


def _first_id(instant: datetime, shift_s: float) -> int:
    """Return the lowest id of an instant that lies so many seconds later."""
    return first_id_of(min(max(instant, _FIRST), _LAST) + timedelta(seconds=shift_s))


def _transfers(rows: Iterable[tuple[Any, ...]]) -> Iterable[Transfer]:
    return (as_transfer(TransferRow._make(row[3:])) for row in rows if row[3] is not None)

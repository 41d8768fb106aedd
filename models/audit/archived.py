"""The proof of archives: the files are those that were written, and what they hold comes to the openings in the books.

The files are read in their order. Each must have the digest that the database knows, and name that of the one before.
The entries of a wallet go on from each other, from the first file to the last, and where they end is the wallet's
opening. Which is held in memory: some 200 bytes for each wallet whose entries have ever left.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Engine, Row, select

from models.database.engine import fetch_all
from models.ledger import archive_file
from models.ledger.archive_file import FileBroken, Head, name_of
from models.ledger.transfer import Kind
from models.schema.tables import archives, openings

# Openings of a query.
SLICE = 10_000
# Of these a file may have very many, all for one reason.
MAX_TOLD = 20


class _Standing(NamedTuple):
    """Where a wallet's entries end."""

    seq: int
    balance_cents: int


@dataclass(slots=True)
class Proof:
    """What was read, and what is wrong, in sentences. ``unknown``: files that the database knows nothing of."""

    archives: int = 0
    entries: int = 0
    transfers: int = 0
    problems: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def prove(engine: Engine, folder: Path, *, progress: Callable[[str], object] = lambda _: None) -> Proof:
    """Compare all archives of a database with the files of a folder, and with its openings. Changes nothing.

    Args:
        engine: of the database; any role that may read it.
        folder: where all of the files are.
        progress: is told the name of each file before it is read.

    Raises:
        sqlalchemy.exc.DBAPIError, Unavailable: the database cannot be read.
    """
    proof = Proof()
    standings: dict[int, _Standing] = {}
    known, previous = [], b""
    rows = fetch_all(engine, select(archives).order_by(archives.c.id))
    for number, row in enumerate(rows, 1):
        digest = bytes(row.digest)
        known.append(name_of(row.id, digest))
        progress(known[-1])
        if row.id != number:
            proof.problems.append(f"the database has no archive {number}")
            break
        try:
            _check_file(folder / known[-1], row, previous, standings, proof)
        except (FileBroken, OSError) as error:
            # What later files go on from is not known then.
            proof.problems.append(f"{known[-1]}: {error if isinstance(error, FileBroken) else error.strerror}")
            return proof
        previous = digest
    proof.unknown = archive_file.find_unknown(folder, known)
    proof.problems += _first(_find_wrong(engine, standings, len(rows)))
    return proof


def _check_file(path: Path, row: Row[Any], previous: bytes, standings: dict[int, _Standing], proof: Proof) -> None:
    """Read one file, and move the wallets' standings on.

    Raises:
        FileBroken: it is not what the database says it is, or does not go on from what was before it.
    """
    if archive_file.digest_of(path) != bytes(row.digest):
        raise FileBroken("its digest is another than the database has: it was changed")
    head, lines = archive_file.read(path)
    if (head.number, head.previous) != (row.id, previous.hex()):
        raise FileBroken(f"it says that it is number {head.number}, after {head.previous or 'none'}")
    counts: Counter[str] = Counter()
    wallets = set()
    for kind, each in lines:
        counts[kind] += 1
        if kind == "entry":
            wallets.add(each["wallet_id"])
            counts["moved"] += each["amount"]
            _go_on(standings, each)
        else:
            counts["made"] += {Kind.DEPOSIT: 1, Kind.WITHDRAWAL: -1}.get(each["kind"], 0) * each["amount"]
    found = (len(wallets), counts["entry"], counts["transfer"], counts["moved"], counts["made"])
    _compare(found, head, row)
    proof.archives += 1
    proof.entries += counts["entry"]
    proof.transfers += counts["transfer"]


def _go_on(standings: dict[int, _Standing], entry: dict[str, Any]) -> None:
    wallet_id, seq, balance_cents = entry["wallet_id"], entry["seq"], entry["balance_after"]
    before = standings.get(wallet_id, _Standing(0, 0))
    if (seq, balance_cents) != (before.seq + 1, before.balance_cents + entry["amount"]):
        raise FileBroken(f"entry {seq} of wallet {wallet_id} does not go on from number {before.seq}")
    standings[wallet_id] = _Standing(seq, balance_cents)


def _compare(found: tuple[int, ...], head: Head, row: Row[Any]) -> None:
    of_head = (head.wallets, head.entries, head.transfers, int(head.moved), int(head.made))
    of_row = (head.wallets, row.entries, row.transfers, int(row.moved), int(row.made))
    if not found == of_head == of_row:
        raise FileBroken(
            f"its wallets, entries, transfers, cents moved and made come to {found}; "
            f"it says {of_head}, the database {of_row}"
        )


def _find_wrong(engine: Engine, standings: dict[int, _Standing], newest: int) -> Iterator[str]:
    """Compare openings with where the files end. What has left meanwhile, for newer archives, is passed over."""
    after, left = 0, dict(standings)
    while True:
        query = select(openings).where(openings.c.wallet_id > after).order_by(openings.c.wallet_id).limit(SLICE)
        rows = fetch_all(engine, query)
        for row in rows:
            standing = left.pop(row.wallet_id, _Standing(0, 0))
            if row.archive <= newest and standing != (row.seq, row.balance):
                yield (
                    f"wallet {row.wallet_id}: the database opens with {row.balance} after entry {row.seq}, "
                    f"the files end with {standing.balance_cents} after entry {standing.seq}"
                )
        if len(rows) < SLICE:
            break
        after = rows[-1].wallet_id
    yield from (f"wallet {wallet_id}: its entries have left, and it has no opening" for wallet_id in left)


def _first(problems: Iterator[str]) -> list[str]:
    """Return the first few, and how many more there are."""
    told = list(islice(problems, MAX_TOLD))
    if more := sum(1 for _ in problems):
        told.append(f"(and {more} more)")
    return told

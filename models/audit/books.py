"""The audit of the books: wallets, entries and transfers against each other.

Three walks. The first goes along the entries in the order of their key, wallet by wallet, and carries its running
balance from slice to slice, so that a wallet with a million entries costs many slices and not a large one. It is
complete, and compared with its wallet's row, in the slice that sees no entry after it. Entries are immutable: it
matters not that earlier slices saw an earlier state of the books. The second walk goes along the transfers that there
were at the beginning. From an entry to its transfer and back is one look-up by primary key each, and one finds out
whether a transfer is found by its reference. The third counts the transfers of each bulk.

The grand total (what deposits less withdrawals have made is what the entries sum up to) is taken *as of an instant*,
the cut: both walks sum up what was completed until then. That stands still once every transaction has ended that may
have written before the cut, which is waited for; so the sums of slices are exact, and no statement has to read it all.

Entries that have left for an archive are stood for by their wallet's opening: the first walk begins a wallet with it,
or, should more have left since the last slice, goes on from it. A transfer whose entry is not there must have had it
below the opening. An audit during which something leaves does without the grand total.
"""

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Row, text

from models.audit.audit import MAX_IDS, Finding, Position, Slice
from models.database.engine import transaction

_MAX, _MIN = 2**63 - 1, -(2**63)
# The cut lies this far back: a clock that is set back by less does no harm.
CUT_AGE_S = 1.0
# How often, and how many times, to look whether the transactions before the cut have ended. Ours end within seconds;
# somebody else's may not, and then this audit does without the grand total.
SEAL_PAUSE_S = 0.2
SEAL_LOOKS = 150

# A transaction that has locked or written anything has an id by then, and a lower one than this statement draws.
_CUT = text("""
SELECT statement_timestamp() AS instant, CAST(CAST(pg_current_xact_id() AS text) AS numeric) AS xid,
    (SELECT coalesce(max(id), 0) FROM archives) AS archives
""")
_SEAL = text("""
SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS numeric) >= :xid AS sealed,
    (SELECT max(id) FROM transfers) AS through
""")

_ARCHIVED = text("SELECT coalesce(max(id), 0) AS archives, coalesce(sum(made), 0) AS made FROM archives")

# The slice ends with the last entry of the page, or, should there be as many wallets before that, with the last of
# those. LATERAL … LIMIT 1 is a look-up by key for each row, whatever the planner thinks of the whole table.
_WALLETS = text("""
WITH page AS MATERIALIZED (
    SELECT * FROM entries WHERE (wallet_id, seq) > (:wallet_id, :seq) ORDER BY wallet_id, seq LIMIT :limit
), accounts AS MATERIALIZED (
    SELECT id, balance, version, debits_frozen, credits_frozen FROM wallets WHERE id > :after ORDER BY id LIMIT :limit
), last AS (
    SELECT (SELECT count(*) = :limit FROM page) AS more, (SELECT count(*) = :limit FROM accounts) AS more_accounts,
        (SELECT max(wallet_id) FROM page) AS wallet_id,
        (SELECT seq FROM page ORDER BY wallet_id DESC, seq DESC LIMIT 1) AS seq,
        (SELECT max(id) FROM accounts) AS account
), edge AS MATERIALIZED (
    SELECT CASE WHEN more_accounts AND (NOT more OR account < wallet_id) THEN account
            WHEN more THEN wallet_id ELSE :end END AS wallet_id,
        CASE WHEN more AND NOT (more_accounts AND account < wallet_id) THEN seq ELSE :end END AS seq
    FROM last
), chained AS MATERIALIZED (
    SELECT page.*, lag(page.seq) OVER chain AS seq_lag, lag(page.balance_after) OVER chain AS balance_lag
    FROM page, edge WHERE (page.wallet_id, page.seq) <= (edge.wallet_id, edge.seq)
    WINDOW chain AS (PARTITION BY page.wallet_id ORDER BY page.seq)
), part AS MATERIALIZED (
    SELECT chained.*,
        coalesce(seq_lag, CASE WHEN wallet_id = :wallet_id AND :seq >= coalesce(o.seq, 0) THEN :seq ELSE o.seq END, 0)
            AS seq_before,
        coalesce(balance_lag,
            CASE WHEN wallet_id = :wallet_id AND :seq >= coalesce(o.seq, 0) THEN :balance ELSE o.balance END, 0)
            AS balance_before,
        o.seq AS opening_seq, o.balance AS opening
    FROM chained LEFT JOIN LATERAL (
        -- for a wallet's first entry in the slice only
        SELECT openings.seq, openings.balance FROM openings
        WHERE chained.seq_lag IS NULL AND openings.wallet_id = chained.wallet_id LIMIT 1
    ) o ON true
), sums AS MATERIALIZED (
    SELECT wallet_id, max(seq) AS seq, sum(amount) AS amount,
        (array_agg(balance_after ORDER BY seq DESC))[1] AS balance,
        max(opening_seq) AS opening_seq, max(opening) AS opening
    FROM part GROUP BY wallet_id
), begun AS MATERIALIZED (
    SELECT a.* FROM edge, accounts a WHERE a.id <= edge.wallet_id
), opened AS MATERIALIZED (
    -- what stands for entries that have left; where the last slice has got beyond that, its word counts
    SELECT b.*, s.seq, s.balance AS newest_balance, s.amount,
        coalesce(s.opening_seq, o.seq, 0) AS opening_seq, coalesce(s.opening, o.balance, 0) AS opening,
        b.id = :wallet_id AND :seq >= coalesce(s.opening_seq, o.seq, 0) AS is_gone_on_with
    FROM begun b LEFT JOIN sums s ON s.wallet_id = b.id LEFT JOIN LATERAL (
        SELECT openings.seq, openings.balance FROM openings WHERE s.wallet_id IS NULL AND wallet_id = b.id LIMIT 1
    ) o ON true
), standing AS MATERIALIZED (
    SELECT id, balance, version, debits_frozen, credits_frozen,
        coalesce(opened.seq, CASE WHEN is_gone_on_with THEN :seq ELSE opening_seq END) AS newest_seq,
        coalesce(newest_balance, CASE WHEN is_gone_on_with THEN :balance ELSE opening END) AS newest_balance,
        coalesce(amount, 0) + CASE WHEN is_gone_on_with THEN :sum ELSE opening END AS amount
    FROM edge, opened WHERE (id, :end) <= (edge.wallet_id, edge.seq)
), linked AS MATERIALIZED (
    SELECT part.wallet_id, part.seq, part.amount, part.transfer_id, t.id, t.status, t.completed_at,
        (t.source = part.wallet_id AND t.source_seq = part.seq)
            OR (t.destination = part.wallet_id AND t.destination_seq = part.seq) AS is_pointed_to
    FROM part LEFT JOIN LATERAL (SELECT * FROM transfers WHERE transfers.id = part.transfer_id LIMIT 1) t ON true
), broken AS (
    SELECT 'balance_equals_entries' AS invariant, CAST(id AS text) AS id,
        format('wallet %s: balance %s, its entries sum up to %s, the newest says %s', id, balance, amount,
            newest_balance) AS detail
    FROM standing WHERE balance <> amount OR balance <> newest_balance
    UNION ALL
    SELECT 'version_counts_entries', CAST(id AS text),
        format('wallet %s: version %s, its newest entry is number %s', id, version, newest_seq)
    FROM standing WHERE version <> newest_seq
    UNION ALL
    SELECT 'freeze_is_recorded', CAST(id AS text),
        format('wallet %s: debits frozen: %s, credits: %s, and the last change says otherwise', id, debits_frozen,
            credits_frozen)
    FROM standing LEFT JOIN LATERAL (
        SELECT debits, credits FROM freezes WHERE wallet_id = standing.id ORDER BY freezes.id DESC LIMIT 1
    ) said ON true
    WHERE debits_frozen <> coalesce(debits, false) OR credits_frozen <> coalesce(credits, false)
    UNION ALL
    SELECT 'balance_not_negative', CAST(id AS text), format('wallet %s: balance %s', id, balance)
    FROM standing WHERE balance < 0
    UNION ALL
    SELECT 'balance_not_negative', wallet_id || '-' || seq,
        format('entry %s of wallet %s: balance %s after it', seq, wallet_id, balance_after)
    FROM part WHERE balance_after < 0
    UNION ALL
    SELECT 'seq_without_gaps', wallet_id || '-' || seq,
        format('entry %s of wallet %s comes after number %s', seq, wallet_id, seq_before)
    FROM part WHERE seq <> CAST(seq_before AS numeric) + 1
    UNION ALL
    SELECT 'running_balance', wallet_id || '-' || seq,
        format('entry %s of wallet %s: %s and %s is not %s', seq, wallet_id, balance_before, amount, balance_after)
    FROM part WHERE balance_after <> CAST(balance_before AS numeric) + amount
    UNION ALL
    SELECT 'entry_has_wallet', wallet_id || '-' || seq,
        format('entry %s of wallet %s, which does not exist', seq, wallet_id)
    FROM part WHERE wallet_id = ANY (ARRAY(
        SELECT wallet_id FROM sums WHERE NOT EXISTS (SELECT FROM accounts a WHERE a.id = sums.wallet_id)
    ))
    UNION ALL
    SELECT 'entry_has_posted_transfer', wallet_id || '-' || seq,
        format('entry %s of wallet %s: transfer %s %s', seq, wallet_id, transfer_id,
            CASE WHEN id IS NULL THEN 'does not exist' ELSE 'points to another' END)
    FROM linked WHERE id IS NULL OR (status = 'posted' AND is_pointed_to IS NOT TRUE)
    UNION ALL
    SELECT 'unposted_has_no_entries', CAST(id AS text),
        format('transfer %s is %s, and has entry %s of wallet %s', id, status, seq, wallet_id)
    FROM linked WHERE status <> 'posted'
), named AS (
    -- for each invariant how many break it, some of their ids, and more about one
    SELECT invariant, count(DISTINCT id) AS count, (array_agg(DISTINCT id))[1 : :max_ids] AS ids, min(detail) AS detail
    FROM broken GROUP BY invariant
)
SELECT edge.wallet_id, edge.seq, carried.balance,
    carried.amount + coalesce(
        (SELECT CASE WHEN is_gone_on_with THEN :sum ELSE opening END FROM opened WHERE id = edge.wallet_id),
        CASE edge.wallet_id WHEN :wallet_id THEN :sum ELSE 0 END) AS sum,
    (SELECT count(*) FROM standing) AS wallets, (SELECT count(*) FROM part) AS entries,
    (SELECT coalesce(sum(amount), 0) FROM linked WHERE (completed_at <= CAST(:cut AS timestamptz)) IS NOT FALSE)
        + (SELECT coalesce(sum(opening), 0) FROM opened WHERE id <> :wallet_id) AS moved,
    (SELECT coalesce(jsonb_agg(named), '[]') FROM named) AS findings
FROM edge LEFT JOIN sums carried ON carried.wallet_id = edge.wallet_id
""")
_TRANSFERS = text("""
WITH page AS MATERIALIZED (
    SELECT * FROM transfers WHERE id > :after AND id <= :through ORDER BY id LIMIT :limit
), linked AS MATERIALIZED (
    SELECT page.*,
        -- an entry that is not there may have left: whether it has is looked up for those alone
        page.source IS NULL OR coalesce(CASE WHEN taken.seq IS NULL
            THEN page.source_seq <= (SELECT seq FROM openings WHERE wallet_id = page.source)
            ELSE taken.transfer_id = page.id AND taken.amount = -CAST(page.amount AS numeric)
                AND taken.counterparty IS NOT DISTINCT FROM page.destination
                AND taken.type = CASE page.kind WHEN 'withdrawal' THEN 2 WHEN 'transfer' THEN 3 END
            END, false) AS is_taken,
        page.destination IS NULL OR coalesce(CASE WHEN given.seq IS NULL
            THEN page.destination_seq <= (SELECT seq FROM openings WHERE wallet_id = page.destination)
            ELSE given.transfer_id = page.id AND given.amount = page.amount
                AND given.counterparty IS NOT DISTINCT FROM page.source
                AND given.type = CASE page.kind WHEN 'deposit' THEN 1 WHEN 'transfer' THEN 3 END
            END, false) AS is_given
    FROM page
    LEFT JOIN LATERAL (
        SELECT * FROM entries WHERE wallet_id = page.source AND seq = page.source_seq LIMIT 1
    ) taken ON true
    LEFT JOIN LATERAL (
        SELECT * FROM entries WHERE wallet_id = page.destination AND seq = page.destination_seq LIMIT 1
    ) given ON true
), originals AS (
    -- reversals have entries after the original's on the same wallets: they may have left where these have
    SELECT page.id, page.amount, page.status, page.reverses, page.reversed_amount, back.given_back,
        coalesce(page.source_seq <= (SELECT seq FROM openings WHERE wallet_id = page.source), false)
            OR coalesce(page.destination_seq <= (SELECT seq FROM openings WHERE wallet_id = page.destination), false)
            AS may_have_left
    FROM page CROSS JOIN LATERAL (
        SELECT coalesce(sum(amount), 0) AS given_back FROM transfers WHERE reverses = page.id AND status = 'posted'
    ) back WHERE page.reversed_amount IS NOT NULL
), reversals AS (
    SELECT page.id, page.reverses, original.id AS original_id, original.status AS original_status,
        original.amount AS original_amount, original.reversed_amount AS given_back,
        CASE WHEN original.id IS NULL THEN EXISTS (SELECT FROM archives)
            ELSE original.reversed_amount >= page.amount AND original.source IS NOT DISTINCT FROM page.destination
                AND original.destination IS NOT DISTINCT FROM page.source END AS is_counted
    FROM page LEFT JOIN LATERAL (SELECT * FROM transfers WHERE transfers.id = page.reverses LIMIT 1) original ON true
    WHERE page.reverses IS NOT NULL AND page.status = 'posted'
), broken AS (
    SELECT 'posted_has_entries' AS invariant, CAST(id AS text) AS id,
        format('%s %s of %s from wallet %s to wallet %s: no such entry on the %s', kind, id, amount,
            coalesce(CAST(source AS text), '-'), coalesce(CAST(destination AS text), '-'),
            CASE WHEN is_taken THEN 'destination' ELSE 'source' END) AS detail
    FROM linked WHERE status = 'posted' AND NOT (is_taken AND is_given)
    UNION ALL
    SELECT 'unposted_has_no_entries', CAST(id AS text),
        format('transfer %s is %s, and points to entries', id, status)
    FROM linked WHERE status <> 'posted' AND (source_seq IS NOT NULL OR destination_seq IS NOT NULL)
    UNION ALL
    SELECT 'reversals_within_original', CAST(id AS text),
        format('transfer %s of %s: %s was given back, by reversals of %s together', id, amount, reversed_amount,
            given_back)
    FROM originals WHERE reversed_amount > amount OR status <> 'posted' OR reverses IS NOT NULL
        OR given_back > reversed_amount OR (given_back < reversed_amount AND NOT may_have_left)
    UNION ALL
    SELECT 'reversals_within_original', CAST(id AS text),
        format('reversal %s of transfer %s: that is %s', id, reverses, CASE WHEN original_id IS NULL THEN 'not there'
            ELSE format('%s, of %s, %s given back', original_status, original_amount, coalesce(given_back, 0)) END)
    FROM reversals WHERE is_counted IS NOT TRUE
    UNION ALL
    SELECT 'reference_is_findable', CAST(id AS text), format('transfer %s is not found by its reference', id)
    FROM page LEFT JOIN LATERAL (
        SELECT transfer_id FROM transfer_references AS r
        WHERE r.reference = page.reference AND r.reference > '' AND r.created_at = page.created_at
            AND r.transfer_id = page.id AND r.source IS NOT DISTINCT FROM page.source
            AND r.destination IS NOT DISTINCT FROM page.destination LIMIT 1
    ) found ON true WHERE page.reference IS NOT NULL AND transfer_id IS NULL
    UNION ALL
    SELECT 'amount_is_positive', CAST(id AS text), format('transfer %s: amount %s', id, amount)
    FROM linked WHERE amount < 1
), named AS (
    -- for each invariant how many break it, some of their ids, and more about one
    SELECT invariant, count(DISTINCT id) AS count, (array_agg(DISTINCT id))[1 : :max_ids] AS ids, min(detail) AS detail
    FROM broken GROUP BY invariant
)
SELECT (SELECT max(id) FROM page) AS id, (SELECT count(*) FROM page) AS transfers,
    (SELECT coalesce(sum(CASE kind WHEN 'deposit' THEN amount WHEN 'withdrawal' THEN -amount END), 0)
        FROM page WHERE status = 'posted' AND completed_at <= CAST(:cut AS timestamptz)) AS made,
    (SELECT coalesce(jsonb_agg(named), '[]') FROM named) AS findings
""")


# As many as have together so many transfers, and one more; these are counted in the index that lists a bulk's. Some of
# them may have left.
_BULKS = text("""
WITH page AS MATERIALIZED (
    SELECT * FROM (
        SELECT next.*, sum(count) OVER (ORDER BY id) - count AS before
        FROM (SELECT * FROM bulks WHERE id > :after ORDER BY id LIMIT :limit) AS next
    ) AS summed WHERE before < :limit
), counts AS MATERIALIZED (
    SELECT page.id, page.count, page.posted, page.rejected, page.failed, page.canceled, found.*
    FROM page CROSS JOIN LATERAL (
        SELECT count(*) AS n, count(*) FILTER (WHERE status = 'posted') AS n_posted,
            count(*) FILTER (WHERE status = 'rejected') AS n_rejected,
            count(*) FILTER (WHERE status = 'failed') AS n_failed,
            count(*) FILTER (WHERE status = 'canceled') AS n_canceled
        FROM transfers WHERE bulk_id = page.id
    ) AS found
), broken AS (
    SELECT 'bulk_counts_transfers' AS invariant, CAST(id AS text) AS id,
        format('bulk %s of %s: says posted %s, rejected %s, failed %s, canceled %s; it has %s: %s, %s, %s, %s', id,
            count, posted, rejected, failed, canceled, n, n_posted, n_rejected, n_failed, n_canceled) AS detail
    FROM counts WHERE (rejected, failed, canceled) <> (n_rejected, n_failed, n_canceled)
        OR count - posted <> n - n_posted OR (posted <> n_posted AND NOT EXISTS (SELECT FROM archives))
), named AS (
    SELECT invariant, count(DISTINCT id) AS count, (array_agg(DISTINCT id))[1 : :max_ids] AS ids, min(detail) AS detail
    FROM broken GROUP BY invariant
)
SELECT (SELECT max(id) FROM page) AS id, (SELECT count(*) FROM page) AS bulks,
    (SELECT coalesce(jsonb_agg(named), '[]') FROM named) AS findings
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the audit of the books stands; all of it is JSON.

    ``walk``: cut, seal, wallets, transfers, bulks. ``cut``: the instant of the grand total; None: it is not taken.
    ``archives``: how many there were then.
    ``wallet_id``, ``seq``: the last entry seen (a seq of _MAX: the wallet is done with), and then what was summed up of
    this wallet so far. ``moved``, ``made``: what entries, and deposits less withdrawals, come to until the cut.
    """

    walk: str = "cut"
    cut: str | None = None
    xid: int = 0
    looks: int = 0
    archives: int = 0
    through: int = _MIN
    wallet_id: int = _MIN
    seq: int = _MAX
    sum: int = 0
    balance: int = 0
    moved: int = 0
    after: int = _MIN
    made: int = 0


class BooksCheck:
    """Audits the books of one database. Nothing is locked, and no statement reads more than a slice."""

    name = "books"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def run(self, position: Position, limit: int) -> Slice:
        """Look at no more than ``limit`` wallets and ``limit`` entries, or as many transfers.

        Raises:
            Unavailable: the database is away, or the slice too large for the time that a statement may take.
        """
        place = _Place(**position)
        walk = {
            "cut": self._cut,
            "seal": self._seal,
            "wallets": self._wallets,
            "transfers": self._transfers,
            "bulks": self._bulks,
        }
        return walk[place.walk](place, limit)

    def _one(self, statement: Any, **parameters: object) -> Row[Any]:
        with transaction(self._engine) as connection:
            # What a slice has found is joined with itself: row by row, each of as many wallets as entries would be
            # compared with each. Tables are looked up by key (LATERAL), for which there is no other way.
            connection.exec_driver_sql("SET LOCAL enable_hashjoin = on; SET LOCAL enable_nestloop = off")
            return connection.execute(statement, parameters).one()

    def _cut(self, place: _Place, _: int) -> Slice:
        row = self._one(_CUT)
        cut = row.instant - timedelta(seconds=CUT_AGE_S)
        return _on(replace(place, walk="seal", cut=cut.isoformat(), xid=int(row.xid), archives=row.archives))

    def _seal(self, place: _Place, _: int) -> Slice:
        """Wait until nobody can complete anything before the cut any more."""
        row = self._one(_SEAL, xid=place.xid)
        through = _MIN if row.through is None else row.through
        if row.sealed:
            return _on(replace(place, walk="wallets", through=through))
        if place.looks >= SEAL_LOOKS:
            return _on(replace(place, walk="wallets", through=through, cut=None))
        return _on(replace(place, looks=place.looks + 1), pause_s=SEAL_PAUSE_S)

    def _wallets(self, place: _Place, limit: int) -> Slice:
        is_done = place.seq == _MAX
        row = self._one(
            _WALLETS,
            wallet_id=place.wallet_id,
            seq=place.seq,
            after=place.wallet_id if is_done else max(place.wallet_id - 1, _MIN),
            balance=place.balance,
            sum=place.sum,
            cut=place.cut,
            limit=limit,
            end=_MAX,
            max_ids=MAX_IDS,
        )
        place = replace(
            place,
            walk="transfers" if row.wallet_id == row.seq == _MAX else "wallets",
            wallet_id=row.wallet_id,
            seq=row.seq,
            moved=place.moved + int(row.moved),
            sum=0 if row.seq == _MAX else int(row.sum),
            balance=0 if row.seq == _MAX else row.balance,
        )
        return _on(place, checked={"wallets": row.wallets, "entries": row.entries}, findings=_findings(row))

    def _transfers(self, place: _Place, limit: int) -> Slice:
        row = self._one(
            _TRANSFERS, after=place.after, through=place.through, cut=place.cut, limit=limit, max_ids=MAX_IDS
        )
        checked, found = {"transfers": row.transfers}, _findings(row)
        place = replace(place, made=place.made + int(row.made))
        if row.transfers == limit:
            return _on(replace(place, after=row.id), checked=checked, findings=found)
        left = self._one(_ARCHIVED)
        made = place.made + int(left.made)
        if place.cut is not None and left.archives == place.archives and made != place.moved:
            at = datetime.fromisoformat(place.cut)
            detail = f"until {at}, deposits less withdrawals made {made} cents, entries sum up to {place.moved}"
            found.append(Finding(invariant="money_is_conserved", count=1, ids=[], detail=detail))
        return Slice(position=asdict(replace(place, walk="bulks", after=_MIN)), checked=checked, findings=found)

    def _bulks(self, place: _Place, limit: int) -> Slice:
        row = self._one(_BULKS, after=place.after, limit=limit, max_ids=MAX_IDS)
        position = asdict(replace(place, after=row.id)) if row.bulks else None
        return Slice(position=position, checked={}, findings=_findings(row))


def _on(place: _Place, **of_slice: Any) -> Slice:
    return Slice(position=asdict(place), **of_slice)


def _findings(row: Row[Any]) -> list[Finding]:
    return [Finding(**each) for each in row.findings]

"""A list holds what its filters say, all of it and nothing else, newest first, on however many pages."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select, text, update

from models.errors import NoIndexServes, Unavailable
from models.ledger import listing
from models.ledger.history import as_transfer
from models.ledger.listing import Filters, Listing, Place
from models.ledger.transfer import MAX_CENTS, Kind, Status, Transfer
from models.schema.tables import transfer_references, transfers
from tests.models.ledger.listed import BEGIN, fill, share
from tests.models.ledger.ordering import bounded_engine
from tests.proxy import TcpProxy

COUNT, USERS, SHARING = 600, 4, 150
KEYS = text(
    "SELECT id, idempotency_key AS key, coalesce(key_owner, source, destination) AS owner FROM transfers"
    " WHERE idempotency_key IS NOT NULL"
)
# By the id of a transfer: its key, and whose that is.
Keys = dict[int, tuple[str, int]]


@pytest.fixture
def reader(engine: Engine) -> Listing:
    return Listing(engine)


@pytest.fixture
def small_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks that end within what there is, so that pages are short and empty."""
    monkeypatch.setattr(listing, "LOOK", 40)
    monkeypatch.setattr(listing, "MOST_LOOKS", 3)


@pytest.fixture
def recorded(engine: Engine, small_looks: None) -> tuple[list[Transfer], Keys]:
    """All transfers, newest first, and the keys of those that have one. Ten each were accepted at the same instant."""
    del small_looks
    with engine.begin() as connection:
        fill(connection, COUNT, users=USERS)
        share(connection, SHARING)
        for table in (transfers, transfer_references):
            connection.execute(update(table).values(created_at=text("date_bin('10 s', created_at, '2026-01-01Z')")))
        found = [as_transfer(row) for row in connection.execute(select(transfers))]
        keys = {row.id: (row.key, row.owner) for row in connection.execute(KEYS)}
    return sorted(found, key=lambda each: (each.created_at, each.id), reverse=True), keys


def walk(reader: Listing, filters: Filters, *, size: int) -> Iterator[list[Transfer]]:
    """Read all pages."""
    after: Place | None = None
    while True:
        page = reader.get_page(filters, size=size, after=after)
        assert len(page.transfers) <= size
        yield page.transfers
        if page.end is None:
            return
        assert after is None or page.end < after or is_by_key(filters)
        after = page.end


def is_by_key(filters: Filters) -> bool:
    """Whether it is in the order of whose the keys are."""
    return filters.idempotency_key is not None and filters.user_id is None


def expected(everything: list[Transfer], keys: Keys, filters: Filters) -> list[Transfer]:
    found = [each for each in everything if holds(filters, each, *keys.get(each.id, (None, None)))]
    return sorted(found, key=lambda each: keys[each.id][1]) if is_by_key(filters) else found


def holds(filters: Filters, transfer: Transfer, key: str | None, owner: int | None) -> bool:
    """Whether a transfer is what is looked for, as one would say it without a database."""
    user, other = filters.user_id, filters.counterparty_user_id
    paid = transfer.source == user and other in (None, transfer.destination) and filters.direction != "in"
    received = transfer.destination == user and other in (None, transfer.source) and filters.direction != "out"
    return (
        (user is None or paid or received)
        and filters.reference in (None, transfer.details.reference)
        and (filters.idempotency_key is None or (filters.idempotency_key == key and user in (None, owner)))
        and filters.bulk_id in (None, transfer.bulk_id)
        and filters.status in (None, transfer.status)
        and filters.kind in (None, transfer.kind)
        and (filters.amount_min or 0) <= transfer.amount_cents <= (filters.amount_max or MAX_CENTS)
        and (filters.created_from is None or transfer.created_at >= filters.created_from)
        and (filters.created_to is None or transfer.created_at <= filters.created_to)
    )


def maybe(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | values


# Some of them are instants at which something was accepted.
_instants = st.integers(-20, COUNT + 20).map(lambda seconds: BEGIN + timedelta(seconds=seconds))
_keys = st.just("shared") | st.integers(1, COUNT).map(lambda n: f"key-{n}")
_others = {
    "reference": maybe(st.sampled_from(["popular", "invoice-3", "none"])),
    "bulk_id": maybe(st.integers(1, 3)),
    "status": maybe(st.sampled_from(Status)),
    "kind": maybe(st.sampled_from(Kind)),
    "amount_min": maybe(st.integers(1, 1_000)),
    "amount_max": maybe(st.integers(1, 1_000)),
    "created_from": maybe(_instants),
    "created_to": maybe(_instants),
}
_of_user = st.builds(
    Filters,
    user_id=st.integers(1, USERS),
    direction=maybe(st.sampled_from(["in", "out"])),
    counterparty_user_id=maybe(st.integers(1, USERS)),
    idempotency_key=maybe(_keys),
    **_others,
)
_of_everybody = st.builds(Filters, idempotency_key=maybe(_keys), **_others)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=settings().max_examples * 4)
@given(filters=_of_user | _of_everybody, size=st.integers(1, 100))
@example(filters=Filters(), size=7)
@example(filters=Filters(user_id=1), size=7)
@example(filters=Filters(idempotency_key="shared"), size=7)
@example(filters=Filters(idempotency_key="shared", user_id=1), size=7)
@example(filters=Filters(idempotency_key="shared", created_to=BEGIN + timedelta(seconds=90)), size=7)
@example(filters=Filters(user_id=1, status=Status.FAILED), size=100)
@example(filters=Filters(created_from=BEGIN, kind=Kind.DEPOSIT, created_to=BEGIN + timedelta(seconds=50)), size=5)
def test_a_list_is_what_a_look_at_everything_would_find(
    reader: Listing, recorded: tuple[list[Transfer], Keys], filters: Filters, size: int
) -> None:
    everything, keys = recorded
    try:
        found = [transfer for page in walk(reader, filters, size=size) for transfer in page]
    except NoIndexServes:
        assert filters.user_id is None
        return
    assert found == expected(everything, keys, filters)


@pytest.mark.parametrize("size", [7, 40, 100])
@pytest.mark.parametrize(
    "filters", [Filters(), Filters(user_id=1), Filters(user_id=1, kind=Kind.DEPOSIT), Filters(reference="popular")]
)
def test_what_arrives_while_somebody_walks_is_in_nobodys_way(
    engine: Engine,
    reader: Listing,
    recorded: tuple[list[Transfer], Keys],
    filters: Filters,
    size: int,
) -> None:
    everything, keys = recorded
    found = list[Transfer]()
    for number, page in enumerate(walk(reader, filters, size=size)):
        found += page
        with engine.begin() as connection:
            fill(connection, 3, users=USERS, first=COUNT + 100 + 3 * number)
    assert found == expected(everything, keys, filters)


def test_a_page_goes_on_where_its_looks_have_ended(
    engine: Engine, reader: Listing, monkeypatch: pytest.MonkeyPatch, small_looks: None
) -> None:
    """The only one that is looked for is the oldest of all: pages are empty until it comes."""
    del small_looks
    with engine.begin() as connection:
        fill(connection, COUNT, users=2)
        connection.execute(text("UPDATE transfers SET amount = 5000 WHERE id = (SELECT min(id) FROM transfers)"))
    rare = Filters(user_id=1, amount_min=5_000)
    pages = [len(page) for page in walk(reader, rare, size=10)]
    assert (set(pages[:-1]), pages[-1]) == ({0}, 1)
    monkeypatch.setattr(listing, "LOOKS_S", 0.0)  # no time for a second look
    assert len(list(walk(reader, rare, size=10))) > 2 * len(pages)


@pytest.mark.parametrize("filters", [Filters(reference="popular"), Filters(user_id=1, reference="popular")])
def test_what_only_its_reference_knows_of_ends_no_list(
    engine: Engine, reader: Listing, recorded: tuple[list[Transfer], Keys], filters: Filters
) -> None:
    """Should a row be left of what is gone, or say what is not so, the list is as if it were not there."""
    everything, keys = recorded
    wrong = text("""
        INSERT INTO transfer_references SELECT id + shift, created_at, 1, 1 + shift, 'popular'
        FROM transfers, (VALUES (0), (1)) AS of (shift) WHERE reference LIKE 'invoice-%'
    """)
    with engine.begin() as connection:
        assert connection.execute(wrong).rowcount > 100
    found = [transfer for page in walk(reader, filters, size=7) for transfer in page]
    assert found == expected(everything, keys, filters)


@pytest.mark.parametrize(
    ("filters", "asked", "needed"),
    [
        (Filters(direction="in"), "direction", "user_id"),
        (Filters(counterparty_user_id=1, reference="r"), "counterparty_user_id", "user_id"),
        (Filters(idempotency_key="k", direction="out"), "direction", "user_id"),
        (Filters(amount_min=1), "amount_min", "a status other than posted"),
        (Filters(amount_max=1, status=Status.POSTED), "amount_max", "reference"),
        (Filters(kind=Kind.DEPOSIT), "kind", "31 days"),
        (Filters(kind=Kind.DEPOSIT, created_to=BEGIN), "kind", "31 days"),
        (
            Filters(kind=Kind.DEPOSIT, created_from=BEGIN, created_to=BEGIN + timedelta(days=31, seconds=1)),
            "kind",
            "31",
        ),
        (Filters(kind=Kind.DEPOSIT, created_from=datetime.now(UTC) - timedelta(days=32)), "kind", "31 days"),
    ],
)
def test_what_no_index_serves_is_refused_in_words(reader: Listing, filters: Filters, asked: str, needed: str) -> None:
    with pytest.raises(NoIndexServes) as refused:
        reader.get_page(filters, size=10)
    assert refused.value.asked == asked
    assert needed in refused.value.needed


@pytest.mark.parametrize(
    "filters",
    [
        Filters(kind=Kind.DEPOSIT, created_from=BEGIN, created_to=BEGIN + timedelta(days=31)),
        Filters(kind=Kind.DEPOSIT, created_from=datetime.now(UTC) - timedelta(days=30)),
        Filters(amount_min=1, status=Status.FAILED),
        Filters(amount_min=1, bulk_id=1),
        Filters(amount_min=1, idempotency_key="k"),
        Filters(status=Status.POSTED),
        Filters(created_from=datetime(1, 1, 1, tzinfo=UTC), created_to=datetime(9999, 12, 31, tzinfo=UTC)),
        Filters(user_id=2**63 - 1, created_to=datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_what_an_index_serves_is_answered(reader: Listing, filters: Filters) -> None:
    page = reader.get_page(filters, size=10)
    assert (page.transfers, page.end) == ([], None)


def test_clocks_may_differ_and_what_was_accepted_is_found_by_postgresqls(engine: Engine, reader: Listing) -> None:
    """An id is drawn by another clock, a while before."""
    for drawn_s in (-listing.EARLIER_S + 1, 0, listing.LATER_S - 1):
        with engine.begin() as connection:
            connection.execute(text("TRUNCATE transfers, transfer_references"))
            fill(connection, 1, users=2)
            shift = text("UPDATE transfers SET created_at = created_at - :drawn_s * interval '1 s'")
            connection.execute(shift, {"drawn_s": drawn_s})
            (instant,) = connection.execute(text("SELECT created_at FROM transfers")).scalars()
        assert len(reader.get_page(Filters(created_from=instant, created_to=instant), size=1).transfers) == 1
        tick = timedelta(microseconds=1)
        assert reader.get_page(Filters(created_from=instant + tick), size=1).transfers == []
        assert reader.get_page(Filters(created_to=instant - tick), size=1).transfers == []


def test_with_postgresql_gone_there_is_no_list(postgres_proxy: TcpProxy) -> None:
    with bounded_engine(postgres_proxy.url, lock_ms=100, statement_ms=500) as engine:
        postgres_proxy.refuse()
        with pytest.raises(Unavailable):
            Listing(engine).get_page(Filters(), size=1)


@pytest.mark.parametrize("filters", [Filters(), Filters(user_id=1), Filters(idempotency_key="k")])
@pytest.mark.parametrize(
    "place", [Place(datetime(1, 1, 1, tzinfo=UTC), 1), Place(datetime(9999, 1, 1, tzinfo=UTC), 2**63 - 1)]
)
def test_a_place_before_all_or_after_all_is_no_error(reader: Listing, filters: Filters, place: Place) -> None:
    assert reader.get_page(filters, size=1, after=place).end is None

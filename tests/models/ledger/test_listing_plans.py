"""What a list costs hangs on what is looked at, and not on how many transfers there are, nor on when it was planned."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection, Engine, text

from models.database.session import Statement
from models.ledger import listing
from models.ledger.listing import LOOK, Filters
from models.ledger.transfer import Kind, Status
from models.snowflake.layout import first_id_of
from tests.models.ledger.listed import BEGIN, fill, share
from tests.models.ledger.test_history import all_nodes, indexes, plan_nodes, scanned

pytestmark = pytest.mark.xdist_group("listing_plans")  # the table is filled once

MANY, FEWER, SHARING = 100_000, 20_000, 5_000
USERS = 5
SIZE = 30


class Case(NamedTuple):
    """Filters, and the indexes that serve them."""

    name: str
    filters: Filters
    served_by: set[str]


_MIDDLE = BEGIN + timedelta(seconds=FEWER / 2)
_TIMES: dict[str, Any] = {"created_from": BEGIN, "created_to": _MIDDLE}
_PARTIES = {"transfers_by_source", "transfers_by_destination"}
_REFERENCE = {"transfer_references_by_reference"}
_REFERENCES = {"transfer_references_by_source", "transfer_references_by_destination"}
CASES = [
    Case("of_user", Filters(user_id=1), _PARTIES),
    Case("paid", Filters(user_id=1, direction="out"), _PARTIES),
    Case("received", Filters(user_id=1, direction="in"), _PARTIES),
    Case("of_user_and_time", Filters(user_id=1, **_TIMES), _PARTIES),
    Case("of_user_and_status", Filters(user_id=1, status=Status.FAILED), _PARTIES),
    Case("of_user_and_kind", Filters(user_id=1, kind=Kind.WITHDRAWAL), _PARTIES),
    Case("of_user_and_amount", Filters(user_id=1, amount_min=999, amount_max=999), _PARTIES),
    Case("of_user_and_reference", Filters(user_id=1, reference="popular"), _REFERENCES),
    Case("of_user_and_no_reference", Filters(user_id=1, reference="none"), _REFERENCES),
    Case("of_user_and_counterparty", Filters(user_id=1, counterparty_user_id=2), {"transfers_by_parties"}),
    Case("of_user_and_no_counterparty", Filters(user_id=1, counterparty_user_id=99), {"transfers_by_parties"}),
    Case("of_user_and_key", Filters(user_id=1, idempotency_key="key-15"), {"transfers_by_key"}),
    Case("key", Filters(idempotency_key="shared"), {"transfers_by_key"}),
    Case("key_and_amount", Filters(idempotency_key="shared", amount_min=999), {"transfers_by_key"}),
    Case("of_user_and_bulk", Filters(user_id=1, bulk_id=7), {"transfers_by_bulk"}),
    Case("bulk", Filters(bulk_id=7), {"transfers_by_bulk"}),
    Case("reference", Filters(reference="popular"), _REFERENCE),
    Case("reference_and_time", Filters(reference="popular", **_TIMES), _REFERENCE),
    Case("status", Filters(status=Status.FAILED), {"transfers_by_status"}),
    Case("pending", Filters(status=Status.PENDING), {"transfers_by_status"}),
    Case("status_and_time", Filters(status=Status.REJECTED, **_TIMES), {"transfers_by_status"}),
    Case("status_and_amount", Filters(status=Status.REJECTED, amount_min=999), {"transfers_by_status"}),
    Case("posted", Filters(status=Status.POSTED), set()),
    Case("posted_and_time", Filters(status=Status.POSTED, **_TIMES), set()),
    Case("all", Filters(), set()),
    Case("time", Filters(**_TIMES), set()),
    Case("amount_and_time", Filters(amount_min=999, **_TIMES), set()),
]
cases = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


class Asked(NamedTuple):
    """A look as it is sent, and how many rows it may take off each range."""

    statement: Statement
    parameters: tuple[object, ...]
    look: int


def asked(filters: Filters) -> Asked:
    statement, answered = listing._choose(filters)
    look = SIZE + 1 if filters.given <= answered else LOOK
    place = listing._begin(statement, filters, None)
    return Asked(statement, listing._parameters(filters, place, look, SIZE + 1), look)


def judge(nodes: list[dict[str, Any]], case: Case, look: int) -> None:
    """Each range is walked along in the order of its index, and no further than the look goes."""
    kinds = {(node["Relation Name"], node["Node Type"]) for node in nodes if "Relation Name" in node}
    names = {("transfer_references", "Index Scan"), ("transfer_references", "Index Only Scan")}
    assert kinds - names == {("transfers", "Index Scan")}
    assert indexes(nodes) == case.served_by | {"transfers_pkey"}
    ranges = max(len(case.served_by), 2 if case.served_by == {"transfers_by_parties"} else 1)
    # Besides, where the page begins is looked up, if that is by a key.
    assert scanned(nodes, "transfers") <= ranges * look + SIZE + 1 + 1
    assert scanned(nodes, "transfer_references") <= ranges * look
    assert not [node for node in nodes if node.get("Rows Removed by Filter") and "Index Name" in node]


def wipe(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE transfers, transfer_references"))


def write(connection: Connection, count: int) -> None:
    for first in range(1, count, FEWER):  # a statement has its time
        fill(connection, FEWER, users=USERS, first=first)
    share(connection, SHARING)


@pytest.fixture(scope="module")
def filled(shared_engine: Engine) -> Iterator[Engine]:
    wipe(shared_engine)
    with shared_engine.begin() as connection:
        write(connection, MANY)
        connection.execute(text("ANALYZE transfers, transfer_references"))
    yield shared_engine
    wipe(shared_engine)


@cases
def test_a_list_looks_at_ranges_of_its_indexes(filled: Engine, case: Case) -> None:
    statement, parameters, look = asked(case.filters)
    judge(plan_nodes(filled, statement, parameters), case, look)


@cases
def test_a_page_far_back_costs_what_the_first_does(filled: Engine, case: Case) -> None:
    statement, _, look = asked(case.filters)
    place = listing._begin(statement, case.filters, None)
    far = listing.Place(BEGIN + timedelta(seconds=100), first_id_of(BEGIN + timedelta(seconds=100)))
    if statement is listing._BY_KEY:
        far = one_far_back(filled)
    parameters = listing._parameters(case.filters, min(place, far), look, SIZE + 1)
    judge(plan_nodes(filled, statement, parameters), case, look)


def one_far_back(engine: Engine) -> listing.Place:
    """What most others under its key come before."""
    query = (
        "SELECT created_at, id FROM transfers WHERE idempotency_key = 'shared' ORDER BY destination OFFSET 4000 LIMIT 1"
    )
    with engine.connect() as connection:
        return listing.Place._make(connection.execute(text(query)).one())


def test_what_was_planned_on_an_empty_table_is_as_good_on_a_large_one(shared_engine: Engine) -> None:
    """As a connection of a new service has it, until its table is analyzed."""
    with shared_engine.connect() as connection:
        # And no longer than this test: others have filled them.
        connection.execute(text("TRUNCATE transfers, transfer_references"))
        for case in CASES:
            statement = named(case)
            connection.exec_driver_sql(statement.preparation)
            connection.exec_driver_sql(statement.execution, asked(case.filters).parameters)
        write(connection, FEWER)
        for case in CASES:
            parameters = asked(case.filters).parameters
            explained = connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, FORMAT JSON) {named(case).execution}", parameters
            )
            judge(all_nodes(explained.scalar_one()), case, asked(case.filters).look)
            connection.exec_driver_sql(f"DEALLOCATE {named(case).name}")
        connection.rollback()


def named(case: Case) -> Statement:
    """The statement of a case under a name of its own."""
    return replace(asked(case.filters).statement, name=f"explained_{case.name}")

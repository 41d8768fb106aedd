"""What is asked of transfers whose ids are known costs these, however much is pending, whatever PostgreSQL believes."""

from typing import Any

import pytest
from sqlalchemy import Engine, TextClause, insert, text

from models.ledger import attempts, cancellation, deliveries
from models.schema.tables import transfers
from tests.models.ledger.test_history import all_nodes

PENDING = 300
_REJECTED = """
INSERT INTO transfers (id, kind, destination, amount, status, reason, completed_at)
SELECT n, 'deposit', 1, 1, 'rejected', 'balance_overflow', now() FROM generate_series(1, 2000) AS n
"""
IDS = list(range(10_001, 10_001 + PENDING))


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        (deliveries._FORGET_SENT, {"after": 0, "limit": PENDING}),
        (deliveries._FIND_WAITING, {"ids": IDS}),
        (deliveries._ADD_LOST, {"ids": IDS}),
        (attempts._COUNT_LOST, {"ids": IDS, "leases": [1] * PENDING}),
        (attempts._FAIL_LOST, {"ids": IDS, "most": 9, "reason": "worker_lost"}),
        (
            attempts._SPEND,
            {
                "ids": IDS, "attempts": [0] * PENDING, "generations": [1] * PENDING, "delays": [1.0] * PENDING,
                "error": "told to", "reason": "attempts_exhausted",
            },
        ),
        (cancellation._CANCEL, {"id": IDS[0]}),
    ],
)  # fmt: skip
def test_each_is_looked_up_by_its_id_though_hardly_anything_was_pending_when_that_was_last_counted(
    engine: Engine, statement: TextClause, parameters: dict[str, Any]
) -> None:
    pending = {"kind": "transfer", "source": 1, "destination": 2, "amount": 1}
    with engine.connect() as connection:
        connection.execute(text(_REJECTED))
        connection.execute(text("ANALYZE transfers"))
        connection.execute(insert(transfers), [pending | {"id": number} for number in IDS])
        deliveries.note_sent(connection, IDS)
        explained = connection.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}"), parameters)
        nodes = [node for node in all_nodes(explained.scalar_one()) if node.get("Relation Name") == "transfers"]
        connection.rollback()
    assert nodes
    assert {node.get("Index Name", "transfers_pkey") for node in nodes} == {"transfers_pkey"}
    assert {node["Node Type"] for node in nodes} <= {"Index Scan", "Bitmap Heap Scan", "ModifyTable"}

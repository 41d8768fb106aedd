"""What the tests of the ledger have in common."""

import pytest
from sqlalchemy import Engine

from models.ledger.history import History
from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake
from tests.models.ledger.ordering import transfer


@pytest.fixture
def orders(engine: Engine, snowflake: Snowflake) -> Orders:
    """Takes orders on empty tables."""
    return Orders(engine, snowflake)


@pytest.fixture
def paid(orders: Orders) -> int:
    """The id of a transfer of 60 cents from 1 to 2, of which 1 has so many."""
    return orders.execute(transfer(1, 2, 60)).transfer_id


@pytest.fixture
def history(engine: Engine) -> History:
    return History(engine)

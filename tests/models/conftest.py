"""What the tests of the ledger have in common."""

import pytest
from sqlalchemy import Engine

from models.ledger.history import History
from models.ledger.orders import Orders
from models.snowflake.ids import Snowflake


@pytest.fixture
def orders(engine: Engine, snowflake: Snowflake) -> Orders:
    """Takes orders on empty tables."""
    return Orders(engine, snowflake)


@pytest.fixture
def history(engine: Engine) -> History:
    return History(engine)

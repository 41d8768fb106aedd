"""Catching what a fault of the database raises."""

from collections.abc import Callable

import pytest
from sqlalchemy.exc import DBAPIError

Fault = Callable[[], object]


def caught(fault: Fault) -> DBAPIError:
    """Return the error that it ends with."""
    with pytest.raises(DBAPIError) as error:
        fault()
    return error.value

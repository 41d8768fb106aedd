"""What a command changes is recorded like what administrators do over HTTP: by whom of the machine's users."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

from api.calls import problems
from api.running import services
from models.actions import record
from models.actions.record import Act
from models.errors import Fault, Refused, TransferNotFound, WalletServiceError

ORIGIN = "command line"
# What comes of a refusal that the API has no code for.
REFUSED = "refused"


@contextmanager
def acting(what: str, *, on: str) -> Iterator[Act]:
    """Do something within this, and have it recorded, see :func:`models.actions.record.acting`.

    Raises:
        Unavailable: it cannot be recorded; nothing was done.
    """
    engine, who = services().engine, name_in_record()
    with record.acting(engine, who=who, what=what, on=on, origin=ORIGIN, code_of=_code_of) as act:
        yield act


def name_in_record() -> str:
    """Return what whoever runs this process is called in what is recorded. No administrator of the API can be."""
    return f"cli:{user()}"


def user() -> str:
    """Return the name of the user that this process runs as, or its number; not what the environment says."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _code_of(error: Exception) -> str:
    is_refusal = isinstance(error, WalletServiceError) and not isinstance(error, Fault | Refused | TransferNotFound)
    return REFUSED if is_refusal else problems.code_of(error)

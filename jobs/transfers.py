"""The job's function. By whatever worker it is run, it settles its transfer; run twice, it changes nothing."""

import functools

import structlog
from sqlalchemy import Engine

from config import Settings, load
from models.database import create_bounded_engine
from models.ledger import Outcome, post

_log = structlog.get_logger("jobs")


def make_engine(settings: Settings) -> Engine:
    """Make a worker process's engine: one connection, for one batch at a time, and one for the relay."""
    return create_bounded_engine(
        settings.sqlalchemy_url,
        timeouts_ms=settings.database_timeouts_ms,
        pool_size=2,
        application_name="wallet-worker",
    )


def run(transfer_id: str) -> str:
    """Post one accepted transfer and return its status: the function that RQ calls by name.

    Raises:
        sqlalchemy.exc.DBAPIError: a technical fault; nothing moved, and RQ books a failure.
    """
    return settle(_engine_of_this_process(), int(transfer_id)).status.value


def settle(engine: Engine, transfer_id: int) -> Outcome:
    """Post one transfer in a transaction of its own.

    Raises:
        LookupError: no such transfer was ever accepted; the job is somebody's mistake.
    """
    with engine.begin() as connection:
        posting = post(connection, [transfer_id])
    outcome = posting.outcomes.get(transfer_id)
    if outcome is None:
        raise LookupError(f"transfer {transfer_id} does not exist")
    _log.info("transfer settled", job_id=str(transfer_id), status=outcome.status, reason=outcome.reason)
    return outcome


@functools.cache
def _engine_of_this_process() -> Engine:
    return make_engine(load(Settings))

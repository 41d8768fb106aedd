"""The function that RQ's jobs call by name. Our own worker never comes this way: it settles batches."""

import functools

from rq import get_current_job

from config import Settings, load
from jobs.connections import make_cache, make_engine
from jobs.retries import RetryPolicy
from jobs.rq.keys import DEAD
from jobs.settler import Settler, TransferFailedError, settle_alone


def run(transfer_id: str) -> str:
    """Settle one transfer and return its status: the function that RQ calls by name.

    Batches never come this way; it is what makes any RQ worker settle our jobs, one at a time.

    Raises:
        TransferFailedError: it is a dead letter, and RQ books it into its failed registry.
        TransferNotFound: there is no such transfer.
        Unavailable: the database is away; the relay puts the job back.
    """
    job = get_current_job()
    dead = job.connection.hget(job.key, DEAD) if job else None
    try:
        return settle_alone(_settler_of_this_process(), int(transfer_id), generation=int(dead) if dead else None).value
    except TransferFailedError as error:
        if job:
            job.connection.hset(job.key, DEAD, str(error.generation))
        raise


@functools.cache
def _settler_of_this_process() -> Settler:
    settings = load(Settings)
    engine = make_engine(settings)
    return Settler(engine, RetryPolicy(settings.retry_delays), make_cache(settings, engine))

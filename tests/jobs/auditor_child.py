"""A process that audits in small slices, until it is killed: python -m tests.jobs.auditor_child <database> <redis>."""

import signal
import sys
import time

import redis

import jobs.auditor
from jobs.auditor import Auditor
from jobs.rq.backlog import RqBacklog
from tests.models.ledger.ordering import bounded_engine
from tests.patience import PATIENCE_S


def main() -> None:
    """Audit slowly: a slice of two every few milliseconds, each of them saved."""
    signal.alarm(int(PATIENCE_S))
    jobs.auditor.MAX_SLICE, jobs.auditor.SAVE_S, jobs.auditor.REST = 2, 0.0, 0.0
    with bounded_engine(sys.argv[1]) as engine, redis.Redis.from_url(sys.argv[2]) as client:
        auditor = Auditor(engine, RqBacklog(client, engine), interval_s=300.0)
        while True:
            auditor.run_once()
            time.sleep(0.005)


if __name__ == "__main__":
    main()

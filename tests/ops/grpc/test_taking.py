"""Callers who take nothing of what they are sent: they hold what is theirs, and others are answered."""

from contextlib import ExitStack

import grpc
from sqlalchemy import Engine

from api.actions.watching import SEATS
from ops.local.processes import wait_for
from tests.api.grpc.server import TIMEOUT_S, fund
from tests.jobs.backlog import accept
from tests.ops.grpc.http2 import Line
from tests.ops.grpc.serving import Serve, Served
from wallet.v1.wallet_pb2 import JobRequest


def test_watchers_who_take_nothing_leave_seats_and_threads_to_others(serve: Serve, engine: Engine) -> None:
    served = serve()
    fund(served.server, 1, 2)
    (job_id,) = accept(engine, 1)
    asked = JobRequest(job_id=job_id).SerializeToString()
    with ExitStack() as stack:
        deaf = [stack.enter_context(Line(served.server.port, window=0)) for _ in range(3)]
        for line in deaf:
            for _ in range(SEATS):
                line.ask("WatchJob", asked)
        # There is no room left, or somebody has had to make room by now.
        assert wait_for(lambda: served.shed_watchers > 0 or served.calls("WatchJob") > 0, TIMEOUT_S)
        assert wait_for(lambda: served.server.ask("GetBalance").code is grpc.StatusCode.OK, TIMEOUT_S)
        assert wait_for(lambda: is_shown(served, job_id), TIMEOUT_S)
        # They are all let go of, and counted: whether refused or cancelled.
        assert wait_for(lambda: served.calls("WatchJob") >= len(deaf) * SEATS, TIMEOUT_S)
        assert wait_for(lambda: served.watchers == 0, TIMEOUT_S)


def is_shown(served: Served, job_id: int) -> bool:
    """Whether somebody else is let in."""
    watched = served.watch(job_id, timeout=TIMEOUT_S)
    try:
        return bool(next(watched).job_id == job_id)
    except grpc.RpcError:
        return False
    finally:
        watched.cancel()


def test_single_answers_that_nobody_takes_hold_no_thread(serve: Serve) -> None:
    served = serve()
    fund(served.server, 1)
    with Line(served.server.port, window=0) as deaf:
        for _ in range(200):
            deaf.ask("GetBalance")
        assert wait_for(lambda: served.calls("GetBalance") >= 80, TIMEOUT_S)
        assert wait_for(lambda: served.server.ask("GetBalance").code is grpc.StatusCode.OK, TIMEOUT_S)

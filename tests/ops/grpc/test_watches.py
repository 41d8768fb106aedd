"""Watching by gRPC: changes as they come, seats that are given back, and others who are answered beside it."""

import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from sqlalchemy import Engine

from api.actions.watching import SEATS
from ops.local.processes import wait_for
from tests.api.actions.attempts import fail_once
from tests.api.grpc.server import SERVICE, TIMEOUT_S, connect, fund
from tests.jobs.backlog import accept, kill_off
from tests.models.ledger.ordering import post_now
from tests.nursery import Forked
from tests.ops.grpc.http2 import Line, status_in
from tests.ops.grpc.serving import Serve, Served
from tests.project import ROOT
from tests.proxy import TcpProxy
from wallet.v1.wallet_pb2 import JobRequest

WATCHER = f"""
import sys, grpc
channel = grpc.insecure_channel("127.0.0.1:" + sys.argv[1])
watch = channel.unary_stream("/{SERVICE.full_name}/WatchJob")
for each in watch(bytes.fromhex(sys.argv[2]), metadata=(("authorization", "1"),)):
    print(each.hex(), flush=True)
"""


@pytest.fixture
def served(serve: Serve) -> Served:
    """A process; users 1 and 2 have 10000 cents each."""
    served = serve()
    fund(served.server, 1, 2)
    return served


def rest_of(watched: Any) -> list[str]:
    return [each.status for each in watched]


def test_changes_come_as_they_happen_and_the_last_one_ends_it(served: Served, engine: Engine) -> None:
    posted, rejected, failed = accept(engine, 3)
    watches = {job: served.watch(job) for job in (posted, rejected, failed)}
    assert [next(each).status for each in watches.values()] == ["pending"] * 3
    assert wait_for(lambda: served.watchers == 3, TIMEOUT_S)
    fail_once(engine, posted)
    changed = next(watches[posted])
    assert (changed.status, changed.attempts, changed.last_error) == ("pending", 1, "slow")
    post_now(engine, [posted])
    assert rest_of(watches[posted]) == ["posted"]
    kill_off(engine, [failed])
    assert rest_of(watches[failed]) == ["failed"]
    assert served.server.ask("Withdraw", key="all").error_code == "invalid_amount"
    watches[rejected].cancel()
    assert wait_for(lambda: served.watchers == 0, TIMEOUT_S)
    # What is final is told once.
    again = served.server.ask("WatchJob", JobRequest(job_id=posted))
    assert [each.status for each in again.messages] == ["posted"]
    assert again.code is grpc.StatusCode.OK


def test_who_goes_leaves_his_seat_at_once(served: Served, engine: Engine) -> None:
    (job,) = accept(engine, 1)
    watches = [served.watch(job) for _ in range(20)]
    for each in watches:
        next(each)
    assert wait_for(lambda: served.watchers == len(watches), TIMEOUT_S)
    for each in watches:
        each.cancel()
    assert wait_for(lambda: served.watchers == 0, TIMEOUT_S)
    assert served.calls("WatchJob", "CANCELLED") == len(watches)
    # So does whoever has set himself a time.
    timed = served.watch(job, timeout=0.5)
    with pytest.raises(grpc.RpcError) as ended:
        rest_of(timed)
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert wait_for(lambda: served.watchers == 0, TIMEOUT_S)


def test_who_is_killed_leaves_his_seat_when_his_connection_breaks(served: Served, engine: Engine) -> None:
    (job,) = accept(engine, 1)
    asked = JobRequest(job_id=job).SerializeToString().hex()
    with Forked(
        [sys.executable, "-c", WATCHER, str(served.server.port), asked], cwd=ROOT, stdout=subprocess.PIPE
    ) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline()
        assert wait_for(lambda: served.watchers == 1, TIMEOUT_S)
        watcher.kill()
    assert wait_for(lambda: served.watchers == 0, TIMEOUT_S)


def test_beyond_the_seats_one_is_shown_how_it_stands_and_told_to_come_again(served: Served, engine: Engine) -> None:
    (job,) = accept(engine, 1)
    with ExitStack() as stack:
        channel = stack.enter_context(connect(served.server.port))
        watches = [served.watch(job, channel=channel) for _ in range(SEATS)]
        for each in watches:
            next(each)
        assert wait_for(lambda: served.watchers == SEATS, TIMEOUT_S)
        assert served.samples().value("wallet_grpc_watch_seats") == SEATS
        late = served.server.ask("WatchJob", JobRequest(job_id=job))
        assert [each.status for each in late.messages] == ["pending"]
        assert (late.code, late.error_code) == (grpc.StatusCode.UNAVAILABLE, "unavailable")
        assert late.trailing["retry-after"] == "1"
        assert served.shed_watchers == 1
        # What is final needs no seat; and all who sit are told of the end.
        post_now(engine, [job])
        assert served.server.ask("WatchJob", JobRequest(job_id=job)).code is grpc.StatusCode.OK
        assert [rest_of(each) for each in watches] == [["posted"]] * SEATS
    assert wait_for(lambda: served.watchers == 0, TIMEOUT_S)


def test_unary_calls_are_answered_beside_sixty_watchers(served: Served, engine: Engine) -> None:
    jobs = accept(engine, 60)
    watches = [served.watch(job) for job in jobs]
    for each in watches:
        next(each)
    worst = 0.0
    for _ in range(50):
        began = time.monotonic()
        assert served.server.ask("GetBalance").message.balance == 10_000
        worst = max(worst, time.monotonic() - began)
    # Below a second on a machine of one's own: make bench.
    assert worst < 5
    for each in watches:
        each.cancel()


def test_without_a_database_watching_ends_and_goes_on_when_there_is_one(
    serve: Serve, engine: Engine, postgres_proxy: TcpProxy
) -> None:
    served = serve(DATABASE_URL=postgres_proxy.url)
    fund(served.server, 1, 2)
    (job,) = accept(engine, 1)
    watched = served.watch(job)
    assert next(watched).status == "pending"
    postgres_proxy.refuse()
    with pytest.raises(grpc.RpcError) as ended:
        rest_of(watched)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(watched.trailing_metadata())["error-code"] == "unavailable"
    assert wait_for(lambda: served.watchers == 0, TIMEOUT_S)
    postgres_proxy.refuse(refusing=False)
    assert wait_for(lambda: served.server.ask("GetJob", JobRequest(job_id=job)).code is grpc.StatusCode.OK, TIMEOUT_S)
    again = served.watch(job)
    assert next(again).status == "pending"
    again.cancel()


def test_a_deadline_never_ends_a_watch_as_if_all_were_told(served: Served, engine: Engine) -> None:
    (job,) = accept(engine, 1)
    asked = JobRequest(job_id=job).SerializeToString()
    with Line(served.server.port) as line:
        streams = [line.ask("WatchJob", asked, more=(("grpc-timeout", "300m"),)) for _ in range(40)]
        ended = line.ends(*streams)
    assert grpc.StatusCode.OK.value[0] not in {status_in(ended[stream]) for stream in streams}

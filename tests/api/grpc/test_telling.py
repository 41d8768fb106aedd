"""What a call leaves behind: one line in the log with its trace, a count by method and code, and no secret anywhere."""

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from observe import metrics
from tests.api.access.provider import SECRET, bearer, signed
from tests.api.calls import ADMIN, basic
from tests.api.grpc.conftest import Shared
from tests.api.grpc.refusals import EVERY_CALL, SLOW, refused
from tests.api.grpc.server import KINDS, MOVES, SERVICE, GrpcServer, Starter, connect, fund
from tests.api.waiters import wait_for
from tests.conftest import ADMIN_PASSWORD
from tests.nursery import Forked
from tests.project import ROOT
from tests.samples import Samples
from wallet.v1.wallet_pb2 import AmountRequest, JobRequest

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
UNKNOWN = ("/wallet.v1.WalletService/Nope", "/wallet.v1.Other/Deposit", "/x", "/", "/wallet.v1.WalletService/Deposit/")


@pytest.mark.parametrize("method", EVERY_CALL)
@pytest.mark.parametrize("user", [1, 3, None])
def test_a_trace_is_carried_on_with_a_span_of_its_own(server: GrpcServer, method: str, user: int | None) -> None:
    sent = [("traceparent", PARENT), ("x-request-id", f"r-{method}-{user}")]
    answer = server.ask(method, EVERY_CALL[method], user=user, metadata=sent)
    found = _TRACEPARENT.fullmatch(answer.initial["traceparent"])
    assert found
    assert (found[1], found[2] == "b7ad6b7169203331", found[0][-3:]) == (TRACE_ID, False, "-01")
    assert answer.initial["x-request-id"] == f"r-{method}-{user}"


@pytest.mark.parametrize("malformed", ["", "x", PARENT.upper(), PARENT + "-x", f"00-{'0' * 32}-b7ad6b7169203331-01"])
def test_a_malformed_trace_is_replaced(server: GrpcServer, malformed: str) -> None:
    answer = server.ask("GetBalance", metadata=[("traceparent", malformed), ("x-request-id", malformed + "\x22")])
    found = _TRACEPARENT.fullmatch(answer.initial["traceparent"])
    assert found
    assert found[1] != TRACE_ID
    assert answer.initial["x-request-id"] == found[1]


def test_without_one_every_call_has_a_trace_of_its_own(server: GrpcServer) -> None:
    assert len({server.ask("GetBalance").initial["traceparent"].split("-")[1] for _ in range(5)}) == 5


def test_a_call_is_one_line_with_its_facts(server: GrpcServer) -> None:
    sent = [("traceparent", PARENT), ("x-request-id", "one-line")]
    job_id = server.ask("EnqueueTransfer", MOVES["EnqueueTransfer"], metadata=sent).message.job_id
    (line,) = server.wait_for_lines(request_id="one-line")
    assert line.pop("duration_ms") > 0
    assert line.pop("time").endswith("Z")
    assert line == {
        "event": "call",
        "level": "info",
        "service": "grpc",
        "method": "EnqueueTransfer",
        "code": "OK",
        "user_id": "1",
        "job_id": str(job_id),
        "trace_id": TRACE_ID,
        "request_id": "one-line",
    }


@pytest.mark.parametrize("method", EVERY_CALL)
def test_a_refusal_is_one_line_with_both_codes(server: GrpcServer, method: str) -> None:
    refused(server.ask(method, b"\xff", metadata=[("x-request-id", f"refused-{method}")]), "bad_input")
    (line,) = server.wait_for_lines(request_id=f"refused-{method}")
    assert (line["method"], line["code"], line["error_code"]) == (method, "INVALID_ARGUMENT", "bad_input")
    assert (line["level"], line["user_id"]) == ("info", "1")


def test_one_calls_facts_are_not_in_the_next_ones_line(server: GrpcServer) -> None:
    for number in range(40):  # more than there are threads
        server.ask("EnqueueTransfer", MOVES["EnqueueTransfer"], metadata=[("x-request-id", f"a{number}")])
        refused(server.ask("GetBalance", user=None, metadata=[("x-request-id", f"b{number}")]), "unauthorized")
    for number in range(40):
        (line,) = server.wait_for_lines(request_id=f"b{number}")
        assert not {"user_id", "job_id"} & line.keys()
    server.ask("/nobody/knows")
    line = server.wait_for_lines(method=None)[-1]
    assert (line["code"], line["event"]) == ("UNIMPLEMENTED", "call")
    assert not {"user_id", "job_id", "trace_id", "request_id"} & line.keys()


@contextmanager
def worker(log: Path, environment: dict[str, str]) -> Iterator[None]:
    """Have a worker run."""
    with log.open("wb") as output:
        process = Forked(
            [sys.executable, "worker.py"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]} | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


def test_one_trace_leads_from_the_caller_to_the_worker(
    server: GrpcServer, grpc_environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    with worker(log, grpc_environment):
        job_id = server.ask(
            "EnqueueTransfer", MOVES["EnqueueTransfer"], metadata=[("traceparent", PARENT)]
        ).message.job_id
        watched = server.ask("WatchJob", JobRequest(job_id=job_id)).messages
        assert watched[-1].status == "posted"
        wait_for(lambda: "transfer settled" in log.read_text())
    settled = [line for line in log.read_text().splitlines() if "transfer settled" in line]
    assert [(str(job_id) in line, TRACE_ID in line) for line in settled] == [(True, True)]
    assert server.ask("GetBalance").message.balance == 9_933


def counted(folder: Path) -> Samples:
    """Return what processes that keep their values in a folder have counted so far."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return Samples.of(generate_latest(registry))


def test_calls_are_counted_by_method_and_code(start: Starter, tmp_path: Path) -> None:
    (folder := tmp_path / "metrics").mkdir()
    server = start(PROMETHEUS_MULTIPROC_DIR=str(folder))
    fund(server, 1, 2)
    transfer_id = server.ask("Deposit", MOVES["Deposit"]).message.transfer_id
    for method, message in EVERY_CALL.items():
        job = method in {"GetJob", "WatchJob"}
        assert server.ask(method, JobRequest(job_id=transfer_id) if job else message).message is not None
        server.ask(method, b"\xff")
        server.ask(method, message, user=None)
    for method in UNKNOWN:
        assert server.ask(method, b"").code is grpc.StatusCode.UNIMPLEMENTED
    name = "wallet_grpc_call_duration_seconds_count"
    # Of a watch it is told when it has ended, which its last message may be read before.
    wait_for(lambda: counted(folder).sum(name, method="WatchJob") == 3)
    found = counted(folder)
    for method in EVERY_CALL:
        assert found.value(name, method=method, code="OK") == (4 if method == "Deposit" else 1)
        assert found.value(name, method=method, code="INVALID_ARGUMENT") == 1
        assert found.value(name, method=method, code="UNAUTHENTICATED") == 1
    assert found.value(name, method="none", code="UNIMPLEMENTED") == len(UNKNOWN)
    labels = {dict(series.labels)["method"] for series in found if series.name == name}
    assert labels == {*KINDS, metrics.NO_ROUTE}
    assert found.value("wallet_transfers_total", kind="deposit", outcome="posted") == 4
    assert found.value("wallet_grpc_watchers") == 0
    assert found.value("wallet_grpc_watch_seats") > 0


KEY, AMOUNT, TO = "k-4f1b6c7e", 987_654_321, "wallet:deposit"


def test_no_log_has_a_key_or_a_token_or_a_password_or_an_amount(shared: Shared) -> None:
    server = shared(AUTH_MODE="jwt", JWT_SECRET=SECRET, DEPOSIT_SCOPE=TO, LOG_LEVEL="DEBUG", RATE_LIMIT=SLOW)
    token, other, expired = signed(scope=TO), signed(sub="2", scope=TO), signed(exp=1)
    guessed = basic("admin", "gu3ss3d")
    for user in (token, other):
        assert server.ask("Deposit", AmountRequest(amount=AMOUNT), user=bearer(user), key=KEY).message
    for user in (bearer(token), bearer(other), bearer(expired), bearer(token + "x"), token, ADMIN, guessed):
        for method in MOVES:
            message = type(EVERY_CALL[method])(
                amount=AMOUNT, **({"destination_user_id": 2} if "Transfer" in method else {})
            )
            server.ask(method, message, user=user, key=KEY)
            server.ask(method, message.SerializeToString() + b"\xff", user=user, key=KEY * 60)
    server.ask("GetJob", JobRequest(job_id=1), user=guessed)
    text = server.log.read_text()
    assert text.count('"event":"call"') > 50
    secrets = [KEY, str(AMOUNT), SECRET, ADMIN_PASSWORD, "gu3ss3d", *token.split("."), *expired.split(".")]
    secrets += [base64.b64encode(b"admin:gu3ss3d").decode(), ADMIN.split()[1]]
    # (The head of a token is the same for all, and so is no secret, but who logs it logs tokens.)
    assert [secret for secret in secrets if secret in text] == []


def test_reflection_and_health_are_no_calls_of_ours(server: GrpcServer) -> None:
    """They are asked every few seconds by machines, and nobody reads lines of that."""
    before = len(server.lines())
    with connect(server.port) as channel:
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"") == b"\x08\x01"  # SERVING
        assert check(b"\x0a" + bytes([len(SERVICE.full_name)]) + SERVICE.full_name.encode()) == b"\x08\x01"
    assert len(server.lines()) == before

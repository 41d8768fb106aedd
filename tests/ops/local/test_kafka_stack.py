"""The whole service over Kafka, from outside: what the README does, dead letters, a broker that hangs, one with TLS."""

import base64
import http.client
import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from confluent_kafka import KafkaException, Message

from ops.local.kafka.properties import Access
from ops.local.kafka.server import KafkaServer
from ops.local.processes import wait_for
from tests.certificates import make_certificate
from tests.chaos.announced import DEAD, EVENTS, REQUESTED, RETRY, read_all
from tests.chaos.hooked import Hooked
from tests.chaos.stack import Stack
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.usefixtures("java")]
# Of the tests with a stack in common.
together = pytest.mark.xdist_group("kafka stack")
SETTINGS = {"TRANSPORT": "kafka", "WORKERS": "1", "API_PROCESSES": "1", "RETRY_DELAYS": "0.1,0.2"}
WITH_WEBHOOKS = SETTINGS | {"WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8"}
PASSWORD = 'a password with $, " and ,'
_HOLD_UP = """
    CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN IF NEW.amount IN (7, -7) THEN RAISE 'held up'; END IF; RETURN NEW; END$$;
    CREATE TRIGGER hold_up BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION hold_up()"""
_LET_GO = "DROP FUNCTION hold_up CASCADE"


class Caller:
    """Somebody who knows the service by its address, and by what stack.json says."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def ask(self, who: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.stack.port, timeout=PATIENCE_S)) as connection:
            headers = {"Authorization": who, "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def ask_as_admin(self, method: str, path: str) -> Any:
        admin = self.stack.state()["admin"]
        word = base64.b64encode(f"{admin['user']}:{admin['password']}".encode()).decode()
        status, told = self.ask(f"Basic {word}", method, path)
        assert status == 200, told
        return told

    def enqueue(self, cents: int) -> str:
        status, told = self.ask("1", "POST", "/api/transfer/v2", {"destination_user_id": 2, "amount": cents})
        assert (status, told["status"]) == (202, "pending")
        return str(told["job_id"])

    def end_of(self, job_id: str) -> Any:
        """Wait for the end of a job, and return it."""
        found: dict[str, Any] = {}

        def is_over() -> bool:
            found.update(self.ask("1", "GET", f"/api/jobs/v1/{job_id}?wait=5")[1])
            return bool(found["status"] != "pending")

        assert wait_for(is_over, PATIENCE_S), found
        return found

    def readiness(self) -> tuple[int, Any]:
        return self.ask("1", "GET", "/readyz")

    def read(self, topic: str) -> list[dict[str, Any]]:
        """What a topic has, each with its key; once the broker is back, if it was away."""
        records: list[Message] = []

        def have_come() -> bool:
            try:
                records[:] = read_all(self.stack.state()["kafka"]["brokers"], topic)
            except (KafkaException, TimeoutError):
                return False
            return True

        assert wait_for(have_come, PATIENCE_S)
        return [json.loads(record.value() or b"") | {"_key": (record.key() or b"").decode()} for record in records]

    def do(self, statement: str) -> None:
        """As the owner of the database."""
        with closing(psycopg2.connect(self.stack.state()["postgres"]["url"])) as owner, owner, owner.cursor() as cursor:
            cursor.execute(statement)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, java: None) -> Iterator[Stack]:
    """A whole service with a broker of its own."""
    del java
    with Stack(tmp_path_factory.mktemp("stack"), grpc=False, **WITH_WEBHOOKS) as stack:
        yield stack


@pytest.fixture
def caller(shared: Stack) -> Caller:
    """Who calls it."""
    return Caller(shared)


@together
def test_the_tour_is_the_same(caller: Caller) -> None:
    before = caller.ask("1", "GET", "/api/wallet/balance/v1")[1]["balance"]
    assert caller.ask("1", "POST", "/api/deposit/v1", {"amount": 67})[1]["balance"] == before + 67
    assert caller.ask("1", "POST", "/api/withdraw/v1", {"amount": 60})[1]["balance"] == before + 7
    status, told = caller.ask("1", "POST", "/api/transfer/v1", {"destination_user_id": 2, "amount": 1_003})
    assert (status, told["success"], told["balance"]) == (200, True, before - 996)
    ended = caller.end_of(job_id := caller.enqueue(300))
    assert (ended["status"], ended["attempts"], ended["source_user_id"]) == ("posted", 1, "1")
    assert caller.ask("1", "GET", "/api/wallet/balance/v1")[1] == {"balance": before - 1_296}
    history = caller.ask("1", "GET", "/api/transactions/v1?type=0&page=1&page_size=4")[1]
    assert [each["amount"] for each in history["transactions"]] == [-300, -1_003, -60, 67]
    assert history["transactions"][0]["transfer_id"] == job_id
    (record,) = [each for each in caller.read(REQUESTED) if each["transfer_id"] == job_id]
    assert record.items() >= {"_key": "1", "source": "1", "destination": "2", "amount": 300, "attempts": 0}.items()
    assert caller.readiness() == (200, {"status": "ready", "dependencies": caller.readiness()[1]["dependencies"]})
    assert caller.readiness()[1]["dependencies"]["kafka"] == "ok"


@together
@pytest.mark.parametrize("by", ["endpoint", "command"])
def test_a_dead_letter_is_listed_told_and_brought_back(caller: Caller, by: str) -> None:
    caller.do(_HOLD_UP)
    try:
        job_id, other = caller.enqueue(7), caller.enqueue(8)
        ended = caller.end_of(job_id)
        assert (ended["status"], ended["attempts"]) == ("failed", 3)
        assert ended["last_error"] == "the database refused it (SQLSTATE P0001)"
        assert caller.end_of(other)["status"] == "posted"
    finally:
        caller.do(_LET_GO)
    listed = caller.ask_as_admin("GET", "/api/dead-letters/v1")["dead_letters"]
    assert [each["job_id"] for each in listed] == [job_id]
    retries = [each["attempts"] for each in caller.read(RETRY) if each["transfer_id"] == job_id]
    assert sorted(set(retries)) == [1, 2]
    assert wait_for(lambda: [each["_key"] for each in caller.read(DEAD)][-1:] == [job_id], PATIENCE_S)
    if by == "endpoint":
        assert caller.ask_as_admin("POST", f"/api/dead-letters/v1/{job_id}/requeue")["requeued"]
    else:
        listed_too = caller.stack.flask("dead-letters", "list")
        assert job_id in listed_too.stdout, listed_too.stderr
        done = caller.stack.flask("dead-letters", "requeue", job_id)
        assert (done.returncode, done.stdout) == (0, f"{job_id}\trequeued\n"), done.stderr
    assert caller.end_of(job_id)["status"] == "posted"

    def told() -> list[str]:
        return [each["type"] for each in caller.read(EVENTS) if each["_key"] == job_id]

    life = ["transfer.failed", "transfer.requeued", "transfer.posted"]
    assert wait_for(lambda: told() == life, PATIENCE_S), told()
    feed = caller.ask_as_admin("GET", "/api/events/v1?after=0&page_size=100")["events"]
    assert [each["type"] for each in feed if each["data"]["job_id"] == job_id] == life
    assert caller.ask_as_admin("GET", "/api/dead-letters/v1")["dead_letters"] == []
    audited = caller.stack.flask("audit")
    assert audited.returncode == 0, audited.stdout


@together
def test_what_kafka_has_carried_arrives_by_webhook(caller: Caller) -> None:
    with Hooked(caller.stack.port, caller.stack.state()["admin"]) as hooked:
        ids = {caller.enqueue(1) for _ in range(5)}

        def have_come() -> bool:
            return {each["data"]["job_id"] for each in list(hooked.events.values())} >= ids

        assert wait_for(have_come, PATIENCE_S)
        told = caller.ask_as_admin("GET", "/api/events/v1?after=0&page_size=100")["events"]
        assert hooked.events.items() <= {int(each["event_id"]): each for each in told}.items()
        assert hooked.wrong == []
        assert {caller.end_of(each)["status"] for each in ids} == {"posted"}


@together
def test_a_broker_that_hangs_holds_up_nobody_but_jobs(caller: Caller) -> None:
    pid = caller.stack.state()["kafka"]["pid"]
    caller.end_of(caller.enqueue(1))
    os.kill(pid, signal.SIGSTOP)
    try:
        # It has many threads, and the last of them stands still a moment later.
        assert wait_for(lambda: caller.readiness()[1]["status"] == "degraded", PATIENCE_S)
        status, told = caller.readiness()
        assert (status, told["status"], told["dependencies"]["kafka"]) == (200, "degraded", "degraded")
        ids = [caller.enqueue(1) for _ in range(20)]
        assert caller.ask("1", "POST", "/api/transfer/v1", {"destination_user_id": 2, "amount": 1})[0] == 200
        assert {caller.ask("1", "GET", f"/api/jobs/v1/{each}")[1]["status"] for each in ids} == {"pending"}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {caller.end_of(each)["status"] for each in ids} == {"posted"}
    assert wait_for(lambda: caller.readiness()[1]["status"] == "ready", PATIENCE_S)


def test_by_tls_and_a_password_it_gets_in_and_with_another_one_jobs_wait(tmp_path: Path) -> None:
    access = Access(
        protocol="SASL_SSL", mechanism="SCRAM-SHA-512", password=PASSWORD, certificate=make_certificate(tmp_path)
    )
    with KafkaServer(tmp_path / "broker", access=access) as kafka:
        settings = SETTINGS | {name.upper(): value for name, value in kafka.settings.items()}
        wrong = settings | {"KAFKA_SASL_PASSWORD": "wrong"}
        with Stack(home := tmp_path / "home", grpc=False, **wrong) as stack:
            caller = Caller(stack)
            assert stack.state()["kafka"] == {"brokers": kafka.url, "pid": None}
            job_id = caller.enqueue(5)

            def complaints() -> set[str]:
                logs = "".join((home / "logs" / f"{name}.log").read_text() for name in ("worker", "api"))
                lines = [json.loads(line) for line in logs.splitlines()]
                return {each["service"] for each in lines if "uthentication failed" in each.get("cause", "")}

            assert wait_for(lambda: complaints() == {"worker", "api"}, PATIENCE_S)
            assert caller.ask("1", "GET", f"/api/jobs/v1/{job_id}")[1]["status"] == "pending"
        with Stack(home, grpc=False, **settings) as stack:
            caller = Caller(stack)
            assert caller.end_of(job_id)["status"] == "posted"
            assert caller.end_of(caller.enqueue(6))["status"] == "posted"
            assert caller.readiness()[1]["dependencies"]["kafka"] == "ok"
        for log in (home / "logs").iterdir():
            assert PASSWORD not in log.read_text()
        with pytest.raises((KafkaException, TimeoutError)):
            read_all(kafka.url, REQUESTED)

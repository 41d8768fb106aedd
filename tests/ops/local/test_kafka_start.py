"""What starts brokers: jars that are fetched once, make kafka, make run, and one line where something is missing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.local.kafka import runtime as runtimes
from ops.local.kafka.asking import count_brokers
from ops.local.kafka.runtime import find_runtime, parse_maven_line
from ops.local.kafka.server import KafkaServer, find_cause
from ops.local.processes import StackError, process_identity, wait_for
from tests.nursery import Forked, run
from tests.ops.local.test_stack import Run, are_gone
from tests.patience import PATIENCE_S
from tests.project import ROOT

JAVA = """#!/bin/sh
echo 'openjdk version "{version}" 2026-01-01' >&2
"""
# Writes into the folder that it is told, and down that it has.
MAVEN = """#!/bin/sh
echo . >> '{calls}'
for part; do case $part in -DoutputDirectory=*) into=${{part#*=}} ;; esac; done
echo jar > "$into/kafka.jar"
"""
MAVEN_OFFLINE = """#!/bin/sh
echo '[ERROR] Plugin could not be resolved: unknown host'
echo '[ERROR] '
echo '[ERROR] [Help 1] https://example.org'
exit 1
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that is on the PATH, and a folder without jars."""
    (folder := tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin/nowhere")
    monkeypatch.setattr(runtimes, "FOLDER", tmp_path / ".kafka")
    return folder


def put(path: Path, name: str, script: str) -> None:
    (path / name).write_text(script)
    (path / name).chmod(0o755)


def test_without_java_one_line_says_so(path: Path, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"^kafka: java is not on the PATH: install Java 17 or newer, or set KAFKA_"):
        KafkaServer(tmp_path)
    put(path, "java", JAVA.format(version="11.0.2"))
    with pytest.raises(StackError, match=r"^kafka: .*/bin/java is of version 11: install Java 17 or newer, or set"):
        KafkaServer(tmp_path)
    put(path, "java", "#!/bin/sh\nexit 1\n")
    with pytest.raises(StackError, match=r"^kafka: .*/bin/java is no Java that works: install Java 17 or newer, or"):
        KafkaServer(tmp_path)


def test_without_maven_or_network_one_line_says_so_and_nothing_is_left(path: Path, tmp_path: Path) -> None:
    put(path, "java", JAVA.format(version="17.0.2"))
    server = KafkaServer(tmp_path / "home")
    with pytest.raises(
        StackError, match=r"^kafka: mvn is not on the PATH: install Maven, which fetches the broker, or"
    ):
        server.start()
    os.environ["PATH"] += ":/bin"
    put(path, "mvn", MAVEN_OFFLINE)
    complaint = (
        r"^kafka: Maven could not fetch the broker: Plugin could not be resolved: unknown host \(see .*kafka.log\)"
    )
    with pytest.raises(StackError, match=complaint):
        server.start()
    assert not server.is_running
    assert not find_runtime().jars.exists()


def test_of_two_starts_at_once_one_fetches(path: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    put(path, "java", JAVA.format(version="17.0.2"))
    put(path, "mvn", MAVEN.format(calls=calls))
    script = (
        "import sys; from pathlib import Path; from ops.local.kafka import runtime\n"
        "runtime.FOLDER = Path(sys.argv[1])\n"
        "found = runtime.find_runtime()\n"
        "with runtime.alone(lambda: True):\n"
        "    runtime.fetch_jars(found, log=Path(sys.argv[2]), still_wanted=lambda: True)\n"
        "print(*[path.name for path in found.jars.iterdir()])"
    )
    environment = os.environ | {"PATH": f"{path}:/bin:/usr/bin"}
    command = [sys.executable, "-c", script, str(tmp_path / ".kafka"), str(tmp_path / "log")]
    both = [Forked(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["kafka.jar\n"] * 2
    assert calls.read_text() == ".\n"


def test_jars_of_another_pom_make_room_for_those_of_this_one(path: Path, tmp_path: Path) -> None:
    put(path, "java", JAVA.format(version="17.0.2"))
    put(path, "mvn", MAVEN.format(calls=tmp_path / "calls"))
    os.environ["PATH"] += ":/bin"
    (older := tmp_path / ".kafka" / "0123").mkdir(parents=True)
    runtime = find_runtime()
    with runtimes.alone(lambda: True):
        runtimes.fetch_jars(runtime, log=tmp_path / "log", still_wanted=lambda: True)
    assert not older.exists()
    assert [jar.stat().st_mode & 0o777 for jar in runtime.jars.iterdir()] == [0o644]
    assert runtime.environment["CLASSPATH"] == str(runtime.jars / "kafka.jar")


def test_a_start_that_is_not_wanted_any_more_fetches_nothing(path: Path, tmp_path: Path) -> None:
    put(path, "java", JAVA.format(version="17.0.2"))
    put(path, "mvn", MAVEN.format(calls=tmp_path / "calls"))
    with pytest.raises(StackError, match="the start was cancelled"):
        KafkaServer(tmp_path).start(still_wanted=lambda: False)
    assert not find_runtime().jars.exists()


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        ("It failed. | a.b.CException: no | \tat a.b.C(C.java:1) | \t... 1 more", "no"),
        ("It failed. | a.b.CException: cannot x: no | \tat a.b | Caused by: d.E: no | \tat d.E", "cannot x: no"),
        ("It failed.", "It failed."),
    ],
)
def test_a_complaint_is_the_cause_that_says_most(event: str, cause: str) -> None:
    assert find_cause(event) == cause


@pytest.mark.parametrize(
    ("line", "record"),
    [
        ("[ERROR] no [x] y", {"level": "error", "event": "no [x] y"}),
        ("[WARNING] a", {"level": "warning", "event": "a"}),
        ("[x] y", {"level": "info", "event": "[x] y"}),
        ("a", {"level": "info", "event": "a"}),
    ],
)
def test_lines_of_maven(line: str, record: dict[str, object]) -> None:
    assert parse_maven_line(line) == record


# All of them want the same first port, and one whose broker is down for a moment could lose it to another.
together = pytest.mark.xdist_group("make kafka")


@contextmanager
def make_kafka(home: Path, **settings: str) -> Iterator[Forked]:
    environment = {"PATH": os.environ["PATH"], "WALLET_HOME": str(home), **settings}
    command = [sys.executable, "-m", "ops.local.kafka"]
    with Forked(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def brokers_of(process: Forked) -> str:
    """What it says that KAFKA_BROKERS is, once it does."""
    assert process.stdout
    said: list[str] = []
    for line in iter(process.stdout.readline, ""):
        said.append(line)
        if line.startswith("ready: KAFKA_BROKERS="):
            return said[-1].strip().partition("=")[2]
    raise AssertionError(said)


def pid_of(home: Path, name: str = "kafka") -> int:
    return int((home / "run" / f"{name}.pid").read_text().split()[0])


@together
@pytest.mark.usefixtures("java")
def test_make_kafka_keeps_a_broker_alive_until_it_is_told_to_stop(tmp_path: Path) -> None:
    home = tmp_path / "brokers-1"
    with make_kafka(tmp_path) as process:
        brokers = brokers_of(process)
        assert count_brokers(brokers) == 1
        pid = pid_of(home)
        with make_kafka(tmp_path) as second:
            assert second.communicate(timeout=60)[0] == f"make kafka: already running on {home} (pid {process.pid})\n"
            assert second.returncode == 1
        os.kill(pid, signal.SIGKILL)
        assert wait_for(lambda: not process_identity(pid) and count_brokers(brokers) == 1, PATIENCE_S)
        pid = pid_of(home)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 0, said
        assert not process_identity(pid)
    for line in (home / "logs" / "kafka.log").read_text().splitlines():
        assert isinstance(json.loads(line), dict)


@together
@pytest.mark.usefixtures("java")
def test_a_cluster_ends_with_who_is_killed(tmp_path: Path) -> None:
    with make_kafka(tmp_path, BROKERS="3") as process:
        brokers = brokers_of(process)
        assert count_brokers(brokers) == brokers.count(",") + 1 == 3
        pids = {pid_of(tmp_path / "brokers-3", f"kafka-{node_id}") for node_id in (1, 2, 3)}
        process.kill()
        assert wait_for(lambda: are_gone(pids), PATIENCE_S)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            {"BROKERS": "2"},
            "configuration error: BROKERS: must be 1 or 3: of two, neither could go on without the other",
        ),
        ({"PATH": "/nowhere"}, "make kafka: java is not on the PATH: install Java 17 or newer, or set KAFKA_BROKERS"),
    ],
)
def test_make_kafka_says_in_one_line_what_is_wrong(tmp_path: Path, settings: dict[str, str], complaint: str) -> None:
    environment = {"PATH": os.environ["PATH"], "WALLET_HOME": str(tmp_path)} | settings
    ended = run([sys.executable, "-m", "ops.local.kafka"], cwd=ROOT, env=environment, text=True)
    assert ended.returncode in {1, 2}
    assert ended.stderr.startswith(complaint)
    assert (ended.stdout + ended.stderr).count("\n") == 1


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    started: list[Run] = []
    yield started
    for each in started:
        each.process.kill()
        each.process.communicate()


def flask(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **settings}
    return run([sys.executable, "-m", "flask", *arguments], cwd=ROOT, env=environment, text=True)


@pytest.mark.stack
@pytest.mark.long  # a whole service, one of whose servers is started twice
@pytest.mark.usefixtures("java")
def test_make_run_starts_a_broker_of_its_own_that_comes_back(tmp_path: Path, runs: list[Run]) -> None:
    runs.append(stack := Run(tmp_path, settings={"TRANSPORT": "kafka"}))
    before = stack.wait_until_up()["kafka"]
    assert before.keys() == {"brokers", "pid"}
    assert count_brokers(before["brokers"]) == 1
    os.kill(before["pid"], signal.SIGKILL)
    assert wait_for(lambda: stack.state()["kafka"]["pid"] != before["pid"], PATIENCE_S)
    after = stack.state()["kafka"]
    assert after["brokers"] == before["brokers"]
    assert wait_for(lambda: count_brokers(after["brokers"]) == 1, PATIENCE_S)
    found = flask("dead-letters", "list", WALLET_HOME=str(tmp_path))
    assert (found.returncode, found.stderr) == (0, "")
    other = flask("dead-letters", "list", WALLET_HOME=str(tmp_path), TRANSPORT="rq")
    assert other.returncode == 2
    assert "uses other servers" in other.stderr
    assert stack.finish() == 0
    assert not process_identity(after["pid"])
    hidden = {path for path in tmp_path.rglob("*.log") if "/." in str(path.relative_to(tmp_path))}
    assert {path.parts[-3] for path in hidden} == {".topics"}
    for log in {*tmp_path.rglob("*.log")} - hidden:
        assert all(isinstance(json.loads(line), dict) for line in log.read_text().splitlines()), log


@pytest.mark.stack
@pytest.mark.xdist_group("kafka")
def test_make_run_uses_brokers_that_are_there(kafka_broker: KafkaServer, tmp_path: Path, runs: list[Run]) -> None:
    runs.append(stack := Run(tmp_path, settings={"TRANSPORT": "kafka", "KAFKA_BROKERS": kafka_broker.url}))
    assert stack.wait_until_up()["kafka"] == {"brokers": kafka_broker.url, "pid": None}
    assert not (tmp_path / "kafka").exists()
    assert stack.finish() == 0


@pytest.mark.stack
def test_make_run_without_java_is_one_line_and_leaves_nothing(tmp_path: Path, runs: list[Run]) -> None:
    runs.append(stack := Run(tmp_path, settings={"TRANSPORT": "kafka", "PATH": "/nowhere"}))
    output = stack.output()
    assert output.startswith("make run: kafka: java is not on the PATH: install Java 17 or newer, or set KAFKA_BROKERS")
    assert output.count("\n") == 1
    assert stack.process.returncode == 1
    assert not (tmp_path / "postgres").exists()

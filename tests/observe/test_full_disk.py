"""A disk that is full costs metrics and lines of a log, for as long as it is full, and nothing else."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from observe import metrics, metrics_files
from tests import small_disk
from tests.observe.test_metrics_files import start
from tests.project import ROOT
from tests.samples import Samples

# Counts, and makes series of its own, as often as it is told to; looks for room again each time.
COUNT = """
import sys
from observe import logs, values
values.RETRY_S = 0
from observe import metrics
logs.configure("INFO", service="test")
print("ready", flush=True)
for line in sys.stdin:
    for status in range(int(line)):
        metrics.observe_request("GET", "/a-route-with-a-rather-long-name-" + "x" * 200, 200 + status, 0.001)
    metrics.relay_put_back.inc()
    metrics.relay_last_pass.set(1.0)
    print("counted", flush=True)
"""
MANY = 60  # series of so many requests need more than what a file has from the start


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small disk with the folder of metrics on it, into which this process looks."""
    try:
        with small_disk.mounted(tmp_path / "disk", size="4m", nr_inodes="100") as disk:
            (disk / "metrics").mkdir()
            monkeypatch.setattr(metrics, "FOLDER", disk / "metrics")
            yield disk
    except PermissionError as error:
        pytest.skip(str(error))


class Counting:
    """A process that counts when it is told to."""

    def __init__(self, disk: Path) -> None:
        self.process = start(disk / "metrics", COUNT)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.said: list[str] = []

    def count(self, series: int = 0) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{series}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line == "counted\n":
                return
            self.said.append(json.loads(line)["event"])
        raise AssertionError(f"it has ended: {self.process.wait()}")

    def end(self) -> None:
        self.process.communicate()


@pytest.fixture
def counting(disk: Path) -> Iterator[list[Counting]]:
    started: list[Counting] = []
    del disk
    yield started
    for each in started:
        each.end()


def seen() -> float:
    return Samples.of(metrics_files.exposition()).sum("wallet_relay_put_back_total")


def requests_seen() -> float:
    return Samples.of(metrics_files.exposition()).sum("wallet_http_request_duration_seconds_count")


def test_who_begins_while_the_disk_is_full_counts_unseen_and_is_seen_when_there_is_room(
    disk: Path, counting: list[Counting]
) -> None:
    counting.append(before := Counting(disk))
    before.count()
    with small_disk.full(disk):
        counting.append(during := Counting(disk))
        for each in counting:
            each.count()
        assert seen() == 2  # of the one that has a file
    assert any("no room" in event for event in during.said)
    during.count()
    assert seen() == 4
    assert any("in their file again" in event for event in during.said)


def test_who_needs_more_room_while_the_disk_is_full_counts_on(disk: Path, counting: list[Counting]) -> None:
    counting.append(process := Counting(disk))
    process.count(1)
    with small_disk.full(disk):
        process.count(MANY)
        assert 1 <= requests_seen() < MANY  # as many as there was room for
    process.count(MANY)
    assert requests_seen() == 1 + 2 * MANY


def test_no_inode_is_as_little_reason_to_stop_as_no_room(disk: Path, counting: list[Counting]) -> None:
    with pytest.raises(OSError, match="No space left"):
        list(map(Path.touch, (disk / f"file-{number}" for number in range(1000))))
    counting.append(process := Counting(disk))
    process.count()
    for file in disk.glob("file-*"):
        file.unlink()
    process.count()
    assert seen() == 2


def test_the_dead_are_read_on_a_full_disk_and_folded_when_there_is_room(disk: Path, counting: list[Counting]) -> None:
    counting.append(process := Counting(disk))
    process.count(3)
    with small_disk.full(disk):
        process.end()
        before = requests_seen()
        assert before == 3
        assert seen() == 1
    assert requests_seen() == 3
    assert not list((disk / "metrics").glob(f"*_{process.process.pid}.db"))
    assert seen() == 1


def test_a_limit_on_the_size_of_files_is_no_reason_to_stop_either(tmp_path: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))" + COUNT
    process = start(tmp_path, code)
    said, _ = process.communicate("70\n1\n")
    assert said.count("counted\n") == 2
    assert process.returncode == 0


LOG = """
import logging, sys, structlog
from observe import logs
logs.configure("INFO", service="test")
for line in sys.stdin:
    structlog.get_logger().info("ours", filling="x" * 300)
    logging.getLogger("library").info("theirs %s", "x" * 300)
    logs.write("info", "request", {"filling": "x" * 300})
    print("logged", file=sys.stderr, flush=True)
"""


def test_lines_are_lost_while_the_disk_is_full_and_then_told_of(disk: Path) -> None:
    log = disk / "test.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", LOG],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )

    def write() -> None:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stderr.readline() == "logged\n"

    write()
    with small_disk.full(disk):
        for _ in range(10):  # the page that the log ends in has room for some
            write()
    write()
    process.communicate()
    said = log.read_text().splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in said if line.endswith("}")]
    # The last one that the disk had room for a part of is a line of its own.
    assert [line.startswith("{") for line in said] == [True] * len(said)
    assert len(said) == len(found) + 1
    lost = [line["lines"] for line in found if line["event"] == "log lines were lost"]
    assert len(lost) == 1
    assert 10 < lost[0] < 30
    assert len(found) == 3 * 12 - lost[0] + 1
    assert [line["event"].rstrip(" x") for line in found[-4:]] == ["log lines were lost", "ours", "theirs", "request"]

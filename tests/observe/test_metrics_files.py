"""Processes that share a folder are counted together, those that have ended too, whatever happened to them."""

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from observe import metrics, metrics_files
from observe.metrics_files import ENDED
from tests import nursery
from tests.nursery import Forked
from tests.project import ROOT
from tests.samples import Samples

# Counts once, says so, and lives on until its input ends.
COUNT = """
import sys
from observe import metrics
metrics.relay_put_back.inc()
metrics.transfers["transfer", "posted"].inc(3)
metrics.batch_size.observe(7)
metrics.relay_last_pass.set(float(sys.argv[1]))
metrics.cache_kept_evictions.set(5)
metrics.watch_seats.set(128)
print("counted", flush=True)
sys.stdin.read()
"""


def start(folder: Path, code: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start a process that keeps its values in the folder."""
    return Forked(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class Crew:
    """Processes that count, each once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.living: list[subprocess.Popen[str]] = []

    def grow(self, *last_passes: float) -> None:
        started = [start(self.folder, COUNT, str(each)) for each in last_passes]
        self.living += started
        for each in started:
            assert each.stdout is not None
            assert each.stdout.readline() == "counted\n"

    def kill(self, count: int) -> None:
        for _ in range(count):
            process = self.living.pop(0)
            process.kill()
            process.communicate()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, and this process looks into it."""
    monkeypatch.setattr(metrics, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def crew(folder: Path) -> Iterator[Crew]:
    """Processes that count there."""
    crew = Crew(folder)
    yield crew
    crew.kill(len(crew.living))


def exposed() -> Samples:
    return Samples.of(metrics_files.exposition())


def assert_counted(processes: int, *, last_pass: float) -> None:
    """Check that all of these have been counted, dead or alive."""
    samples = exposed()
    assert samples.value("wallet_relay_put_back_total") == processes
    assert samples.value("wallet_transfers_total", kind="transfer", outcome="posted") == 3 * processes
    assert samples.value("wallet_batch_size_count") == processes
    assert samples.value("wallet_batch_size_sum") == 7 * processes
    assert samples.value("wallet_batch_size_bucket", le="3.0") == 0
    assert samples.value("wallet_batch_size_bucket", le="10.0") == processes
    assert samples.value("wallet_relay_last_pass_timestamp_seconds") == last_pass


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in [*folder.glob("*.db"), *(folder / ENDED).glob("*.db")])


def test_all_processes_are_counted_together_and_a_killed_one_still_is(crew: Crew) -> None:
    crew.grow(30.0, 20.0)
    assert_counted(2, last_pass=30.0)
    crew.kill(1)
    assert_counted(2, last_pass=30.0)
    crew.grow(25.0)
    assert_counted(3, last_pass=30.0)


def test_what_a_process_says_of_itself_alive_ends_with_it(crew: Crew) -> None:
    crew.grow(1.0)
    assert exposed().value("wallet_cache_kept_evictions") == 5
    crew.kill(1)
    assert not exposed().has("wallet_cache_kept_evictions")


# Says how many records are unread, or that another knows it, as it is told to.
RELAY = """
import sys
from observe import metrics
for line in sys.stdin:
    if line == "leave\\n":
        metrics.leave_to_others()
    else:
        metrics.kafka_unread["wallet.transfers.retry"].set(float(line))
    print("told", flush=True)
"""


def tell(process: "subprocess.Popen[str]", line: str) -> None:
    """Have a process say something, and wait until it has."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "told\n"


def test_of_what_one_at_a_time_knows_the_last_word_counts_until_it_is_taken_back(crew: Crew, folder: Path) -> None:
    crew.grow(1.0)  # there is something to see
    first, second = (start(folder, RELAY) for _ in range(2))
    crew.living += [first, second]

    def unread() -> float | None:
        samples = exposed()
        known = samples.has("wallet_kafka_unread")
        return samples.value("wallet_kafka_unread", topic="wallet.transfers.retry") if known else None

    assert unread() is None  # nobody has looked yet
    tell(first, "700")
    tell(second, "3")
    assert unread() == 3
    tell(first, "leave")
    assert unread() == 3
    tell(first, "4")  # it has the turn again
    tell(second, "leave")
    assert unread() == 4
    tell(first, "leave")
    assert unread() is None
    tell(second, "5")
    second.kill()
    second.communicate()
    assert unread() is None


def test_the_seats_of_those_who_live_are_added_up(crew: Crew) -> None:
    crew.grow(1.0, 1.0, 1.0)
    assert exposed().value("wallet_grpc_watch_seats") == 3 * 128
    crew.kill(2)
    assert exposed().value("wallet_grpc_watch_seats") == 128


def test_the_dead_leave_one_file_of_a_kind_however_many_they_are(crew: Crew, folder: Path) -> None:
    for number in range(1, 4):
        crew.grow(1.0, 2.0)
        crew.kill(2)
        metrics_files.tidy()
        assert files(folder) == ["counter_ended.db", "gauge_max_ended.db", "histogram_ended.db"]
        assert len(list(folder.glob(f"{ENDED}-*"))) == 1
        assert_counted(2 * number, last_pass=2.0)


STEPS = [
    "pathlib.Path.rename",
    "pathlib.Path.unlink",
    "pathlib.Path.mkdir",
    "pathlib.Path.symlink_to",
    "pathlib.Path.replace",
    "shutil.rmtree",
    "prometheus_client.mmap_dict.MmapedDict.write_value",
]
# Dies at the n-th call of a step, before or after it.
DIE = """
import os, pkgutil, signal, sys
from observe import metrics_files
from pathlib import Path
path, when, count = sys.argv[2], sys.argv[3], int(sys.argv[4])
owner, _, name = path.rpartition(".")
owner = pkgutil.resolve_name(owner)
step = getattr(owner, name)
calls = []
def die(*arguments, **options):
    calls.append(None)
    if len(calls) == count and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = step(*arguments, **options)
    if len(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, die)
metrics_files.fold(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_reader_that_is_killed_while_it_folds_loses_nothing_and_counts_nothing_twice(
    crew: Crew, folder: Path, step: str, when: str
) -> None:
    crew.grow(9.0, 8.0)
    crew.kill(2)
    metrics_files.tidy()
    crew.grow(7.0, 6.0)
    crew.kill(2)
    count = "2" if step in {"pathlib.Path.rename", "prometheus_client.mmap_dict.MmapedDict.write_value"} else "1"
    # Without a folder of its own: it must not be among those that it folds.
    killed = nursery.run([sys.executable, "-c", DIE, str(folder), step, when, count], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert_counted(4, last_pass=9.0)
    # What it left undone the next one does.
    crew.grow(5.0)
    crew.kill(1)
    assert_counted(5, last_pass=9.0)
    assert files(folder) == ["counter_ended.db", "gauge_max_ended.db", "histogram_ended.db"]
    assert len(list(folder.glob(f"{ENDED}-*"))) == 1


def test_no_reader_ever_sees_a_counter_fall_while_processes_come_and_go(crew: Crew) -> None:
    over = threading.Event()
    faults: list[str] = []

    def read() -> None:
        before = exposed()
        while not over.is_set():
            samples = exposed()
            faults.extend(map(str, samples.fallen_since(before)))
            before = samples

    readers = [threading.Thread(target=read) for _ in range(3)]
    crew.grow(1.0)  # there is something to see
    for reader in readers:
        reader.start()
    try:
        for _ in range(4):
            crew.grow(1.0, 1.0)
            crew.kill(2)
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert faults == []
    assert_counted(9, last_pass=1.0)


def test_a_file_that_was_only_just_made_does_no_harm(crew: Crew, folder: Path) -> None:
    crew.grow(1.0)
    (folder / f"counter_{os.getpid()}.db").touch()
    assert_counted(1, last_pass=1.0)


def test_a_damaged_file_costs_what_was_counted_and_not_the_answer(
    crew: Crew, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crew.grow(1.0)
    damaged = folder / f"counter_{os.getpid()}.db"
    damaged.write_bytes(b"\x7f" * 64)
    assert metrics_files.exposition() == b""
    metrics_files.tidy()
    assert "metrics cannot be read" in capsys.readouterr().out
    damaged.unlink()
    assert_counted(1, last_pass=1.0)


def test_a_reader_that_is_frozen_does_not_freeze_the_others(crew: Crew, folder: Path) -> None:
    crew.grow(1.0)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert metrics_files.exposition() == b""
        metrics_files.tidy()
    finally:
        os.close(lock)
    assert_counted(1, last_pass=1.0)


def test_a_new_process_with_a_dead_ones_pid_counts_on(crew: Crew, folder: Path) -> None:
    crew.grow(1.0)
    pid = crew.living[0].pid
    crew.kill(1)
    # This process takes the dead one's place.
    for file in folder.glob(f"*_{pid}.db"):
        file.rename(folder / file.name.replace(str(pid), str(os.getpid())))
    assert_counted(1, last_pass=1.0)
    assert len(list(folder.glob(f"*_{os.getpid()}.db"))) == 5

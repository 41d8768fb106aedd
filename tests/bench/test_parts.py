import io
import os
import socket
import subprocess
import sys
import time

import pytest

from bench import parts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

# Half a second of processors.
BUSY = "import time\nwhile time.process_time() < 0.5: pass"


def test_a_part_is_what_it_runs_and_what_has_ended_of_that() -> None:
    before = parts.cpu_s({"self": [os.getpid()]})
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    after = parts.cpu_s({"self": [os.getpid()]})
    assert after["self"] - before["self"] >= 0.48
    assert after[parts.CLIENT] - before[parts.CLIENT] < 0.4  # the client is this process without those it starts


def test_a_child_that_still_runs_counts_as_well() -> None:
    with subprocess.Popen([sys.executable, "-c", f"{BUSY}\ninput()"], stdin=subprocess.PIPE) as child:
        deadline = time.monotonic() + 20
        while parts.cpu_s({"it": [child.pid]})["it"] < 0.49:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert child.pid in parts.children(os.getpid())
        child.communicate(b"\n")


def test_memory_is_told_in_megabytes_and_nothing_of_what_is_gone() -> None:
    assert 5 < parts.pss_mb(os.getpid()) < 2_000
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert parts.pss_mb(child.pid) == 0.0
    assert parts.cpu_s({"gone": [child.pid]})["gone"] == 0.0


def test_whether_a_process_listens_is_known_whoever_else_does() -> None:
    listening = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as ours,
        subprocess.Popen([sys.executable, "-c", listening], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
    ):
        port, theirs = ours.getsockname()[1], int((child.stdout or io.BytesIO()).readline())
        assert [parts.is_listening(pid, port) for pid in (os.getpid(), child.pid)] == [True, False]
        assert [parts.is_listening(pid, theirs) for pid in (os.getpid(), child.pid)] == [False, True]
        with socket.create_connection(("127.0.0.1", theirs)) as connection:  # a port of ours that nobody listens on
            assert not parts.is_listening(os.getpid(), connection.getsockname()[1])
        child.communicate(b"\n")
    assert not parts.is_listening(child.pid, theirs)

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


# Forks two that listen on one port, and says which.
LISTENING = """
import os, socket
def listen(port):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made
held = listen(0)  # bound, and not listening
port = held.getsockname()[1]
reading, writing = os.pipe()
for _ in range(2):
    if not os.fork():
        os.close(writing)
        own = listen(port)
        own.listen()
        os.read(reading, 1)  # until the one that has started this one ends
        os._exit(0)
print(port, flush=True)
input()
"""


def test_how_many_of_a_process_listen_is_known_whoever_else_does() -> None:
    command = [sys.executable, "-c", LISTENING]
    with (
        socket.create_server(("127.0.0.1", 0)) as ours,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as master,
    ):
        port = int((master.stdout or io.BytesIO()).readline())
        deadline = time.monotonic() + 20
        while not parts.are_listening(master.pid, port, 2):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not parts.are_listening(master.pid, port, 3)  # the one that started them only holds the port
        assert not parts.are_listening(master.pid, ours.getsockname()[1], 1)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            assert not parts.are_listening(master.pid, connection.getsockname()[1], 1)
        master.communicate(b"\n")
    assert not parts.are_listening(master.pid, port, 1)

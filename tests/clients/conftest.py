"""What clients that know nothing but the contract are let loose on: a whole stack, or a gRPC process alone."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from tests.nursery import Forked
from tests.ops.local.test_stack import Run, free_port
from tests.project import ROOT

# Generous: on a busy machine a process takes seconds to import all of it.
READY_S = 60
# Slow enough to be exceeded by a client on a busy machine, and with room for all that one user asks for.
LIMIT = "20/second;burst=200"


@dataclass(frozen=True, slots=True)
class Stack:
    """What ``make run`` says is up."""

    run: Run
    state: dict[str, Any]

    @property
    def target(self) -> str:
        """Where it serves gRPC."""
        return str(self.state["grpc"]["target"])


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A whole stack, which ends in order."""
    run = Run(tmp_path_factory.mktemp("home"), settings={"GRPC_PORT": str(free_port()), "RATE_LIMIT": LIMIT})
    try:
        yield Stack(run, run.wait_until_up())
        assert run.finish() == 0
    finally:
        run.process.kill()
        run.process.communicate()


@contextmanager
def grpc_process(**settings: str) -> Iterator[str]:
    """A gRPC process alone, on servers that are there; gives its target. It is ready when it can be connected to."""
    port = str(free_port())
    process = Forked(
        [sys.executable, "-m", "ops.grpc"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "GRPC_PORT": port, "GRPC_PROCESSES": "1", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield f"localhost:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=READY_S)[0]
    assert process.returncode == 0, said


def wait_until_ready(channel: grpc.Channel) -> None:
    """Wait for a connection."""
    grpc.channel_ready_future(channel).result(timeout=READY_S)

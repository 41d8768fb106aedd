"""Worker processes that die or freeze at a named point: real ones, with one call patched in the child alone.

A nursery is one process that has imported everything and connected to nothing; each line of JSON that it reads asks
it for something. Forked from it, a worker is there at once: ``python -m tests.jobs.worker_child``.

    {"start": {"entry": "worker", "environment": {…}, "constants": {"jobs.rq.worker:LEASE_S": 1}, "strikes": […],
               "log": "…"}}
        →  {"pid": 1}
    {"look": 1}  →  {"state": "running" | "stopped" | "ended", "status": null | -9 | 0}
"""

import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from rq.cli import workers as _rq_worker_command  # noqa: F401 - the import adds the command
from rq.cli.cli import main as rq_command

import worker
from api.app import create_app
from config import Settings, load

# No worker outlives its test by more than this, whatever happens to it. A nursery ends with its input.
LIFETIME_S = 300


def strike(signal_name: str) -> None:
    """Be killed, or frozen, on the spot."""
    os.kill(os.getpid(), signal.Signals[signal_name])


def arm(point: str, *, when: str, signal_name: str, transfer_id: int | None) -> None:
    """Strike at a call.

    Args:
        point: ``module:attribute`` or ``module:Class.method``.
        when: ``before`` or ``after`` the call does its work.
        signal_name: SIGKILL or SIGSTOP.
        transfer_id: only if this one is an argument, or among the ids that are its last one.
    """
    module, _, path = point.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    setattr(owner, name, _striking(getattr(owner, name), when, signal_name, transfer_id))


def _striking(call: Callable[..., Any], when: str, signal_name: str, transfer_id: int | None) -> Callable[..., Any]:
    struck: list[None] = []

    @wraps(call)
    def striking(*args: Any, **named: Any) -> Any:
        ids = args[-1] if args and isinstance(args[-1], list) else args
        concerned = not struck and (transfer_id is None or transfer_id in ids)
        if concerned and when == "before":
            struck.append(None)
            strike(signal_name)
        result = call(*args, **named)
        # A claim that found nothing is not the one that is meant.
        if concerned and when == "after" and getattr(result, "ids", True):
            struck.append(None)
            strike(signal_name)
        return result

    return striking


def work(task: dict[str, Any]) -> None:
    """Be a worker."""
    signal.alarm(LIFETIME_S)
    log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(task["environment"])
    logging.getLogger().handlers.clear()
    for name, value in task["constants"].items():
        module, _, constant = name.partition(":")
        setattr(importlib.import_module(module), constant, value)
    for each in task["strikes"]:
        arm(each["point"], when=each["when"], signal_name=each["signal"], transfer_id=each.get("id"))
    ENTRIES[task["entry"]]()


def accept() -> None:
    """Be an API process that accepts a transfer."""
    app = create_app(load(Settings))
    answer = app.test_client().post(
        "/api/transfer/v2", json={"destination_user_id": 2, "amount": 1}, headers={"Authorization": "1"}
    )
    assert answer.status_code == 202, answer.text
    app.extensions["wallet"].close()  # which waits for what is on its way to the queue


def work_as_stock_rq() -> None:
    """Be RQ's own worker, which forks a work-horse for each job, until the queue is empty."""
    options = ["--burst", "--serializer", "rq.serializers.JSONSerializer", "--url", os.environ["REDIS_URL"]]
    rq_command(["worker", "transfers", *options], standalone_mode=False)


ENTRIES: dict[str, Callable[[], None]] = {
    "worker": worker.main,
    "webhooks": partial(worker.main, "webhooks"),
    "accept": accept,
    "rq": work_as_stock_rq,
}


class Nursery:
    """The process that workers are forked from."""

    def __init__(self) -> None:
        self._states: dict[int, dict[str, Any]] = {}

    def run(self) -> None:
        """Do what each line asks for, until there is none."""
        try:
            for line in sys.stdin:
                request = json.loads(line)
                if "start" in request:
                    sys.stdout.flush()
                    if (pid := os.fork()) == 0:
                        self._states.clear()
                        work(request["start"])
                        return
                    self._states[pid] = {"state": "running", "status": None}
                    answer: dict[str, Any] = {"pid": pid}
                else:
                    answer = self._look(request["look"])
                print(json.dumps(answer), flush=True)  # noqa: T201 - the answer to whoever asked
        finally:
            for pid, found in self._states.items():
                if found["state"] != "ended":
                    os.kill(pid, signal.SIGKILL)

    def _look(self, pid: int) -> dict[str, Any]:
        if self._states[pid]["state"] != "ended":
            waited, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if waited and os.WIFSTOPPED(status):
                self._states[pid] = {"state": "stopped", "status": None}
            elif waited and os.WIFCONTINUED(status):
                self._states[pid] = {"state": "running", "status": None}
            elif waited:
                self._states[pid] = {"state": "ended", "status": os.waitstatus_to_exitcode(status)}
        return self._states[pid]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    Nursery().run()

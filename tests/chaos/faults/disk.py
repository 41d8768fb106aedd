"""The disk of WALLET_HOME is full for a while, under all processes of the service and all of its servers."""

import random
import time

from ops.local.processes import process_identity
from tests import small_disk
from tests.chaos.stack import Stack, wait_until

# As large as the write-ahead log can get, and some more: only this fault is to fill it.
HOME_SIZE = "2g"
BACK_TIMEOUT_S = 90.0


def fill_disk(stack: Stack, rng: random.Random) -> bool:
    """Fill the disk, perhaps kill a process, which is then replaced without any room, and empty the disk again.

    It is over when all processes are back. Where the home is on no file system of its own, nothing is done.
    """
    if not stack.home.is_mount():
        return False
    pids = _pids(stack)
    with small_disk.full(stack.home):
        time.sleep(rng.uniform(0.5, 3))  # for how long it is full is the experiment
        if rng.random() < 0.5:
            stack.kill(rng.choice(pids))
            time.sleep(rng.uniform(0.5, 3))
    wait_until(lambda: _is_complete(stack), BACK_TIMEOUT_S, "all processes are back")
    return True


def _is_complete(stack: Stack) -> bool:
    """Whether what is written down of the processes is true again, and all of them run."""
    return all(process_identity(pid) for pid in _pids(stack))


def _pids(stack: Stack) -> list[int]:
    state = stack.state()
    servers = [state[name] for name in ("postgres", "redis", "kafka") if name in state]
    processes = [state["api"], *servers, *state["workers"]]
    return [*(process["pid"] for process in processes), *stack.grpc_pids()]

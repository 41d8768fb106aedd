"""Processes end by kill -9."""

import random
from contextlib import suppress
from pathlib import Path

from tests.chaos.stack import Stack


def kill_worker(stack: Stack, rng: random.Random) -> bool:
    """Kill one of the workers, or who sends webhooks."""
    state = stack.state()
    stack.kill(rng.choice([*state["workers"], *state["webhooks"]])["pid"])
    return True


def kill_api(stack: Stack, _rng: random.Random) -> bool:
    """Kill gunicorn's master."""
    stack.kill(stack.state()["api"]["pid"])
    return True


def kill_grpc(stack: Stack, rng: random.Random) -> bool:
    """Kill one of the gRPC processes, if there are any."""
    pids = stack.grpc_pids()
    if pids:
        stack.kill(rng.choice(pids))
    return bool(pids)


def kill_grpc_master(stack: Stack, _rng: random.Random) -> bool:
    """Kill the master of the gRPC processes, if one of these is there to tell which it is."""
    for pid in stack.grpc_pids():
        with suppress(OSError):
            # (proc_pid_stat(5): what follows the name in brackets is the state, and then the parent.)
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            stack.kill(parent)
            return True
    return False


def kill_postgres(stack: Stack, _rng: random.Random) -> bool:
    """Kill PostgreSQL's postmaster."""
    stack.kill(stack.state()["postgres"]["pid"])
    return True


def kill_redis(stack: Stack, _rng: random.Random) -> bool:
    """Kill Redis."""
    stack.kill(stack.state()["redis"]["pid"])
    return True

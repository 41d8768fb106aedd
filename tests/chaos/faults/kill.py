"""Processes end by kill -9."""

import random

from tests.chaos.stack import Stack


def kill_worker(stack: Stack, rng: random.Random) -> bool:
    """Kill one of the workers."""
    stack.kill(rng.choice(stack.state()["workers"])["pid"])
    return True


def kill_api(stack: Stack, _rng: random.Random) -> bool:
    """Kill gunicorn's master."""
    stack.kill(stack.state()["api"]["pid"])
    return True


def kill_grpc(stack: Stack, rng: random.Random) -> bool:
    """Kill one of the gRPC processes, if there are any."""
    pids = [pid for pid in stack.state().get("grpc", {}).get("pids", ()) if pid]
    if pids:
        stack.kill(rng.choice(pids))
    return bool(pids)


def kill_postgres(stack: Stack, _rng: random.Random) -> bool:
    """Kill PostgreSQL's postmaster."""
    stack.kill(stack.state()["postgres"]["pid"])
    return True


def kill_redis(stack: Stack, _rng: random.Random) -> bool:
    """Kill Redis."""
    stack.kill(stack.state()["redis"]["pid"])
    return True

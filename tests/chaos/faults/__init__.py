"""What chaos runs do to a service: each fault is caused in earnest, and is over when its function returns."""

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.chaos.faults.clock import step_clock
from tests.chaos.faults.database import freeze_postgres, lock_table, slow_down
from tests.chaos.faults.disk import fill_disk
from tests.chaos.faults.flush import empty_redis
from tests.chaos.faults.kafka import delete_topics, empty_topics, freeze_broker, kill_broker, make_zombie
from tests.chaos.faults.kill import kill_api, kill_grpc, kill_grpc_master, kill_postgres, kill_redis, kill_worker
from tests.chaos.faults.memory import fill_redis
from tests.chaos.faults.storm import cause_storm
from tests.chaos.stack import Stack
from tests.faketime import find_library


class Fault(NamedTuple):
    """A fault and how often it is chosen; ``cause`` tells whether it came about."""

    cause: Callable[[Stack, random.Random], bool]
    weight: int


FAULTS: Mapping[str, Fault] = {
    "worker": Fault(kill_worker, 3),
    "api": Fault(kill_api, 1),
    "grpc": Fault(kill_grpc, 2),
    "grpc master": Fault(kill_grpc_master, 1),
    "postgres": Fault(kill_postgres, 1),
    "redis": Fault(kill_redis, 1),
    "flush": Fault(empty_redis, 2),
    "table lock": Fault(lock_table, 1),
    "slow postgres": Fault(slow_down, 1),
    "frozen postgres": Fault(freeze_postgres, 1),
    "full redis": Fault(fill_redis, 1),
    "full disk": Fault(fill_disk, 1),
    "storm": Fault(cause_storm, 1),
    # Not where libfaketime is missing: this machine's own clock is others', too.
    **({"clock": Fault(step_clock, 1)} if find_library() else {}),
}
OF_KAFKA: Mapping[str, Fault] = {
    "kafka": Fault(kill_broker, 2),
    "frozen kafka": Fault(freeze_broker, 2),
    "topics deleted": Fault(delete_topics, 2),
    "topics emptied": Fault(empty_topics, 2),
    "zombie": Fault(make_zombie, 2),
}


def faults_of(transport: str) -> Mapping[str, Fault]:
    """Return what is done to a service whose transfers are carried so."""
    return {**FAULTS, **OF_KAFKA} if transport == "kafka" else FAULTS

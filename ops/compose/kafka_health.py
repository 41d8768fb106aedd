"""The part of the health check that needs Kafka's client and the settings: without Kafka it is not loaded."""

from collections.abc import Mapping

import config
from jobs.kafka.checkup import is_member_here


def is_worker_in_group(told: Mapping[str, str]) -> bool:
    """Whether a worker of this container is in the group, by settings of which some come from files."""
    fields = config.Settings.model_fields
    return is_member_here(
        config.load(config.Settings, **{name: told[name.upper()] for name in fields if name.upper() in told})
    )

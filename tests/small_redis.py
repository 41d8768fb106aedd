"""A Redis that is full: of a memory that is nobody else's, so that it may be."""

import pytest
import redis

# As much as a test needs.
ROOMY = "200mb"


def fill_memory(client: redis.Redis) -> None:
    """Let there be no memory left."""
    client.config_set("maxmemory", 1)
    with pytest.raises(redis.ResponseError, match="used memory"):
        client.set("one more", "x")

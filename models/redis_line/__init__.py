"""The way to Redis: one round trip for some commands, no patience with a server that is silent."""

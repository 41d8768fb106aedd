"""Kafka on this machine, from Maven's artifacts: one broker for ``make run``, one or three for ``make kafka``."""

"""The name by which RQ's jobs call what settles them. It stands in jobs that are in Redis, so it never changes."""

from jobs.rq.job import run

__all__ = ["run"]

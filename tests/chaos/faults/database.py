"""PostgreSQL is there, and does not do what it is asked for: a table is locked, everything is slow, all of it hangs."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, connection

from tests.chaos.stack import Stack, wait_until
from tests.patience import PATIENCE_S

# SHARE is what an index build takes, ACCESS EXCLUSIVE what most of ALTER TABLE does.
LOCKS = [(table, mode) for table in ("wallets", "transfers", "entries") for mode in ("SHARE", "ACCESS EXCLUSIVE")]
# In seconds: beyond a lock_timeout (2) and a statement_timeout (5), and for as long as attempts take that are spent.
SHORTEST_S, LONGEST_S = 2.5, 7.5
_SLOW = """
CREATE OR REPLACE FUNCTION chaos_dawdle() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN PERFORM pg_sleep({row_s}); RETURN NEW; END $$;
CREATE OR REPLACE TRIGGER chaos_dawdle BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION chaos_dawdle()
"""
_QUICK = "DROP FUNCTION IF EXISTS chaos_dawdle CASCADE"


def lock_table(stack: Stack, rng: random.Random) -> bool:
    """Hold a table, as who builds an index or alters it."""
    table, mode = rng.choice(LOCKS)
    try:
        with _owner(stack) as owner, owner.cursor() as cursor:
            cursor.execute(f"BEGIN; LOCK TABLE {table} IN {mode} MODE")
            time.sleep(rng.uniform(SHORTEST_S, LONGEST_S))  # how long it lasts is the experiment, as below
            cursor.execute("ROLLBACK")
    except psycopg2.Error:
        return False
    return True


def slow_down(stack: Stack, rng: random.Random) -> bool:
    """Let every entry take its time: a batch of more than some then takes longer than a statement may."""
    if not _do(stack, _SLOW.format(row_s=rng.choice((0.05, 0.2, 1.0)))):
        return False
    try:
        time.sleep(rng.uniform(SHORTEST_S, LONGEST_S))
    finally:
        wait_until(lambda: _do(stack, _QUICK), PATIENCE_S, "the trigger is gone")
    return True


def freeze_postgres(stack: Stack, rng: random.Random) -> bool:
    """Let every process of the server stand still for a while, with all connections open."""
    postmaster = stack.state()["postgres"]["pid"]
    frozen = [pid for pid in (postmaster, *_children_of(postmaster)) if _signal(pid, signal.SIGSTOP)]
    try:
        time.sleep(rng.uniform(SHORTEST_S, LONGEST_S))
    finally:
        for pid in frozen:
            _signal(pid, signal.SIGCONT)
    return bool(frozen)


@contextmanager
def _owner(stack: Stack) -> Iterator[connection]:
    with closing(psycopg2.connect(stack.state()["postgres"]["url"], connect_timeout=2)) as owner:
        owner.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        yield owner


def _do(stack: Stack, statement: str) -> bool:
    try:
        with _owner(stack) as owner, owner.cursor() as cursor:
            cursor.execute(statement)
    except psycopg2.Error:
        return False
    return True


def _children_of(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _signal(pid: int, number: signal.Signals) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False

"""How a year wears: the same work on old books and on empty ones, in turns; tables, and ``bench-year.json``.

python -m bench.year [--transfers 10000000] [--rounds 5] [--jobs 20000] [--seconds 2] [--quick] [--write]

Books of 10 million transfers take up to 30 GiB of disk while it runs, and a quarter of an hour.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from bench import machine
from bench.asks import Kind
from bench.figures import BenchError
from bench.flood import FloodError
from bench.page import fill
from bench.site import ROOT, Site
from bench.year import keeping, looking, making, working
from bench.year.report import GIB, Findings, markdown
from bench.year.working import Side
from config import ConfigurationError
from models.database.engine import wait_no_longer_than
from observe import logs
from ops.local.processes import StackError

# For a statement of the measuring itself.
LONGEST_S = 3_600.0
JSON_FILE = ROOT / "bench-year.json"
# The page that has the figures.
PAGE = ROOT / "docs" / "growing-old.md"
QUICK = {"transfers": 50_000, "rounds": 1, "jobs": 1_000, "seconds": 0.5}
# As a server is set up that has such books to keep, and for both sides.
POSTGRES = {
    "shared_buffers": "2GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "maintenance_work_mem": "512MB",
}


def main(arguments: Sequence[str]) -> int:
    """Measure and report; the exit status. A goal that is missed is told, and is no failure."""
    options = _parse(arguments)
    shape = making.Shape.of(options.transfers)
    os.umask(0o077)
    logs.configure("WARNING", service="bench")
    # To vacuum, count or check tables of this size takes longer than any payment.
    wait_no_longer_than(LONGEST_S)
    try:
        _check_room(shape)
        with Site({}, postgres_settings=POSTGRES) as old, Site({}, postgres_settings=POSTGRES) as young:
            facts = machine.describe(old)
            _say(_words(facts))
            found = _measure(options, shape, old, young)
    except (BenchError, FloodError, StackError, ConfigurationError, OSError, SQLAlchemyError, RedisError) as error:
        print(f"bench.year: {error}", file=sys.stderr)
        return 1
    taken_at = datetime.now(UTC).isoformat(timespec="seconds")
    # A page's lines have a length (tests/docs/test_links.py).
    where = textwrap.fill(f"Taken on {taken_at[:10]}: {_words(facts)}.", 120)
    told = f"{markdown(found)}\n\n{where}\n"
    print(f"\n{told}")
    if options.write:
        fill(PAGE, told)
    JSON_FILE.write_text(json.dumps({"taken_at": taken_at, "machine": facts, **found.as_json()}, indent=2) + "\n")
    _say(f"\nwritten: {JSON_FILE.relative_to(ROOT)}")
    return 0


def _measure(options: argparse.Namespace, shape: making.Shape, old: Site, young: Site) -> Findings:
    found = Findings(shape=shape)
    _say(f"making {shape.transfers:,} transfers …")
    found.made_s = making.make(old, shape)
    found.first_vacuum = looking.vacuum(old)
    old.execute_as_admin("wallet", "CHECKPOINT")
    found.sizes = looking.sizes(old)
    _say(f"made in {found.made_s:,.0f} s, {sum(found.sizes.values()) / GIB:.1f} GiB; pages …")
    found.pages_ms = looking.pages(old, shape)
    sides = Side("old", old, shape.wallets), working.lay_out(young)
    _say("v1 and v2 …")
    with working.serving(*sides):
        working.ask_in_turns(sides, rounds=options.rounds, seconds=options.seconds)
        _say("slices of an audit …")
        found.audit = looking.audit_hours(old, shape, port=sides[0].port, ask=sides[0].ask(Kind.NOW))
    _say("backlogs …")
    working.drain_in_turns(sides, rounds=options.rounds, jobs=options.jobs)
    found.rates = {side.name: side.rates for side in sides}
    found.medians = {
        side.name: {what: statistics.median(rates) for what, rates in side.rates.items()} for side in sides
    }
    found.ratios = working.ratios(*sides)
    found.worked = looking.count(old) - shape.transfers
    found.later_vacuum = looking.vacuum(old)
    _say("dump and restore …")
    found.kept = keeping.dump_and_restore(old)
    _say("the service's own audit of all of it …")
    found.proof_s = looking.prove(old)
    return found


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.year", description=__doc__)
    parser.add_argument("--transfers", type=int, default=10_000_000, help="about so many are there before")
    parser.add_argument("--rounds", type=int, default=5, help="how often v1, v2 and a drain are measured on each side")
    parser.add_argument("--jobs", type=int, default=20_000, help="in each backlog")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each window of v1 and of v2")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/growing-old.md")
    parser.add_argument("--quick", action="store_true", help="two minutes, to see whether it works")
    options = parser.parse_args(arguments)
    if options.quick:
        parser.set_defaults(**QUICK)
        options = parser.parse_args(arguments)
    return options


def _words(facts: Mapping[str, str]) -> str:
    """Say on what it was measured, in a few lines."""
    told = ("cpu", "cores", "memory", "filesystem", "postgresql", "valkey", "python")
    return ", ".join(f"{name} {facts[name]}" for name in told)


def _check_room(shape: making.Shape) -> None:
    """Refuse to fill a disk.

    Raises:
        BenchError: there is not room enough where temporary files lie.
    """
    needed = shape.transfers * making.BYTES_A_TRANSFER + making.BYTES_BESIDES
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        where = tempfile.gettempdir()
        raise BenchError(f"{where} has {free / GIB:.0f} GiB left, and this may take {needed / GIB:.0f}: set TMPDIR")


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

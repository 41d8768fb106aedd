"""What a transfer costs, and what follows for a thousand times as many: tables, and ``bench-growing.json``.

python -m bench.growing [--rounds 5] [--jobs 20000] [--write] [--quick]

Some five minutes. The figures are those of ``python -m bench --only cost``, with what one wallet can have at most.
"""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime

from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from bench import machine
from bench.__main__ import IDLE_SHARE, QUICK
from bench.backlog import Spread
from bench.cost import Cost
from bench.drain import Drain
from bench.figures import BenchError, Plan
from bench.growing.hot import Hot
from bench.growing.lag import Lag
from bench.growing.report import markdown
from bench.page import fill
from bench.report import Summary
from bench.site import ROOT, Site
from config import ConfigurationError
from observe import logs
from ops.local.processes import StackError

JSON_FILE, PAGE = ROOT / "bench-growing.json", ROOT / "docs" / "growing.md"
# How connections fall to processes is drawn anew each time: none is to be turned away because one has got most.
PATIENT = {"API_QUEUE": "512"}
MEASURES = (Cost(), Drain(Spread.HOT, workers=2), Hot(), Lag())


def main(arguments: Sequence[str]) -> int:
    """Measure and report; the exit status."""
    options = _parse(arguments)
    plan = QUICK if options.quick else replace(Plan(), jobs=options.jobs, rounds=options.rounds)
    os.umask(0o077)
    logs.configure("WARNING", service="bench")
    rounds: list[dict[str, float]] = []
    idle: list[float] = []
    try:
        with Site(PATIENT) as site:
            facts = machine.describe(site)
            for number in range(plan.rounds):
                idle.append(machine.idle_share())
                print(f"round {number + 1}: {idle[-1]:.0%} of the cores idle …", flush=True)
                rounds.append({key: each for measure in MEASURES for key, each in measure.take(site, plan).items()})
    except (BenchError, StackError, ConfigurationError, OSError, SQLAlchemyError, RedisError) as error:
        print(f"bench.growing: {error}", file=sys.stderr)
        if not rounds:
            return 1
        print(f"bench.growing: what follows is of the {len(rounds)} rounds before that", file=sys.stderr)
    found = {key: Summary.of([values[key] for values in rounds]) for key in rounds[0]}
    taken_at = datetime.now(UTC).isoformat(timespec="seconds")
    told = f"{markdown(found)}\n\n{_where(facts, taken_at, len(rounds), min(idle))}\n"
    print(f"\n{told}")
    if options.write:
        fill(PAGE, told)
    summary = {key: asdict(each) for key, each in found.items()}
    content = {"taken_at": taken_at, "machine": facts, "idle": idle, "rounds": rounds, "summary": summary}
    JSON_FILE.write_text(json.dumps(content, indent=2) + "\n")
    print(f"written: {JSON_FILE.relative_to(ROOT)}")
    return 0 if len(rounds) == plan.rounds else 1


def _where(facts: dict[str, str], taken_at: str, rounds: int, idle: float) -> str:
    """Say on what it was measured, and whether others disturbed it."""
    told = ("cpu", "cores", "memory", "filesystem", "postgresql", "valkey", "python")
    words = ", ".join(f"{name} {facts[name]}" for name in told)
    where = f"Medians of {rounds} rounds, and their span. Taken on {taken_at[:10]}: {words}."
    if idle < IDLE_SHARE:
        where += (
            " **To be measured again**: others were busy on this machine meanwhile, so that rates are too low, and"
            " processors had to share their caches. Bytes and commands are what they are."
        )
    return textwrap.fill(where, 120)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.growing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--jobs", type=int, default=20_000, help="in the backlog of the hot wallet")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/growing.md")
    parser.add_argument("--quick", action="store_true", help="half a minute, to see whether it works")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

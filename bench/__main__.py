"""``make bench``: everything once a round, in rotated order; a table, ``bench.json`` and ``bench/chart.svg``.

python -m bench [--rounds 5] [--jobs 60000] [--only drain] [--set BATCH_SIZE=500] [--gevent] [--quick]
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime

from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from bench import chart, machine, report
from bench.figures import BenchError, Measure, Plan
from bench.kafka.brokers import find_lack
from bench.measures import MEASURES, chosen, due_in, figures_of, needs_kafka
from bench.report import Line, spell
from bench.site import ROOT, Site
from config import ConfigurationError
from ops.local.processes import StackError

QUICK = Plan(rounds=1, jobs=2_000, stock_jobs=60, pgbench_s=1, steady_s=1, window_s=0.3, windows=1, calls=100)
# A machine of which less is idle before a round has other things to do.
IDLE_SHARE = 0.9
JSON_FILE, CHART_FILE = ROOT / "bench.json", ROOT / "bench" / "chart.svg"


def main(arguments: Sequence[str]) -> int:
    """Measure and report; the exit status. A goal that is missed is told, and is no failure."""
    options = _parse(arguments)
    measures = chosen(options.only or [""])
    if not measures:
        print(f"bench: nothing is called like that: {', '.join(each.name for each in MEASURES)}", file=sys.stderr)
        return 2
    if any(map(needs_kafka, measures)) and (lack := find_lack()) is not None:
        print(f"bench: nothing is measured over Kafka: {lack}", file=sys.stderr)
        measures = tuple(each for each in measures if not needs_kafka(each))
    if not measures:
        return 0
    plan = _plan(options)
    os.umask(0o077)
    rounds: list[dict[str, dict[str, float]]] = []
    try:
        with Site(plan.settings) as site:
            facts, durability = machine.describe(site), site.durability()
            _say("machine", facts)
            _say("durability, as a worker's connection sees it", durability)
            is_all = not options.only
            rounds += (
                _round(number, due_in(number, measures, is_all=is_all), site, plan) for number in range(plan.rounds)
            )
    except (BenchError, StackError, ConfigurationError, OSError, SQLAlchemyError, RedisError) as error:
        print(f"bench: {error}", file=sys.stderr)
        if not rounds:
            return 1
        print(f"bench: what follows is of the {len(rounds)} rounds before that", file=sys.stderr)
    lines = report.sum_up(figures_of(measures), [each["values"] for each in rounds])
    print(f"\n{report.table(lines)}")
    found = {"machine": facts, "durability": durability, "plan": asdict(plan), "is_quick": options.quick}
    _write(found | {"rounds": rounds, "summary": report.as_json(lines)})
    if len(rounds) < plan.rounds:
        return 1
    if not options.quick and not options.only:
        _draw(lines, facts, plan)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, help="how often everything is measured")
    parser.add_argument("--jobs", type=int, help="in the backlog of each drain")
    parser.add_argument("--only", action="append", help="what has this in its name or in that of a figure; may repeat")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the service")
    parser.add_argument(
        "--gevent", action=argparse.BooleanOptionalAction, help="patch the process that makes the calls, as gevent does"
    )
    parser.add_argument("--quick", action="store_true", help="a minute, to see whether it works; no numbers to quote")
    return parser.parse_args(arguments)


def _plan(options: argparse.Namespace) -> Plan:
    base = QUICK if options.quick else Plan()
    return replace(
        base,
        rounds=options.rounds or base.rounds,
        jobs=options.jobs or base.jobs,
        is_patched=base.is_patched if options.gevent is None else options.gevent,
        settings=dict(each.split("=", 1) for each in options.set),
    )


def _round(number: int, measures: tuple[Measure, ...], site: Site, plan: Plan) -> dict[str, dict[str, float]]:
    """Take every measure once, beginning with another one than the last round did."""
    first = number % len(measures)
    values: dict[str, float] = {}
    quiet = {"idle_share": machine.idle_share(), "fsync_ms": machine.sync_ms(site.home)}
    print(f"round {number + 1}: {quiet['idle_share']:.0%} of the cores idle, an fsync takes {quiet['fsync_ms']} ms")
    if quiet["idle_share"] < IDLE_SHARE:
        print("         WARNING: others are busy here. Neither rates nor ratios will hold on a machine of our own.")
    for measure in measures[first:] + measures[:first]:
        print(f"round {number + 1}: {measure.name} …", flush=True)
        began = time.monotonic()
        found = measure.take(site, plan)
        values |= found
        words = ", ".join(f"{key} {spell(value)}" for key, value in found.items())
        print(f"round {number + 1}: {words}  ({time.monotonic() - began:.0f} s)", flush=True)
    return {"values": values, "before": quiet}


def _say(title: str, facts: dict[str, str]) -> None:
    print(f"{title}:", ", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)


def _write(found: dict[str, object]) -> None:
    content = {"taken_at": datetime.now(UTC).isoformat(timespec="seconds"), **found}
    JSON_FILE.write_text(json.dumps(content, indent=2) + "\n")
    print(f"\nwritten: {JSON_FILE.relative_to(ROOT)}")


def _draw(lines: Sequence[Line], facts: dict[str, str], plan: Plan) -> None:
    caption = (
        f"Medians of {plan.rounds} interleaved rounds. Thin lines span the rounds, upright ones are goals.",
        f"{facts['cores']} cores ({facts['cpu']}) for everything: client, API, workers, PostgreSQL with fsync, Valkey.",
        f"{facts['postgresql']}, Valkey {facts['valkey']}, RQ {facts['rq']}, Python {facts['python']}.",
    )
    CHART_FILE.write_text(chart.draw(lines, caption))
    print(f"written: {CHART_FILE.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What a transfer costs and what follows from it, as Markdown for docs/growing.md."""

import math
from collections.abc import Iterable, Mapping, Sequence

from bench.cost import KAFKA, METERS, PARTS, WAYS, of_way
from bench.growing import simulation
from bench.growing.simulation import GB, MOST_BUSY, Load
from bench.report import Summary, spell
from config import Settings
from jobs.connections import OF_A_SCRAPE
from ops.local.kafka.properties import RETENTION_DAYS

RATES = (1_000, 10_000, 100_000)
SHARDS = (2, 4, 16, 64)
WALLETS, DRAWN = 100_000, 200_000
# All alike; as words and cities are; and with a few merchants whom everybody pays.
SKEWS = (0.0, 0.8, 1.0)
HOT, HOT_V1 = "drain_hot_2", "v1_hot"


def markdown(found: Mapping[str, Summary]) -> str:
    """Spell the tables, from summaries by the keys of figures. What was not measured for want of Java is left out."""
    rates = [_rates(found, way) for way in ("v2", KAFKA) if _is_found(found, way)]
    return "\n\n".join((_costs(found), *rates, _shards(), _hot(found), _lag(found)))


def _is_found(found: Mapping[str, Summary], way: str) -> bool:
    return f"cost_{way}_api" in found


def _costs(found: Mapping[str, Summary]) -> str:
    ways = [way for way in WAYS if _is_found(found, way)]

    def cells(what: str) -> list[str]:
        keys = [f"cost_{way}_{what}" for way in ways]
        return [_span(found[key]) if key in found else "" for key in keys]

    rows = [
        *((f"CPU, {who}, µs", *cells(part)) for part, who in PARTS.items()),
        *((f"{what}{', bytes' if unit else ''}", *cells(meter)) for meter, (what, unit) in METERS.items()),
        ("Redis's memory while it waits, bytes", *cells("waiting")),
    ]
    return _table(("one transfer costs", *(WAYS[way][1] for way in ways)), [row for row in rows if any(row[1:])])


def _rates(found: Mapping[str, Summary], way: str) -> str:
    parts = of_way(way, PARTS)
    loads = [
        simulation.load_of(
            rate,
            {part: found[f"cost_{way}_{part}"].median for part in parts},
            log_bytes=found[f"cost_{way}_wal"].median,
            disk_bytes=found[f"cost_{way}_disk"].median,
        )
        for rate in RATES
    ]
    rows = [
        *((f"cores, {PARTS[part]}", *(f"{load.cores[part]:,.1f}" for load in loads)) for part in parts),
        ("connections to PostgreSQL", *(f"{_connections(load):,}" for load in loads)),
        ("log, MB a second", *(f"{load.log_bytes_s / 1e6:,.1f}" for load in loads)),
        ("log, GB a day", *(f"{load.log_bytes_day / GB:,.0f}" for load in loads)),
        ("disk, GB a day", *(f"{load.disk_bytes_day / GB:,.0f}" for load in loads)),
        ("disk, TB a year", *(f"{load.disk_bytes_day * 365 / GB / 1_000:,.1f}" for load in loads)),
        *(_kept_by_brokers(found) if way == KAFKA else [_kept_by_redis(found)]),
    ]
    return _table((f"{WAYS[way][1]}, cores {MOST_BUSY:.0%} busy", *(f"{rate:,}/s" for rate in RATES)), rows)


def _kept_by_redis(found: Mapping[str, Summary]) -> tuple[str, ...]:
    bytes_each = found["cost_v2_waiting"].median
    return ("Redis, MB for each minute of backlog", *(f"{rate * 60 * bytes_each / 1e6:,.0f}" for rate in RATES))


def _kept_by_brokers(found: Mapping[str, Summary]) -> list[tuple[str, ...]]:
    """Tell of one copy; what is kept does not depend on what waits."""
    bytes_each = found[f"cost_{KAFKA}_topics"].median
    kept_s = simulation.DAY_S * RETENTION_DAYS
    return [
        ("topics, MB a second for each copy", *(f"{rate * bytes_each / 1e6:,.1f}" for rate in RATES)),
        (
            f"topics, GB that {RETENTION_DAYS} days are, for each copy",
            *(f"{rate * bytes_each * kept_s / GB:,.0f}" for rate in RATES),
        ),
    ]


def _connections(load: Load) -> int:
    """Return how many there are at most, with a process for each core that is kept busy."""
    each: int = Settings.model_fields["db_connections"].default
    faces, workers = math.ceil(load.cores["api"]), math.ceil(load.cores["workers"])
    return faces * (each + OF_A_SCRAPE) + workers * each


def _shards() -> str:
    rows = []
    for shards in SHARDS:
        cells = []
        for skew in SKEWS:
            drawn = simulation.spread(shards, wallets=WALLETS, transfers=DRAWN, skew=skew)
            cells.append(f"{drawn.crossing:.0%}, {drawn.fullest:.2f}")
        rows.append((str(shards), *cells))
    heads = ("payees all alike", *(f"payees by Zipf, {skew}" for skew in SKEWS[1:]))
    return _table(("shards: transfers that cross, fullest shard", *heads), rows)


def _hot(found: Mapping[str, Summary]) -> str:
    """Tell at which rates of all transfers one wallet alone has all that one can have."""
    rows = [
        (
            label,
            _span(found[key]),
            *(
                f"{rate:,.0f}/s"
                for rate in simulation.rates_at_which_one_wallet_is_too_hot(
                    found[key].median, WALLETS, SKEWS[1:]
                ).values()
            ),
        )
        for label, key in (("v2, 2 workers", HOT), ("v1, 128 connections", HOT_V1))
    ]
    heads = (f"all may be, by Zipf {skew}, {WALLETS:,} wallets" for skew in SKEWS[1:])
    return _table(("one wallet", "at most a second", *heads), rows)


def _lag(found: Mapping[str, Summary]) -> str:
    words = {"p50": "half of the time", "p99": "99 of 100", "most": "the longest"}
    head = "an asynchronous standby lags, under v1 at 128 connections"
    return _table((head, "ms"), [(word, _span(found[f"lag_{key}"])) for key, word in words.items()])


def _span(summary: Summary) -> str:
    return f"{spell(summary.median)} ({spell(summary.least)}..{spell(summary.most)})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

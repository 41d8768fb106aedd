"""The dashboards: what Grafana needs to load them, and that they ask for nothing that nobody tells."""

import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.monitoring.stored import (
    DASHBOARDS,
    FOLDER,
    asked_metrics,
    find_tool,
    metrics_in,
    panels,
    queries,
    rules,
)

# What is asked of others than the service, by who tells it. None of them runs here, so the names are those of their
# documentation.
OTHERS = {
    "prometheus itself": {"up", "ALERTS"},
    "node-exporter": {
        "node_cpu_seconds_total",
        "node_disk_io_time_seconds_total",
        "node_filesystem_avail_bytes",
        "node_filesystem_size_bytes",
        "node_load1",
        "node_memory_MemAvailable_bytes",
        "node_memory_MemTotal_bytes",
        "node_timex_maxerror_seconds",
        "node_timex_offset_seconds",
        "node_timex_sync_status",
    },
    "process-exporter": {
        "namedprocess_namegroup_cpu_seconds_total",
        "namedprocess_namegroup_memory_bytes",
        "namedprocess_namegroup_num_procs",
    },
    "postgres-exporter": {
        "pg_database_size_bytes",
        "pg_settings_max_connections",
        "pg_stat_activity_count",
        "pg_stat_activity_max_tx_duration",
        "pg_stat_database_blks_hit",
        "pg_stat_database_blks_read",
        "pg_stat_database_deadlocks",
        "pg_stat_database_xact_commit",
        "pg_stat_database_xact_rollback",
        "pg_up",
    },
    "redis-exporter": {
        "redis_commands_duration_seconds_total",
        "redis_commands_processed_total",
        "redis_commands_total",
        "redis_connected_clients",
        "redis_memory_max_bytes",
        "redis_memory_used_bytes",
        "redis_up",
    },
}
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())


def _data_sources() -> dict[str, str]:
    provisioned = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/datasources.yml").read_text())
    return {source["uid"]: source["type"] for source in provisioned["datasources"]}


def test_there_is_a_dashboard_for_each_thing_to_look_at() -> None:
    assert set(DASHBOARDS) == {"service", "queue", "kafka", "ledger", "logs", "machines"}
    for key in ("uid", "title"):
        assert len({dashboard[key] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


@each_dashboard
def test_a_dashboard_is_whole(dashboard: dict[str, Any]) -> None:
    assert dashboard["uid"].startswith("wallet-")
    assert dashboard["description"]
    assert "wallet" in dashboard["tags"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(set(titles)) == len(titles)
    assert all(panel["title"] and panel["description"].endswith(".") for panel in panels(dashboard))
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in panels(dashboard))
    assert all(panel["targets"] for panel in panels(dashboard))


@each_dashboard
def test_every_query_goes_to_a_source_that_is_provisioned(dashboard: dict[str, Any]) -> None:
    sources = _data_sources()
    for panel in panels(dashboard):
        for asked in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert sources[asked["uid"]] == asked["type"]


@each_dashboard
def test_no_panel_lies_on_another_or_beyond_the_edge(dashboard: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] >= 0 and place["w"] > 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


def test_the_age_of_the_oldest_pending_transfer_is_the_first_thing_one_sees() -> None:
    first = min(panels(DASHBOARDS["queue"]), key=lambda panel: (panel["gridPos"]["y"], panel["gridPos"]["x"]))
    assert metrics_in(first["targets"][0]["expr"]) == {"wallet_oldest_pending_seconds"}


def test_the_row_of_grpc_shows_all_that_is_told_of_it() -> None:
    service = DASHBOARDS["service"]
    (row,) = [panel for panel in service["panels"] if panel["type"] == "row"]
    assert row["title"] == "gRPC"
    shown = [panel for panel in panels(service) if panel["gridPos"]["y"] > row["gridPos"]["y"]]
    asked = [target["expr"] for panel in shown for target in panel["targets"]]
    assert set().union(*map(metrics_in, asked)) == {
        "wallet_grpc_call_duration_seconds_count",
        "wallet_grpc_call_duration_seconds_bucket",
        "wallet_grpc_watchers",
        "wallet_grpc_watch_seats",
        "wallet_shed_total",
    }


def test_how_long_somebody_watches_is_nowhere_taken_for_a_latency() -> None:
    asked = [query.text for query in queries()] + [rule["expr"] for rule in rules().values()]
    latencies = [text for text in asked if "wallet_grpc_call_duration_seconds_bucket" in metrics_in(text)]
    assert len(latencies) == 5
    assert [text for text in latencies if 'method!~"WatchJob|none"' not in text] == []


def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    asked = [query for query in queries() if query.source == "prometheus"]
    assert asked
    recorded = [{"record": f"query_{number}", "expr": query.text} for number, query in enumerate(asked)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    command = [find_tool("promtool"), "check", "rules", "--lint=none", str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr


def test_what_is_not_the_services_own_is_told_by_an_exporter() -> None:
    """What is its own: ``test_live.py``."""
    told = set().union(*OTHERS.values())
    assert {name for name in asked_metrics() if not name.startswith("wallet_")} == told


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("max(a_b) > 30", {"a_b"}),
        (
            'sum by (le, job) (rate(a_bucket{x=~"b|c{2}",y="[z]"}[5m])) / scalar(count(b:c{m="idle"}))',
            {"a_bucket", "b:c"},
        ),
        ("time() - max(a) > 26 * 3600 or absent_over_time(b[1h]) and on () c offset 26h == 1", {"a", "b", "c"}),
        ("histogram_quantile(0.99, sum by (le) (rate(a[1m])))", {"a"}),
    ],
)
def test_metrics_are_found_in_a_query(expression: str, names: set[str]) -> None:
    assert metrics_in(expression) == names

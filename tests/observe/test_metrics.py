"""What is measured: names and labels that others build on, and values that cost little to keep."""

import os
import random
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from observe import metrics, metrics_files
from tests import nursery
from tests.project import ROOT
from tests.samples import Samples, check_with_promtool

# What dashboards and alert rules are built on.
COUNTED = {
    "wallet_http_request_duration_seconds_count": {"method", "route", "status"},
    "wallet_grpc_call_duration_seconds_count": {"method", "code"},
    "wallet_grpc_watchers": set(),
    "wallet_grpc_watch_seats": set(),
    "wallet_transfers_total": {"kind", "outcome"},
    "wallet_transfer_settle_seconds_count": set(),
    "wallet_group_size_count": set(),
    "wallet_batch_size_count": set(),
    "wallet_batch_seconds_count": set(),
    "wallet_attempts_failed_total": set(),
    "wallet_relay_passes_total": {"result"},
    "wallet_relay_put_back_total": set(),
    "wallet_relay_last_pass_timestamp_seconds": set(),
    "wallet_kafka_records_total": {"result"},
    "wallet_kafka_unread": {"topic"},
    "wallet_kafka_oldest_unread_seconds": {"topic"},
    "wallet_kafka_unannounced_events": set(),
    "wallet_cache_reads_total": {"result"},
    "wallet_cache_fills_total": {"result"},
    "wallet_cache_evictions_total": {"result"},
    "wallet_cache_kept_evictions": set(),
    "wallet_throttled_total": {"limit"},
    "wallet_shed_total": {"where"},
    "wallet_actions_total": {"what", "outcome"},
    "wallet_webhook_attempts_total": {"result"},
    "wallet_webhook_attempt_seconds_count": set(),
    "wallet_webhooks_disabled_total": {"why"},
    "wallet_background_faults_total": {"task"},
    "wallet_clock_steps_total": set(),
    "wallet_db_pool_waits_total": set(),
    "wallet_db_lock_timeouts_total": set(),
}


def exposed() -> Samples:
    """Return what this process has counted."""
    return Samples.of(metrics_files.exposition())


def requests(method: str, route: str, status: int) -> float:
    """Return how many requests of a kind were counted."""
    labels = {"method": method, "route": route, "status": str(status)}
    return exposed().sum("wallet_http_request_duration_seconds_count", **labels)


def test_every_metric_has_the_name_and_the_labels_that_are_relied_upon() -> None:
    metrics.observe_request("GET", "/healthz", 200, 0.001)
    metrics.observe_call("GetBalance", "OK", 0.001)
    metrics.count_action("audit.run", "done")
    samples = exposed()
    for name, labels in COUNTED.items():
        found = [{label for label, _ in series.labels} for series in samples if series.name == name]
        assert found, name
        assert all(each == labels for each in found), name
    others = {series.name for series in samples if not series.name.endswith(("_bucket", "_sum"))} - COUNTED.keys()
    assert others == set()


def test_prometheuss_own_tool_has_no_complaint() -> None:
    check_with_promtool(metrics_files.exposition())


def test_a_request_is_counted_by_its_rule() -> None:
    before = requests("GET", "/api/jobs/v1/<job_id>", 404)
    metrics.observe_request("GET", "/api/jobs/v1/<job_id>", 404, 0.004)
    assert requests("GET", "/api/jobs/v1/<job_id>", 404) == before + 1


def test_what_a_client_makes_up_is_one_series() -> None:
    before = requests(metrics.OTHER_METHOD, metrics.NO_ROUTE, 405)
    series = len(exposed())
    for number in range(1_000):
        metrics.observe_request(f"MADE-UP-{number}", None, 405, 0.001)
    assert requests(metrics.OTHER_METHOD, metrics.NO_ROUTE, 405) == before + 1_000
    assert len(exposed()) - series <= 2 + len(metrics._REQUEST_BOUNDS_S) + 1
    assert not any(method.startswith("MADE-UP") for method, _, _ in metrics._request)


@given(st.lists(st.one_of(st.sampled_from([0.0, 0.1, 1.0, 5.0, 5.1]), st.floats(0, 1e6))))
def test_many_values_at_once_are_counted_like_one_after_the_other(values: list[float]) -> None:
    at_once, one_by_one = (
        Histogram("h", "A histogram.", buckets=(0.1, 1.0, 5.0), registry=CollectorRegistry()) for _ in range(2)
    )
    metrics.observe_all(at_once, random.sample(values, len(values)))
    for value in values:
        one_by_one.observe(value)
    one, other = (
        {(sample.name, sample.labels.get("le")): sample.value for family in each.collect() for sample in family.samples}
        for each in (at_once, one_by_one)
    )
    assert one == pytest.approx(other)


def test_the_version_is_the_projects() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == metrics.VERSION


@pytest.mark.parametrize("folder", ["", "/nowhere/at/all", str(Path(__file__))])
def test_a_wrong_folder_stops_the_start_with_one_line_that_names_it(folder: str, tmp_path: Path) -> None:
    ended = nursery.run(
        [sys.executable, str(ROOT / "worker.py")],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PROMETHEUS_MULTIPROC_DIR": folder},
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("configuration error: PROMETHEUS_MULTIPROC_DIR: ")
    assert ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []

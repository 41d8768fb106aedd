"""What stands under ops/monitoring, as the tests read it, and Prometheus's tools, where they are."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from tests.project import ROOT

FOLDER = ROOT / "ops" / "monitoring"
RUNBOOK = ROOT / "docs" / "runbook.md"
RULE_FILES = sorted((FOLDER / "rules").glob("*.yml"))
DASHBOARD_FILES = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
DASHBOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in DASHBOARD_FILES}
# What Grafana puts in the place of its variables, more or less.
VARIABLES = {"$__rate_interval": "1m", "$__auto": "1m", "$service": ".+", "$search": ""}

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
# What stands in a query, without its strings, beside the names of metrics.
_NOT_METRICS = re.compile(
    r"\{[^}]*\}|\[[^\]]*\]"  # labels, ranges
    r"|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"  # lists of labels
    r"|\b(?:and|or|unless|bool|offset)\b"
    r"|\b\w+(?=\s*(?:\(|by\b|without\b))"  # functions
    r"|\b\d[\w.]*"  # numbers, durations
)


class Query(NamedTuple):
    """One query of a panel."""

    dashboard: str
    panel: str
    source: str
    text: str


def find_tool(*names: str) -> str:
    """Return the path of a program by the first of its names that is installed; without it the test is skipped."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None and os.environ.get("REQUIRE_MONITORING_TOOLS") != "1":
        pytest.skip(f"{names[0]} is not installed")
    assert found is not None, f"{names[0]} is not installed"
    return found


def rules() -> dict[str, dict[str, Any]]:
    """Return every alert rule by its name."""
    found = [
        rule for path in RULE_FILES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
    ]
    by_name = {rule["alert"]: rule for rule in found}
    assert len(by_name) == len(found)
    return by_name


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    """Return every query of every dashboard, its variables filled in."""
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                text = str(target["expr"])
                for variable, value in VARIABLES.items():
                    text = text.replace(variable, value)
                yield Query(name, panel["title"], target["datasource"]["uid"], text)


def metrics_in(expression: str) -> set[str]:
    """Return the names of the metrics that a PromQL expression asks for."""
    return set(re.findall(r"[A-Za-z_:][\w:]*", _NOT_METRICS.sub(" ", _STRING.sub("", expression))))


def asked_metrics() -> set[str]:
    """Return the names of all metrics that dashboards and alerts ask Prometheus for."""
    expressions = [rule["expr"] for rule in rules().values()]
    expressions += [query.text for query in queries() if query.source == "prometheus"]
    return set().union(*map(metrics_in, expressions))

"""The alert rules: valid, tested each, explained each."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.monitoring.stored import FOLDER, RULE_FILES, RUNBOOK, find_tool, rules
from tests.project import ROOT

TEST_FILES = sorted((FOLDER / "rule_tests").glob("*.yml"))
SEVERITIES = {"critical", "warning"}


def _check(*command: str) -> None:
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-local.yml"])
def test_prometheus_takes_its_configuration_and_the_rules(name: str) -> None:
    _check(find_tool("promtool"), "check", "config", str(FOLDER / name))


def test_alertmanager_takes_its_configuration() -> None:
    _check(find_tool("amtool"), "check-config", str(FOLDER / "alertmanager.yml"))


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_every_alert_fires_when_it_is_to_and_at_no_other_time(path: Path) -> None:
    _check(find_tool("promtool"), "test", "rules", str(path))


def _examined() -> dict[str, list[bool]]:
    """Whether it fires, in each examination of an alert."""
    found: dict[str, list[bool]] = {}
    for path in TEST_FILES:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for look in case["alert_rule_test"]:
                found.setdefault(look["alertname"], []).append(bool(look["exp_alerts"]))
    return found


def test_both_are_tested_of_every_alert_of_every_file() -> None:
    examined = _examined()
    assert {name: set(results) for name, results in examined.items()} == {name: {True, False} for name in rules()}
    tested = {rule for path in TEST_FILES for rule in yaml.safe_load(path.read_text())["rule_files"]}
    assert tested == {f"../rules/{path.name}" for path in RULE_FILES}


@pytest.mark.parametrize(("name", "rule"), rules().items())
def test_whoever_is_woken_is_told_what_it_is_and_what_to_do(name: str, rule: dict[str, Any]) -> None:
    assert name.startswith("Wallet")
    assert rule["labels"]["severity"] in SEVERITIES
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert ROOT / path == RUNBOOK
    assert anchor == name.lower()
    # From its heading to the next one.
    section = re.search(rf"^### {name}\n\n(.*?)(?=^##|\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    assert section[1].count("`") >= 2  # something to type or to look at


def test_the_runbook_speaks_of_no_alert_that_there_is_not() -> None:
    assert set(re.findall(r"\bWallet[A-Z]\w+", RUNBOOK.read_text())) == set(rules())


def test_alertmanager_silences_only_alerts_that_there_are() -> None:
    settings = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    matchers = [
        matcher
        for rule in settings["inhibit_rules"]
        for matcher in (*rule["source_matchers"], *rule["target_matchers"])
    ]
    assert matchers
    assert {name for matcher in matchers for name in re.findall(r"Wallet\w+", matcher)} <= set(rules())


def test_alertmanager_knows_no_secret_and_tells_nobody_by_default() -> None:
    settings = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())
    assert settings["receivers"] == [{"name": settings["route"]["receiver"]}]
    assert "global" not in settings


def test_a_local_prometheus_has_the_same_rules() -> None:
    composed, local = (
        yaml.safe_load((FOLDER / name).read_text()) for name in ("prometheus.yml", "prometheus-local.yml")
    )
    assert local["rule_files"] == composed["rule_files"]
    assert local["global"] == composed["global"]
    jobs = {job["job_name"] for job in composed["scrape_configs"]}
    assert {job["job_name"] for job in local["scrape_configs"]} <= jobs

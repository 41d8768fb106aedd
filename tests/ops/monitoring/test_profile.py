"""The containers that watch: as far as can be told without starting them, which needs images from elsewhere."""

import re
from typing import Any

import pytest
import yaml

from ops.compose import monitoring_files
from tests.ops.monitoring.stored import FOLDER
from tests.project import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = {
    name: service for name, service in COMPOSE["services"].items() if service.get("profiles") == ["monitoring"]
}
ONCE = "monitoring-secrets"
STAYING = [name for name in SERVICES if name != ONCE]
PUBLISHED = {
    "grafana": "127.0.0.1:${GRAFANA_PORT:-3000}:3000",
    "prometheus": "127.0.0.1:${PROMETHEUS_PORT:-9090}:9090",
    "alertmanager": "127.0.0.1:${ALERTMANAGER_PORT:-9093}:9093",
}
# Programs without anything beside them in their image that could ask them how they are.
ASKED_BY_PROMETHEUS_ALONE = {"alloy", "process-exporter"}
# The service itself, which tells what it counts.
OURS = {"api", "grpc", "worker", "webhooks"}


def _mounts(name: str) -> dict[str, str]:
    """What is mounted, with its mode, by where it comes from."""
    pairs = (volume.replace("${DOCKER_ROOT:-/var/lib/docker}", "docker") for volume in SERVICES[name]["volumes"])
    return {source: rest for source, _, rest in (pair.partition(":") for pair in pairs)}


def test_everything_that_is_to_watch_is_there() -> None:
    assert set(SERVICES) == {
        ONCE,
        *PUBLISHED,
        "loki",
        "alloy",
        "postgres-exporter",
        "redis-exporter",
        "node-exporter",
        "process-exporter",
    }


def test_the_service_does_without_it() -> None:
    for name, service in COMPOSE["services"].items():
        if name not in SERVICES:
            assert set(service.get("depends_on", ())).isdisjoint(SERVICES), name
            assert {"monitoring", "console"}.isdisjoint(service.get("networks", ())), name


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_that_watches_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"privileged", "cap_add", "devices", "pid"}.isdisjoint(service)
    assert set(service["logging"]["options"]) == {"max-size", "max-file", "labels"}
    assert not any("docker.sock" in volume for volume in service["volumes"])
    assert service.get("network_mode") == ("none" if name == ONCE else None)


@pytest.mark.parametrize("name", STAYING)
def test_it_is_a_numbered_user_a_pinned_image_and_restarted(name: str) -> None:
    service = SERVICES[name]
    user = service["user"].partition(":")[0]
    # Docker's logs are root's alone.
    assert (user == "0") == (name == "alloy")
    assert user.isdigit()
    assert re.fullmatch(r"[\w.-]+/[\w.-]+:v?\d+\.\d+\.\d+(-alpine)?", service["image"])
    assert service["restart"] == "unless-stopped"
    assert ("healthcheck" in service) == (name not in ASKED_BY_PROMETHEUS_ALONE)


def test_what_shows_something_can_be_reached_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {name: [port] for name, port in PUBLISHED.items()}


def test_only_who_has_to_talk_to_the_service_is_in_its_network() -> None:
    networks = {name: set(SERVICES[name]["networks"]) for name in STAYING}
    assert {name for name in STAYING if "backend" in networks[name]} == {
        "prometheus",
        "postgres-exporter",
        "redis-exporter",
    }
    assert {name for name in STAYING if "console" in networks[name]} == set(PUBLISHED)
    assert all("monitoring" in networks[name] for name in STAYING)
    assert COMPOSE["networks"]["monitoring"] == {"internal": True}


def test_nothing_is_written_but_to_a_volume_of_its_own() -> None:
    writable = [source for name in STAYING for source, rest in _mounts(name).items() if ":ro" not in rest]
    assert len(set(writable)) == len(writable)
    assert set(writable) <= set(COMPOSE["volumes"])
    assert set(writable).isdisjoint({"secrets", ONCE, "postgres-data", "redis-data", "postgres-socket"})


def test_files_that_are_mounted_are_there() -> None:
    sources = {source for name in STAYING for source in _mounts(name) if source.startswith("./")}
    assert sources
    assert all((ROOT / source).exists() for source in sources)


def test_each_is_in_the_group_of_its_own_files_alone() -> None:
    groups = {
        "postgres-exporter": monitoring_files.POSTGRES_EXPORTER_GROUP,
        "redis-exporter": monitoring_files.REDIS_EXPORTER_GROUP,
        "grafana": monitoring_files.GRAFANA_GROUP,
    }
    found = {name: [int(group) for group in service.get("group_add", [])] for name, service in SERVICES.items()}
    assert found.pop(ONCE) == list(groups.values())
    assert {name: added for name, added in found.items() if added} == {name: [group] for name, group in groups.items()}
    seen = {name: rest for name in SERVICES for source, rest in _mounts(name).items() if source == ONCE}
    assert seen.pop(ONCE) == str(monitoring_files.FOLDER)
    assert seen == dict.fromkeys(groups, f"{monitoring_files.FOLDER}:ro")
    assert [name for name in SERVICES if "secrets" in _mounts(name)] == [ONCE]


def test_no_password_stands_in_the_file() -> None:
    told = {name: service["environment"] for name, service in SERVICES.items() if "environment" in service}
    assert told.pop(ONCE) == {monitoring_files.GRAFANA_PASSWORD: None}
    for environment in told.values():
        for setting, value in environment.items():
            assert "PASS" not in setting or value.startswith(f"{monitoring_files.FOLDER}/")
    assert told["grafana"]["GF_SECURITY_ADMIN_PASSWORD__FILE"].endswith(f"/{monitoring_files.GRAFANA_FILE}")
    assert told["grafana"]["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert told["redis-exporter"]["REDIS_ADDR"] == monitoring_files.REDIS_ADDRESS


def test_prometheus_asks_for_what_there_is() -> None:
    settings = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    hosts = set()
    for job in settings["scrape_configs"]:
        hosts |= {name for found in job.get("dns_sd_configs", ()) for name in found["names"]}
        hosts |= {target.partition(":")[0] for found in job.get("static_configs", ()) for target in found["targets"]}
    watching_itself = {"127.0.0.1"}
    assert hosts - watching_itself <= set(COMPOSE["services"])
    assert hosts - watching_itself == set(STAYING) - {"prometheus", "grafana"} | OURS
    ports = {job["job_name"]: job["dns_sd_configs"][0]["port"] for job in settings["scrape_configs"][: len(OURS)]}
    assert ports.pop("wallet-api") == 8080
    assert ports.keys() == {"wallet-grpc", "wallet-worker", "wallet-webhooks"}
    for job, port in ports.items():
        served = COMPOSE["services"][job.removeprefix("wallet-")]["environment"]["METRICS_PORT"]
        assert served == f"${{METRICS_PORT:-{port}}}"


def test_a_process_is_counted_with_its_part_of_the_service() -> None:
    groups = yaml.safe_load((FOLDER / "process-exporter.yml").read_text())["process_names"]
    patterns = {group["name"]: group["cmdline"] for group in groups if "cmdline" in group}
    assert patterns.keys() == OURS
    for name in OURS:
        line = " ".join(COMPOSE["services"][name]["command"])
        found = [group for group, parts in patterns.items() if all(re.search(part, line) for part in parts)]
        assert found == [name]


def test_the_lines_of_every_container_say_whose_they_are() -> None:
    label = "com.docker.compose.service"
    assert {service["logging"]["options"]["labels"] for service in COMPOSE["services"].values()} == {label}
    assert label in (FOLDER / "config.alloy").read_text()

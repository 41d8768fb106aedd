"""Prometheus finds what pods say of themselves, by the names that rules and dashboards know.

Debian's Prometheus is built without Kubernetes' discovery. So it is told of the pods as that would tell it.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.manifests import BASE, SERVICE, Pod, pods, read
from tests.ops.monitoring.stored import FOLDER, find_tool

CONFIGURATION = FOLDER / "prometheus-kubernetes.yml"
# The address of a pod, and its name.
ADDRESS, NAME = "10.244.0.7", "wallet-7d4b9c"


def _discovered(pod: Pod) -> list[dict[str, Any]]:
    """What the discovery of pods says of one: a target for each port, with what stands in its manifest."""
    labels = {"__meta_kubernetes_pod_name": NAME}
    for kind, told in (("label", pod.labels), ("annotation", pod.annotations)):
        labels |= {f"__meta_kubernetes_pod_{kind}_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}": told[name] for name in told}
    ports = [str(each["containerPort"]) for each in pod.container.get("ports", ())]
    return [
        {
            "targets": [f"{ADDRESS}:{port}" if port else ADDRESS],
            "labels": labels | ({"__meta_kubernetes_pod_container_port_number": port} if port else {}),
        }
        for port in ports or [""]
    ]


def test_each_pod_is_asked_at_one_port_under_the_name_of_its_part(tmp_path: Path) -> None:
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    (job,) = configuration["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": ["wallet"]}}]
    job["static_configs"] = [target for pod in pods(read(BASE)).values() for target in _discovered(pod)]
    copy = tmp_path / "prometheus.yml"
    copy.write_text(yaml.safe_dump(configuration | {"rule_files": []}))
    command = [find_tool("promtool"), "check", "service-discovery", str(copy), job["job_name"], "--timeout=2s"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    kept = [each["labels"] for each in json.loads(said) if each["labels"]]
    asked = {labels["job"]: labels for labels in kept}
    assert len(kept) == len(asked)
    ports = {"api": 8080, "grpc": 9101, "worker": 9101, "webhooks": 9101}
    assert asked.keys() == {f"wallet-{component}" for component in SERVICE}
    for component, port in ports.items():
        labels = asked[f"wallet-{component}"]
        assert labels["__address__"] == f"{ADDRESS}:{port}"
        assert (labels["__metrics_path__"], labels["pod"]) == ("/metrics", NAME)


def test_the_rules_are_those_of_everywhere() -> None:
    local = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    assert configuration["rule_files"] == local["rule_files"]
    assert configuration["global"] == local["global"]

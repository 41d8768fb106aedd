"""What kustomize makes of base and overlays. It is built by Go, where that is; else these tests are skipped."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

import config
from tests.deploy import manifests as kubernetes
from tests.deploy.manifests import FOLDER, SERVICE, Manifest, of_kind
from tests.deploy.test_manifests import OF_KAFKA, SECRETS, environment, load

REQUIRED = "REQUIRE_GO"
KUSTOMIZE = "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1"
LEAST_GO = (1, 22)
# From nothing it takes 35 s on two processors. The network may be away for a moment.
BUILD_S = 180
BUILDS = 3
PAUSE_S = 10

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(BUILDS * (BUILD_S + PAUSE_S) + 60),
    pytest.mark.xdist_group("kustomize"),
]


def _lacks() -> str | None:
    """What of Go is not here."""
    if shutil.which("go") is None:
        return "go is not on the PATH"
    said = subprocess.run(["go", "version"], capture_output=True, text=True, check=False, timeout=60).stdout
    version = re.match(r"go version go(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < LEAST_GO:
        return "go is not 1.22 or newer"
    return None


@pytest.fixture(scope="session")
def kustomize(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, of the version that is named above."""
    if lacks := _lacks():
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{lacks}, and {REQUIRED}=1")
        pytest.skip(f"{lacks} ({REQUIRED}=1 makes this a failure)")
    folder = tmp_path_factory.mktemp("kustomize")
    said = ""
    for build in range(BUILDS):
        time.sleep(PAUSE_S * (build > 0))
        try:
            built = subprocess.run(
                ["go", "install", KUSTOMIZE],
                cwd=folder,
                env={**os.environ, "GOBIN": str(folder), "GOFLAGS": ""},
                capture_output=True,
                text=True,
                check=False,
                timeout=BUILD_S,
            )
        except subprocess.TimeoutExpired as error:
            said += f"{error}\n"
            continue
        if built.returncode == 0:
            return folder / "kustomize"
        said += built.stdout + built.stderr
    pytest.fail(f"{BUILDS} builds have failed:\n{said}", pytrace=False)


def build(kustomize: Path, folder: Path) -> list[Manifest]:
    """What is applied by ``kubectl apply -k`` of a folder."""
    done = subprocess.run([kustomize, "build", folder], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("folder", kubernetes.KUSTOMIZATIONS, ids=lambda folder: folder.name)
def test_what_is_applied_is_what_kubernetes_knows(kustomize: Path, folder: Path) -> None:
    built = build(kustomize, folder)
    for manifest in built:
        kubernetes.validate(manifest)
        assert manifest["metadata"].get("namespace") == (None if manifest["kind"] == "Namespace" else "wallet")
    assert set(kubernetes.pods(built)) == {*SERVICE, "prepare"}


@pytest.mark.parametrize("folder", kubernetes.KUSTOMIZATIONS, ids=lambda folder: folder.name)
def test_what_a_pod_reads_is_there_under_the_name_that_it_is_given(
    kustomize: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(kustomize, folder)
    # Named after what is in them, so that another setting replaces the pods that read it.
    shared = {each["metadata"]["name"]: each["data"] for each in of_kind(built, "ConfigMap")}
    assert {name.rpartition("-")[0] for name in shared} == {"wallet-settings", "wallet-access"}
    authority = tmp_path / "kafka.crt"
    authority.touch()
    for component, pod in kubernetes.pods(built).items():
        told = environment(pod, shared)
        if "JWT_JWKS_URL" in told:
            told.pop("JWT_SECRET", None)
        if "KAFKA_SSL_CA" in told:
            assert told["KAFKA_SSL_CA"] == "/run/authorities/kafka.crt"
            told["KAFKA_SSL_CA"] = str(authority)
        settings = load(config.PrepareSettings, told, monkeypatch)
        assert settings.auth_mode == ("jwt" if component in {"api", "grpc"} else "user-id")
        assert settings.transport == ("kafka" if folder.name == "kafka" else "rq")
        assert pod.secrets.items() <= {**SECRETS, **OF_KAFKA}.items()


def test_by_kafka_all_are_told_where_it_is_and_let_there(kustomize: Path) -> None:
    built = build(kustomize, FOLDER / "overlays" / "kafka")
    pods = kubernetes.pods(built)
    (policy,) = [each for each in of_kind(built, "NetworkPolicy") if each["metadata"]["name"] == "all-to-kafka"]
    for pod in pods.values():
        assert set(OF_KAFKA) <= set(pod.secrets)
        assert kubernetes.matches(policy["spec"]["podSelector"], pod.labels)
    # RQ knows no such worker.
    assert pods["worker"].container["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}


def test_the_example_leaves_nothing_that_is_nobodys(kustomize: Path) -> None:
    built = build(kustomize, FOLDER / "overlays" / "example")
    assert "192.0.2." not in yaml.safe_dump_all(built)
    for pod in kubernetes.pods(built).values():
        name, _, tag = pod.container["image"].rpartition(":")
        assert name == "registry.example.org/wallet-service"
        assert re.fullmatch(r"\d+\.\d+\.\d+", tag)


def test_what_is_not_for_everybody_is_kept_inside(kustomize: Path) -> None:
    (ingress,) = of_kind(build(kustomize, FOLDER / "overlays" / "example"), "Ingress")
    (rule,) = ingress["spec"]["rules"]
    paths = {path["path"]: path["pathType"] for path in rule["http"]["paths"]}
    assert paths == {"/api": "Prefix", "/docs": "Prefix", "/openapi.json": "Exact", "/rq": "Prefix"}
    assert {path["backend"]["service"]["name"] for path in rule["http"]["paths"]} == {"wallet-api"}
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]

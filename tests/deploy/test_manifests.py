"""The manifests: what can be told of them without a cluster to run them, and without the tool that builds them."""

import re
import shlex
from typing import Any

import pytest
from flask import Flask

import config
from jobs.connections import OF_A_SCRAPE, OF_WEBHOOKS, count_wanted
from ops.compose import entry, health
from tests.deploy import manifests as kubernetes
from tests.deploy.manifests import BASE, COMPONENT, FOLDER, KUSTOMIZATION, NAME, SERVICE, Manifest, Pod, of_kind
from tests.docs.pages import DOCS, code, rows, section
from tests.ops.compose.test_bounds import bytes_of
from tests.ops.compose.test_compose import INSTRUCTIONS, SERVICES
from tests.project import ROOT

ALL = kubernetes.read(BASE)
PODS = kubernetes.pods(ALL)
SETTINGS = kubernetes.literals(BASE)
PAGE = DOCS / "kubernetes.md"
# What Prometheus and the ingress are let in by, and where names are looked up.
MONITORING, INGRESS, NAMES = "monitoring", "ingress", "kube-system"
POSTGRES, REDIS = 5432, 6379
# What there is of each secret.
SECRETS = {
    "DATABASE_URL": "wallet-servers",
    "REDIS_URL": "wallet-servers",
    "CACHE_REDIS_URL": "wallet-servers",
    "OWNER_DATABASE_URL": "wallet-owner",
    "JWT_SECRET": "wallet-access",
    "ADMIN_PASSWORD": "wallet-access",
}
OF_KAFKA = dict.fromkeys(("KAFKA_BROKERS", "KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"), "wallet-kafka")
POSSIBLE = {
    "DATABASE_URL": "postgresql://wallet_service:secret@db.example.org/wallet",
    "OWNER_DATABASE_URL": "postgresql://wallet:secret@db.example.org/wallet",
    "REDIS_URL": "redis://:secret@redis.example.org:6379/0",
    "CACHE_REDIS_URL": "redis://:secret@redis.example.org:6379/1",
    "JWT_SECRET": "a secret of the tests, long enough for HS256",
    "ADMIN_PASSWORD": "secret",
    "KAFKA_BROKERS": "kafka.example.org:9092",
    "KAFKA_SASL_USERNAME": "wallet",
    "KAFKA_SASL_PASSWORD": "secret",
}

components = pytest.mark.parametrize("component", PODS)
serving = pytest.mark.parametrize("component", SERVICE)


def image_environment() -> dict[str, str]:
    """What the image says by itself."""
    told = dict(INSTRUCTIONS)["ENV"]
    return dict(word.split("=", 1) for word in shlex.split(told.replace("\\\n", " ")))


def environment(pod: Pod, shared: dict[str, dict[str, str]]) -> dict[str, str]:
    """What its container is told, with something for each secret; what is nearer to it counts."""
    told = image_environment()
    for name in pod.shared:
        told |= shared[name]
    return told | pod.values | {name: POSSIBLE[name] for name in pod.secrets}


def load(kind: type[Any], told: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Read settings as a container would that is told this."""
    with monkeypatch.context() as patch:
        for name in kind.model_fields:
            patch.delenv(name.upper(), raising=False)
        for name, value in told.items():
            if name.lower() in kind.model_fields:
                patch.setenv(name, value)
        return config.load(kind)


def _settings(component: str, monkeypatch: pytest.MonkeyPatch) -> config.PrepareSettings:
    found: config.PrepareSettings = load(config.PrepareSettings, environment(PODS[component], SETTINGS), monkeypatch)
    return found


def _of(component: str, kind: str) -> Manifest:
    (found,) = [each for each in of_kind(ALL, kind) if each["metadata"]["labels"][COMPONENT] == component]
    return found


def _least(component: str) -> int:
    """How many pods there are at least."""
    spec = PODS[component].owner["spec"]
    replicas: int = (
        spec["replicas"] if "replicas" in spec else _of(component, "HorizontalPodAutoscaler")["spec"]["minReplicas"]
    )
    return replicas


def _most(component: str) -> int:
    """How many pods there are at most, those of the next version included."""
    spec = PODS[component].owner["spec"]
    replicas: int = (
        spec["replicas"] if "replicas" in spec else _of(component, "HorizontalPodAutoscaler")["spec"]["maxReplicas"]
    )
    surge: int = spec["strategy"]["rollingUpdate"]["maxSurge"]
    return replicas + surge


@pytest.mark.parametrize("folder", kubernetes.KUSTOMIZATIONS, ids=lambda folder: folder.name)
def test_every_manifest_is_one_that_kubernetes_knows(folder: Any) -> None:
    for manifest in kubernetes.read(folder):
        kubernetes.validate(manifest)


def test_no_manifest_lies_about_unused() -> None:
    used = {path for folder in kubernetes.KUSTOMIZATIONS for path in kubernetes.files(folder)}
    assert {path for path in FOLDER.rglob("*") if path.is_file() and path.name != KUSTOMIZATION} == used


def test_all_parts_of_the_service_are_there() -> None:
    assert set(PODS) == {*SERVICE, "prepare"}
    assert {pod.owner["metadata"]["name"] for pod in PODS.values()} == {f"wallet-{component}" for component in PODS}
    assert all(pod.labels == {NAME: "wallet", COMPONENT: component} for component, pod in PODS.items())
    assert all(pod.owner["metadata"]["labels"] == pod.labels for pod in PODS.values())


@serving
def test_whatever_is_meant_for_pods_finds_them_and_no_others(component: str) -> None:
    pod = PODS[component]
    selectors = [pod.owner["spec"]["selector"], _of(component, "PodDisruptionBudget")["spec"]["selector"]]
    selectors += [each["labelSelector"] for each in pod.spec["topologySpreadConstraints"]]
    selectors += [
        {"matchLabels": each["spec"]["selector"]}
        for each in of_kind(ALL, "Service")
        if each["metadata"]["labels"][COMPONENT] == component
    ]
    assert len(selectors) == (4 if component in {"worker", "webhooks"} else 5)
    for selector in selectors:
        assert [name for name, each in PODS.items() if kubernetes.matches(selector, each.labels)] == [component]
    for scaler in of_kind(ALL, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert PODS["api"].owner["metadata"]["name"] == target["name"]
        assert PODS["api"].owner["kind"] == target["kind"]


@components
def test_a_container_starts_with_what_it_is_told(component: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = PODS[component]
    known = {*config.PrepareSettings.model_fields, *config.StackSettings.model_fields}
    told = {*pod.values, *pod.secrets, *(name for shared in pod.shared for name in SETTINGS[shared])}
    assert {name.lower() for name in told} <= known
    settings = _settings(component, monkeypatch)
    faces = component in {"api", "grpc"}
    # Nobody is believed where somebody calls.
    assert (settings.auth_mode == "jwt") is faces
    assert settings.allow_user_id_mode is (component in {"worker", "webhooks"})
    assert settings.host == ("127.0.0.1" if component == "prepare" else "0.0.0.0")  # noqa: S104
    assert not settings.demo_wallets


def test_each_is_told_the_secrets_that_are_its_business() -> None:
    servers = {"DATABASE_URL", "REDIS_URL"}
    faces = {*servers, "CACHE_REDIS_URL", "JWT_SECRET", "ADMIN_PASSWORD"}
    assert {component: set(pod.secrets) for component, pod in PODS.items()} == {
        "api": faces,
        "grpc": faces,
        "worker": {*servers, "CACHE_REDIS_URL"},
        "webhooks": servers,
        "prepare": {*servers, "OWNER_DATABASE_URL"},
    }
    assert all(pod.secrets.items() <= SECRETS.items() for pod in PODS.values())
    assert {component for component, pod in PODS.items() if "wallet-access" in pod.shared} == {"api", "grpc"}
    assert all("wallet-settings" in pod.shared for pod in PODS.values())


def test_no_secret_stands_in_the_repository_and_the_page_says_how_each_is_made() -> None:
    assert all(not of_kind(kubernetes.read(folder), "Secret") for folder in kubernetes.KUSTOMIZATIONS)
    for folder in kubernetes.KUSTOMIZATIONS:
        assert "secretGenerator" not in kubernetes.kustomization(folder)
        assert "://" not in re.sub(r"https://id\.example\.org|tcp://…", "", (folder / KUSTOMIZATION).read_text())
    told = [row for row in rows(section(PAGE, "Before the first time")) if "Secret" in row]
    assert {(code(row["key"]), code(row["Secret"])) for row in told} == {*SECRETS.items(), *OF_KAFKA.items()}
    for secret in {*SECRETS.values()}:
        assert f"create secret generic {secret} " in PAGE.read_text()


@serving
def test_a_container_runs_what_composes_does_by_the_same_user(component: str) -> None:
    pod, theirs = PODS[component], SERVICES[component]
    assert pod.container["args"] == theirs["command"]
    assert "command" not in pod.container  # its first program is the image's
    user, _, group = str(theirs.get("user", dict(INSTRUCTIONS)["USER"])).partition(":")
    context = pod.spec["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
    assert bytes_of(pod.container["resources"]["limits"]["memory"].removesuffix("i")) == bytes_of(theirs["mem_limit"])


def test_who_prepares_knows_the_owner_which_the_images_first_program_would_take_away() -> None:
    pod = PODS["prepare"]
    assert pod.container["command"] == ["python", "-m", "ops.prepare"]
    assert "args" not in pod.container
    assert pod.spec["securityContext"]["runAsUser"] == PODS["worker"].spec["securityContext"]["runAsUser"]
    assert pod.spec["restartPolicy"] == "Never"
    (rule,) = pod.owner["spec"]["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["containerName"]) == ("FailJob", pod.container["name"])
    assert rule["onExitCodes"]["values"] == [config.complain("")]


@components
def test_a_container_may_do_little_and_writes_to_memory_alone(component: str) -> None:
    pod = PODS[component]
    assert pod.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    context = pod.spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["fsGroup"] == context["runAsGroup"]
    assert pod.spec["automountServiceAccountToken"] is False
    # Or a Service's name could be a setting's.
    assert pod.spec["enableServiceLinks"] is False
    assert {"hostNetwork", "hostPID", "hostIPC", "initContainers"}.isdisjoint(pod.spec)
    mounts = {each["name"]: each for each in pod.container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod.spec["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert [name for name, each in mounts.items() if not each.get("readOnly")] == ["tmp"]
    assert mounts["tmp"]["mountPath"] == str(entry.METRICS.parent) == str(entry.TURNS.parent)
    memory = volumes["tmp"]["emptyDir"]
    assert memory["medium"] == "Memory"
    limit = bytes_of(pod.container["resources"]["limits"]["memory"].removesuffix("i"))
    assert bytes_of(memory["sizeLimit"].removesuffix("i")) <= limit // 2
    assert "PROMETHEUS_MULTIPROC_DIR" not in {*pod.values, *SETTINGS["wallet-settings"]}  # the first program's to say


def test_the_image_is_of_the_version_of_the_project_and_named_as_in_compose() -> None:
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    name = SERVICES["api"]["image"]
    assert {pod.container["image"] for pod in PODS.values()} == {f"{name}:{version[1]}"}
    (image,) = kubernetes.kustomization(FOLDER / "overlays" / "example")["images"]
    assert (image["name"], image["newTag"]) == (name, version[1])


@serving
def test_a_port_is_the_one_that_is_served(component: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(component, monkeypatch)
    served = {
        "api": {"http": settings.port},
        "grpc": {"grpc": settings.grpc_port, "metrics": settings.metrics_port},
        "worker": {"metrics": settings.metrics_port},
        "webhooks": {"metrics": settings.metrics_port},
    }[component]
    pod = PODS[component]
    ports = {each["name"]: each["containerPort"] for each in pod.container["ports"]}
    assert ports == served
    assert pod.annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(ports.get("metrics", ports.get("http"))),
        "prometheus.io/path": "/metrics",
    }
    for service in of_kind(ALL, "Service"):
        if service["metadata"]["labels"][COMPONENT] == component:
            (port,) = service["spec"]["ports"]
            assert ports[port["targetPort"]] == port["port"]
    for probe in _probes(pod).values():
        asked = (probe.get("httpGet") or probe.get("grpc") or {}).get("port")
        assert asked in {*ports, *ports.values(), None}


def _probes(pod: Pod) -> dict[str, Manifest]:
    return {name: probe for name, probe in pod.container.items() if name.endswith("Probe")}


@serving
def test_probes_ask_for_what_there_is(component: str, app: Flask) -> None:
    routes = {rule.rule for rule in app.url_map.iter_rules()}
    probes = _probes(PODS[component])
    assert set(probes) == {"startupProbe", "livenessProbe", "readinessProbe"}
    for probe in probes.values():
        assert probe.get("httpGet", {"path": "/healthz"})["path"] in routes
        if "exec" in probe:
            *program, kind = probe["exec"]["command"]
            assert program == ["python", "-m", "ops.compose.health"]
            assert kind == component
            assert probe["timeoutSeconds"] > health.TIMEOUT_S
    # Nobody is restarted because a server is away.
    assert "exec" not in probes["livenessProbe"]
    assert "exec" not in probes["startupProbe"]
    assert probes["livenessProbe"].get("httpGet", {}).get("path") != "/readyz"


def test_the_api_is_ready_when_it_can_serve() -> None:
    probes = _probes(PODS["api"])
    assert probes["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert probes["livenessProbe"]["httpGet"]["path"] == "/healthz"


@serving
def test_a_stop_waits_for_what_is_in_hand(component: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _settings(component, monkeypatch)
    pod = PODS[component]
    announced_s = pod.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    # Whoever sends callers has to learn of it first. Nobody sends any to a worker.
    assert (announced_s > 0) is (component not in {"worker", "webhooks"})
    needed_s = settings.graceful_timeout_s + 5
    if component == "worker":
        needed_s = max(needed_s, int(settings.longest_transaction_s))
    assert pod.spec["terminationGracePeriodSeconds"] > announced_s + needed_s
    # So that processes hear it from their first moment on: none of them is the first of its system.
    assert pod.spec["shareProcessNamespace"] is True


@serving
def test_an_emptied_node_and_a_new_version_leave_somebody(component: str) -> None:
    budget = _of(component, "PodDisruptionBudget")["spec"]
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert _least(component) - budget["maxUnavailable"] >= 1
    update = PODS[component].owner["spec"]["strategy"]["rollingUpdate"]
    assert _least(component) - update["maxUnavailable"] >= 1
    assert update["maxUnavailable"] + update["maxSurge"] > 0
    spread = {each["topologyKey"] for each in PODS[component].spec["topologySpreadConstraints"]}
    assert spread == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}


def test_connections_are_counted_for_all_pods_there_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    each = {component: _settings(component, monkeypatch) for component in SERVICE}
    of_api = _most("api") * each["api"].api_processes * (each["api"].db_connections + OF_A_SCRAPE)
    of_grpc = _most("grpc") * each["grpc"].grpc_processes * each["grpc"].db_connections
    of_workers = _most("worker") * each["worker"].db_connections
    of_webhooks = _most("webhooks") * OF_WEBHOOKS
    told = environment(PODS["prepare"], SETTINGS)
    counted = count_wanted(
        load(config.PrepareSettings, told, monkeypatch),
        workers=load(config.StackSettings, told, monkeypatch).workers,
    )
    assert counted == (of_api + of_grpc, of_workers + of_webhooks)
    assert f"{sum(counted)} connections" in PAGE.read_text()


def _peers(rule: Manifest, direction: str) -> set[str]:
    found = set()
    for peer in rule[direction]:
        if "ipBlock" in peer:
            found.add(peer["ipBlock"]["cidr"])
        else:
            found.add(peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"])
    return found


def _flows(kind: str) -> dict[str, set[tuple[str, str, int]]]:
    """Who may talk with whom, by what is a pod's component."""
    flows: dict[str, set[tuple[str, str, int]]] = {component: set() for component in PODS}
    direction = {"ingress": "from", "egress": "to"}[kind]
    for policy in of_kind(ALL, "NetworkPolicy"):
        spec = policy["spec"]
        for rule in spec.get(kind, ()):
            assert kind.capitalize() in spec["policyTypes"]
            for component, pod in PODS.items():
                if kubernetes.matches(spec["podSelector"], pod.labels):
                    flows[component] |= {
                        (peer, port["protocol"], port["port"])
                        for peer in _peers(rule, direction)
                        for port in rule["ports"]
                    }
    return flows


def test_the_network_lets_through_what_is_needed_and_nothing_else() -> None:
    closed = [each["spec"] for each in of_kind(ALL, "NetworkPolicy") if each["metadata"]["name"] == "nothing"]
    assert closed == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]
    assert _flows("ingress") == {
        "api": {(INGRESS, "TCP", 8080), (MONITORING, "TCP", 8080)},
        "grpc": {(INGRESS, "TCP", 8081), (MONITORING, "TCP", 9101)},
        "worker": {(MONITORING, "TCP", 9101)},
        "webhooks": {(MONITORING, "TCP", 9101)},
        "prepare": set(),
    }
    nowhere = "192.0.2.0/24"  # RFC 5737: until an overlay says where the servers are
    names = {(NAMES, "UDP", 53), (NAMES, "TCP", 53)}
    postgres = {(nowhere, "TCP", POSTGRES)}
    redis = {(nowhere, "TCP", REDIS)}
    assert _flows("egress") == {
        **dict.fromkeys(SERVICE, names | postgres | redis),
        "webhooks": names | postgres | redis | {("0.0.0.0/0", "TCP", 443), ("2000::/3", "TCP", 443)},
        "prepare": names | postgres,
    }


def test_what_is_applied_first_is_all_that_the_preparation_needs() -> None:
    """The page's selector: COMPONENT notin (api,grpc,worker,webhooks)."""
    assert f"{COMPONENT} notin ({','.join(SERVICE)})" in PAGE.read_text()
    later = {each["kind"] for each in ALL if each["metadata"].get("labels", {}).get(COMPONENT) in SERVICE}
    first = {each["kind"] for each in ALL if each["metadata"].get("labels", {}).get(COMPONENT) not in SERVICE}
    assert first == {"Namespace", "NetworkPolicy", "Job"}
    assert later == {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"}


def test_the_image_has_nothing_of_this() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not any(line.startswith("!deploy") for line in ignored)
    assert "deploy" not in (ROOT / "Dockerfile").read_text()

"""Containers that run as their manifests say: they start, their probes answer, money moves, and they stop."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest

from api.grpc import asking
from ops.local.roles import SERVICE as SERVICE_ROLE
from ops.local.servers import PostgresServer
from tests.deploy import boxes
from tests.deploy.boxes import Box
from tests.deploy.manifests import SERVICE, Manifest
from tests.deploy.test_manifests import PAGE, PODS, POSSIBLE, SETTINGS, environment
from tests.ops.local.test_stack import free_ports

READY_S = 60.0
_POLL_S = 0.1

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.xdist_group("boxes")]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    boxes.skip_where_there_are_none()
    return boxes.make_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[dict[str, str]]:
    """The URLs that stand in the secrets, of a PostgreSQL with as many connections as the page says, and no tables."""
    connections = re.search(r"let PostgreSQL have (\d+)", PAGE.read_text())
    assert connections is not None
    with PostgresServer(tmp_path_factory.mktemp("postgres"), settings={"max_connections": connections[1]}) as server:
        yield {
            "OWNER_DATABASE_URL": server.url,
            "DATABASE_URL": server.service_url,
            "REDIS_URL": redis_url,
            "CACHE_REDIS_URL": redis_url,
        }


@pytest.fixture
def start(
    image: Path, servers: Mapping[str, str], tmp_path: Path
) -> Iterator[Callable[[str], tuple[Box, dict[str, str]]]]:
    """Start the container of a component, at ports that are free here."""
    with ExitStack() as stack:

        def start(component: str) -> tuple[Box, dict[str, str]]:
            pod = PODS[component]
            told = environment(pod, SETTINGS) | {name: servers[name] for name in pod.secrets if name in servers}
            ports = dict(zip(("PORT", "GRPC_PORT", "METRICS_PORT"), map(str, free_ports(3)), strict=True))
            told |= ports
            log = tmp_path / f"{component}.log"
            return stack.enter_context(boxes.running(pod, told, app=image, log=log)), ports

        yield start


def _is_passed(probe: Manifest, box: Box, ports: Mapping[str, str]) -> bool:
    """Ask as the node does."""
    if "exec" in probe:
        return box.run(probe["exec"]["command"]) == 0
    if "grpc" in probe:
        return (
            asking.ask("127.0.0.1", int(ports["GRPC_PORT"]), timeout_s=probe["timeoutSeconds"]) is asking.Answer.SERVES
        )
    port = {"http": "PORT", "metrics": "METRICS_PORT"}[probe["httpGet"]["port"]]
    try:
        return _ask(ports[port], "GET", probe["httpGet"]["path"])[0] == 200
    except OSError:
        return False


def _ask(port: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}) -> tuple[int, bytes]:
    with closing(HTTPConnection("127.0.0.1", int(port), timeout=30)) as connection:
        sent = None if body is None else orjson.dumps(body)
        connection.request(method, path, body=sent, headers={**headers, "Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def _wait_until_passed(probe: Manifest, box: Box, ports: Mapping[str, str]) -> None:
    deadline = time.monotonic() + READY_S
    while not _is_passed(probe, box, ports):
        assert not box.has_ended(), box.said()
        assert time.monotonic() < deadline, box.said()
        time.sleep(_POLL_S)


def test_containers_start_serve_and_stop(start: Callable[[str], tuple[Box, dict[str, str]]]) -> None:
    api, at = start("api")
    probes = PODS["api"].container
    _wait_until_passed(probes["livenessProbe"], api, at)
    assert not _is_passed(probes["readinessProbe"], api, at)  # not migrated
    preparing, _ = start("prepare")
    while not preparing.has_ended():
        time.sleep(_POLL_S)
    assert f'"role":"{SERVICE_ROLE}"' in preparing.said().replace(": ", ":"), preparing.said()
    running = {"api": (api, at), **{component: start(component) for component in SERVICE if component != "api"}}
    for component, (box, ports) in running.items():
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            _wait_until_passed(PODS[component].container[kind], box, ports)
    _move_money(at["PORT"])
    assert api.run(["python", "-m", "flask", "doctor"]) == 0
    # What each counts can be scraped.
    assert b"wallet_http_request_duration_seconds_count" in _ask(at["PORT"], "GET", "/metrics")[1]
    for component in ("grpc", "worker"):
        assert _ask(running[component][1]["METRICS_PORT"], "GET", "/metrics")[0] == 200
    for component, (box, _) in running.items():
        spec = PODS[component].spec
        sleeps_s = PODS[component].container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert box.stop(spec["terminationGracePeriodSeconds"] - sleeps_s) == 0, box.said()


def _move_money(port: str) -> None:
    """Have a transfer accepted by the API, and posted by the worker."""
    one, two = (
        {"Authorization": f"Bearer {jwt.encode({'sub': user, 'exp': int(time.time()) + 600}, POSSIBLE['JWT_SECRET'])}"}
        for user in ("1", "2")
    )
    for who in (one, two):
        assert _ask(port, "POST", "/api/deposit/v1", {"amount": 1000}, who)[0] == 200
    status, accepted = _ask(port, "POST", "/api/transfer/v2", {"destination_user_id": 2, "amount": 300}, one)
    assert status == 202
    job = orjson.loads(accepted)["status_url"]
    assert orjson.loads(_ask(port, "GET", f"{job}?wait=20", headers=one)[1])["status"] == "posted"
    assert orjson.loads(_ask(port, "GET", "/api/wallet/balance/v1", headers=two)[1]) == {"balance": 1300}
    # Whoever says who they are is not believed.
    assert _ask(port, "GET", "/api/wallet/balance/v1", headers={"Authorization": "2"})[0] == 401

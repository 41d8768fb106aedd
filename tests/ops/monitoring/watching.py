"""A real Prometheus with a real Alertmanager, in a hurry, that watch one stack by the real configuration and rules."""

import http.client
import json
import random
import re
import socket
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import yaml

from tests.chaos.stack import wait_until
from tests.ops.monitoring.stored import FOLDER, RULE_FILES, find_tool

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 10.0
# In place of the intervals and of each rule's `for`.
INTERVAL = "1s"
FOR = "1s"
# In place of the 30 seconds that a transfer may wait.
OLDEST_PENDING = ("max(wallet_oldest_pending_seconds) > 30", "max(wallet_oldest_pending_seconds) > 3")


def free_port() -> int:
    """Return a port that nobody listens on, below those that the system gives to outgoing connections."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Watch:
    """Use it as a context manager: both are ready within, and gone after."""

    def __init__(self, home: Path, *, api_port: int) -> None:
        self._prometheus = find_tool("prometheus")
        self._alertmanager = find_tool("prometheus-alertmanager", "alertmanager")
        self._home = home
        self._ports = {"prometheus": free_port()}
        self._ports["alertmanager"] = next(port for port in iter(free_port, None) if port not in self._ports.values())
        self._write_configuration(api_port)
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            for name, arguments in (("alertmanager", self._alertmanager_command()), ("prometheus", self._command())):
                starting.callback(_end, self._start(name, arguments))
            for name in self._ports:
                wait_until(partial(self._is_ready, name), START_TIMEOUT_S, f"{name} is ready")
            self._running = starting.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._running.close()

    def series(self) -> set[str]:
        """Return the names of all metrics that Prometheus has been told."""
        return set(self._ask("prometheus", "/api/v1/label/__name__/values")["data"])

    def query(self, text: str) -> list[dict[str, Any]]:
        """Return what a query finds now; that Prometheus refuses it is an error."""
        answer = self._ask("prometheus", f"/api/v1/query?{urlencode({'query': text})}")
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    def fired(self) -> set[str]:
        """Return the names of the alerts that Alertmanager shows as active."""
        return {alert["labels"]["alertname"] for alert in self._ask("alertmanager", "/api/v2/alerts?active=true")}

    def _write_configuration(self, api_port: int) -> None:
        (self._home / "rules").mkdir(parents=True)
        for path in RULE_FILES:
            hurried = re.sub(r"^(\s+for:) \w+$", rf"\1 {FOR}", path.read_text(), flags=re.MULTILINE)
            (self._home / "rules" / path.name).write_text(hurried.replace(*OLDEST_PENDING))
        settings = yaml.safe_load((FOLDER / "prometheus-local.yml").read_text())
        settings["global"] = dict.fromkeys(settings["global"], INTERVAL)
        (watched,) = settings["scrape_configs"]
        watched["static_configs"] = [{"targets": [f"127.0.0.1:{api_port}"]}]
        (told,) = settings["alerting"]["alertmanagers"]
        told["static_configs"] = [{"targets": [f"127.0.0.1:{self._ports['alertmanager']}"]}]
        (self._home / "prometheus.yml").write_text(yaml.safe_dump(settings))

    def _command(self) -> list[str]:
        return [
            self._prometheus,
            f"--config.file={self._home / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._home / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._ports['prometheus']}",
            # Otherwise an alert that goes on is told again after a minute only, and whoever missed it knows nothing.
            "--rules.alert.resend-delay=1s",
        ]

    def _alertmanager_command(self) -> list[str]:
        return [
            self._alertmanager,
            f"--config.file={FOLDER / 'alertmanager.yml'}",
            f"--storage.path={self._home / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{self._ports['alertmanager']}",
            "--cluster.listen-address=",
        ]

    def _start(self, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
        with (self._home / f"{name}.log").open("wb") as log:
            return subprocess.Popen(command, cwd=self._home, stdout=log, stderr=subprocess.STDOUT)

    def _is_ready(self, name: str) -> bool:
        try:
            return self._call(name, "/-/ready")[0] == http.client.OK
        except OSError:
            return False

    def _ask(self, name: str, path: str) -> Any:
        status, body = self._call(name, path)
        assert status == http.client.OK, body
        return json.loads(body)

    def _call(self, name: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[name], timeout=CALL_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

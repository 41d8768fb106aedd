"""The service spread over hosts: two with the API, two with a worker, one with PostgreSQL, one with Redis."""

import http.client
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import psycopg2
import redis
from psycopg2.extras import RealDictCursor

from config.values import Rate
from ops.local.processes import Command, Spec, wait_for
from ops.local.roles import DATABASE
from ops.local.server import LOOPBACK
from ops.local.servers import PostgresServer, RedisServer
from tests.faketime import Clock, find_library
from tests.hosts.network import SUBNET, Host, Network
from tests.patience import PATIENCE_S
from tests.project import ROOT

# The same on each host: nobody else is there.
API_PORT, METRICS_PORT, POSTGRES_PORT, REDIS_PORT = 8080, 9100, 5432, 6379
API = ("-m", "gunicorn", "-c", "ops/http/gunicorn.conf.py", "wsgi:app")
WORKER = ("worker.py",)
# Of every user.
RATE = Rate(10, 1, burst=60)
# What tests would have to wait for is shorter than by default.
SETTINGS = {
    "ALLOW_USER_ID_MODE": "1",
    "API_PROCESSES": "1",
    "AUDIT_INTERVAL_S": "1",
    "DB_CONNECTIONS": "4",
    "GRPC_PORT": "off",
    "IDLE_IN_TRANSACTION_TIMEOUT_MS": "2000",
    "LOCK_TIMEOUT_MS": "1000",
    "LOG_LEVEL": "WARNING",
    "RATE_LIMIT": f"{RATE.amount}/second;burst={RATE.burst}",
    "RETRY_DELAYS": "0.5,1,2,4,8,16",
    "STATEMENT_TIMEOUT_MS": "2000",
}
_PASSES = re.compile(r'^wallet_relay_passes_total\{.*result="ok".*\} (\S+)$', re.MULTILINE)
_BATCHES = re.compile(r"^wallet_batch_size_count\b.* (\S+)$", re.MULTILINE)
_ANYBODY_WITH_A_PASSWORD = f"host all all {LOOPBACK}/32 scram-sha-256\nhost all all {SUBNET}.0/24 scram-sha-256\n"


class ServingHost:
    """A host with one of the service's own programs."""

    def __init__(self, host: Host, home: Path, entry: tuple[str, ...], environment: Mapping[str, str]) -> None:
        """Start nothing yet."""
        metrics = home / f"{host.name}-metrics"
        metrics.mkdir()
        own = {"HOST": host.address, "PORT": str(API_PORT), "METRICS_PORT": str(METRICS_PORT)}
        own["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        self.host = host
        self.address = host.address
        self.log = home / f"{host.name}.log"
        self._program = Command(
            Spec(
                name=host.name,
                command=[sys.executable, *entry],
                log=self.log,
                pid_file=home / f"{host.name}.pid",
                cwd=ROOT,
                environment={**environment, **own},
                stop_timeout_s=30.0,
            )
        )

    def start(self) -> None:
        """Start it, and do not wait for it."""
        with self.host.namespace.entered():
            self._program.launch()

    def stop(self) -> None:
        """Tell it to stop, and wait for that."""
        self._program.stop()

    def kill(self) -> None:
        """Kill all of its processes at once, without a chance to tidy up."""
        self._program.kill()

    def get(
        self, path: str, *, port: int = API_PORT, headers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[int, bytes]:
        """Ask it for something, from itself, cut off or not; 0: there was no answer."""
        with (
            self.host.namespace.entered(),
            closing(http.client.HTTPConnection(self.address, port, timeout=PATIENCE_S)) as connection,
        ):
            try:
                connection.request("GET", path, headers=dict(headers))
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException):
                return 0, b""

    def readiness(self) -> tuple[int, str]:
        """Return what it says of itself, by status and in a word; 0: there was no answer."""
        status, body = self.get("/readyz")
        return status, json.loads(body)["status"] if status else ""

    def passes(self) -> float:
        """Return how many passes its relay has made, as it tells itself; none where it tells nothing."""
        return self._metric(_PASSES)

    def batches(self) -> float:
        """Return how many batches its worker has tried, likewise."""
        return self._metric(_BATCHES)

    def _metric(self, pattern: re.Pattern[str]) -> float:
        found = pattern.search(self.get("/metrics", port=METRICS_PORT)[1].decode())
        return float(found[1]) if found else 0.0


class _Postgres(PostgresServer):
    """PostgreSQL that listens to a whole network."""

    def __init__(self, home: Path) -> None:
        who = home / "pg_hba.conf"
        who.write_text(_ANYBODY_WITH_A_PASSWORD)
        who.chmod(0o644)
        settings = {"listen_addresses": "*", "hba_file": str(who), "scram_iterations": "1"}
        super().__init__(home, port=POSTGRES_PORT, settings=settings)


class _Redis(RedisServer):
    """Redis that does."""

    def _configuration(self) -> str:
        return super()._configuration().replace(f"bind {LOOPBACK}", "bind *")


class Service:
    """All of it. Use it as a context manager: it is ready within, and gone after."""

    def __init__(self, network: Network, home: Path, **settings: str) -> None:
        """Start nothing yet.

        Args:
            network: where its hosts are to be. Others may be there, such as that of a broker: :meth:`Network.add`.
            home: empty.
            settings: of the service, over :data:`SETTINGS`.
        """
        self.database_host, self.redis_host = network.add("database"), network.add("redis")
        self.clients_host = network.add("clients")
        self._postgres = _Postgres(_made(home / "postgres"))
        self._redis = _Redis(_made(home / "redis"), port=REDIS_PORT)
        self._home = home
        # Of the second host of each kind.
        self.clock = Clock(home / "clock") if find_library() else None
        self._settings = {"PATH": os.environ["PATH"], **SETTINGS, **settings}
        self._places: dict[str, Host] = {name: network.add(name) for name in ("api1", "api2", "worker1", "worker2")}
        self.apis: list[ServingHost] = []
        self.workers: list[ServingHost] = []
        self._opened = ExitStack()

    @contextmanager
    def as_client(self) -> Iterator[None]:
        """Be on the clients' host for a while, from where all others can be reached, with all that is started there."""
        with self.clients_host.namespace.entered():
            yield

    @property
    def url(self) -> str:
        """PostgreSQL's, as the owner of all tables."""
        return self._postgres.url.replace(LOOPBACK, self.database_host.address)

    def query(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """Ask the database something, as who may see everything."""
        url = self._postgres.admin_url.replace(LOOPBACK, self.database_host.address)
        with (
            closing(psycopg2.connect(url, dbname=DATABASE, cursor_factory=RealDictCursor)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement, values)
            return [dict(row) for row in cursor.fetchall()]

    @contextmanager
    def lock_held(self, user: int) -> Iterator[None]:
        """Hold the lock of a wallet for a while."""
        with closing(psycopg2.connect(self.url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT FROM wallets WHERE id = %s FOR UPDATE", [user])
            yield

    def sessions(self, address: str) -> list[dict[str, Any]]:
        """Return what PostgreSQL takes to be the sessions of a host: ``pid``, ``state``, ``wait_event_type``."""
        return self.query(
            "SELECT pid, state, wait_event_type FROM pg_stat_activity"
            " WHERE client_addr = %s AND backend_type = 'client backend'",
            address,
        )

    def count_pending(self) -> int:
        """Return how many transfers are not final."""
        return int(self.query("SELECT count(*) FROM transfers WHERE status = 'pending'")[0]["count"])

    def redis_client(self) -> redis.Redis:
        """Make a client of Redis."""
        return redis.Redis.from_url(self._redis.url.replace(LOOPBACK, self.redis_host.address))

    def is_up(self) -> bool:
        """Whether each host is there, and ready."""
        apis_are = all(each.readiness() == (200, "ready") for each in self.apis)
        return apis_are and all(each.get("/metrics", port=METRICS_PORT)[0] == 200 for each in self.workers)

    def __enter__(self) -> Self:
        with self._opened:
            for host, server in ((self.database_host, self._postgres), (self.redis_host, self._redis)):
                with host.namespace.entered():
                    server.start()
                self._opened.callback(server.stop)
            self._prepare()
            for name, host in self._places.items():
                self._add(name, host)
            with self.as_client():
                until(self.is_up, "all hosts are ready", self.complaints)
            self._opened = self._opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def complaints(self) -> str:
        """Return the ends of all logs, for who has waited in vain."""
        logs = {each.host.name: each.log for each in (*self.apis, *self.workers) if each.log.exists()}
        return "\n".join(f"--- {name}\n{log.read_text()[-3_000:]}" for name, log in logs.items())

    def environment(self) -> dict[str, str]:
        """Return the settings of all of its processes."""
        return {
            **self._settings,
            "DATABASE_URL": self._postgres.service_url.replace(LOOPBACK, self.database_host.address),
            "REDIS_URL": self._redis.url.replace(LOOPBACK, self.redis_host.address),
        }

    def _prepare(self) -> None:
        """Migrate, from the database's own host."""
        spec = Spec(
            name="prepare",
            command=[sys.executable, "-m", "ops.prepare"],
            log=self._home / "prepare.log",
            pid_file=self._home / "prepare.pid",
            cwd=ROOT,
            environment={**self.environment(), "OWNER_DATABASE_URL": self.url},
        )
        program = Command(spec)
        with self.database_host.namespace.entered():
            program.launch()
        try:
            assert program.wait(PATIENCE_S)
            assert program.exit_status == 0, program.complaint()
        finally:
            program.kill()

    def _add(self, name: str, host: Host) -> None:
        environment = self.environment()
        if name.endswith("2") and self.clock is not None:
            environment |= self.clock.environment
        is_api = name.startswith("api")
        program = ServingHost(host, self._home, API if is_api else WORKER, environment)
        (self.apis if is_api else self.workers).append(program)
        program.start()
        self._opened.callback(program.stop)


def until(condition: Callable[[], bool], what: str, complaints: Callable[[], str] = str) -> None:
    """Wait for a condition, which has to come true."""
    assert wait_for(condition, PATIENCE_S), f"not within {PATIENCE_S:.0f} s: {what}\n{complaints()}"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder

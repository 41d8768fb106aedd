"""Where it is measured: throw-away servers, the service's database and the yardstick's, the service's processes."""

import http.client
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg2
import redis
from sqlalchemy import Engine, text

from config import Settings, load
from jobs.connections import make_engine
from models.schema import migrations
from ops.local import processes
from ops.local.processes import Command, Spec, StackError
from ops.local.server import LOOPBACK, PORTS, is_port_free, plain_environment
from ops.local.servers import PostgresServer, RedisServer

ROOT = Path(__file__).resolve().parents[1]
# The service's own database, and one of the same shape for pgbench: both are made by the service's migrations.
SERVICE, YARDSTICK = "wallet", "yardstick"
READY_TIMEOUT_S = 60.0
# As in ops/http/gunicorn.conf.py.
KEEP_ALIVE_S = 15
# Of each process of the yardstick, which stays what it was when the first figures were taken.
BARE_THREADS = 16


class Site:
    """PostgreSQL and Valkey in a temporary folder that goes away with them. Use it as a context manager."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """``settings`` of the service, by their names in the environment; the caller's own environment is ignored."""
        self._given = dict(settings)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start the servers and migrate both databases.

        Raises:
            StackError: they do not start.
        """
        with ExitStack() as stack:
            self.home = Path(tempfile.mkdtemp(prefix="wallet-bench-"))
            stack.callback(shutil.rmtree, self.home, ignore_errors=True)
            self.postgres = stack.enter_context(PostgresServer(self.home))
            self.valkey = stack.enter_context(RedisServer(self.home))
            self.redis = stack.enter_context(redis.Redis.from_url(self.valkey.url))
            self._make_yardstick()
            self.engines = {name: make_engine(self.settings(name), pool_size=2) for name in (SERVICE, YARDSTICK)}
            for engine in self.engines.values():
                stack.callback(engine.dispose)
                migrations.upgrade(engine)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop them and remove everything."""
        self._stack.close()

    def url(self, database: str) -> str:
        """Return where a database is, for its owner."""
        return self.postgres.url.rpartition("/")[0] + f"/{database}"

    def settings(self, database: str = SERVICE) -> Settings:
        """Return what a process of the service would read on this site."""
        names = {"DATABASE_URL": self.url(database), "REDIS_URL": self.valkey.url, **self._given}
        return load(Settings, **{name.lower(): value for name, value in names.items()})

    def execute_as_admin(self, database: str, *statements: str) -> None:
        """Run statements that only the superuser may, outside of any transaction."""
        with closing(psycopg2.connect(self.postgres.admin_url, dbname=database)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)

    def durability(self) -> dict[str, str]:
        """Read back what a commit and a queued job survive, as the workers' own kind of connection sees it.

        Raises:
            StackError: it is less than the service runs with, or not the same for the yardstick.
        """
        names = ("fsync", "synchronous_commit", "full_page_writes", "wal_level", "wal_sync_method", "autovacuum")
        seen = [{name: _show(engine, name) for name in names} for engine in self.engines.values()]
        if seen[0] != seen[1] or {seen[0][name] for name in names[:3]} != {"on"}:
            raise StackError(f"commits are not durable: {seen}")
        answer = self.redis.config_get("append*")
        return seen[0] | {f"valkey {name}": str(answer[name]) for name in ("appendonly", "appendfsync")}

    def worker(self, number: int) -> Command:
        """Return one of the service's own workers, to be launched."""
        return self.command(f"worker-{number}", "worker.py")

    @contextmanager
    def api(self) -> Iterator[int]:
        """Serve HTTP as production does, and give the port.

        Raises:
            StackError: the API does not get ready.
        """
        api = self.command("api", "-m", "gunicorn", "-c", "ops/http/gunicorn.conf.py", "wsgi:app")
        api.launch()
        try:
            if not processes.wait_for(lambda: not api.is_running or _is_ready(self._port), READY_TIMEOUT_S):
                raise StackError(f"the API was not ready within {READY_TIMEOUT_S:.0f} s")
            if not api.is_running:
                raise StackError(f"the API did not start: {api.complaint()}")
            yield self._port
        finally:
            api.stop()

    @contextmanager
    def bare(self) -> Iterator[int]:
        """Serve a bare Flask route with gunicorn's own threads, and give the port.

        Raises:
            StackError: it does not get ready.
        """
        settings = self.settings()
        port = next(port for port in random.sample(PORTS, 200) if is_port_free(LOOPBACK, port))
        options = {
            "bind": f"{LOOPBACK}:{port}", "workers": settings.api_processes, "threads": BARE_THREADS,
            "worker-class": "gthread", "keep-alive": KEEP_ALIVE_S, "log-level": "warning",
        }  # fmt: skip
        words = [f"--{name}={value}" for name, value in options.items()]
        bare = self.command("bare", "-m", "gunicorn", *words, "--no-control-socket", "bench.bare_app:app")
        bare.launch()
        try:
            if not processes.wait_for(lambda: not is_port_free(LOOPBACK, port), READY_TIMEOUT_S) or not bare.is_running:
                raise StackError(f"the bare application did not start: {bare.complaint()}")
            yield port
        finally:
            bare.stop()

    def command(self, name: str, *arguments: str, **environment: str) -> Command:
        """Return a Python program of this project, on this site's servers and nothing of the caller's settings."""
        ours = {"DATABASE_URL": self.url(SERVICE), "REDIS_URL": self.valkey.url, "PORT": str(self._port)}
        ours["PROMETHEUS_MULTIPROC_DIR"] = str(self._metrics)
        return Command(
            Spec(
                name=name,
                command=[sys.executable, *arguments],
                log=self.home / "logs" / f"{name}.log",
                pid_file=self.home / "run" / f"{name}.pid",
                cwd=ROOT,
                # As ops/local/stack.py starts them: a log line is one write.
                environment=plain_environment() | ours | {"PYTHONUNBUFFERED": "1"} | self._given | environment,
                wrap_stdout=False,
            )
        )

    @cached_property
    def _metrics(self) -> Path:
        folder = self.home / "metrics"
        folder.mkdir()
        return folder

    @cached_property
    def _port(self) -> int:
        return next(port for port in random.sample(PORTS, 200) if is_port_free(LOOPBACK, port))

    def _make_yardstick(self) -> None:
        self.execute_as_admin("postgres", f"CREATE DATABASE {YARDSTICK} OWNER wallet")


def _show(engine: Engine, name: str) -> str:
    with engine.connect() as connection:
        return str(connection.scalar(text("SELECT current_setting(:name)"), {"name": name}))


def _is_ready(port: int) -> bool:
    # Not urllib: it would ask a proxy that the environment names.
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=2)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

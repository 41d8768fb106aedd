"""``make run``: the whole service on this machine, in the foreground, until told to stop.

    python -m ops.local.stack [--follow-parent]

PostgreSQL, Redis and with TRANSPORT=kafka a broker (unless DATABASE_URL, REDIS_URL and KAFKA_BROKERS name others),
migrations, workers, who sends webhooks, the API and the gRPC processes, each a child process that is replaced when it
dies and that dies with this one, however this one ends.
"""

import errno
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import config
from ops.local import environment, private_files, processes
from ops.local.api_process import ApiProcess
from ops.local.grpc_processes import GrpcProcesses
from ops.local.homes import only_one
from ops.local.kafka.runtime import FOLDER as KAFKA_FOLDER
from ops.local.kafka.server import KafkaServer
from ops.local.log_files import json_line, open_log, rotate_log
from ops.local.processes import Child, Command, Spec, StackError
from ops.local.servers import PostgresServer, RedisServer
from ops.local.stopping import StopRequests
from ops.local.supervisor import Supervisor, failure_of

ROOT = Path(__file__).resolve().parents[2]
# Between two words that the database is still being prepared.
STILL_PREPARING_S = 10.0
READY_TIMEOUT_S = 60.0
# Where everything is below WALLET_HOME.
STATE = "run/stack.json"
ADMIN_FILE = "secrets/admin_password"
# Where all our processes keep what they count, so that the API can show it.
METRICS = "run/metrics"
# Where the gRPC processes tell each other who of them serves.
TURNS = "run/grpc"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Stack:
    """Everything that ``make run`` starts."""

    def __init__(self, settings: config.StackSettings, stop: StopRequests) -> None:
        self.home = settings.wallet_home.resolve()
        self._settings = settings
        self._stop = stop
        self._postgres: PostgresServer | None = None
        self._redis: RedisServer | None = None
        self._kafka: KafkaServer | None = None
        self._workers: list[Child] = []
        self._webhooks: list[Child] = []
        # The gRPC processes that have been written down.
        self._told_of: list[int] = []
        # Everything that can be wrong with a setting comes out here, before anything is started.
        self._service = config.load(config.PrepareSettings, **self._placeholders())
        self._api = ApiProcess(self._service)
        self._grpc = GrpcProcesses(self._service, self.home / TURNS)
        self._supervisor = Supervisor(stop, say=self.say, on_replaced=self.write_state, on_round=self._look_round)

    def run(self) -> None:
        """Start everything, keep it alive until told to stop, stop everything.

        Raises:
            StackError: something does not start. Nothing is left running.
            config.ConfigurationError: one of the processes says that a setting is wrong. Likewise.
        """
        try:
            self._start()
            self._supervisor.run()
        except (StackError, config.ConfigurationError):
            if self._stop.is_wanted():
                raise
        finally:
            private_files.remove(self.home / STATE)
            if self._supervisor.has_children:
                self.say("stopping")
                self._supervisor.stop()
                self.say("stopped")
            self._grpc.close()

    def say(self, event: str, *, level: str = "info", **fields: object) -> None:
        """Tell the terminal and ``stack.log``."""
        with suppress(OSError):  # the terminal may be gone
            print(event, flush=True)
        with suppress(OSError), open_log(self.home / "logs" / "stack.log") as log:
            log.write(json_line({"service": "stack", "level": level, "event": event} | fields))

    def write_state(self) -> None:
        """Tell ``stack.json`` what is up."""
        state: dict[str, object] = {
            "api": {"url": self._api.url, "pid": self._api.pid},
            "workers": [{"pid": worker.pid} for worker in self._workers],
            "webhooks": [{"pid": sender.pid} for sender in self._webhooks],
            "postgres": {"url": self._owner_url(), "pid": self._postgres and self._postgres.pid},
            "redis": {"url": self._redis_url(), "pid": self._redis and self._redis.pid},
            "admin": {"user": self._settings.admin_user, "password": self._admin_password()},
        }
        if self._settings.transport == "kafka":
            state["kafka"] = {"brokers": self._brokers(), "pid": self._kafka and self._kafka.pid}
        pids = self._grpc.pids
        if self._grpc.is_on:
            state["grpc"] = {"target": self._grpc.target, "pids": pids}
        private_files.write_private(self.home / STATE, json.dumps(state, indent=2) + "\n")
        self._told_of = pids

    def _start(self) -> None:
        (self.home / STATE).unlink(missing_ok=True)
        # What an earlier run has counted belongs to it.
        shutil.rmtree(self.home / METRICS, ignore_errors=True)
        (self.home / METRICS).mkdir(exist_ok=True)
        if config.NOT_HEEDED:
            self.say(
                f"not heeded: {', '.join(config.NOT_HEEDED)} (DATABASE_URL alone says where PostgreSQL is, and how)"
            )
        self._api.check_port()
        self._grpc.check_port()
        self._start_servers()
        self._prepare_database()
        self._workers = [self._command(f"worker-{n}", "worker.py") for n in range(1, self._settings.workers + 1)]
        self._webhooks = [self._command("webhooks", "worker.py", "webhooks")]
        self._supervisor.add_layer([*self._workers, *self._webhooks])
        self._start_faces()
        self._supervisor.changed()
        self._announce()

    def _look_round(self) -> None:
        self._rotate_logs()
        # Their master replaces them, without a word.
        if self._told_of and self._told_of != self._grpc.pids:
            self.write_state()

    def _rotate_logs(self) -> None:
        for log in (self.home / "logs").glob("*.log"):
            with suppress(OSError):  # a full disk: another time
                rotate_log(log)

    def _start_servers(self) -> None:
        if self._settings.database_url is None:
            self._postgres = PostgresServer(self.home)
        if self._settings.redis_url is None:
            self._redis = RedisServer(self.home)
        if self._settings.transport == "kafka" and self._settings.kafka_brokers is None:
            self._kafka = KafkaServer(self.home)  # says at once where there is no Java
        for server in filter(None, (self._postgres, self._redis, self._kafka)):
            if server is self._kafka and not self._kafka.is_installed():
                self.say(f"fetching Kafka into {KAFKA_FOLDER} (once; takes about a minute)")
            self.say(f"starting {server.name}")
            server.start(still_wanted=self._stop.is_wanted)
            self._supervisor.add_layer([server])

    def _prepare_database(self) -> None:
        self.say("preparing the database")
        # Nobody else learns who the owner is.
        owner = {"OWNER_DATABASE_URL": self._owner_url()}
        told = environment.for_others(os.environ, self._ours()) | owner
        preparation = self._command("prepare", "-m", "ops.prepare", told=told)
        preparation.launch()
        try:
            # Migrations may take hours; whatever it waits for has a bound of its own.
            wanted = self._stop.is_wanted
            while not processes.wait_for(lambda: not (preparation.is_running and wanted()), STILL_PREPARING_S):
                self.say(f"the database is still being prepared, see {preparation.spec.log}")
            if preparation.exit_status != 0:
                raise failure_of(preparation)
        finally:
            preparation.kill()

    def _start_faces(self) -> None:
        """Launch API and gRPC processes, and let the others be looked after until all of them answer.

        They are one layer, so that a stop takes no longer than the slowest of them, with all they stand on still there.

        Raises:
            StackError: one of them has died, or they take too long. Likewise config.ConfigurationError.
        """
        told = environment.for_api(os.environ, self._ours())

        def make_child(name: str, arguments: Sequence[str]) -> Child:
            return self._command(name, *arguments, told=told)

        faces = [self._api.make(make_child), *self._grpc.make(make_child)]
        try:
            for face in faces:
                face.launch()
            self._wait_for_faces(faces)
        except BaseException:
            self._supervisor.stop_together(faces)
            raise
        self._supervisor.add_layer(faces)

    def _wait_for_faces(self, faces: Sequence[Child]) -> None:
        def has_settled() -> bool:
            if not self._stop.is_wanted() or not all(face.is_running for face in faces):
                return True
            if self._grpc.are_serving() and self._api.is_ready():
                return True
            self._supervisor.run_once()
            return False

        in_time = processes.wait_for(has_settled, READY_TIMEOUT_S)
        if not self._stop.is_wanted():
            raise StackError("the start was cancelled")
        for face in faces:
            if not face.is_running:
                raise failure_of(face)
        if not in_time:
            who, late = ("API", faces[0]) if self._grpc.are_serving() else ("gRPC", faces[1])
            raise StackError(f"{who} was not ready within {READY_TIMEOUT_S:.0f} s (see {late.spec.log})")

    def _announce(self) -> None:
        self.say(f"ready: {self._api.url}")
        if self._grpc.is_on:
            self.say(f"  gRPC            {self._grpc.target}")
        self.say(f"  rq-dashboard    {self._api.url}/rq/")
        self.say(f"  what is up      {self.home / STATE} (with the URLs of PostgreSQL and Redis)")
        if self._settings.admin_password is None:
            self.say(f"  administrator   {self._settings.admin_user}, password in {self.home / ADMIN_FILE}")
        self.say(f"  logs            {self.home / 'logs'}")
        self.say("  Ctrl-C stops everything")

    def _command(self, name: str, *arguments: str, told: Mapping[str, str] | None = None) -> Command:
        """One of our own programs. The log is shared by all processes of a kind."""
        log = self.home / "logs" / f"{name.partition('-')[0]}.log"
        return Command(
            Spec(
                name=name,
                command=[sys.executable, *arguments],
                log=log,
                pid_file=self.home / "run" / f"{name}.pid",
                cwd=ROOT,
                environment=told or environment.for_others(os.environ, self._ours()),
                # Above the longest that either may take for what it has begun.
                stop_timeout_s=self._service.graceful_timeout_s + 5.0,
                wrap_stdout=name == "prepare",
            )
        )

    def _ours(self) -> dict[str, str]:
        """What goes over the user's environment."""
        return {
            "DATABASE_URL": self._database_url(),
            "REDIS_URL": self._redis_url(),
            "HOST": self._settings.host,
            "PORT": str(self._settings.port),
            **self._grpc_settings(),
            **self._kafka_settings(),
            "ADMIN_USER": self._settings.admin_user,
            "ADMIN_PASSWORD": self._admin_password(),
            "PROMETHEUS_MULTIPROC_DIR": str(self.home / METRICS),
            "PYTHONUNBUFFERED": "1",  # a log line is one write, not a part of a block
            "PYTHONUTF8": "1",
        }

    def _grpc_settings(self) -> dict[str, str]:
        """Those of gRPC that are ours: its library has variables of its own, which begin alike."""
        of_grpc = {name: value for name, value in self._settings if name.startswith("grpc_")}
        of_grpc["grpc_port"] = self._settings.grpc_port or "off"
        return {name.upper(): str(value) for name, value in of_grpc.items() if value is not None}

    def _kafka_settings(self) -> dict[str, str]:
        return {"KAFKA_BROKERS": self._brokers()} if self._settings.transport == "kafka" else {}

    def _placeholders(self) -> dict[str, str]:
        """Addresses for the check of the settings, which comes before the servers and so before these have any."""
        given: dict[str, str] = {}
        if self._settings.database_url is None:
            given["database_url"] = "postgresql://embedded"
        if self._settings.redis_url is None:
            given["redis_url"] = "redis://embedded"
        if self._settings.kafka_brokers is None:
            given["kafka_brokers"] = "embedded:9092"
        return given

    def _database_url(self) -> str:
        given = self._settings.database_url
        return given.get_secret_value() if given else self._postgres.service_url if self._postgres else ""

    def _owner_url(self) -> str:
        given = self._settings.owner_database_url or self._settings.database_url
        return given.get_secret_value() if given else self._postgres.url if self._postgres else ""

    def _redis_url(self) -> str:
        given = self._settings.redis_url
        return given.get_secret_value() if given else self._redis.url if self._redis else ""

    def _brokers(self) -> str:
        return self._settings.kafka_brokers or (self._kafka.url if self._kafka else "")

    def _admin_password(self) -> str:
        if self._settings.admin_password:
            return self._settings.admin_password.get_secret_value()
        return private_files.secret(self.home / ADMIN_FILE)


def main(arguments: list[str]) -> int:
    """Run the stack; the exit status."""
    os.umask(0o077)
    try:
        settings = config.load(config.StackSettings)
        with (
            only_one(settings.wallet_home.resolve()),
            StopRequests(follow_parent="--follow-parent" in arguments) as stop,
        ):
            Stack(settings, stop).run()
    except config.ConfigurationError as error:
        print(f"configuration error: {error}", file=sys.stderr)
        return 2
    except StackError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        # A full disk does not say of itself which one it is.
        home = settings.wallet_home.resolve()
        told = f"cannot write to WALLET_HOME={home}: {error.strerror}" if error.errno in NO_ROOM else error
        print(f"make run: {told}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

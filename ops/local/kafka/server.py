"""One Kafka broker, which is its own controller or one of three.

    with KafkaServer(home) as kafka:
        print(kafka.url)

It keeps what it has confirmed when it is killed, not when the machine is: it leaves writing to the disk to the system.
All that is in it can be rebuilt from PostgreSQL.
"""

import importlib
import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from ops.local import private_files, processes
from ops.local.kafka import runtime as runtimes
from ops.local.kafka.properties import Access, Ports, as_text, broker_properties
from ops.local.kafka.runtime import Runtime
from ops.local.processes import Command, Spec, StackError
from ops.local.server import LOOPBACK, START_TIMEOUT_S, Server, choose_identity, is_port_free, own

LOG_SETTINGS = Path(__file__).with_name("log4j2.yaml")
OPEN = Access()
# What a stop takes is two to four seconds; longer when most of a cluster is away, and then it waits in vain.
STOP_TIMEOUT_S = 15.0
# Writing down all classes when it ends is more work.
RECORDING_STOP_TIMEOUT_S = 120.0
_RECORDED = "classes.jsa"
_LINE = re.compile(r"(?P<level>[A-Z]+) (?P<logger>\S+) (?P<event>.*)")
_EXCEPTION = re.compile(r"^(?:[\w$]+\.)+[\w$]+: ")
_LEVELS = {"TRACE": "debug", "DEBUG": "debug", "INFO": "info", "WARN": "warning", "ERROR": "error", "FATAL": "critical"}


class KafkaServer(Server):
    """A broker that clients reach by :attr:`url`, which is what KAFKA_BROKERS has to say."""

    name = "kafka"

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        access: Access = OPEN,
        properties: Mapping[str, str] = MappingProxyType({}),
        node_id: int = 1,
    ) -> None:
        """Nothing is touched before a start.

        Args:
            home: where all it has is; brokers of one cluster have one home.
            port: where clients find it; None: any, kept for the next start.
            access: how clients get in.
            properties: the broker's, over those that it has anyway, for tests with needs of their own.
            node_id: which one it is of a cluster. Of its peers :meth:`join` tells it.

        Raises:
            StackError: there is no Java to run it.
        """
        super().__init__(home, port=port)
        self.identity = choose_identity(self.home, self.program, runtimes.FOLDER / "jars" / "jar")
        self.access = access
        self.node_id = node_id
        self._peers: Sequence[KafkaServer] = [self]
        self.first_port = 0
        self._properties = properties
        self._controller_port = 0
        self._inside_port = 0

    def join(self, peers: "Sequence[KafkaServer]") -> None:
        """Be one of a cluster, all of which are given. Only before the first start."""
        self._peers = peers
        self.name = f"{self.name}-{self.node_id}" if len(peers) > 1 else self.name
        self.data = self.home / self.name / "data"

    @property
    def url(self) -> str:
        """Where clients connect: ``host:port``."""
        return f"{self.access.host}:{self.port}"

    @property
    def inside(self) -> str:
        """Where whoever starts it connects, without proving anything."""
        return self.url if self.access.is_open else f"{LOOPBACK}:{self._inside_port}"

    @property
    def settings(self) -> dict[str, str]:
        """The service's settings (``KAFKA_…``, in small letters) with which it gets in."""
        found = {"kafka_brokers": self.url, "kafka_security_protocol": self.access.protocol}
        if self.access.mechanism:
            found["kafka_sasl_mechanism"] = self.access.mechanism
            found["kafka_sasl_username"] = self.access.username
            found["kafka_sasl_password"] = self.access.password
        if self.access.certificate:
            found["kafka_ssl_ca"] = str(self.access.certificate)
        return found

    @property
    def ports(self) -> Ports:
        """Where it listens; known after :meth:`prepare`."""
        return Ports(self.port, self._controller_port, self._inside_port)

    def start(self, *, still_wanted: Callable[[], bool] = lambda: True) -> Self:
        """See that there is something to run, and then start as every server does.

        Raises:
            StackError: it cannot be had, or started; nothing is left running.
        """
        self.install(still_wanted)
        return super().start(still_wanted=still_wanted)

    def install(self, still_wanted: Callable[[], bool] = lambda: True) -> None:
        """Fetch the jars and parse their classes, unless that is done. Takes a minute, once.

        Raises:
            StackError: they cannot be had.
        """
        if self.is_installed():
            return
        self.prepare()
        with runtimes.alone(still_wanted):
            runtimes.fetch_jars(self._runtime, log=self.log, still_wanted=still_wanted)
            if not self.is_installed():
                record_classes(self._runtime, still_wanted)

    def is_installed(self) -> bool:
        """Whether there is nothing to fetch and to parse any more."""
        return self._runtime.archive.exists()

    def choose_port(self) -> None:
        """All of its ports: that of clients may be a given one."""
        if not self._fixed_port:
            self.port = self._kept_port(self.name, first=self.first_port)
        self._controller_port = self._kept_port(f"{self.name}-controller")
        if not self.access.is_open:
            self._inside_port = self._kept_port(f"{self.name}-inside")

    def has_lost_port(self) -> bool:
        """Whether somebody else has one of those that were chosen."""
        chosen = {self.port, self._controller_port, self._inside_port} - {self._fixed_port, 0}
        return not all(is_port_free(LOOPBACK, port) for port in chosen)

    def launch(self) -> None:
        """Start the process, on new data if there are none."""
        self.install()
        self.prepare()
        self.format()
        super().launch()

    def format(self) -> None:
        """Make the data that a broker begins with, unless there are some.

        Raises:
            StackError: that has failed; nothing that looks like data is left.
        """
        if maker := self.begin_format():
            self.end_format(maker)

    def begin_format(self) -> Command | None:
        """Launch what makes the data, for :meth:`end_format` to wait for; None: there are some."""
        self._write_files()
        if self.data.exists():
            return None
        # Beside their final place: whoever is killed leaves nothing that looks like data.
        draft = self._draft
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        own(draft, self.identity)
        tool = ["kafka.tools.StorageTool", "format", "-t", self._cluster_id(), "-c", f"../{self._properties_file.name}"]
        maker = Command(self._spec_of(f"{self.name}-format", tool, cwd=draft))
        maker.launch()
        return maker

    def end_format(self, maker: Command) -> None:
        """Wait for the data to be made.

        Raises:
            StackError: as :meth:`format` does.
        """
        try:
            if not maker.wait(START_TIMEOUT_S) or maker.exit_status != 0:
                raise StackError(f"{self.name}: its data could not be made: {maker.complaint()} (see {self.log})")
        finally:
            maker.kill()
        self._draft.rename(self.data)

    def is_ready(self) -> bool:
        """Whether it answers, and knows of all its peers."""
        if is_port_free(LOOPBACK, self.port):
            return False
        return bool(_asking().count_brokers(self.inside) == len(self._peers))

    def set_up(self) -> None:
        """Make its user known, where that is not a part of its settings."""
        if self.access.mechanism and self.access.mechanism.startswith("SCRAM"):
            _asking().let_in(self.inside, self.access.mechanism, self.access.username, self.access.password)

    def complaint(self) -> str:
        """As of every child, without the names of classes and where in them it was."""
        return find_cause(super().complaint())

    @property
    def log(self) -> Path:
        """The log of all brokers of this home, JSON lines."""
        return self.home / "logs" / "kafka.log"

    @property
    def spec(self) -> Spec:
        """The broker."""
        return self._spec_of(self.name, ["kafka.Kafka", f"../{self._properties_file.name}"], cwd=self.data)

    def _spec_of(self, name: str, program: Sequence[str], *, cwd: Path) -> Spec:
        return Spec(
            name=name,
            command=self._runtime.command("-Dlog4j2.configurationFile=../log4j2.yaml", *program),
            log=self.log,
            pid_file=self.home / "run" / f"{name}.pid",
            cwd=cwd,
            environment=self._runtime.environment,
            stop_timeout_s=STOP_TIMEOUT_S,
            identity=self.identity,
            parse_line=parse_kafka_line,
        )

    def _find_program(self) -> Path:
        self._runtime = runtimes.find_runtime()
        return self._runtime.java.program

    @property
    def _draft(self) -> Path:
        return self.data.with_name("data.new")

    @property
    def _properties_file(self) -> Path:
        return self.data.with_name("server.properties")

    def _write_files(self) -> None:
        nodes = {peer.node_id: peer.ports for peer in self._peers}
        properties = {**broker_properties(self.node_id, nodes, self.access), **self._properties}
        # It may hold a password.
        private_files.write_private(self._properties_file, as_text(properties))
        log_settings = self.data.with_name("log4j2.yaml")
        private_files.write_private(log_settings, LOG_SETTINGS.read_text())
        for path in (self._properties_file, log_settings):
            own(path, self.identity)

    def _cluster_id(self) -> str:
        kept = self.home / "run" / "kafka.cluster"
        if not kept.exists():
            # A UUID as Kafka spells it; what begins with a hyphen is an option to its tool.
            new = next(filter(lambda text: text[0] != "-", iter(lambda: secrets.token_urlsafe(16), "")))
            private_files.write_private(kept, new)
        return kept.read_text()


class _Recording(KafkaServer):
    """A broker that writes down, when it ends, which classes it has loaded."""

    def is_installed(self) -> bool:
        """As far as is needed for that."""
        return True

    @property
    def spec(self) -> Spec:
        """With the time that writing takes."""
        plain = super().spec
        options = [*plain.command[:-2], f"-XX:ArchiveClassesAtExit={_RECORDED}", *plain.command[-2:]]
        return replace(plain, command=options, stop_timeout_s=RECORDING_STOP_TIMEOUT_S)


def record_classes(runtime: Runtime, still_wanted: Callable[[], bool]) -> None:
    """Have a broker start and end, and keep the classes that it has loaded by then: the next one need not parse them.

    Where that does not work brokers start without them.

    Raises:
        StackError: the start was cancelled.
    """
    home = runtimes.FOLDER / "recording"
    shutil.rmtree(home, ignore_errors=True)
    broker = _Recording(home)
    try:
        broker.start(still_wanted=still_wanted)
        broker.stop()
        runtime.keep_archive(broker.data / _RECORDED)
    except (StackError, OSError):
        if not still_wanted():
            raise
        runtime.keep_archive(None)
    finally:
        broker.kill()
        shutil.rmtree(home, ignore_errors=True)


def parse_kafka_line(line: str) -> dict[str, object]:
    """``LEVEL logger message``, as log4j2.yaml has it, as fields."""
    if not (match := _LINE.fullmatch(line)) or match["level"] not in _LEVELS:
        return processes.plain_line(line)
    return {"level": _LEVELS[match["level"]], "event": match["event"], "logger": match["logger"]}


def find_cause(event: str) -> str:
    """What was wrong in the first place, of an event with its exception."""
    told = [
        part.removeprefix("Caused by: ") for part in event.split(" | ") if not part.lstrip().startswith(("at ", "..."))
    ]
    messages = [_EXCEPTION.sub("", part).strip() for part in told]
    cause = messages.pop()
    # The last one is of Java, and often a part of what Kafka made of it.
    while messages and cause in (before := messages.pop()):
        cause = before
    return cause


def _asking() -> Any:
    """What knows Kafka's client, by name: nobody who starts no broker needs it."""
    return importlib.import_module("ops.local.kafka.asking")

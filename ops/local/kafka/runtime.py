"""What a broker runs on: Java, and Kafka's jars, which Maven fetches once into ``.kafka`` beside ``.venv``.

.kafka/<hash of pom.xml>/*.jar                 all that pom.xml names, and what that needs
.kafka/<hash of pom.xml>/<hash of Java>.jsa    the classes that a broker loads, parsed: it starts in half of the time
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.local import processes
from ops.local.kafka.java import Java, find_java, find_maven
from ops.local.processes import Command, Spec, StackError
from ops.local.server import plain_environment

FOLDER = Path(__file__).resolve().parents[3] / ".kafka"
POM = Path(__file__).with_name("pom.xml")
# On two processors that do nothing else it takes seven seconds, 45 MB of downloads included.
FETCH_TIMEOUT_S = 600.0
# A repository that says nothing is given up on (Maven 3.8 and before, then those after).
_MAVEN_TIMEOUTS = ("-Dmaven.wagon.rto=30000", "-Daether.connector.requestTimeout=30000")
# A broker for a laptop: small, and quick to start rather than quick after an hour. Out of memory it is started anew.
_OPTIONS = (
    *("-Xms64m", "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    *("-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData", "-Djava.awt.headless=true"),
)

_TOO_LONG = f"it has taken more than {FETCH_TIMEOUT_S:.0f} s"

StillWanted = Callable[[], bool]


@dataclass(frozen=True)
class Runtime:
    """Java with the jars of a folder."""

    java: Java
    jars: Path

    @property
    def archive(self) -> Path:
        """Where the classes are that this Java has parsed of these jars. Empty: that was tried, and failed."""
        return self.jars / f"{_hash(self.java.version.encode())}.jsa"

    @property
    def environment(self) -> dict[str, str]:
        """What a program of Kafka gets to see. In the order of names, which an archive wants to find again."""
        return plain_environment() | {"CLASSPATH": ":".join(sorted(map(str, self.jars.glob("*.jar"))))}

    def command(self, *options: str) -> list[str]:
        """The command line of one of Kafka's programs, whose class and arguments come last."""
        known = [f"-XX:SharedArchiveFile={self.archive}"] if self.has_archive() else []
        return [str(self.java.program), *_OPTIONS, *known, *options]

    def has_archive(self) -> bool:
        """Whether there is an archive to use."""
        try:
            return self.archive.stat().st_size > 0
        except OSError:
            return False

    def keep_archive(self, made: Path | None) -> None:
        """Take the archive that a broker has left; None: it has left none, and no other shall be asked for one."""
        draft = self.archive.with_name(f"{self.archive.name}.new")
        if made is None:
            draft.write_bytes(b"")
        else:
            shutil.copyfile(made, draft)
        draft.chmod(0o644)  # also for whom the broker runs as
        draft.replace(self.archive)


def find_runtime() -> Runtime:
    """What there is, or is going to be.

    Raises:
        StackError: no Java.
    """
    return Runtime(find_java(), FOLDER / _hash(POM.read_bytes()))


def fetch_jars(runtime: Runtime, *, log: Path, still_wanted: StillWanted) -> None:
    """Have Maven fetch the jars, unless they are there; to be called :func:`alone`. What is there is whole.

    Raises:
        StackError: they cannot be had.
    """
    if runtime.jars.is_dir():
        return
    draft = FOLDER / "jars.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    maven = _maven(draft, log)
    try:
        maven.launch()
        in_time = processes.wait_for(lambda: not (maven.is_running and still_wanted()), FETCH_TIMEOUT_S)
        if not still_wanted():
            raise StackError("kafka: the start was cancelled")
        if not in_time or maven.exit_status != 0:
            raise StackError(
                f"kafka: Maven could not fetch the broker: {_objection(maven) if in_time else _TOO_LONG} (see {log})"
            )
    finally:
        maven.kill()
    for path in (draft, *draft.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for older in FOLDER.iterdir():
        if older.is_dir() and older != draft:
            shutil.rmtree(older, ignore_errors=True)  # whoever runs on it has it open
    draft.rename(runtime.jars)


@contextmanager
def alone(still_wanted: StillWanted) -> Iterator[None]:
    """Hold the folder, once others that fill it are done.

    Raises:
        StackError: not wanted any more, or they take too long.
    """
    FOLDER.mkdir(exist_ok=True)
    FOLDER.chmod(0o755)
    with os.fdopen(os.open(FOLDER / "lock", os.O_RDWR | os.O_CREAT, 0o600), "r+b") as lock:

        def has_it() -> bool:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return not still_wanted()
            return True

        if not processes.wait_for(has_it, FETCH_TIMEOUT_S):
            raise StackError(f"kafka: others have been filling {FOLDER} for {FETCH_TIMEOUT_S:.0f} s")
        if not still_wanted():
            raise StackError("kafka: the start was cancelled")
        yield


def _maven(into: Path, log: Path) -> Command:
    command = [str(find_maven()), "-q", "-B", "-ntp", "-Dstyle.color=never", "-f", str(POM), *_MAVEN_TIMEOUTS]
    command += ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={into}"]
    return Command(
        Spec(
            name="maven",
            command=command,
            log=log,
            pid_file=FOLDER / "maven.pid",
            cwd=FOLDER,
            environment=os.environ,  # its proxies, its settings and its cache are the user's
            parse_line=parse_maven_line,
        )
    )


def parse_maven_line(line: str) -> dict[str, object]:
    """Maven's ``[LEVEL] message`` as fields."""
    level, bracket, event = line.removeprefix("[").partition("] ")
    if not bracket or level not in {"INFO", "WARNING", "ERROR"}:
        return processes.plain_line(line)
    return {"level": level.lower(), "event": event}


def _objection(maven: Command) -> str:
    """What Maven says first: the rest is how to ask it for more."""
    complaint = maven.complaint()
    errors = [line.removeprefix("[ERROR] ") for line in maven.last_lines if line.startswith("[ERROR] ")]
    return errors[0] if errors else complaint


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]

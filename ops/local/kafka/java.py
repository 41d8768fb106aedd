"""Java and Maven, as they are on the PATH: what Kafka is run by, and what fetches it."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ops.local.processes import StackError

# Of what Kafka's classes are compiled for.
LEAST_JAVA = 17
VERSION_TIMEOUT_S = 60.0
_INSTEAD = "or set KAFKA_BROKERS to a cluster of your own"


@dataclass(frozen=True)
class Java:
    """A Java that Kafka runs on."""

    program: Path
    # All that it says of its version: an archive of classes is for exactly one.
    version: str


def find_java() -> Java:
    """Return the Java of the PATH.

    Raises:
        StackError: there is none, or one that is too old.
    """
    if (found := shutil.which("java")) is None:
        raise StackError(f"kafka: java is not on the PATH: install Java {LEAST_JAVA} or newer, {_INSTEAD}")
    try:
        said = subprocess.run(
            [found, "-version"], capture_output=True, text=True, check=False, timeout=VERSION_TIMEOUT_S
        ).stderr
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version[1]) < LEAST_JAVA:
        is_what = f"of version {version[1]}" if version else "no Java that works"
        raise StackError(f"kafka: {found} is {is_what}: install Java {LEAST_JAVA} or newer, {_INSTEAD}")
    return Java(Path(found).resolve(), said)


def find_maven() -> Path:
    """Return the Maven of the PATH.

    Raises:
        StackError: there is none.
    """
    if (found := shutil.which("mvn")) is None:
        raise StackError(f"kafka: mvn is not on the PATH: install Maven, which fetches the broker, {_INSTEAD}")
    return Path(found)

"""``make chaos``: one minute, or as long as is asked for."""

import argparse
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from ops.local.kafka.java import find_java
from ops.local.processes import StackError
from tests import small_disk
from tests.chaos.faults.disk import HOME_SIZE
from tests.chaos.run import run

TRANSPORTS = ("rq", "kafka")
# Further settings that are taken from the environment.
HEEDED = ("KAFKA_GROUP_PROTOCOL", "KAFKA_PARTITIONS")


def main() -> int:
    """Run, print the figures, and tell by the exit status whether they are clean."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--transport", choices=TRANSPORTS, default=os.environ.get("TRANSPORT", "rq"))
    options = parser.parse_args()
    if options.transport not in TRANSPORTS:
        parser.error(f"TRANSPORT: must be one of {', '.join(TRANSPORTS)}")
    try:
        if options.transport == "kafka":
            find_java()
    except StackError as error:
        sys.stderr.write(f"make chaos: {error}\n")
        return 1
    home = Path(tempfile.mkdtemp(prefix="wallet-chaos-"))
    told = f"{options.seconds:.0f} s over {options.transport}, seed {options.seed}, in {home}"
    sys.stdout.write(f"chaos for {told}\n")
    settings = {name: os.environ[name] for name in HEEDED if name in os.environ} | {"TRANSPORT": options.transport}
    with ExitStack() as mounts:
        try:
            mounts.enter_context(small_disk.mounted(home / "disk", size=HOME_SIZE))
        except PermissionError as error:
            sys.stdout.write(f"the disk is never full: {error}\n")
        report = run(home / "disk", seconds=options.seconds, seed=options.seed, **settings)
        sys.stdout.write("\n".join(report.lines()) + "\n")
        if not report.is_clean:
            # What is on a file system of memory would be gone.
            shutil.copytree(home / "disk", home / "found", symlinks=True)
    if report.is_clean:
        shutil.rmtree(home)
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())

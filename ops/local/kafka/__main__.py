"""``make kafka``: a broker on this machine, or three, in the foreground, until told to stop.

    python -m ops.local.kafka [--follow-parent]

Its data are apart from those of ``make run`` on the same WALLET_HOME, so that both can run beside each other.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

import config
from ops.local.homes import only_one
from ops.local.kafka.cluster import KafkaCluster
from ops.local.kafka.runtime import FOLDER
from ops.local.log_files import json_line, open_log, rotate_log
from ops.local.processes import StackError
from ops.local.stopping import StopRequests
from ops.local.supervisor import Supervisor

# Of the first broker, if nobody has it.
FIRST_PORT = 19092


class Foreground:
    """What ``make kafka`` runs."""

    def __init__(self, home: Path, size: int, stop: StopRequests) -> None:
        self.home = home
        self._stop = stop
        self._cluster = KafkaCluster(home, size=size, first_port=FIRST_PORT)
        self._supervisor = Supervisor(stop, say=self.say, on_round=self._rotate_log)

    def run(self) -> None:
        """Start, keep alive until told to stop, stop.

        Raises:
            StackError: it does not start. Nothing is left running.
        """
        try:
            if not self._cluster.servers[0].is_installed():
                self.say(f"fetching the broker into {FOLDER} (once; takes about a minute)")
            self._cluster.start(still_wanted=self._stop.is_wanted)
            self._supervisor.add_layer(self._cluster.servers)
            self.say(f"ready: KAFKA_BROKERS={self._cluster.url}")
            self.say(f"  the service     TRANSPORT=kafka KAFKA_BROKERS={self._cluster.url} make run")
            self.say(f"  data and logs   {self.home}")
            self.say("  Ctrl-C stops it")
            self._supervisor.run()
        except StackError:
            if self._stop.is_wanted():
                raise
        finally:
            if self._supervisor.has_children:
                self.say("stopping")
                self._supervisor.stop()
                self.say("stopped")

    def say(self, event: str, *, level: str = "info", **fields: object) -> None:
        """Tell the terminal and the log."""
        with suppress(OSError):  # the terminal may be gone
            print(event, flush=True)
        with suppress(OSError), open_log(self._log) as log:
            log.write(json_line({"service": "brokers", "level": level, "event": event} | fields))

    @property
    def _log(self) -> Path:
        return self._cluster.servers[0].log

    def _rotate_log(self) -> None:
        with suppress(OSError):  # a full disk: another time
            rotate_log(self._log)


def main(arguments: list[str]) -> int:
    """Run it; the exit status."""
    os.umask(0o077)
    try:
        settings = config.load(config.BrokersSettings)
        # One broker's data are not those of three.
        home = settings.wallet_home.resolve() / f"brokers-{settings.brokers}"
        with (
            only_one(home, called=str(home)),
            StopRequests(follow_parent="--follow-parent" in arguments) as stop,
        ):
            Foreground(home, settings.brokers, stop).run()
    except config.ConfigurationError as error:
        return config.complain(str(error))
    except (StackError, OSError) as error:
        print(f"make kafka: {str(error).removeprefix('kafka: ')}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

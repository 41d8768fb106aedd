"""Several brokers that keep copies of each other's topics: one of three may be killed, and nobody loses anything."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ops.local.kafka.properties import Access
from ops.local.kafka.server import OPEN, KafkaServer
from ops.local.processes import StackError


class KafkaCluster:
    """Some brokers, one of which is a cluster as well. Each is a child of its own."""

    def __init__(self, home: Path, *, size: int = 3, access: Access = OPEN, first_port: int = 0) -> None:
        """Nothing is touched before :meth:`start`.

        Args:
            home: where all that they have is.
            size: how many there are. Data are of as many as they were made for.
            access: how clients get in.
            first_port: where clients find the first of them, the second one above it and so on, if these are free; 0:
                anywhere.

        Raises:
            StackError: there is no Java to run them.
        """
        self.servers: Sequence[KafkaServer] = [
            KafkaServer(home, access=access, node_id=node_id) for node_id in range(1, size + 1)
        ]
        for server in self.servers:
            server.join(self.servers)
            server.first_port = first_port and first_port + server.node_id - 1

    @property
    def url(self) -> str:
        """Where clients connect: what KAFKA_BROKERS has to say."""
        return ",".join(server.url for server in self.servers)

    @property
    def inside(self) -> str:
        """Where whoever starts them connects, without proving anything."""
        return ",".join(server.inside for server in self.servers)

    @property
    def settings(self) -> dict[str, str]:
        """As :attr:`KafkaServer.settings`."""
        return self.servers[0].settings | {"kafka_brokers": self.url}

    def start(self, *, still_wanted: Callable[[], bool] = lambda: True) -> Self:
        """Launch all of them, and return when each answers and knows the others.

        Raises:
            StackError: they cannot be started; none is left running.
        """
        for server in self.servers:
            server.install(still_wanted)
            server.prepare()
        for _ in range(3):
            try:
                self._launch()
                for server in self.servers:
                    server.wait_until_ready(still_wanted)
            except BaseException:
                self.kill()
                if not (lost := [server for server in self.servers if server.has_lost_port()]):
                    raise
                for server in lost:
                    server.choose_port()
            else:
                self.servers[0].set_up()
                return self
        raise StackError("kafka: no free ports were found")

    def stop(self) -> None:
        """Ask all to stop at the same time, then see to it."""
        for server in self.servers:
            if server.is_running:
                server.send(server.spec.stop_signal)
        for server in self.servers:
            server.wait(server.spec.stop_timeout_s)
            server.kill()

    def kill(self) -> None:
        """SIGKILL all of them."""
        for server in self.servers:
            server.kill()

    def __enter__(self) -> Self:
        """Start them."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop them."""
        self.stop()

    def _launch(self) -> None:
        """Make the data of all at the same time, since most of that is starting Java, then launch them."""
        makers = [(server, server.begin_format()) for server in self.servers if not server.is_running]
        for server, maker in makers:
            if maker is not None:
                server.end_format(maker)
        for server, _ in makers:
            server.launch()

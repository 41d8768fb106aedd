"""Clients of both API hosts, and what becomes of what they were told."""

import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tests.chaos.audit import audit
from tests.chaos.client import Client
from tests.chaos.report import Report
from tests.hosts.service import API_PORT, Service, until
from tests.patience import PATIENCE_S

CLIENTS = 4
# Of each load, nobody else's. So many that none of them gets to his limit.
USERS = 40
OPENING_CENTS = 50_000
# After each answer, lest other tests wait for a processor.
PAUSE_S = 0.02
_first_users = itertools.count(1_000, USERS)


class Load:
    """Clients under way: half of them begin at the one host, half at the other, and go to another if they must."""

    def __init__(self, service: Service, first_user: int) -> None:
        """Ask for nothing yet."""
        self.service = service
        self.users = range(first_user, first_user + USERS)
        addresses = [each.address for each in service.apis]
        self._reader = self._make(0, addresses, pause_s=0.0)
        self.clients = [
            self._make(number, addresses[:: 1 if number % 2 else -1], pause_s=PAUSE_S)
            for number in range(1, CLIENTS + 1)
        ]

    @property
    def answered(self) -> int:
        """How many orders were answered so far."""
        return sum(bool(call.answers) for client in self.clients for call in client.calls)

    def begin(self) -> None:
        """Open the wallets, and have the clients begin."""
        for user in self.users:
            status, _ = self._reader.ask(user, "POST", "/api/deposit/v1", {"amount": OPENING_CENTS}, "opening")
            assert status == 200
        for client in self.clients:
            client.start()

    def go_on_for(self, orders: int) -> None:
        """Wait until so many more have been answered."""
        enough = self.answered + orders
        until(lambda: self.answered >= enough, f"{orders} orders are answered", self.service.complaints)

    def words(self, address: str) -> set[int | str]:
        """Return what one host has answered, and what came in place of an answer."""
        faces = [face for client in self.clients for face in client.faces if face.name.endswith(f" {address}")]
        return {word for face in faces for word in face.words}

    def transfer_ids(self, address: str) -> list[int]:
        """Return the transfers whose first answer one host has given."""
        calls = [call for client in self.clients for call in client.calls if call.transfer_id]
        return [call.transfer_id for call in calls if call.answers[0].face.endswith(f" {address}")]

    def end(self) -> None:
        """Let what was begun come to its end, and see that all that was told is true, and the books are right."""
        for client in self.clients:
            client.stop()
        for client in self.clients:
            client.join(PATIENCE_S)
        until(lambda: self.service.count_pending() == 0, "all transfers are final", self.service.complaints)
        report = Report()
        audit(self.service.url, self._reader, self.clients, dict.fromkeys(self.users, OPENING_CENTS), report)
        assert report.is_clean, "\n".join(report.lines())

    def close(self) -> None:
        """Have no client at work any more, however it came out."""
        for client in self.clients:
            client.stop()
        self._reader.close()

    def _make(self, number: int, addresses: list[str], *, pause_s: float) -> Client:
        name = f"client{self.users[0] + number}"
        return Client(name, API_PORT, users=self.users, seed=number, hosts=addresses, by_another=1.0, pause_s=pause_s)


@contextmanager
def load(service: Service) -> Iterator[Load]:
    """Have clients at work meanwhile. In the end all hosts are up, and all that they were told is true."""
    with closing(Load(service, next(_first_users))) as under_way:
        under_way.begin()
        yield under_way
        until(service.is_up, "all hosts are ready again", service.complaints)
        under_way.go_on_for(CLIENTS)
        under_way.end()

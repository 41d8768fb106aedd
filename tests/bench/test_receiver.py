import http.client
import time
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from bench import receiver
from bench.figures import BenchError
from bench.receiver import Arrival, Receivers, receiving


@pytest.fixture(scope="module")
def receivers() -> Iterator[Receivers]:
    with receiving() as made:
        yield made


def _post(url: str, event_id: str, *, timeout_s: float = 10.0) -> int:
    target = urlsplit(url)
    with closing(http.client.HTTPConnection(target.hostname or "", target.port, timeout=timeout_s)) as connection:
        connection.request("POST", target.path, b"x" * 100_000, {"Webhook-Id": event_id})
        return connection.getresponse().status


def test_what_arrives_is_told_with_its_instant_and_its_id(receivers: Receivers) -> None:
    before = time.monotonic()
    assert [_post(receivers.urls["healthy"], event_id) for event_id in ("17", "18")] == [204, 204]
    first, second = receivers.next(10.0), receivers.next(10.0)
    assert isinstance(first, Arrival)
    assert isinstance(second, Arrival)
    assert (first.event_id, second.event_id) == ("17", "18")
    assert before < first.at < second.at < time.monotonic()
    assert receivers.next(0.0) is None


def test_each_that_is_dead_is_so_in_its_own_way(receivers: Receivers) -> None:
    assert _post(receivers.urls["broken"], "1") == 500
    with pytest.raises(ConnectionRefusedError):
        _post(receivers.urls["refusing"], "1")
    with pytest.raises(TimeoutError):
        _post(receivers.urls["hanging"], "1", timeout_s=0.2)
    assert receivers.next(0.0) is None


def test_who_waits_for_one_that_hangs_waits_no_longer_when_they_end() -> None:
    with receiving() as made:
        target = urlsplit(made.urls["hanging"])
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=20)
        connection.request("POST", "/", b"x")
    with closing(connection), pytest.raises(ConnectionError):
        connection.getresponse()


def test_receivers_that_do_not_start_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "ROOT", "/")  # from where nothing of ours can be imported
    with pytest.raises(BenchError, match="did not start"), receiving():
        pass

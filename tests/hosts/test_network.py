"""Hosts reach each other, are cut off and come back, and nobody else notices."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.local.processes import wait_for
from tests.hosts.network import Host, Network
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.xdist_group("hosts")
PORT = 80
# After these silence is taken for silence. All of it is on this machine.
SILENCE_S = 0.5


@pytest.fixture
def network() -> Iterator[Network]:
    with Network.or_skip() as network:
        yield network


def reaches(one: Host, other: Host) -> bool:
    """Whether a connection comes about."""
    with other.namespace.entered():
        listener = socket.create_server((other.address, PORT))
    with listener, one.namespace.entered():
        try:
            socket.create_connection((other.address, PORT), timeout=SILENCE_S).close()
        except TimeoutError:
            return False
        return True


def comes_to_reach(one: Host, other: Host) -> bool:
    """Whether a connection comes about, on a machine that may be busy with other things just now."""
    return wait_for(lambda: reaches(one, other), PATIENCE_S)


def test_a_host_that_is_cut_off_reaches_nobody_until_it_is_back(network: Network) -> None:
    one, other, third = map(network.add, ("one", "other", "third"))
    assert comes_to_reach(one, other)
    with one.cut_off():
        assert not reaches(one, other)
        assert not reaches(other, one)
        assert comes_to_reach(other, third)
    assert comes_to_reach(one, other)


def test_two_hosts_that_are_cut_off_from_each_other_reach_all_the_rest(network: Network) -> None:
    one, other, third = map(network.add, ("one", "other", "third"))
    with one.cut_off_from(other):
        assert not reaches(one, other)
        assert not reaches(other, one)
        assert comes_to_reach(one, third)
        assert comes_to_reach(third, other)
    assert comes_to_reach(one, other)


def test_two_networks_do_not_meet_and_nothing_is_left_of_them(network: Network) -> None:
    outside, before = Path("/proc/self/ns/net").stat().st_ino, socket.if_nameindex()
    with Network.or_skip() as second:
        one, other = network.add("one"), second.add("one")
        assert one.address == other.address
        assert comes_to_reach(one, network.add("other"))
        with pytest.raises(OSError, match="address"), other.namespace.entered():
            socket.create_server((network.hosts[1].address, PORT))
        assert socket.if_nameindex() == before
    assert Path("/proc/self/ns/net").stat().st_ino == outside

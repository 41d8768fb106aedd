"""Which addresses are public: by a list of our own, since Python's lets through what leads elsewhere."""

from ipaddress import ip_address, ip_network

import pytest

from jobs.webhooks.addresses import AddressRefused, choose, is_public, read

# Of each block one that Python might take for global, or its first and last.
NOT_PUBLIC = [
    "0.0.0.1", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1",
    "127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.0.10",
    "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.0.1", "192.175.48.1", "198.18.0.1",
    "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "233.252.0.1", "239.255.255.255", "240.0.0.1",
    "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::1", "64:ff9b::a00:1",
    "64:ff9b:1::1", "100::1", "2001::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::1",
    "2002:808:808::1", "2620:4f:8000::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254",
    "fe80::1", "fec0::1", "ff02::1", "ff0e::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "198.17.255.255",
    "223.255.255.254", "2606:4700:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888", "::ffff:8.8.8.8",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_not_public(text: str) -> None:
    assert not is_public(ip_address(text))
    with pytest.raises(AddressRefused):
        choose([ip_address("8.8.8.8"), read(text)], is_encrypted=True, allowed=())


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    assert is_public(ip_address(text))
    assert choose([read(text)], is_encrypted=True, allowed=()) == [read(text)]
    with pytest.raises(AddressRefused):
        choose([read(text)], is_encrypted=False, allowed=(ip_network("0.0.0.0/0"), ip_network("::/0")))


def test_an_address_within_another_is_what_it_stands_for() -> None:
    assert read("::ffff:10.0.0.1") == ip_address("10.0.0.1")
    with pytest.raises(ValueError, match="zone"):
        read("fe80::1%1")


def test_networks_can_be_allowed_and_only_loopback_by_http() -> None:
    private, loopback = ip_address("10.1.2.3"), ip_address("127.0.0.1")
    allowed = (ip_network("10.1.0.0/16"), ip_network("127.0.0.0/8"))
    assert choose([private], is_encrypted=True, allowed=allowed) == [private]
    assert choose([loopback], is_encrypted=True, allowed=allowed) == [loopback]
    assert choose([loopback], is_encrypted=False, allowed=allowed) == [loopback]
    for found, is_encrypted, networks in (
        ([private], False, allowed),
        ([private], True, allowed[1:]),
        ([loopback], False, allowed[:1]),
        ([loopback, private], False, allowed),
    ):
        with pytest.raises(AddressRefused):
            choose(found, is_encrypted=is_encrypted, allowed=networks)


def test_of_localhost_the_family_that_is_allowed_is_taken() -> None:
    both = [ip_address("::1"), ip_address("127.0.0.1")]
    assert choose(both, is_encrypted=False, allowed=(ip_network("127.0.0.0/8"),)) == [ip_address("127.0.0.1")]

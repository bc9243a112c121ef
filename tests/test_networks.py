"""Networks as they are configured, and who is in them."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hourd.networks import NETWORK_HINT, Networks, parse_network


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7/32", "192.0.2.7"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::1", "::1"),
        ("FD00:0::/8", "fd00::/8"),
        ("unix", "unix"),
    ],
)
def test_canonical(text, canonical):
    assert parse_network(text) == canonical
    assert parse_network(canonical) == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.1/8", "is an address in 10.0.0.0/8; write that, or 10.0.0.1 for it alone"),
        ("fd00::1/8", "is an address in fd00::/8; write that, or fd00::1 for it alone"),
        ("fe80::1%eth0", "has a zone, which depends on the machine; leave it out"),
        ("proxy.example.com", f"expected {NETWORK_HINT}"),
        ("*", f"expected {NETWORK_HINT}"),
        ("", f"expected {NETWORK_HINT}"),
        ("10.0.0.0/33", f"expected {NETWORK_HINT}"),
        ("10.0.0.0/", f"expected {NETWORK_HINT}"),
        ("[::1]", f"expected {NETWORK_HINT}"),
        ("10.0.0.0/8 ", f"expected {NETWORK_HINT}"),
    ],
)
def test_what_is_wrong(text, why):
    with pytest.raises(ValueError, match=r"^") as caught:
        parse_network(text)
    assert str(caught.value) == why


@given(st.text())
def test_any_text_is_taken_or_refused(text):
    try:
        canonical = parse_network(text)
    except ValueError:
        return
    assert parse_network(canonical) == canonical


@given(st.ip_addresses(), st.integers(0, 128))
def test_an_address_is_in_the_networks_around_it_only(address, bits):
    network = ipaddress.ip_network((address, min(bits, address.max_prefixlen)), strict=False)
    networks = Networks([parse_network(str(network))])
    # IPv4 in IPv6 is in networks of IPv4, and in those of IPv6 that are written so.
    assume(bits >= 96 or getattr(address, "ipv4_mapped", None) is None)
    assert networks.has_peer((str(address), 1))
    if network.prefixlen:
        outside = type(address)(int(address) ^ (1 << (address.max_prefixlen - network.prefixlen)))
        assert not networks.has_peer((str(outside), 1))


def test_ipv4_in_ipv6_is_ipv4():
    assert Networks(["10.0.0.0/8"]).has("::ffff:10.1.2.3")
    assert Networks(["::ffff:10.0.0.0/104"]).has("10.1.2.3")
    assert not Networks(["::/0"]).has("::ffff:10.1.2.3")
    assert not Networks(["10.0.0.0/8"]).has("::ffff:11.1.2.3")


def test_a_zone_does_not_matter():
    assert Networks(["fe80::/10"]).has_peer(("fe80::1%eth0", 80, 0, 2))


@pytest.mark.parametrize("peer", ["", b"\0name", "/run/x.sock"])
def test_peers_of_unix_sockets(peer):
    assert Networks(["unix"]).has_peer(peer)
    assert not Networks(["0.0.0.0/0", "::/0"]).has_peer(peer)
    assert not Networks(["unix"]).has_peer(("127.0.0.1", 1))


def test_none():
    nobody = Networks([])
    assert not nobody
    assert not nobody.has_peer(("127.0.0.1", 1))
    assert not nobody.has_peer("")
    assert not Networks(["unix", "0.0.0.0/0", "::/0"]).has_peer(None)
    assert Networks(["unix"])
    assert Networks(["::1"])

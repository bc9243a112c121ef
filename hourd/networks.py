"""Networks as people write them, and who is in them: whose word about a client is taken.

Names are refused: a name server would decide who is trusted. ``unix`` stands for those who come over a unix
socket: they have no address, and the socket's file says who may connect.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable
from typing import Annotated, Final

from msgspec import Meta

UNIX: Final = "unix"
NETWORK_HINT: Final = "an IP address, a network such as 10.0.0.0/8 or fd00::/8, or unix"

Network = Annotated[str, Meta(extra={"unit": "network"}, examples=["10.0.0.0/8", "::1", "unix"])]
"""An IP address, a network in CIDR notation, or ``unix``."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_MAPPED: Final = 96
"""Bits of the prefix of IPv4 addresses in IPv6 (RFC 4291, 2.5.5.2)."""
_REMEMBERED: Final = 4096


def parse_network(text: str) -> str:
    """Return a network in its canonical text.

    Raises:
        ValueError: the text is none; its message says what is wrong.
    """
    if text == UNIX:
        return text
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"expected {NETWORK_HINT}") from None
    address = text.partition("/")[0]
    if "%" in address:
        raise ValueError("has a zone, which depends on the machine; leave it out")
    if ipaddress.ip_address(address) != network.network_address:
        raise ValueError(f"is an address in {network}; write that, or {address} for it alone")
    return str(network.network_address) if network.num_addresses == 1 else str(network)


class Networks:
    """Some networks, to be asked who is in them."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Take networks that ``parse_network`` has accepted."""
        every = frozenset(texts)
        self._networks = tuple(_unmapped(ipaddress.ip_network(text)) for text in every if text != UNIX)
        self.unix = UNIX in every
        """Whether peers of unix sockets are meant."""
        # Those who ask are few: proxies, and their networks.
        self.has = functools.lru_cache(_REMEMBERED)(self._has)
        """Tell whether the text of an address is one in these networks; what is no address is in none."""

    def __bool__(self) -> bool:
        return bool(self._networks) or self.unix

    def has_peer(self, peer: object) -> bool:
        """Tell whether a connection's peer is in them.

        Args:
            peer: what ``transport.get_extra_info("peername")`` says. Over a unix socket, that is a text or bytes;
                of a TCP connection that has been reset already it may be ``None``.
        """
        if isinstance(peer, tuple) and peer:
            return isinstance(peer[0], str) and self.has(peer[0])
        return self.unix and isinstance(peer, str | bytes)

    def _has(self, text: str) -> bool:
        address = parse_address(text)
        return address is not None and any(address in network for network in self._networks)


def parse_address(text: str) -> Address | None:
    """Return the address that a text is, or ``None``. IPv4 in IPv6 becomes what it is; a zone is left out."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _unmapped(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED))

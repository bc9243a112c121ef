"""The header of the PROXY protocol, versions 1 and 2, without I/O.

Rules (proxy-protocol.txt of HAProxy): whoever is configured to send it always does, first of all, and nobody else
is listened to. So nothing is guessed, and what is no header ends its connection. A header is read exactly: the next
byte belongs to TLS or to the application.
"""

from __future__ import annotations

import re
import socket
from typing import Any, Final, NamedTuple

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
LINE_MAX: Final = 107
"""Bytes of a header of version 1, with its line end."""
HEADER_MAX: Final = 4096
"""Bytes of a header of version 2: the addresses, and what proxies like to add."""

_FIXED: Final = 16
"""Bytes of version 2 up to the addresses."""
_PREFIX: Final = b"PROXY "
_LINE: Final = re.compile(rb"PROXY TCP([46]) (\S+) (\S+) (\S+) (\S+)\r\n")
_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN( [^\r\n]*)?\r\n")
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")
_PORT_MAX: Final = 65535
_VERSION: Final = 0x20
_LOCAL, _PROXY = 0, 1
_FAMILIES: Final = {1: socket.AF_INET, 2: socket.AF_INET6}
_LENGTHS: Final = {socket.AF_INET: 4, socket.AF_INET6: 16}
_STREAM: Final = 1
_FAMILY_MAX, _TRANSPORT_MAX = 3, 2


class MalformedError(Exception):
    """What came is no header of the PROXY protocol."""


class Ends(NamedTuple):
    """Both ends of a connection as its first proxy has seen them, each as ``getpeername`` says it."""

    peer: tuple[Any, ...]
    local: tuple[Any, ...]


class Header:
    """A header that comes in pieces."""

    def __init__(self) -> None:
        self._bytes = b""
        self.complete = False

    def take(self, data: bytes) -> int:
        """Take what belongs to the header from bytes that have come; returns how many, at least one.

        Raises:
            MalformedError: it is no header.
        """
        every = self._bytes + data
        length = _length(every)
        before = len(self._bytes)
        self._bytes = every[:length]
        self.complete = len(self._bytes) == length
        return len(self._bytes) - before

    def ends(self) -> Ends | None:
        """Return what a complete header says; ``None`` stands for the connection's own ends.

        So it is for connections of the proxy itself (``LOCAL``: a health check), and for those it did not get over TCP.

        Raises:
            MalformedError: it is no header.
        """
        return _parse_binary(self._bytes) if self._bytes.startswith(SIGNATURE) else _parse_line(self._bytes)


def _length(begun: bytes) -> int | None:
    """Return how long a header is that begins so; ``None`` while that has not come."""
    if begun[: len(_PREFIX)] == _PREFIX[: len(begun)]:
        end = begun.find(b"\n", 0, LINE_MAX) + 1
        if not end and len(begun) >= LINE_MAX:
            raise MalformedError("a line that is too long")
        return end or None
    if begun[: len(SIGNATURE)] != SIGNATURE[: len(begun)]:
        raise MalformedError(f"it begins with {begun[: len(SIGNATURE)]!r}")
    if len(begun) < _FIXED:
        return None
    length = _FIXED + int.from_bytes(begun[_FIXED - 2 : _FIXED], "big")
    if length > HEADER_MAX:
        raise MalformedError(f"{length} bytes are too many")
    return length


def _parse_line(line: bytes) -> Ends | None:
    if _UNKNOWN.fullmatch(line):
        return None
    match = _LINE.fullmatch(line)
    if match is None:
        raise MalformedError(f"{line!r}")
    digit, peer, local, peer_port, local_port = match.groups()
    family = socket.AF_INET if digit == b"4" else socket.AF_INET6
    try:
        hosts = [socket.inet_pton(family, host.decode("ascii")) for host in (peer, local)]
    except (OSError, ValueError):
        raise MalformedError(f"{line!r} has no valid addresses") from None
    ports = [int(port) if _PORT.fullmatch(port) else _PORT_MAX + 1 for port in (peer_port, local_port)]
    if max(ports) > _PORT_MAX:
        raise MalformedError(f"{line!r} has no valid ports")
    return Ends(_end(family, hosts[0], ports[0]), _end(family, hosts[1], ports[1]))


def _parse_binary(header: bytes) -> Ends | None:
    command = header[len(SIGNATURE)] - _VERSION
    family, transport = divmod(header[len(SIGNATURE) + 1], 16)
    if command not in (_LOCAL, _PROXY) or family > _FAMILY_MAX or transport > _TRANSPORT_MAX:
        raise MalformedError(f"{header[:_FIXED]!r} has an unknown version, command or family")
    if command == _LOCAL or family not in _FAMILIES or transport != _STREAM:
        return None
    known = _FAMILIES[family]
    size = _LENGTHS[known]
    rest = header[_FIXED:]
    if len(rest) < 2 * size + 4:
        raise MalformedError("it is too short for its addresses")
    ports = [int.from_bytes(rest[at : at + 2], "big") for at in (2 * size, 2 * size + 2)]
    return Ends(_end(known, rest[:size], ports[0]), _end(known, rest[size : 2 * size], ports[1]))


def _end(family: socket.AddressFamily, host: bytes, port: int) -> tuple[Any, ...]:
    text = socket.inet_ntop(family, host)
    return (text, port) if family == socket.AF_INET else (text, port, 0, 0)

"""What stands behind ``bind:``: one text, one or two socket addresses.

A host is an IP address and never a name: a name server that does not answer must not keep a daemon
from starting, and one that answers differently must not move it elsewhere at a reload.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

Family = Literal["inet", "inet6", "unix", "systemd", "fd"]
Transport = Literal["stream", "datagram", "any"]

ADDRESS_HINT: Final = (
    "HOST:PORT, [IPv6]:PORT, :PORT, unix:/path, unix:@name, systemd:NAME, fd:N, or udp: before one with a port"
)
UNIX_PATH_MAX: Final = 107
"""Bytes of a unix socket's path, or of an abstract name: ``sun_path`` of unix(7) has 108, one of them a NUL."""

_UDP: Final = "udp:"
_PORT_MAX: Final = 65535
_PORT_DIGITS: Final = 5
_SEVERAL: Final = {"": ("0.0.0.0", "[::]"), "localhost": ("127.0.0.1", "[::1]")}
_ANY: Final = ("0.0.0.0", "::")
_FD_LEAST: Final = 3
_FD_DIGITS: Final = 6
_NAME_MAX: Final = 255


class Address(Struct, frozen=True):
    """Where one listener listens."""

    family: Family
    host: str = ""
    """An IP address in its canonical text; empty for others."""
    port: int = 0
    """``0`` asks for any free port; the number of ``fd``."""
    path: str = ""
    """Absolute, or the name without its ``@`` when ``abstract``; the name of ``systemd``; empty for others."""
    abstract: bool = False
    transport: Transport = "stream"
    """Connections or datagrams; of what somebody else has bound, it may be whichever it is."""

    def __str__(self) -> str:
        if self.family == "unix":
            return f"unix:{'@' if self.abstract else ''}{self.path}"
        if self.inherited:
            return f"{self.family}:{self.path or self.port}"
        host = f"[{self.host}]" if self.family == "inet6" else self.host
        return f"{_UDP if self.transport == 'datagram' else ''}{host}:{self.port}"

    @property
    def unique(self) -> bool:
        """Whether only one server can have it; port 0 gives each its own."""
        return self.family in ("unix", "systemd") or self.port != 0

    @property
    def inherited(self) -> bool:
        """Whether somebody else has bound it: it says where the socket comes from, not where it is."""
        return self.family in ("systemd", "fd")

    @property
    def claims(self) -> Iterator[Address]:
        """What nobody else can have. TCP and UDP have ports of their own; a path or a descriptor is one thing."""
        if self.family in ("unix", "fd"):
            yield replace(self, transport="stream")
        elif self.transport == "any":
            yield from (replace(self, transport="stream"), replace(self, transport="datagram"))
        else:
            yield self

    def overlaps(self, other: Address) -> bool:
        """Tell whether the kernel refuses another address because of this one: 0.0.0.0:80 and 127.0.0.1:80."""
        hosts = {self.host, other.host}
        port, its_port = ((each.family, each.transport, each.port) for each in (self, other))
        return port == its_port and not hosts.isdisjoint(_ANY)

    def covers(self, other: Address) -> bool:
        """Tell whether another is a part of this one, to which the kernel prefers it."""
        return self.overlaps(other) and self.host in _ANY and other.host not in _ANY


def parse(text: str) -> tuple[Address, ...]:
    """Return the addresses that a text of ``bind:`` stands for, where the kind of its server does not matter.

    ``:PORT`` and ``localhost:PORT`` are two, IPv4 first; everything else is one.

    Raises:
        ValueError: the text is no address. The message says what is wrong and does not repeat the
            text, which may come from a secret.
    """
    if text.startswith("systemd:"):
        return (_systemd(text.removeprefix("systemd:")),)
    if text.startswith("fd:"):
        return (_fd(text.removeprefix("fd:")),)
    if text.startswith("unix:"):
        return (_unix(text.removeprefix("unix:")),)
    if "://" in text:
        raise ValueError(f"is a URL; expected {ADDRESS_HINT}")
    if text.startswith((f"{_UDP}unix:", f"{_UDP}systemd:", f"{_UDP}fd:")):
        raise ValueError("has udp: before what has no port; leave it out")
    host, colon, port = text.removeprefix(_UDP).rpartition(":")
    if not colon:
        raise ValueError(f"has no port; expected {ADDRESS_HINT}")
    found = (_inet(each, _port(port)) for each in _SEVERAL.get(host, (host,)))
    return tuple(replace(each, transport="datagram") if text.startswith(_UDP) else each for each in found)


def _unix(path: str) -> Address:
    abstract = path.startswith("@")
    path = path[1:] if abstract else path
    if not abstract and not path.startswith("/"):
        raise ValueError("needs an absolute path: unix:/path, or unix:@name for an abstract one")
    if not path.strip("/") or "\0" in path:
        raise ValueError("names no socket; expected unix:/path or unix:@name")
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise ValueError(f"is too long; a unix socket's path has at most {UNIX_PATH_MAX} bytes")
    return Address("unix", path=path if abstract else _canonical_path(path), abstract=abstract)


def _systemd(name: str) -> Address:
    if not name or len(name) > _NAME_MAX or not (name.isascii() and name.isprintable()) or ":" in name:
        raise ValueError("needs a name: systemd:NAME, as FileDescriptorName= of the socket unit says")
    return Address("systemd", path=name)


def _fd(text: str) -> Address:
    if not (text.isascii() and text.isdigit() and len(text) <= _FD_DIGITS and int(text) >= _FD_LEAST):
        raise ValueError(f"needs the number of an open descriptor, {_FD_LEAST} or more: fd:N")
    return Address("fd", port=int(text))


def _canonical_path(path: str) -> str:
    """Drop what changes nothing. ``..`` stays, since it means another place behind a symbolic link."""
    return "/" + "/".join(part for part in path.split("/") if part not in {"", "."})


def _port(text: str) -> int:
    # str.isdigit alone is true of digits of every script.
    if not (text.isascii() and text.isdigit() and len(text) <= _PORT_DIGITS and int(text) <= _PORT_MAX):
        raise ValueError(f"has no valid port; allowed are 0 to {_PORT_MAX}, 0 for any free one")
    return int(text)


def _inet(host: str, port: int) -> Address:
    if host.startswith("[") and host.endswith("]"):
        return Address("inet6", _literal(socket.AF_INET6, host[1:-1]), port)
    if ":" in host:
        raise ValueError("has an IPv6 address without brackets; write [::1]:8080")
    return Address("inet", _literal(socket.AF_INET, host), port)


def _literal(family: socket.AddressFamily, host: str) -> str:
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, host))
    except (OSError, ValueError):
        raise ValueError(_no_literal(family, host)) from None


def _no_literal(family: socket.AddressFamily, host: str) -> str:
    if family == socket.AF_INET6:
        return "has no IPv6 address in its brackets; write one such as [::1]:8080, without a zone"
    if host.replace(".", "").isdigit():
        return "has no valid IPv4 address; write four numbers from 0 to 255"
    return "is a name; write an IP address, localhost, or leave the host out for every interface"

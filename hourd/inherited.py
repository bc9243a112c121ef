"""Sockets that were open when this process began: handed over by the service manager, or by whoever executed it.

    LISTEN_FDS, NAME           a socket unit's, for ``bind: systemd:NAME`` (sd_listen_fds(3))
    LISTEN_FDS, hourd/...      ours: the manager has kept it since the master before us has ended
    any other                  for ``bind: fd:N``

They are collected before anything else is opened: later, a number would mean something of our own.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, MutableMapping

from . import errors
from .addresses import Address, Family, Transport
from .unix import File

_FIRST = 3
_OURS = "hourd/"
_WANTED: dict[Transport, str] = {
    "stream": "listens for connections",
    "datagram": "datagrams come to",
    "any": "clients can come to",
}
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class Inherited:
    """What may be bound to without binding."""

    def __init__(self, sockets: Iterable[tuple[int, socket.socket]] = (), names: Mapping[int, str] = {}) -> None:
        """Take what was open.

        Args:
            sockets: by their numbers.
            names: of those that the service manager has passed.
        """
        self._named: dict[str, list[socket.socket]] = {}
        self._numbered: dict[int, socket.socket] = {}
        self._kept: dict[Address, list[tuple[str, socket.socket]]] = {}
        self._lost: list[str] = []
        """Names of what was kept in vain."""
        for fd, sock in sockets:
            name = names.get(fd, "")
            if name.startswith(_OURS) and not listens(sock):
                sock.close()
                self._lost.append(name)
                continue
            if name.startswith(_OURS):
                self._kept.setdefault(address_of(sock), []).append((name, sock))
                continue
            self._numbered[fd] = sock
            if name:
                self._named.setdefault(name, []).append(sock)

    def save(self) -> list[tuple[int, str]]:
        """Return what there is, for the program that takes our place; what was kept is bound or gone by then."""
        names = {id(sock): name for name, sockets in self._named.items() for sock in sockets}
        return [(fd, names.get(id(sock), "")) for fd, sock in self._numbered.items()]

    def find(self, address: Address) -> list[socket.socket]:
        """Return what ``systemd:NAME`` or ``fd:N`` stands for, as sockets of the caller's own.

        Raises:
            errors.UnavailableError: there is none that clients can come to.
        """
        if address.family == "fd":
            numbered = self._numbered.get(address.port)
            if numbered is None:
                raise errors.UnavailableError(f"{address}: no socket was open at this number when hourd was started")
            found = [numbered]
        else:
            found = self._named.get(address.path, [])
            if not found:
                there = f"these were passed: {', '.join(self._named)}" if self._named else "no socket was passed"
                why = f"{there}; see FileDescriptorName in systemd.socket(5)"
                raise errors.UnavailableError(f"{address}: systemd has passed no socket of this name; {why}")
        # A socket unit may have both under one name: ListenStream=53 and ListenDatagram=53.
        fitting = [sock for sock in found if _fits(sock, address.transport)]
        if not fitting or not all(map(listens, fitting)):
            raise errors.UnavailableError(f"{address}: is no socket that {_WANTED[address.transport]}")
        # Whoever has it too must not find it blocking again: that belongs to all who share it.
        return [_not_blocking(sock.dup()) for sock in fitting]

    def take(self, address: Address) -> tuple[list[socket.socket], File | None]:
        """Return what was kept of an address, the caller's from now on, and the file of a unix socket."""
        kept = self._kept.pop(address, [])
        if address.family != "unix" or address.abstract:
            return [_not_blocking(sock) for _, sock in kept], None
        for name, sock in kept:
            file = _file(address.path, name)
            if file and file.is_there():
                return [_not_blocking(sock)], file
            sock.close()  # nobody can come to it any more
            self._lost.append(name)
        return [], None

    def overlapping(self, address: Address) -> bool:
        """Tell whether something is kept of which an address is a part, or the other way round."""
        return any(address.overlaps(other) for other in self._kept)

    def parts_of(self, address: Address) -> list[Address]:
        """Return which addresses something is kept of that are a part of another."""
        return [other for other in self._kept if address.covers(other)]

    def let_go(self) -> list[str]:
        """Close what was kept and nobody has taken; returns the names."""
        left = [each for kept in self._kept.values() for each in kept]
        self._kept.clear()
        for _, sock in left:
            sock.close()
        lost, self._lost = self._lost, []
        return list(dict.fromkeys([*lost, *(name for name, _ in left)]))

    def close(self) -> None:
        """Close everything."""
        self.let_go()
        for sock in self._numbered.values():
            sock.close()


def resume(saved: Iterable[tuple[int, str]]) -> Inherited:
    """Go on with what was saved: under the same numbers, as their users know them."""
    there = dict(saved)
    return Inherited(((fd, socket.socket(fileno=fd)) for fd in there), there)


def collect(environ: MutableMapping[str, str]) -> Inherited:
    """Return what is open; what names it is taken out of the environment, since it is said once."""
    return Inherited(_sockets(), _names(environ))


def address_of(sock: socket.socket) -> Address:
    """Return the address that a socket is bound to."""
    there = sock.getsockname()
    transport: Transport = "datagram" if sock.type == socket.SOCK_DGRAM else "stream"
    if sock.family == socket.AF_UNIX:
        path = os.fsdecode(there)
        abstract = path.startswith("\0")
        return Address("unix", path=path.removeprefix("\0"), abstract=abstract, transport=transport)
    family: Family = "inet6" if sock.family == socket.AF_INET6 else "inet"
    return Address(family, there[0], there[1], transport=transport)


def name_for(address: Address, file: File | None) -> str:
    """Return the name under which the sockets of an address are kept: it has no colon, and 255 characters at most."""
    if address.family != "unix":
        return _OURS + str(address).replace(":", "_")
    if file is None:
        return f"{_OURS}abstract/{os.fsencode(address.path).hex()}"
    return f"{_OURS}file/{file.inode[0]}-{file.inode[1]}"


def _file(path: str, name: str) -> File | None:
    with contextlib.suppress(ValueError):
        device, inode = name.removeprefix(f"{_OURS}file/").split("-")
        return File(path, (int(device), int(inode)))
    return None


def _names(environ: MutableMapping[str, str]) -> dict[int, str]:
    """Return the names of what the service manager has passed."""
    pid, number, names, _ = (environ.pop(variable, "") for variable in _VARIABLES)
    if pid != str(os.getpid()) or not number.isdecimal():
        return {}
    named = names.split(":") if names else []
    fds = range(_FIRST, _FIRST + int(number))
    return {fd: named[index] if index < len(named) else "unknown" for index, fd in enumerate(fds)}


def _sockets() -> Iterator[tuple[int, socket.socket]]:
    """Yield every open socket that came from outside. Nothing that we execute is to have it by accident."""
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        if fd < _FIRST:
            continue
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            continue  # no socket, or the descriptor of this very listing
        if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            sock.detach()
            continue
        sock.set_inheritable(False)
        yield fd, sock


def listens(sock: socket.socket) -> bool:
    """Tell whether clients can come to a socket. What datagrams come to is bound, and that is all."""
    if sock.type == socket.SOCK_DGRAM:
        name = sock.getsockname()
        return bool(name if sock.family == socket.AF_UNIX else name[1])
    return sock.type == socket.SOCK_STREAM and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _fits(sock: socket.socket, transport: Transport) -> bool:
    types = {"stream": (socket.SOCK_STREAM,), "datagram": (socket.SOCK_DGRAM,)}
    return sock.type in types.get(transport, (socket.SOCK_STREAM, socket.SOCK_DGRAM))


def _not_blocking(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock

"""The sockets of all slots: bound by the master, held for its whole life, lent to workers.

Each slot of an IP address has a socket of its own, and SO_REUSEPORT lets the kernel spread
connections over them (socket(7)). A worker's death loses nothing that waits in its slot, since the
socket stays open here.

How an address is taken. A probe before binding would leave a gap in which two daemons join one
reuseport group silently. So the first socket is bound and listened on alone, which the kernel
grants to one process only, and is opened to its siblings afterwards:

    bind (without SO_REUSEPORT) -> listen -> set SO_REUSEPORT -> siblings bind with it

A unix socket cannot be split: it is one, shared by all workers.
"""

from __future__ import annotations

import errno
import grp
import logging
import pwd
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import addresses, errors, unix
from .addresses import Address
from .settings import Pool, Server, Settings

_logger = logging.getLogger("hourd")
Key = tuple[str, ...]


@dataclass(slots=True)
class Bound:
    """An address and its sockets, one a slot; a unix socket has one for all."""

    address: Address
    sockets: list[socket.socket]
    file: unix.File | None = None

    @property
    def shared(self) -> bool:
        return self.address.family == "unix"

    def close(self) -> None:
        if self.file:
            self.file.unlink()
        for sock in self.sockets:
            sock.close()


@dataclass(slots=True)
class Lent:
    """A socket for a worker."""

    server: str
    backlog: int
    socket: socket.socket = field(repr=False)


class Listeners:
    """Every bound address of the daemon."""

    def __init__(self) -> None:
        self._bound: dict[Key, Bound] = {}

    def prepare(self, settings: Settings) -> None:
        """Take every address of a configuration that is not held yet.

        Raises:
            errors.HourdError: one cannot be taken; then none was.
        """
        new: dict[Key, Bound] = {}
        try:
            for key, name, server, address in _places(settings):
                if key not in self._bound and key not in new and (bound := _take(name, server, address)):
                    new[key] = bound
        except errors.HourdError:
            for bound in new.values():
                bound.close()
            raise
        self._bound.update(new)
        for key, name, _, _ in _places(settings):
            if key in new:
                _logger.info("server %s listens at %s", name, new[key].address)
        _warn_of_backlog(settings)

    def lend(self, settings: Settings, pool: str, slot: int, *, own: bool) -> Iterator[Lent]:
        """Yield the sockets of a slot; what the slot does not have yet is bound.

        Args:
            settings: of the worker's generation.
            pool: its name.
            slot: its number.
            own: whether the worker has this seat; shared sockets come with it.
        """
        for key, name, server, _ in _places(settings, pool):
            bound = self._bound.get(key)
            if bound is None:
                continue
            if bound.shared:
                if own:
                    yield Lent(name, server.backlog, bound.sockets[0])
                continue
            while len(bound.sockets) <= slot:
                bound.sockets.append(_sibling(bound, server.backlog))
            yield Lent(name, server.backlog, bound.sockets[slot])

    def slots(self, settings: Settings, pool: str) -> int:
        """Return how many slots the addresses of a pool have already."""
        held = (self._bound.get(key) for key, *_ in _places(settings, pool))
        return max((len(bound.sockets) for bound in held if bound and not bound.shared), default=0)

    def keep(self, *wanted: Settings) -> None:
        """Close what none of these configurations has."""
        keys = {key for settings in wanted for key, *_ in _places(settings)}
        for key in set(self._bound) - keys:
            self._bound.pop(key).close()

    def grant(self, settings: Settings) -> None:
        """Let the unix sockets have the mode and owner of a configuration."""
        for key, name, server, address in _places(settings):
            bound = self._bound.get(key)
            if bound and bound.file:
                try:
                    bound.file.set_access(**_access(server))
                except (OSError, errors.HourdError) as error:
                    _logger.warning("server %s: cannot change mode and owner of %s: %s", name, address, error)

    def close(self) -> None:
        self.keep()

    def actual(self, settings: Settings, pool: str) -> dict[str, list[str]]:
        """Return, for each server, the addresses that it really has (port 0 has become one)."""
        result: dict[str, list[str]] = {name: [] for name in settings.pools[pool].servers}
        for key, name, *_ in _places(settings, pool):
            if bound := self._bound.get(key):
                result[name].append(str(bound.address))
        return result


def _places(settings: Settings, only: str | None = None) -> Iterator[tuple[Key, str, Server, Address]]:
    """Yield each address with what it is known by, its server's name and settings."""
    for pool_name, pool in settings.pools.items():
        if only not in (None, pool_name):
            continue
        for name, server, address in _addresses(pool):
            # Port 0 stands for another port at each place.
            yield ((str(address),) if address.unique else (pool_name, name, str(address))), name, server, address


def _addresses(pool: Pool) -> Iterator[tuple[str, Server, Address]]:
    for name, server in pool.servers.items():
        for text in server.bind:
            for address in addresses.parse(text):
                yield name, server, address


def _take(name: str, server: Server, address: Address) -> Bound | None:
    """Bind an address, or return nothing where a machine without IPv6 is asked for every interface."""
    try:
        if address.family == "unix":
            return _take_unix(server, address)
        return _take_inet(server, address)
    except OSError as error:
        no_ipv6 = address.family == "inet6" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
        if no_ipv6 and _is_half(server, address):
            _logger.info("server %s: this machine has no IPv6, %s is left out", name, address)
            return None
        raise errors.from_os(error, f"bind {address} for server {name}") from None


def _is_half(server: Server, address: Address) -> bool:
    """Tell whether an address came from ``:PORT`` or ``localhost:PORT``, which stand for two."""
    return any(len(both) > 1 and address in both for both in map(addresses.parse, server.bind))


def _take_inet(server: Server, address: Address) -> Bound:
    sock = _socket(address)
    try:
        sock.bind((address.host, address.port))
        sock.listen(server.backlog)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        sock.close()
        raise
    port = sock.getsockname()[1]
    return Bound(Address(address.family, address.host, port), [sock])


def _sibling(bound: Bound, backlog: int) -> socket.socket:
    sock = _socket(bound.address)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((bound.address.host, bound.address.port))
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _socket(address: Address) -> socket.socket:
    family = socket.AF_INET6 if address.family == "inet6" else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # Connections of an earlier daemon that are in TIME_WAIT do not hold the address (socket(7)).
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # 0.0.0.0 and [::] are two addresses and can both be bound.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _take_unix(server: Server, address: Address) -> Bound:
    if address.abstract:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind("\0" + address.path)
            sock.listen(server.backlog)
        except OSError:
            sock.close()
            raise
        return Bound(address, [sock])
    sock, file = unix.listen(address.path, backlog=server.backlog, **_access(server))
    return Bound(address, [sock], file)


def _access(server: Server) -> dict[str, int]:
    """Return who may connect, as numbers; -1 leaves the owner or the group."""
    access = server.unix
    return {
        "mode": access.mode,
        "uid": pwd.getpwnam(access.owner).pw_uid if access.owner else -1,
        "gid": grp.getgrnam(access.group).gr_gid if access.group else -1,
    }


def _warn_of_backlog(settings: Settings) -> None:
    """Say so when the kernel will cut a backlog silently (listen(2))."""
    try:
        with open("/proc/sys/net/core/somaxconn", encoding="ascii") as file:
            limit = int(file.read())
    except (OSError, ValueError):
        return
    for pool in settings.pools.values():
        for name, server in pool.servers.items():
            if server.backlog > limit:
                _logger.warning("server %s: backlog %d is cut to %d by net.core.somaxconn", name, server.backlog, limit)

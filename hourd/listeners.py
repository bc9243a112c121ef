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

from . import accept_queue, addresses, errors, unix
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
    given_up: set[int] = field(default_factory=set)
    """Slots that nobody attends, and where nobody new may come."""

    @property
    def shared(self) -> bool:
        return self.address.family == "unix"

    def overlaps(self, other: Address) -> bool:
        """Tell whether the kernel refuses another address because of this one: 0.0.0.0:80 and 127.0.0.1:80."""
        here = self.address
        hosts = {here.host, other.host}
        return (here.family, here.port) == (other.family, other.port) and bool(hosts & {"0.0.0.0", "::"})

    def give_up(self, slot: int) -> None:
        accept_queue.shut(self.sockets[slot])
        self.given_up.add(slot)

    def reopen(self, slot: int) -> None:
        if slot in self.given_up:
            accept_queue.open_again(self.sockets[slot])
            self.given_up.remove(slot)

    def close(self) -> None:
        """Let go of it. Nobody new may come; who waits is served by the workers that have the sockets too."""
        if self.file:
            self.file.unlink()
        for sock in self.sockets:
            if not self.shared:
                accept_queue.shut(sock)
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
            for key, name, server, address in places(settings):
                if key in self._bound or key in new:
                    continue
                beside = any(bound.overlaps(address) for bound in self._bound.values())
                if bound := _take(name, server, address, beside=beside):
                    new[key] = bound
        except errors.HourdError:
            for bound in new.values():
                bound.close()
            raise
        self._bound.update(new)
        for key, name, _, _ in places(settings):
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
        for key, name, server, _ in places(settings, pool):
            bound = self._bound.get(key)
            if bound is None:
                continue
            if bound.shared:
                if own:
                    yield Lent(name, server.backlog, bound.sockets[0])
                continue
            while len(bound.sockets) <= slot:
                bound.sockets.append(_sibling(bound.address, server.backlog))
            bound.reopen(slot)
            yield Lent(name, server.backlog, bound.sockets[slot])

    def give_up(self, key: Key, slot: int | None) -> None:
        """Let nobody new come to a socket that nobody attends; a shared one can only be closed."""
        bound = self._bound.get(key)
        if bound and slot is not None:
            bound.give_up(slot)

    def reopen(self, settings: Settings) -> None:
        """Let everybody come to the addresses of a configuration: it is wanted after all."""
        for key, *_ in places(settings):
            if bound := self._bound.get(key):
                for slot in tuple(bound.given_up):
                    bound.reopen(slot)

    def waiting(self, settings: Settings, pool: str, slot: int) -> int:
        """Return how many connections wait in a slot's queues; a shared queue is nobody's."""
        held = (self._bound.get(key) for key, *_ in places(settings, pool))
        sockets = (bound.sockets[slot] for bound in held if bound and not bound.shared and slot < len(bound.sockets))
        return sum(map(accept_queue.length, sockets))

    def slots(self, settings: Settings, pool: str) -> int:
        """Return how many slots the addresses of a pool have already."""
        held = (self._bound.get(key) for key, *_ in places(settings, pool))
        return max((len(bound.sockets) for bound in held if bound and not bound.shared), default=0)

    def keep(self, *wanted: Settings) -> None:
        """Close what none of these configurations has."""
        keys = {key for settings in wanted for key, *_ in places(settings)}
        for key in set(self._bound) - keys:
            self._bound.pop(key).close()

    def grant(self, settings: Settings) -> None:
        """Let the unix sockets have the mode and owner of a configuration."""
        for key, name, server, address in places(settings):
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
        for key, name, *_ in places(settings, pool):
            if bound := self._bound.get(key):
                result[name].append(str(bound.address))
        return result


def places(settings: Settings, only: str | None = None) -> Iterator[tuple[Key, str, Server, Address]]:
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


def _take(name: str, server: Server, address: Address, *, beside: bool) -> Bound | None:
    """Bind an address, or return nothing where a machine without IPv6 is asked for every interface.

    Args:
        name: of the server.
        server: its settings.
        address: one of its addresses.
        beside: whether an address of ours is a part of it, or it of one of ours.
    """
    try:
        if address.family == "unix":
            return _take_unix(server, address)
        # Alone it would be refused, because of our own. Sharing it, only this user's processes can have it too.
        return Bound(address, [_sibling(address, server.backlog)]) if beside else _take_inet(server, address)
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


def _sibling(address: Address, backlog: int) -> socket.socket:
    sock = _socket(address)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address.host, address.port))
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

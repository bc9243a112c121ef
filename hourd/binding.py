"""Taking an address, keeping others out of it again, and letting go of it.

How an address is taken. A probe before binding would leave a gap in which two daemons join one
reuseport group silently. So the first socket is bound and listened on alone, which the kernel
grants to one process only, and is opened to its siblings afterwards:

    bind (without SO_REUSEPORT) -> listen -> set SO_REUSEPORT -> siblings bind with it

UDP has no listen(2): what is bound is in the group at once, and gets its share of the datagrams, be there anybody
to read them or not. So a slot's UDP socket is opened with the others and bound when its slot is attended for the
first time, as a TCP one listens then. What does not work: to bind them all and have a program choose among those
that are attended (SO_ATTACH_REUSEPORT_CBPF). It would keep more flows where they are when a slot is added, and cost
all of them a program that is replaced while they come, and that nobody can read back after a restart. And never
SO_REUSEADDR: for UDP that would let another process have the same address, and all of its datagrams.

How it is let go. Nobody new may come (``retire``), but who has its sockets serves what waits, and may
be late: its loop is blocked. To have closed them here would mean that the address could not be wanted
again until then, since it would be taken, by sockets that nobody can open any more. So they are held
until every holder has ended, or has shown by its beats that it had the time to close them.
"""

from __future__ import annotations

import errno
import grp
import logging
import os
import pwd
import socket
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from . import accept_queue, errors, inherited, kinds, scoreboard, state, unix
from .addresses import Address
from .settings import Server

Key = tuple[str, ...]
_logger = logging.getLogger("hourd")
_DEVICE = 16
"""Bytes of the name of a network device (IFNAMSIZ)."""
_LETTING_GO = 1.5
"""Seconds of a turning loop in which a worker has surely closed what it was told to (``attendance``: one)."""


class Holder(Hashable, Protocol):
    """A worker that was lent a socket."""

    @property
    def id(self) -> int: ...

    @property
    def end(self) -> object | None:
        """Nothing, once it has ended."""

    def read_board(self) -> scoreboard.Record: ...


class _Leaving:
    """Watches for a worker to have closed what it was told to close."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._before = holder.read_board().beat if holder.end else 0.0
        self._turned = 0.0
        """The first beat seen since: what the worker was told, it knows by then."""

    def has_left(self) -> bool:
        if self._holder.end is None:
            return True
        beat = self._holder.read_board().beat
        if not self._turned and beat > self._before:
            self._turned = beat
        return 0 < self._turned < beat - _LETTING_GO


@dataclass(slots=True, eq=False)
class Bound:
    """An address and its sockets: one a slot, or one shared by all, where it cannot be split. Closed, it has none."""

    address: Address
    sockets: list[socket.socket]
    file: unix.File | None = None
    key: Key = ()
    """What it is known by."""
    shared: bool = False
    """It cannot be split: a unix socket, or an inherited one whose group nobody else may join."""
    inherited: bool = False
    """Its first socket is somebody else's, who goes on with it: nothing may change it."""
    restored: bool = False
    """It comes from an earlier life: the service manager has kept it."""
    resting: set[int] = field(default_factory=set)
    """Slots whose sockets the service manager has too."""
    given_up: set[int] = field(default_factory=set)
    """Slots that nobody attends, and where nobody new may come."""
    lent: set[Holder] = field(default_factory=set)
    leaving: list[_Leaving] | None = None
    """Who may have sockets still of what is not wanted any more."""

    @property
    def in_place(self) -> bool:
        """Whether clients find it: the file of a unix socket may have been removed or replaced."""
        return self.file is None or self.file.is_there()

    def socket_of(self, slot: int, backlog: int, holder: Holder | None) -> socket.socket:
        """Return a slot's socket, for a worker that is to attend it; it is bound if it is not yet.

        Raises:
            OSError: the system refused.
        """
        self.lent = {other for other in self.lent if other.end}
        if holder:
            self.lent.add(holder)
        if self.shared:
            return self.sockets[0]
        while len(self.sockets) <= slot:
            self.sockets.append(self.sibling())
        if not self.listens(slot):
            _let_in(self.sockets[slot], self.address, backlog)
        self.reopen(slot)
        return self.sockets[slot]

    def sibling(self) -> socket.socket:
        """Open a socket for one slot more. It listens, and has clients, when the slot is first attended.

        Raises:
            OSError: the system refused.
        """
        return _sibling(self.address, self.sockets[0])

    def trim(self, slots: int) -> None:
        """Close what was opened for further slots than these, and has never listened."""
        while len(self.sockets) > max(slots, 1) and not (self.shared or self.listens(len(self.sockets) - 1)):
            self.sockets.pop().close()

    def listens(self, slot: int) -> bool:
        return inherited.listens(self.sockets[slot])

    def goes_on(self, slot: int | None) -> bool:
        """Tell whether somebody else has a slot's socket too, and what waits there with it."""
        return self.inherited and not slot

    def give_up(self, slot: int) -> None:
        """Let nobody new come to a slot; nothing keeps clients out of a socket that is shared."""
        if slot < len(self.sockets) and not (self.shared or self.goes_on(slot)):
            accept_queue.shut(self.sockets[slot])
            self.given_up.add(slot)

    def reopen(self, slot: int) -> None:
        if slot in self.given_up:
            accept_queue.open_again(self.sockets[slot])
            self.given_up.remove(slot)

    def retire(self) -> None:
        """Let nobody new come; who waits is served by the workers that have the sockets too."""
        for slot in range(len(self.sockets)):
            self.give_up(slot)
        self.leaving = [_Leaving(holder) for holder in self.lent]
        if self.shared:
            self.close()

    def is_held(self) -> bool:
        """Tell whether a worker may have sockets of it still, now that it is not wanted any more."""
        self.leaving = [each for each in self.leaving or () if not each.has_left()]
        return bool(self.leaving and self.sockets)

    def save(self) -> state.Bound:
        return state.Bound(
            address=self.address, key=self.key, sockets=[sock.fileno() for sock in self.sockets], file=self.file,
            shared=self.shared, inherited=self.inherited, given_up=sorted(self.given_up), resting=sorted(self.resting),
            lent=[holder.id for holder in self.lent if holder.end], leaving=self.leaving is not None,
        )  # fmt: skip

    def close(self, *, resting: bool = False) -> None:
        """Let go of it, for good; or for the next start, when the service manager has its sockets too."""
        if self.file and not resting:
            self.file.unlink()
        for slot, sock in enumerate(self.sockets):
            if not resting:
                self.give_up(slot)
            sock.close()
        self.sockets.clear()


def inherit(sock: socket.socket, kept: list[socket.socket]) -> Bound:
    """Take a socket that somebody else has bound, with those of its group that were kept from an earlier life.

    It becomes the first slot's where this user's sockets may join its group: it has SO_REUSEPORT, and its maker is
    this user (socket(7)).
    """
    address = inherited.address_of(sock)
    group = [sock, *kept]
    shared = address.family == "unix" or _has_device(sock)
    if not shared and not kept and address.transport == "datagram":
        shared = not _may_be_joined(sock)
    elif not shared and not kept:
        try:
            group.append(_sibling(address, sock))
        except OSError:
            shared = True
    return Bound(address, group, shared=shared, inherited=True)


def _may_be_joined(sock: socket.socket) -> bool:
    """Tell whether this user's sockets may join the group of a UDP one. To try it would take datagrams from it."""
    ours = os.fstat(sock.fileno()).st_uid == os.geteuid()
    return ours and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def _has_device(sock: socket.socket) -> bool:
    """Tell whether only what comes through one network device is for a socket."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _DEVICE).strip(b"\0"))


def restore(address: Address, kept: list[socket.socket], file: unix.File | None) -> Bound:
    """Go on with what the service manager has kept. Whoever had it may have shut it."""
    bound = Bound(address, kept, file, shared=address.family == "unix", restored=True)
    if not bound.shared:
        bound.given_up = set(range(len(kept)))
    return bound


def resume(saved: state.Bound, holders: Mapping[int, Holder]) -> Bound:
    """Go on with what was saved."""
    bound = Bound(
        saved.address,
        [_not_blocking(fd) for fd in saved.sockets],
        saved.file,
        saved.key,
        shared=saved.shared,
        inherited=saved.inherited,
        resting=set(saved.resting),
        given_up=set(saved.given_up),
        lent={holders[each] for each in saved.lent if each in holders},
    )
    if saved.leaving:
        bound.leaving = [_Leaving(holder) for holder in bound.lent]
    return bound


def _not_blocking(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock


def take(name: str, server: Server, address: Address, *, beside: bool) -> Bound | None:
    """Bind an address, or return nothing where a machine without IPv6 is asked for every interface.

    Args:
        name: of the server.
        server: its settings.
        address: one of its addresses.
        beside: whether an address of ours is a part of it, or it of one of ours.

    Raises:
        errors.HourdError: it cannot be taken.
    """
    try:
        if address.family == "unix":
            return _take_unix(server, address)
        # Alone it would be refused, because of our own. Sharing it, only this user's processes can have it too.
        bound = _take_beside(server, address) if beside else _take_inet(server, address)
    except OSError as error:
        no_ipv6 = address.family == "inet6" and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
        if no_ipv6 and _is_half(server, address):
            _logger.info("server %s: this machine has no IPv6, %s is left out", name, address)
            return None
        raise errors.from_os(error, f"bind {address} for server {name}") from None
    if address.transport == "datagram":
        _make_room(name, server, bound)
    return bound


def _is_half(server: Server, address: Address) -> bool:
    """Tell whether an address came from ``:PORT`` or ``localhost:PORT``, which stand for two."""
    return any(len(both) > 1 and address in both for both in (kinds.addresses(server.kind, it) for it in server.bind))


def _take_inet(server: Server, address: Address) -> Bound:
    sock = _socket(address)
    try:
        sock.bind((address.host, address.port))
        if address.transport == "stream":
            sock.listen(server.backlog)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        sock.close()
        raise
    return Bound(replace(address, port=sock.getsockname()[1]), [sock])


def _take_beside(server: Server, address: Address) -> Bound:
    sock = _sibling(address)
    try:
        _let_in(sock, address, server.backlog)
    except OSError:
        sock.close()
        raise
    return Bound(address, [sock])


def _sibling(address: Address, first: socket.socket | None = None) -> socket.socket:
    sock = _socket(address)
    try:
        if first and address.family == "inet6":
            # Otherwise the kernel would not have them in one group; only an inherited one differs from ours.
            v6_only = first.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6_only)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.transport == "stream":
            sock.bind((address.host, address.port))
    except OSError:
        sock.close()
        raise
    return sock


def _let_in(sock: socket.socket, address: Address, backlog: int) -> None:
    """Let clients come to a socket that is one of a group."""
    if address.transport == "stream":
        sock.listen(backlog)
    else:
        accept_queue.make_room(sock, backlog)
        sock.bind((address.host, address.port))


def _make_room(name: str, server: Server, bound: Bound) -> None:
    room = accept_queue.make_room(bound.sockets[0], server.backlog)
    if room < server.backlog:
        which = f"server {name}: about {room} datagrams, not {server.backlog}, can wait in each slot of {bound.address}"
        _logger.info("%s; net.core.rmem_max is the limit", which)


def _type(address: Address) -> int:
    sort = socket.SOCK_DGRAM if address.transport == "datagram" else socket.SOCK_STREAM
    return sort | socket.SOCK_NONBLOCK


def _socket(address: Address) -> socket.socket:
    family = socket.AF_INET6 if address.family == "inet6" else socket.AF_INET
    sock = socket.socket(family, _type(address))
    if address.transport == "stream":
        # Connections of an earlier daemon that are in TIME_WAIT do not hold the address (socket(7)).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # 0.0.0.0 and [::] are two addresses and can both be bound.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _take_unix(server: Server, address: Address) -> Bound:
    streams = address.transport == "stream"
    if not address.abstract:
        sock, file = unix.listen(address.path, backlog=server.backlog if streams else None, **access(server))
        return Bound(address, [sock], file, shared=True)
    sock = socket.socket(socket.AF_UNIX, _type(address))
    try:
        sock.bind("\0" + address.path)
        if streams:
            sock.listen(server.backlog)
    except OSError:
        sock.close()
        raise
    return Bound(address, [sock], shared=True)


def access(server: Server) -> dict[str, int]:
    """Return who may connect to a server's unix sockets, as numbers; -1 leaves the owner or the group."""
    unix_socket = server.unix
    return {
        "mode": unix_socket.mode,
        "uid": pwd.getpwnam(unix_socket.owner).pw_uid if unix_socket.owner else -1,
        "gid": grp.getgrnam(unix_socket.group).gr_gid if unix_socket.group else -1,
    }

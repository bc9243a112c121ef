"""The sockets of all slots: bound by the master, held for its whole life, lent to workers.

Each slot of an IP address has a socket of its own, and SO_REUSEPORT lets the kernel spread
connections and datagrams over them (socket(7)). A worker's death loses nothing that waits in its slot, since the
socket stays open here. A unix socket cannot be split: it is one, shared by all workers.

Which sockets a configuration has is decided once, when it is prepared. Two configurations mostly have the
same; not so where the file of a unix socket is gone, which the older one serves to its end and the newer
one has anew. And one that has 0.0.0.0:80 takes over an older 127.0.0.1:80: the kernel prefers that one, so
that keeping clients out of it would make them wait.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from . import accept_queue, binding, descriptors, errors, inherited, kinds, state
from .addresses import Address
from .binding import Bound, Holder
from .inherited import Inherited
from .settings import WORKERS_MAX, Pool, Server, Settings
from .systemd import Manager

Key = binding.Key
Rests = Literal["nothing", "restored", "all"]
_logger = logging.getLogger("hourd")


@dataclass(frozen=True, slots=True)
class Place:
    """A server's share in what is bound."""

    pool: str
    name: str
    server: Server
    bound: Bound
    configured: bool = True
    """Otherwise it is a part of what is."""


@dataclass(slots=True)
class Lent:
    """A socket for a worker."""

    server: str
    backlog: int
    socket: socket.socket = field(repr=False)


class Listeners:
    """Every bound address of the daemon."""

    def __init__(self, manager: Manager, handed: Inherited) -> None:
        """Take who keeps sockets beyond our death, and what was open when this process began."""
        self._manager = manager
        self._inherited = handed
        self._bound: list[Bound] = []
        self._places: list[tuple[Settings, list[Place]]] = []
        """Those of each configuration."""
        self._reserved: dict[tuple[int, Bound], tuple[Settings, int]] = {}
        """How many slots a configuration may come to want."""

    def prepare(self, settings: Settings) -> None:
        """Take every address of a configuration that is not held yet.

        Raises:
            errors.HourdError: one cannot be taken; then none was.
        """
        new: list[Bound] = []
        try:
            found = list(self._take(settings, new))
            new += self._take_parts(found)
        except errors.HourdError:
            for bound in new:
                bound.close()
            raise
        named = {place.bound for place in found}
        held = [*self._bound, *new]
        parts = [(wide, bound) for wide in found for bound in held if wide.bound.address.covers(bound.address)]
        found += [Place(wide.pool, wide.name, wide.server, part, False) for wide, part in parts if part not in named]
        for place in found:
            if place.bound in new or place.bound.leaving is not None:
                _logger.info("server %s listens at %s", place.name, place.bound.address)
            place.bound.leaving = None
        self._bound += new
        for bound in new:
            for slot in range(len(bound.sockets)):
                self._rest(bound, slot)
        self._places = [(other, theirs) for other, theirs in self._places if other is not settings]
        self._places.append((settings, found))
        _warn_of_backlog(settings)

    def _take(self, settings: Settings, new: list[Bound]) -> Iterator[Place]:
        """Yield the places of a configuration; what has to be bound is added to the new ones."""
        for key, pool, name, server, address in places(settings):
            held = [*self._bound, *new]
            found = [bound for bound in held if bound.key == key and bound.in_place]
            if not found:
                found = self._open_address(name, server, address, held)
                for bound in found:
                    bound.key = key
                new += found
            for bound in found:
                yield Place(pool, name, server, bound)

    def _take_parts(self, found: list[Place]) -> Iterator[Bound]:
        """Yield what was kept from an earlier life that is a part of a wider address now."""
        for wide in found:
            for address in self._inherited.parts_of(wide.bound.address):
                bound = binding.restore(address, *self._inherited.take(address))
                bound.key = _key(address)
                yield bound

    def _open_address(self, name: str, server: Server, address: Address, held: list[Bound]) -> list[Bound]:
        """Return what an address stands for: what was handed over, or kept from an earlier life, or is bound now."""
        if address.inherited:
            return [self._inherit(sock) for sock in self._inherited.find(address)]
        kept, file = self._inherited.take(address)
        if kept:
            return [binding.restore(address, kept, file)]
        beside = any(bound.address.overlaps(address) for bound in held) or self._inherited.overlapping(address)
        bound = binding.take(name, server, address, beside=beside)
        return [bound] if bound else []

    def _inherit(self, sock: socket.socket) -> Bound:
        return binding.inherit(sock, self._inherited.take(inherited.address_of(sock))[0])

    def _rest(self, bound: Bound, slot: int) -> None:
        """Have the service manager keep a slot's socket too, once it has clients; an inherited one it has already."""
        slot = 0 if bound.shared else slot
        if slot in bound.resting or bound.goes_on(slot) or not bound.listens(slot):
            return
        bound.resting.add(slot)
        self._manager.keep(inherited.name_for(bound.address, bound.file), bound.sockets[slot])

    def _close(self, bound: Bound) -> None:
        if bound.resting:
            name = inherited.name_for(bound.address, bound.file)
            self._manager.forget(name)
            for other in self._bound:
                # systemd:NAME and the address behind it are two here, and one by name.
                if other is not bound and other.resting and inherited.name_for(other.address, other.file) == name:
                    for slot in other.resting:
                        self._manager.keep(name, other.sockets[slot])
        bound.close()

    def save(self, generations: Mapping[int, Settings]) -> tuple[list[state.Bound], list[state.Place]]:
        """Return everything, for the program that takes our place."""
        saved = [
            state.Place(
                generation=generation, pool=place.pool, server=place.name, bound=self._bound.index(place.bound),
                configured=place.configured,
            )
            for generation, settings in generations.items()
            for place in self._open(settings)
        ]  # fmt: skip
        return [bound.save() for bound in self._bound], saved

    def restore(self, saved: state.State, holders: Mapping[int, Holder]) -> None:
        """Go on with what the program had whose place we have taken."""
        self._bound = [binding.resume(bound, holders) for bound in saved.bound]
        for generation, settings in saved.settings.items():
            found = [
                Place(place.pool, place.server, settings.pools[place.pool].servers[place.server],
                      self._bound[place.bound], place.configured)
                for place in saved.places if place.generation == generation
            ]  # fmt: skip
            self._places.append((settings, found))
            for bound in {place.bound for place in found if not place.bound.shared}:
                self._reserved[id(settings), bound] = settings, len(bound.sockets)

    def of(self, settings: Settings, pool: str | None = None) -> list[Place]:
        """Return what a configuration has, or a pool of it; what has been closed meanwhile stays among it."""
        found = next((theirs for other, theirs in self._places if other is settings), ())
        return [place for place in found if pool in (None, place.pool)]

    def _open(self, settings: Settings, pool: str | None = None) -> list[Place]:
        return [place for place in self.of(settings, pool) if place.bound.sockets]

    def lend(
        self, settings: Settings, pool: str, slot: int, *, own: bool, holder: Holder | None = None
    ) -> Iterator[Lent]:
        """Yield the sockets of a slot; what the slot does not have yet is bound.

        Args:
            settings: of the worker's generation.
            pool: its name.
            slot: its number.
            own: whether the worker has this seat; shared sockets come with it.
            holder: the worker.
        """
        for place in self._open(settings, pool):
            if own or not place.bound.shared:
                backlog = place.server.backlog
                sock = place.bound.socket_of(slot, backlog, holder)
                self._rest(place.bound, slot)
                yield Lent(place.name, backlog, sock)

    def reserve(self, configurations: Sequence[Settings], pool: str, slots: int, workers: int) -> None:
        """Bind what slots do not have yet, all or nothing, before anybody counts on them.

        What is bound and does not listen yet has no clients, so that it can be closed again.

        Args:
            configurations: that are to have the slots.
            pool: its name.
            slots: how many.
            workers: how many will come: they take descriptors too.

        Raises:
            errors.SystemRefusedError: they cannot be had.
        """
        held = dict.fromkeys(bound for settings in configurations for bound in self._split(settings, pool))
        missing = [bound for bound in held for _ in range(len(bound.sockets), slots)]
        new: list[socket.socket] = []
        try:
            if missing:
                descriptors.require(len(missing) + workers * descriptors.PER_WORKER)
            new += (bound.sibling() for bound in missing)
        except OSError as error:
            for sock in new:
                sock.close()
            what = f"have {slots} workers in pool {pool}"
            raise errors.SystemRefusedError(f"{errors.from_os(error, what)}; {descriptors.ADVICE}") from None
        for bound, sock in zip(missing, new, strict=True):
            bound.sockets.append(sock)
        for settings in configurations:
            for bound in self._split(settings, pool):
                _, before = self._reserved.get((id(settings), bound), (settings, 0))
                self._reserved[id(settings), bound] = settings, max(before, slots)

    def reserved(self, settings: Settings, pool: str) -> int:
        """Return how many slots of a pool are bound; what cannot be split is enough for any number."""
        return min((len(bound.sockets) for bound in self._split(settings, pool)), default=WORKERS_MAX)

    def room(self, settings: Settings, pool: str, workers: int) -> int:
        """Return how many slots can be had at most, if so many workers come besides."""
        left = max(0, descriptors.room() - workers * descriptors.PER_WORKER)
        each = len(self._split(settings, pool)) + descriptors.PER_WORKER
        return self.reserved(settings, pool) + left // each

    def _split(self, settings: Settings, pool: str) -> list[Bound]:
        """Return what has a socket for each slot."""
        found = (place.bound for place in self._open(settings, pool))
        return [bound for bound in found if not bound.shared and bound.leaving is None]

    def reopen(self, settings: Settings) -> None:
        """Let everybody come to the addresses of a configuration: it is wanted after all."""
        for place in self._open(settings):
            for slot in tuple(place.bound.given_up):
                place.bound.reopen(slot)

    def waiting(self, settings: Settings, pool: str, slot: int) -> int:
        """Return how many connections wait in a slot's queues; a shared queue is nobody's."""
        held = [place.bound for place in self._open(settings, pool) if not place.bound.shared]
        return sum(accept_queue.length(bound.sockets[slot]) for bound in held if slot < len(bound.sockets))

    def slots(self, settings: Settings, pool: str) -> int:
        """Return how many slots of a pool clients come to already."""
        held = [place.bound for place in self._open(settings, pool) if not place.bound.shared]
        ends = (slot + 1 for bound in held for slot in range(len(bound.sockets)) if bound.listens(slot))
        return max(ends, default=0)

    def keep(self, *wanted: Settings) -> None:
        """Give up what none of these configurations has."""
        self._places = [(other, theirs) for other, theirs in self._places if any(other is each for each in wanted)]
        kept = {place.bound for _, theirs in self._places for place in theirs}
        for bound in self._bound:
            if bound not in kept and bound.leaving is None:
                bound.retire()
        self._reserved = {
            key: each for key, each in self._reserved.items() if any(each[0] is other for other in wanted)
        }
        for bound in kept:
            bound.trim(max((slots for (_, other), (_, slots) in self._reserved.items() if other is bound), default=0))
        self.let_go()

    def let_go(self) -> None:
        """Close what was given up and no worker has any more."""
        for bound in tuple(self._bound):
            if bound.leaving is not None and not bound.is_held():
                self._close(bound)
                self._bound.remove(bound)

    def grant(self, settings: Settings) -> None:
        """Let the unix sockets have the mode and owner of a configuration."""
        for place in self._open(settings):
            if place.bound.file:
                try:
                    place.bound.file.set_access(**binding.access(place.server))
                except (OSError, errors.HourdError) as error:
                    what = f"server {place.name}: cannot change mode and owner of {place.bound.address}"
                    _logger.warning("%s: %s", what, error)

    def settle(self) -> None:
        """Let go of what was kept from an earlier life and is not wanted any more."""
        for name in self._inherited.let_go():
            self._manager.forget(name)

    def close(self, *, rests: Rests = "nothing") -> None:
        """Close everything. Places stay known: workers are told only then what nobody has any more.

        Args:
            rests: what the service manager is to go on with: all it keeps, or what it has kept from an earlier life.
        """
        for bound in self._bound:
            if rests == "all" or (rests == "restored" and bound.restored):
                bound.close(resting=True)
            else:
                self._close(bound)
        self._bound.clear()

    def actual(self, settings: Settings, pool: str) -> dict[str, list[str]]:
        """Return, for each server, the addresses that it really has (port 0 has become one)."""
        result: dict[str, list[str]] = {name: [] for name in settings.pools[pool].servers}
        for place in self._open(settings, pool):
            if place.configured:
                result[place.name].append(str(place.bound.address))
        return result


def places(settings: Settings, only: str | None = None) -> Iterator[tuple[Key, str, str, Server, Address]]:
    """Yield each address with what it is known by, its pool's and server's names, and the server's settings."""
    for pool_name, pool in settings.pools.items():
        if only not in (None, pool_name):
            continue
        for name, server, address in _addresses(pool):
            # Port 0 stands for another port at each place.
            key = _key(address) if address.unique else (pool_name, name, str(address))
            yield key, pool_name, name, server, address


def _key(address: Address) -> Key:
    # A name of systemd's may stand for both, and a path for the one after the other.
    return (str(address),) if address.transport == "stream" else (str(address), address.transport)


def _addresses(pool: Pool) -> Iterator[tuple[str, Server, Address]]:
    for name, server in pool.servers.items():
        for text in server.bind:
            for address in kinds.addresses(server.kind, text):
                yield name, server, address


def _warn_of_backlog(settings: Settings) -> None:
    """Say so when the kernel will cut a backlog silently (listen(2))."""
    try:
        with open("/proc/sys/net/core/somaxconn", encoding="ascii") as file:
            limit = int(file.read())
    except (OSError, ValueError):
        return
    for pool in settings.pools.values():
        cut = {
            name: server.backlog
            for name, server, address in _addresses(pool)
            if server.backlog > limit and address.transport == "stream"
        }
        for name, backlog in cut.items():
            _logger.warning("server %s: backlog %d is cut to %d by net.core.somaxconn", name, backlog, limit)

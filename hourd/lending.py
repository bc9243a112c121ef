"""Sockets for workers: what comes with a slot, and what nobody has any more once a worker lets go of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from . import channel
from .children import Worker
from .listeners import Key, Listeners, places
from .processes import Child
from .settings import Settings

Generations = Mapping[int, Settings]


def attend(
    listeners: Listeners, generations: Generations, child: Child, slot: int
) -> tuple[channel.Attend, tuple[int, ...]]:
    """Return what a worker is told that is to attend a slot, and the descriptors that go with it.

    Raises:
        OSError: a socket that the slot does not have yet cannot be bound.
    """
    lent = list(listeners.lend(generations[child.generation], child.pool, slot, own=slot == child.slot))
    message = channel.Attend(slot, [(each.server, each.backlog) for each in lent])
    return message, tuple(each.socket.fileno() for each in lent)


def release(
    listeners: Listeners, generations: Generations, child: Child, slot: int, others: Iterable[Worker]
) -> channel.Release:
    """Return what a worker is told that is to let go of a slot; nobody new comes to what is nobody's then.

    Args:
        listeners: all there are.
        generations: the configuration of each.
        child: the worker.
        slot: that it attends no longer.
        others: who attends slots, in any pool.
    """
    attended = {
        (key, seat)
        for other in others
        for theirs in other.attends
        for _, key, seat in _sockets(generations[other.generation], other.pool, theirs, own=theirs == other.slot)
    }
    last = []
    for server, key, seat in _sockets(generations[child.generation], child.pool, slot, own=slot == child.slot):
        if (key, seat) not in attended:
            last.append(server)
            listeners.give_up(key, seat)
    return channel.Release(slot, tuple(last))


def _sockets(settings: Settings, pool: str, slot: int, *, own: bool) -> Iterator[tuple[str, Key, int | None]]:
    """Yield the sockets of a slot: the server's name, the address, and the slot unless the socket is shared by all."""
    for key, name, _, address in places(settings, pool):
        if address.family != "unix":
            yield name, key, slot
        elif own:
            yield name, key, None

"""Sockets for workers: what comes with a slot, and what nobody has any more once a worker lets go of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from . import channel, errors
from .children import Worker
from .listeners import Listeners, Place
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
    own = slot == child.slot
    lent = list(listeners.lend(generations[child.generation], child.pool, slot, own=own, holder=child))
    message = channel.Attend(slot, [(each.server, each.backlog) for each in lent])
    return message, tuple(each.socket.fileno() for each in lent)


def make_room(listeners: Listeners, generations: Generations, pool: str, slots: int, workers: int) -> str:
    """Bind slots before anybody counts on them; returns why they cannot be had, or nothing.

    Args:
        listeners: all there are.
        generations: the configuration of each.
        pool: its name.
        slots: how many it is to have.
        workers: how many it will have more.
    """
    try:
        listeners.reserve([each for each in generations.values() if pool in each.pools], pool, slots, workers)
    except errors.HourdError as error:
        return str(error)
    return ""


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
        (place.bound, seat)
        for other in others
        for theirs in other.attends
        for place, seat in _sockets(
            listeners, generations[other.generation], other.pool, theirs, own=theirs == other.slot
        )
    }
    last = []
    settings, own = generations[child.generation], slot == child.slot
    for place, seat in _sockets(listeners, settings, child.pool, slot, own=own):
        if (place.bound, seat) not in attended and not place.bound.goes_on(seat):
            last.append(place.name)
            place.bound.give_up(slot)
    return channel.Release(slot, tuple(last))


def _sockets(
    listeners: Listeners, settings: Settings, pool: str, slot: int, *, own: bool
) -> Iterator[tuple[Place, int | None]]:
    """Yield the sockets of a slot: where each is, and the slot unless the socket is shared by all."""
    for place in listeners.of(settings, pool):
        if not place.bound.shared:
            yield place, slot
        elif own:
            yield place, None

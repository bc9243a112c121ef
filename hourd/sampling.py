"""What workers show of themselves: their scoreboards, with what the kernel knows of them.

A reading costs next to nothing but for memory: the kernel walks all pages of a process, for milliseconds. So it
is asked for only where it has a limit, and seldom; of many workers, only a few in each look.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import memory
from .clock import Clock
from .events import Sample, Sampled
from .listeners import Listeners
from .processes import Child, Processes
from .settings import Range, Settings

_MEMORY_EVERY = 5.0
"""Seconds between two readings of a worker's memory, at least. With more than a dozen workers it takes longer."""
_MEMORY_A_LOOK = 2
"""Readings in a look at most: nothing else is done meanwhile, and looks come more than once a second."""
_NEVER = float("-inf")


class Sampler:
    """Looks at all workers."""

    def __init__(self, processes: Processes, listeners: Listeners, clock: Clock) -> None:
        self._processes = processes
        self._listeners = listeners
        self._clock = clock
        self._oom_kills = memory.OomKills()
        self._memory: dict[int, tuple[float, int]] = {}
        """When each worker's was read, and how many bytes it was."""

    def look(self, generations: Mapping[int, Settings]) -> Sampled:
        """Return how all workers are now.

        Args:
            generations: the configurations in use.
        """
        self._oom_kills.look(self._clock.now())
        workers = [child for child in self._processes.all() if child.board and child.pid]
        self._read_memory([child for child in workers if _has_limit(child, generations)])
        return Sampled(tuple(self._sample(child, workers, generations.get(child.generation)) for child in workers))

    def _sample(self, child: Child, workers: list[Child], settings: Settings | None) -> Sample:
        """Look at one; of a generation that is forgotten, only those are left that drain."""
        record = child.read_board()
        ranged = settings is not None and isinstance(settings.pools[child.pool].workers, Range)
        return Sample(
            worker=child.id,
            beat=self._clock.at(record.beat),
            connections=record.connections,
            accepted=record.accepted,
            requests=record.requests,
            busy=record.busy,
            cut=record.cut,
            waiting=self._waiting(child, workers, settings) if settings and ranged else 0,
            memory=self._memory.get(child.id, (_NEVER, 0))[1],
        )

    def _waiting(self, child: Child, workers: list[Child], settings: Settings) -> int:
        """Return how many connections wait for one: in its slot, and the first has those of slots without a worker."""
        pool = [other for other in workers if other.pool == child.pool]
        slots = {child.slot}
        if child.slot == min(other.slot for other in pool if other.generation == child.generation):
            slots |= {*range(self._listeners.slots(settings, child.pool))} - {other.slot for other in pool}
        return sum(self._listeners.waiting(settings, child.pool, slot) for slot in slots)

    def _read_memory(self, workers: list[Child]) -> None:
        """Read the memory of those who have waited for it longest, if that is due."""
        self._memory = {child.id: self._memory.get(child.id, (_NEVER, 0)) for child in workers}
        now = self._clock.now()
        due = [child for child in workers if now - self._memory[child.id][0] >= _MEMORY_EVERY]
        for child in sorted(due, key=lambda child: self._memory[child.id][0])[:_MEMORY_A_LOOK]:
            self._memory[child.id] = now, memory.private(child.pid) or 0


def _has_limit(child: Child, generations: Mapping[int, Settings]) -> bool:
    settings = generations.get(child.generation)
    return settings is not None and settings.pools[child.pool].recycle.memory is not None

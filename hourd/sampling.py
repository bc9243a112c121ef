"""What workers show of themselves: their scoreboards, with what the kernel knows of them.

A reading costs next to nothing but for memory: the kernel walks all pages of a process. So it is
asked for only where it has a limit, one worker at a time, and seldom.
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
"""Seconds between two readings of a worker's memory."""


class Sampler:
    """Looks at all workers."""

    def __init__(self, processes: Processes, listeners: Listeners, clock: Clock) -> None:
        self._processes = processes
        self._listeners = listeners
        self._clock = clock
        self._memory: dict[int, tuple[float, int]] = {}
        """When each worker's was read, and how many bytes it was."""

    def look(self, generations: Mapping[int, Settings]) -> Sampled:
        """Return how all workers are now.

        Args:
            generations: the configurations in use.
        """
        workers = [child for child in self._processes.all() if child.board and child.pid]
        self._read_memory([child for child in workers if _has_limit(child, generations)])
        return Sampled(tuple(self._sample(child, generations.get(child.generation)) for child in workers))

    def _sample(self, child: Child, settings: Settings | None) -> Sample:
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
            waiting=self._listeners.waiting(settings, child.pool, child.slot) if settings and ranged else 0,
            memory=self._memory.get(child.id, (0.0, 0))[1],
        )

    def _read_memory(self, workers: list[Child]) -> None:
        """Read the memory of whoever has waited for it longest, if that is due."""
        self._memory = {child.id: self._memory.get(child.id, (0.0, 0)) for child in workers}
        child = min(workers, key=lambda child: self._memory[child.id][0], default=None)
        now = self._clock.now()
        if child and now - self._memory[child.id][0] >= _MEMORY_EVERY:
            self._memory[child.id] = now, memory.private(child.pid) or 0


def _has_limit(child: Child, generations: Mapping[int, Settings]) -> bool:
    settings = generations.get(child.generation)
    return settings is not None and settings.pools[child.pool].recycle.memory is not None

"""Settings to plans: what the supervisor needs to know of each pool."""

from __future__ import annotations

from . import cpus
from .events import Plan
from .listeners import Key, places
from .settings import Pool, Range, Settings


def plan(settings: Settings, name: str, *, before: Settings, generation: int, slots: int) -> Plan:
    """Return the plan of a pool.

    Args:
        settings: as configured.
        name: of the pool.
        before: the configuration that is in use.
        generation: its number.
        slots: how many the pool's addresses have already.
    """
    pool: Pool = settings.pools[name]
    return Plan(
        pool=name,
        generation=generation,
        workers=_number(pool.workers),
        slots=slots,
        preload=pool.preload,
        boot=pool.timeouts.boot,
        slow=pool.timeouts.slow,
        hung=pool.timeouts.hung,
        grace=max(server.grace for server in pool.servers.values()),
        restart=pool.restart,
        recycle=pool.recycle,
        range=pool.workers if isinstance(pool.workers, Range) else None,
        narrows=not _addresses(before, name) <= _addresses(settings, name),
    )


def _addresses(settings: Settings, name: str) -> set[Key]:
    return {key for key, *_ in places(settings, name)} if name in settings.pools else set()


def _number(workers: int | str | Range) -> int:
    """Return how many workers a pool begins with."""
    if isinstance(workers, Range):
        return workers.min
    return workers if isinstance(workers, int) else cpus.available()

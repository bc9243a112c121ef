"""Settings to plans: what the supervisor needs to know of each pool."""

from __future__ import annotations

from . import cpus
from .events import Plan
from .settings import Pool, Range, Settings


def plan(settings: Settings, name: str, *, generation: int, slots: int) -> Plan:
    """Return the plan of a pool.

    Args:
        settings: as configured.
        name: of the pool.
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
    )


def _number(workers: int | str | Range) -> int:
    """Return how many workers a pool begins with."""
    if isinstance(workers, Range):
        return workers.min
    return workers if isinstance(workers, int) else cpus.available()

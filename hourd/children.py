"""Molds and workers as the supervisor sees them.

    mold      loading -> ready -> leaving -> (gone)
    worker    forking -> booting -> serving -> draining -> (gone)
                 |          |          |           |
                 +----------+----------+-----------+--> dying (SIGKILL was sent) -> (gone)

A child is gone when it was reaped (``Exited``), or, while no process id is known, when its channel
ended (``Lost``): then the fork never came to be.

Who was asked to end (``ending``) has no place any more. Who ends otherwise, lost or killed for being
overdue, serves nobody but keeps its place until it was reaped: only then is it known how it ended,
whether a trial is to blame, and how long to wait.
"""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass, field
from typing import Literal

from .events import Plan

_COUNTED_EVERY = 1.0
"""Seconds between two looks at workers that have a limit, or whose number follows their load."""


@dataclass(slots=True, kw_only=True)
class Child:
    """What molds and workers have in common."""

    id: int
    pool: str
    generation: int
    since: float
    deadline: float | None
    overdue: str
    """Why it is killed when the deadline has come."""
    lost: bool = False
    """Its channel ended: nothing can be asked of it any more, and it is about to end."""
    dumped: bool = False
    """It was told to show its stacks, and has until its deadline."""
    killed: bool = False
    """SIGKILL was sent; a dying worker that is not born yet has that before it."""
    failure: str = ""
    """Why it will end, in its own words or for being overdue."""
    exit_code: int = 0


@dataclass(slots=True, kw_only=True)
class Mold(Child):
    """A template process of a pool and a generation."""

    preload: bool
    grace: float
    """Seconds that its workers have to drain; it ends after them."""
    state: Literal["loading", "ready", "leaving", "dying"] = "loading"

    def __str__(self) -> str:
        return f"mold {self.pool} gen={self.generation}"

    @property
    def ending(self) -> bool:
        return self.state in ("leaving", "dying") and not self.failure

    @property
    def forks(self) -> bool:
        return self.state == "ready" and not self.lost


@dataclass(slots=True, kw_only=True)
class Worker(Child):
    """A worker, from the wish to fork it until it was reaped."""

    slot: int
    mold: int
    plan: Plan
    """What it was born for."""
    pid: int | None = None
    state: Literal["forking", "booting", "serving", "draining", "dying"] = "forking"
    leaving: bool = False
    """It is to be replaced, and to drain then."""
    put_off: bool = False
    """It has served its time, and too many before it still drain."""
    served_from: float | None = None
    attends: dict[int, bool] = field(default_factory=dict)
    """The slots it was told to attend, and whether it said that it does."""
    unable_until: float | None = None
    """It could not be given a slot, and gets no further one until then."""
    looked: float = 0.0
    """When it was sampled last."""
    beat: float = 0.0
    """When its loop turned last, as far as is known; counts once it serves."""
    slow: bool = False
    hung: bool = False
    connections: int = 0
    busy: float = 0.0
    waiting: int = 0
    cut: int = 0
    stamina: float = 1.0
    """The share of each of the recycling limits that chance has left it."""

    def __str__(self) -> str:
        pid = f" pid={self.pid}" if self.pid else ""
        return f"worker {self.pool}/{self.slot} gen={self.generation}{pid}"

    @property
    def ending(self) -> bool:
        return self.state in ("draining", "dying") and not self.failure

    def follows(self, plan: Plan | None) -> bool:
        """Tell whether it is one that the plan wants."""
        return plan is not None and self.generation == plan.generation and self.slot < plan.workers and not self.leaving

    def takes(self, slot: int) -> bool:
        """Tell whether it can be told to attend a slot, or was already."""
        return self.unable_until is None or slot in self.attends

    @property
    def look_at(self) -> float:
        """When to sample it again: as it would become slow; soon, once it is."""
        plan = self.plan
        if self.state == "draining":
            return self.beat + plan.hung
        if not self.slow:
            counts = plan.range is not None or plan.recycle.limited
            return min(self.beat + plan.slow, self.looked + _COUNTED_EVERY if counts else math.inf)
        return min(self.looked + plan.slow / 4, self.beat + plan.hung)

    @property
    def beats(self) -> bool:
        """Whether its loop should turn: it has begun to serve and has not ended."""
        return self.state in ("serving", "draining") and not self.lost

    @property
    def coming(self) -> bool:
        return self.state in ("forking", "booting")

    @property
    def serving(self) -> bool:
        return self.state == "serving" and not (self.lost or self.failure)


def describe_exit(code: int, *, oom: bool = False) -> str:
    """Say how a process ended: ``exited with code 1``, ``was killed by SIGKILL``."""
    if oom:
        return "was killed by the kernel's OOM killer: it or its cgroup had no memory left"
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"

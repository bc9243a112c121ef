"""Molds and workers as the supervisor sees them.

    mold      loading -> ready -> leaving -> (gone)
    worker    forking -> booting -> serving -> draining -> (gone)
                 |          |          |           |
                 +----------+----------+-----------+--> dying (SIGKILL was sent) -> (gone)

A child is gone when it was reaped (``Exited``), or, while no process id is known, when its channel
ended (``Lost``): then the fork never came to be.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import Literal


@dataclass(slots=True, kw_only=True)
class Mold:
    """A template process of a pool and a generation."""

    id: int
    pool: str
    generation: int
    preload: bool
    since: float
    deadline: float | None
    overdue: str
    state: Literal["loading", "ready", "leaving", "dying"] = "loading"
    failure: str = ""
    exit_code: int = 0

    def __str__(self) -> str:
        return f"mold {self.pool} gen={self.generation}"

    @property
    def usable(self) -> bool:
        return self.state in ("loading", "ready")


@dataclass(slots=True, kw_only=True)
class Worker:
    """A worker, from the wish to fork it until it was reaped."""

    id: int
    pool: str
    slot: int
    generation: int
    mold: int
    since: float
    deadline: float | None
    overdue: str
    """Why it is killed when the deadline has come."""
    grace: float
    pid: int | None = None
    state: Literal["forking", "booting", "serving", "draining", "dying"] = "forking"
    leaving: bool = False
    """It is to be replaced, and to drain then."""
    killed: bool = False
    """SIGKILL was sent; a dying worker that is not born yet has that before it."""
    failure: str = ""
    """Why it will end, in its own words or for being overdue."""
    exit_code: int = 0
    served_from: float | None = None
    attends: dict[int, bool] = field(default_factory=dict)
    """The slots it was told to attend, and whether it said that it does."""
    connections: int = 0

    def __str__(self) -> str:
        pid = f" pid={self.pid}" if self.pid else ""
        return f"worker {self.pool}/{self.slot} gen={self.generation}{pid}"

    @property
    def serving(self) -> bool:
        return self.state == "serving"

    @property
    def coming(self) -> bool:
        return self.state in ("forking", "booting")


def describe_exit(code: int) -> str:
    """Say how a process ended: ``exited with code 1``, ``was killed by SIGKILL``."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"

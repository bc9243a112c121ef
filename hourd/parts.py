"""What a master is made of."""

from __future__ import annotations

from dataclasses import dataclass

from .clock import Clock
from .control import Control
from .generations import Generations
from .inherited import Inherited
from .listeners import Listeners
from .processes import Processes
from .reporter import Reporter
from .supervisor import Supervisor


@dataclass(slots=True, kw_only=True)
class Parts:
    """Everything that has a state."""

    started: float
    """Wall-clock seconds."""
    clock: Clock
    descriptors: int | None
    """How many molds and workers may have."""
    handed: Inherited
    supervisor: Supervisor
    processes: Processes
    generations: Generations
    listeners: Listeners
    reporter: Reporter
    control: Control | None = None
    lock: int | None = None
    """The descriptor that locks the process id's file."""

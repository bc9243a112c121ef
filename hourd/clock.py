"""The time by which children are judged."""

from __future__ import annotations

import time

_NOTICED = 1.0
"""Seconds that the loop may be late for the load of the machine alone."""


class Clock:
    """Monotonic seconds, less those in which the master itself could not run.

    When the whole tree was stopped (SIGSTOP, a frozen cgroup, a paused virtual machine), children
    had no time either: nobody is late because of it.
    """

    def __init__(self) -> None:
        self._forgiven = 0.0
        self._expected = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self._forgiven

    def will_wait(self, timeout: float | None) -> None:
        """Note how long the loop is going to wait at most; ``None`` is without end."""
        self._expected = float("inf") if timeout is None else time.monotonic() + timeout

    def has_waited(self) -> float:
        """Forgive what the loop waited longer than it wanted; returns that, 0 when it is not worth noting."""
        late = time.monotonic() - self._expected
        if late < _NOTICED:
            return 0.0
        self._forgiven += late
        return late

"""The time by which children are judged."""

from __future__ import annotations

import time

_NOTICED = 1.0
"""Seconds that the loop may be late for the load of the machine alone."""


class Clock:
    """Monotonic seconds, less those in which the master itself could not run.

    When the whole tree was stopped (SIGSTOP, a frozen cgroup, a paused virtual machine), children
    had no time either: nobody is late because of it. That may happen at any place, not only where the
    loop waits: each reading is to follow the one before soon.
    """

    def __init__(self, forgiven: float = 0.0) -> None:
        self.forgiven = forgiven
        self._expected = time.monotonic()
        """When it is to be read again."""
        self._resumed = 0.0
        """When it went on after it had stood still."""
        self._forgiven_before = 0.0
        self._untold = 0.0

    def now(self) -> float:
        return self._read() - self.forgiven

    def at(self, monotonic: float) -> float:
        """Return what this clock showed at a moment of the system's.

        From before it stood still the last time but one, less is returned.
        """
        if monotonic >= self._resumed:
            return monotonic - self.forgiven
        return min(monotonic - self._forgiven_before, self._resumed - self.forgiven)

    def will_wait(self, timeout: float) -> None:
        """Note how long the loop is going to wait at most."""
        self._expected = self._read() + timeout

    def has_waited(self) -> float:
        """Return for how long it has stood still since this was asked last; 0 when it is not worth noting."""
        self._read()
        untold, self._untold = self._untold, 0.0
        return untold

    def _read(self) -> float:
        """Read the system's clock; what it is late is forgiven."""
        now = time.monotonic()
        late = now - self._expected
        self._expected = now
        if late >= _NOTICED:
            self._forgiven_before = self.forgiven
            self.forgiven += late
            self._untold += late
            self._resumed = now
        return now

"""How many workers a load needs: up soon, down late, one at a time.

Growing takes the load away from the upper mark, and leaves it above the lower one: the distance
between the two is what keeps a steady load from changing the number again and again.
"""

from __future__ import annotations

_BUSY = 0.8
"""Share of their time; above it one worker more is wanted."""
_IDLE = 0.5
"""Share of their time that those who stay would be busy; below it one worker less will do."""
_PATIENCE_UP = 2.0
"""Seconds for which it has to be busy."""
_PATIENCE_DOWN = 30.0
"""Seconds for which it has to be idle."""
_SMOOTHING = 2.0
"""Seconds over which a load is averaged: single beats say little."""


class Load:
    """What a pool's workers had to do lately."""

    def __init__(self) -> None:
        self._average: float | None = None
        self._at = 0.0
        self._since: float | None = None
        self._direction = 0

    def number(self, workers: int, *, busy: float, waiting: int, now: float) -> int:
        """Return how many workers are wanted.

        Args:
            workers: how many there are.
            busy: the share of their time in which their loops worked, from 0 to 1.
            waiting: connections that nobody has accepted yet.
            now: monotonic seconds.
        """
        average = self._smooth(busy, now)
        if average > _BUSY or waiting > workers:
            direction, patience = 1, _PATIENCE_UP
        elif workers > 1 and average * workers / (workers - 1) < _IDLE:
            direction, patience = -1, _PATIENCE_DOWN
        else:
            direction, patience = 0, 0.0
        if direction != self._direction or self._since is None:
            self._direction, self._since = direction, now
        if now - self._since < patience:
            return workers
        self._since = now
        return workers + direction

    def _smooth(self, busy: float, now: float) -> float:
        if self._average is None:
            self._average = busy
        weight = min(1.0, (now - self._at) / _SMOOTHING)
        self._at = now
        self._average += (busy - self._average) * weight
        return self._average

"""How busy a loop is, and how many workers that load needs: up soon, down late, one at a time.

CPU time alone does not tell: a loop that waits in a driver which knows no asyncio uses none, and
serves nobody meanwhile. Neither of the two loops says how long it waited for events, and to time each
of its turns would cost every request. But a loop that was idle when its beat was due gives it at
once, and one that was not gives it late. So the share of beats that were late is the share of time in which
the loop had something to do; what one of them lacks in accuracy, number makes up for.

Growing takes the load away from the upper mark, and leaves it above the lower one: the distance
between the two is what keeps a steady load from changing the number again and again.
"""

from __future__ import annotations

import contextlib
from random import Random

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

_LATE = 0.003
"""Seconds by which a beat is late of a loop that had something else to do; timers alone are late by one or two."""
_OFTEN = 8
"""As many times more often beats are given once one was late, and as many on time end that."""
_SOONEST = 0.02
"""Seconds between frequent beats, on average, at least: a beat costs some 20 us."""
_UNEVEN = 0.25
"""The share by which chance changes the time between two beats: regular work might never meet them, or always."""
_RECENT = 1.0
"""Seconds over which a loop's beats are averaged."""


class Pulse:
    """When a loop is to beat, and how busy it was, which its beats tell."""

    def __init__(self, interval: float, random: Random) -> None:
        """Take the usual time between two beats.

        Args:
            interval: seconds, on average; fewer while beats are late.
            random: makes it uneven.
        """
        self._interval = interval
        self._random = random
        self._often = 0
        """For how many beats more they are frequent."""
        self._due: float | None = None
        self._rest = interval
        """The seconds that one may expect between the beat before and the next."""
        self._at = 0.0
        self._cpu = 0.0
        self._starved = 0.0
        self._used = 0.0
        """The share of its time in which it had a CPU."""
        self._away = 0.0
        """The share of its beats that were late, each with the weight of the time before it."""

    @property
    def busy(self) -> float:
        """The share of its time in which it did not wait for events, from 0 to 1."""
        return min(1.0, max(self._used, self._away))

    def beat(self, now: float, cpu: float, starved: float) -> float:
        """Note a beat; returns the seconds by which it is late.

        Args:
            now: monotonic seconds.
            cpu: seconds of CPU time that the thread has had.
            starved: seconds for which it could run and was not let. Then it is late too, and more workers
                would not help.
        """
        lag = 0.0
        if self._due is not None and now > self._at:
            lag = max(0.0, now - self._due)
            late = lag - max(0.0, starved - self._starved) > _LATE
            self._often = _OFTEN if late else max(0, self._often - 1)
            # The time that was expected, not the one that chance made of it: a short one is as good a sample.
            self._away += (late - self._away) * min(1.0, (self._rest + lag) / _RECENT)
            used = (cpu - self._cpu) / (now - self._at)
            self._used += (used - self._used) * min(1.0, (now - self._at) / _RECENT)
        self._at, self._cpu, self._starved = now, cpu, starved
        return lag

    def rest(self, now: float) -> float:
        """Return the seconds until the next beat, at ``now``."""
        if self._often:
            # As if thrown at random on a line: nothing regular can keep out of the way of such.
            self._rest = min(self._interval, max(self._interval / _OFTEN, _SOONEST))
            seconds = min(self._interval, self._random.expovariate(1 / self._rest))
        else:
            self._rest = self._interval
            seconds = self._interval * self._random.uniform(1 - _UNEVEN, 1 + _UNEVEN)
        self._due = now + seconds
        return seconds


def starved() -> float:
    """Return for how many seconds this thread could run and had no CPU (Documentation/scheduler/sched-stats.rst)."""
    with contextlib.suppress(OSError, IndexError, ValueError), open("/proc/thread-self/schedstat", "rb") as file:
        return int(file.read().split()[1]) / 1e9
    return 0.0


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

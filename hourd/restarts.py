"""After a death at ``now``: how long to wait, and when to call a pool degraded.

The first death in a row is answered at once: most crashes are single, and a client waits. From the
second on the delay doubles up to a maximum, with jitter, so that workers felled by one cause do not
come back in step.
"""

from __future__ import annotations

from collections import deque
from random import Random

from .settings import FAILURES_MAX, GivingUp, Restart

_LONG_AGO = float("-inf")
_JITTER = 0.25
"""The share of a delay that chance may take off: the maximum that was configured stays one."""


class Backoff:
    """The deaths in a row of one seat, and when the next attempt may be made."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.until = _LONG_AGO

    def failed(self, now: float, lived: float, policy: Restart, random: Random) -> float:
        """Note a death and return the delay in seconds.

        Args:
            now: monotonic seconds.
            lived: seconds for which the dead one had served; 0 if it never became ready.
            policy: as configured.
            random: the source of jitter.
        """
        if lived >= policy.giving_up.within:
            self.in_a_row = 0
        delay = 0.0
        if self.in_a_row:
            # The exponent is bounded: 2.0 ** 1024 overflows, and a pool may fail for months.
            doubled = policy.backoff * 2.0 ** min(self.in_a_row - 1, 64)
            delay = min(policy.backoff_max, doubled) * random.uniform(1 - _JITTER, 1)
        self.in_a_row += 1
        self.until = now + delay
        return delay

    def passes_at(self, limit: GivingUp) -> float:
        """Return until when the seat counts as failing.

        That is until its next attempt has lived for long enough. A window alone would not do: the
        delays soon leave too few deaths in it, though none of the attempts succeeds.
        """
        return self.until + limit.within if self.in_a_row >= limit.failures else _LONG_AGO

    def forgive(self) -> None:
        """Start anew: the code has changed."""
        self.in_a_row = 0
        self.until = _LONG_AGO


class Failures:
    """The deaths of a pool in a sliding window."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=FAILURES_MAX)

    def add(self, now: float) -> None:
        self._times.append(now)

    def passes_at(self, limit: GivingUp) -> float:
        """Return until when they are too many. What can make no difference any more is forgotten."""
        while len(self._times) > limit.failures:
            self._times.popleft()
        if len(self._times) < limit.failures:
            return _LONG_AGO
        return self._times[0] + limit.within

    def forget(self) -> None:
        self._times.clear()

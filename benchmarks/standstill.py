"""When did this machine itself stand still? Virtual ones do: their host runs others, or keeps to a quota.

Nothing that is measured can be blamed for such a moment. The witness is a process on each CPU that wakes
every 5 ms with real-time priority, so that no program of ordinary priority keeps it waiting, hourd and its
workers least of all. When it wakes late nevertheless, nobody ran.

Such moments do not count in latencies, and reports say so; a request that is lost is lost at any time.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import math
import os
import select
import subprocess  # noqa: TID251, for its constants
import sys
from collections.abc import Iterator, Sequence

import measure

LATE = 0.01
"""Seconds by which a witness must be late."""
_EVERY = 0.005
_PRIORITY = 1
_STDIN = 0
Span = tuple[float, float]


class Witnesses:
    """One on each CPU, from the beginning of a block to its end."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes
        self._ends: list[float] = []
        self.spans: list[Span] = []
        """From when to when the machine stood still, or some CPU of it; monotonic seconds. Once heard."""
        self.able = True
        """Whether they were allowed real-time priority."""

    def hear(self) -> None:
        """End their watch and take what they have seen."""
        found: list[Span] = []
        for process in self._processes:
            said, _ = process.communicate(timeout=10)
            self.able = self.able and bool(said)
            found += map(tuple, json.loads(said or "[]"))
        # What had piled up takes time to be worked off: as long again.
        self.spans = list(_joined(sorted((start, 2 * end - start) for start, end in found)))
        self._ends = [end for _, end in self.spans]

    def judge(self, due: float, latency: float) -> float | None:
        """Return a latency without standstills, or nothing if standstills were most of it."""
        end = due + latency
        still = 0.0
        for start, over in self.spans[bisect.bisect_left(self._ends, due) :]:
            if start >= end:
                break
            still += min(end, over) - max(due, start)
        return None if still > latency / 2 else latency - still

    def print(self) -> None:
        """Say what was seen."""
        if not self.able:
            print("Whether this machine stood still is not known: real-time priority is not permitted here.")
            return
        seconds = sum(end - start for start, end in self.spans)
        print(f"This machine itself stood still {len(self.spans)} times; {seconds:.2f}s do not count in latencies.")


@contextlib.contextmanager
def watched() -> Iterator[Witnesses]:
    """Watch every CPU that may be used."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                measure.executed([sys.executable, __file__, str(cpu)], env=measure.environment(), **pipes)
            )
            for cpu in sorted(os.sched_getaffinity(0))
        ]
        yield Witnesses(processes)


def _joined(spans: Sequence[Span]) -> Iterator[Span]:
    """Make one of spans that overlap."""
    start = end = -math.inf
    for first, last in spans:
        if first > end:
            if end > start:
                yield start, end
            start = first
        end = max(end, last)
    if end > start:
        yield start, end


def main() -> None:
    """Be a witness until standard input ends; one that is not permitted says nothing."""
    os.sched_setaffinity(0, {int(sys.argv[1])})
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except PermissionError:
        return
    found: list[Span] = []
    asleep = measure.clock()
    while not select.select([_STDIN], (), (), _EVERY)[0]:
        now = measure.clock()
        if now - asleep > _EVERY + LATE:
            found.append((asleep, now))
        asleep = now
    print(json.dumps(found))


if __name__ == "__main__":
    main()

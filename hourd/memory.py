"""How much memory a process has, and whether the kernel had none left for it."""

from __future__ import annotations

import functools
import os
from collections import deque
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_FRESH = 10.0
"""Seconds in which who was killed for want of memory ends: the kernel takes apart its memory first."""
_UNCLAIMED_MAX = 1024


def resident(pid: int | None) -> int | None:
    """Read the resident set in bytes (statm, proc(5)); ``None`` where that is not allowed."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return None


def private(pid: int | None) -> int | None:
    """Read what no other process shares, in bytes (smaps_rollup, proc(5)); ``None`` where that is not allowed."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    return sum(int(line[1]) for line in lines if line[0] in ("Private_Clean:", "Private_Dirty:")) * 1024


class OomKills:
    """Counts what the OOM killer has killed in our cgroup, where the kernel tells.

    With cgroup v2 in ``memory.events``, with v1 in ``memory.oom_control``. A worker that was moved
    elsewhere is not seen, and a kill by it then looks like any other SIGKILL. The kernel does not tell whom it
    killed: it may have been a worker's subprocess, and such a kill is no reason of a death that comes later.
    """

    def __init__(self, file: Path | None = None) -> None:
        """Take the file; default: the one of this process's cgroup."""
        self._counter = _counter_of(file or _file_of_cgroup())

    def look(self, now: float) -> None:
        """See whether there were more. Regularly, and after a death: otherwise old ones seem new.

        Args:
            now: monotonic seconds.
        """
        self._counter.look(now)

    def claim(self) -> bool:
        """Tell whether a process that was killed before the last look was one of them. Each can be claimed once."""
        return self._counter.claim()


class _Counter:
    """A counter of the kernel, and when it rose."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._seen = self._read()
        self._unclaimed: deque[float] = deque(maxlen=_UNCLAIMED_MAX)

    def look(self, now: float) -> None:
        count = self._read()
        self._unclaimed.extend([now] * min(_UNCLAIMED_MAX, count - self._seen))
        self._seen = count
        while self._unclaimed and now - self._unclaimed[0] > _FRESH:
            self._unclaimed.popleft()

    def claim(self) -> bool:
        if self._unclaimed:
            self._unclaimed.popleft()
            return True
        return False

    def _read(self) -> int:
        try:
            lines = self._file.read_text().split("\n") if self._file else []
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


@functools.cache
def _counter_of(file: Path | None) -> _Counter:
    """Return the one of a file: who looks and who claims are two, and have to mean the same kills."""
    return _Counter(file)


def _file_of_cgroup() -> Path | None:
    """Return the file that has the counter, for the cgroup of this process (cgroups(7))."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for number, controllers, path in (line.split(":", 2) for line in lines):
        inner = path.lstrip("/")
        if number == "0":
            places = [Path("/sys/fs/cgroup", inner, "memory.events")]
        elif "memory" in controllers.split(","):
            # In a container the path is the host's, and only the mount's root can be seen.
            root = Path("/sys/fs/cgroup/memory")
            places = [root / inner / "memory.oom_control", root / "memory.oom_control"]
        else:
            continue
        if found := next((place for place in places if place.exists()), None):
            return found
    return None

"""What a child tells of itself without being asked: some shared memory for each.

    page 0    the record: a worker's event loop writes it, the master reads
    pages 1.. the stacks of its threads, if it was told to show them (``stacks.py``)

The memory belongs to one child only, so that a compromised one lies about nobody else. It is sealed, so that
reading it cannot fault and it cannot grow (memfd_create(2)). Values may be torn or false: they are hints.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import struct
from typing import NamedTuple

STACKS = mmap.PAGESIZE
"""Where the stacks begin."""
_SIZE = STACKS + 64 * 1024
_LAYOUT = struct.Struct("=dddQQQQQ")


class Record(NamedTuple):
    """A worker's state, as of its last beat."""

    beat: float = 0.0
    """Monotonic seconds; 0 before the first beat."""
    lag: float = 0.0
    """Seconds by which the loop was late for the beat."""
    busy: float = 0.0
    """The share of the last second or so in which the loop did not wait for events, from 0 to 1: it computed, or
    was kept waiting by what knows no event loop (``scaling.py``)."""
    connections: int = 0
    accepted: int = 0
    requests: int = 0
    errors: int = 0
    cut: int = 0
    """Connections that were open after their grace."""


def create() -> int:
    """Return the descriptor of new memory."""
    fd = os.memfd_create("hourd-scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


class Board:
    """The memory, mapped; takes the descriptor."""

    def __init__(self, fd: int, *, writable: bool) -> None:
        protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        self.fd = fd
        """Whoever takes this process's place maps it again."""
        try:
            self._memory = mmap.mmap(fd, _SIZE, mmap.MAP_SHARED, protection)  # which has a descriptor of its own
        except OSError:
            os.close(fd)
            raise

    def write(self, record: Record) -> None:
        _LAYOUT.pack_into(self._memory, 0, *record)

    def read(self) -> Record:
        """Return the record. Who wrote it may lie, but not upset arithmetics."""
        record = Record._make(_LAYOUT.unpack_from(self._memory, 0))
        return record._replace(beat=_sane(record.beat), lag=_sane(record.lag), busy=min(1.0, _sane(record.busy)))

    def stacks(self) -> str:
        """Return what the child has written there, as text that is safe in a log."""
        text = self._memory[STACKS:].rstrip(b"\0").decode(errors="replace")
        return "".join(each for each in text if each.isprintable() or each == "\n").strip()

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)


def _sane(value: float) -> float:
    return value if math.isfinite(value) and value >= 0 else 0.0

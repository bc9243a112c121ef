"""What a worker tells of itself without being asked: one shared memory page for each worker.

The worker's event loop writes, the master and ``hourd status`` read. A page belongs to one worker
only, so that a compromised one lies about nobody else; it is sealed against shrinking, so that
reading it cannot fault (memfd_create(2)). Values may be torn or false: they are hints.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from typing import NamedTuple

_SIZE = mmap.PAGESIZE
_LAYOUT = struct.Struct("=ddQQQQ")


class Record(NamedTuple):
    """A worker's state, as of its last beat."""

    beat: float = 0.0
    """Monotonic seconds; 0 before the first beat."""
    lag: float = 0.0
    """Seconds by which the loop was late for the beat."""
    connections: int = 0
    accepted: int = 0
    requests: int = 0
    errors: int = 0


def create() -> int:
    """Return the descriptor of a new page."""
    fd = os.memfd_create("hourd-scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, _SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


class Board:
    """A page, mapped; takes the descriptor and closes it."""

    def __init__(self, fd: int, *, writable: bool) -> None:
        protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        self._memory = mmap.mmap(fd, _SIZE, mmap.MAP_SHARED, protection)
        os.close(fd)

    def write(self, record: Record) -> None:
        _LAYOUT.pack_into(self._memory, 0, *record)

    def read(self) -> Record:
        return Record._make(_LAYOUT.unpack_from(self._memory, 0))

    def close(self) -> None:
        self._memory.close()

"""How many descriptors this process may have, and how many are left."""

from __future__ import annotations

import contextlib
import errno
import os
import resource

RESERVE = 16
"""Kept for operators, and for a reload: a mold and a worker at a time."""
PER_WORKER = 3
"""The master's end of a worker's channel, and its scoreboard."""
ADVICE = "raise LimitNOFILE= of the service, or ulimit -n"


def left() -> int:
    """Return how many more descriptors this process can open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        return limit - sum(int(fd) < limit for fd in os.listdir("/proc/self/fd"))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return 0
        return limit  # without /proc it shows when they are opened


def room() -> int:
    """Return how many of them may be used for what can be done without."""
    return max(0, left() - RESERVE)


def require(number: int) -> None:
    """See that there is room for some.

    Raises:
        OSError: there is not.
    """
    if number > room():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def raise_limit() -> int:
    """Allow this process as many as the system does; returns the limit before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def set_limit(soft: int) -> None:
    """Give this process the limit that it would have without hourd: user code may use select(2)."""
    now, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != now:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

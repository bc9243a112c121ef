"""Importing an application gives way to those that serve meanwhile."""

from __future__ import annotations

import contextlib
import os
import re

_NICER = 5
"""An import gets a third of what a busy worker gets, and all that would be idle: enough for ``timeouts.boot``."""
_CAP_SYS_NICE = 23


def give_way(pid: int) -> bool:
    """Make a process nicer, if it can be undone: whoever may become nicer may not always return.

    Returns:
        Whether ``catch_up`` is to follow.
    """
    if not _may_return():
        return False
    own = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        # Root of a user namespace has the capability, but not where it counts: only trying to take it back tells.
        os.setpriority(os.PRIO_PROCESS, pid, own - 1)
    except PermissionError:
        return False
    os.setpriority(os.PRIO_PROCESS, pid, own + _NICER)
    return True


def catch_up(pid: int) -> None:
    """Give a process that gave way the priority of this one again."""
    with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0))


def _may_return() -> bool:
    """Tell whether the kernel lets this process take niceness back, also from another user's (capabilities(7))."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        capabilities = re.search(r"^CapEff:\s*([0-9a-f]+)$", file.read(), re.MULTILINE)
    return capabilities is not None and bool(int(capabilities[1], 16) >> _CAP_SYS_NICE & 1)

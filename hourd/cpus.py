"""How many CPUs this process may use: what ``workers: auto`` means.

The number of CPUs of the machine is the wrong answer in a container: its limit is either a set of
CPUs, which the affinity mask shows, or a quota of CPU time, which only the control group shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

_PROC: Final = "proc/self/cgroup"
_MOUNT: Final = "sys/fs/cgroup"
_V1_MOUNTS: Final = ("cpu,cpuacct", "cpu", "cpuacct,cpu")
_V2_MOUNTS: Final = ("", "unified")
"""``unified`` is where systemd mounts version 2 beside version 1."""


def available(root: str = "/") -> int:
    """Return how many CPUs this process may use, at least 1.

    The smaller of its affinity and of the CPU quotas of its control group and of every group above,
    rounded up. What cannot be read sets no limit.

    Args:
        root: where ``proc`` and ``sys`` are; another one for tests.

    See cgroups(7), and "cpu.max" in the kernel's Documentation/admin-guide/cgroup-v2.rst.
    """
    limits = [len(os.sched_getaffinity(0))]
    for line in _read(os.path.join(root, _PROC)).splitlines():
        limits.extend(_quotas(root, line))
    return max(1, min(limits))


def _quotas(root: str, line: str) -> Iterator[int]:
    """Yield the quotas behind one line of ``/proc/self/cgroup``: ``ID:CONTROLLERS:PATH``."""
    _, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if not controllers:
        for folder in _groups(root, _V2_MOUNTS, path):
            yield from _quota(*_read(os.path.join(folder, "cpu.max")).split())
    elif "cpu" in controllers.split(","):
        for folder in _groups(root, _V1_MOUNTS, path):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            yield from _quota(*(_read(os.path.join(folder, name)).strip() for name in names))


def _groups(root: str, mounts: tuple[str, ...], path: str) -> Iterator[str]:
    """Yield the folders of a group and of those above it, wherever the hierarchy may be mounted.

    A container often sees the host's path but only its own group, mounted as the top: folders that
    are not there hold no limit, and the top is always looked at.
    """
    # `..` stands in the path of a process that was moved out of its cgroup namespace.
    parts = [part for part in path.split("/") if part not in {"", ".."}]
    for mount in mounts:
        for length in range(len(parts), -1, -1):
            yield os.path.join(root, _MOUNT, mount, *parts[:length])


def _quota(quota: str = "", period: str = "", *_: str) -> Iterator[int]:
    """Yield the quota in CPUs, rounded up; nothing for ``max``, ``-1`` and what is no number."""
    if quota.isdecimal() and period.isdecimal() and int(period) > 0:
        yield max(1, -(-int(quota) // int(period)))


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""

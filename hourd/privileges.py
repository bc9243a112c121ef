"""Become the user that the configuration names, for good."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


def drop(user: str | None, group: str | None) -> None:
    """Change to a user and group, with the user's other groups.

    Args:
        user: name or number; ``None`` changes nothing.
        group: name or number; default: the user's own.

    Raises:
        KeyError: no such user or group.
        PermissionError: only root may.
    """
    if user is None and group is None:
        return
    entry = (pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)) if user else pwd.getpwuid(os.geteuid())
    gid = entry.pw_gid if group is None else find_group(group)
    if (entry.pw_uid, gid) == (os.geteuid(), os.getegid()):
        return
    os.initgroups(entry.pw_name, gid)
    os.setresgid(gid, gid, gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    os.environ.update(USER=entry.pw_name, LOGNAME=entry.pw_name, HOME=entry.pw_dir)
    # The kernel gives /proc/self of a process that changed its user to root (proc(5)), and it could
    # not read its own. There was no secret in it yet that the new user may not know.
    _prctl(_PR_SET_DUMPABLE, 1)


def find_user(user: str) -> int:
    """Return a user's number."""
    return int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid


def find_group(group: str) -> int:
    """Return a group's number."""
    return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid


def become_subreaper() -> None:
    """Become the parent of descendants whose own parent ends (PR_SET_CHILD_SUBREAPER, prctl(2))."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

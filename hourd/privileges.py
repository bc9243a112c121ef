"""Whose a process is: the user that the configuration names, for good; its parent; its children (prctl(2))."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


def drop(user: str | None, group: str | None) -> None:
    """Change to a user and group, with the user's other groups.

    Args:
        user: a name; ``None`` keeps the user.
        group: a name; default: the user's own.

    Raises:
        KeyError: no such user or group.
        PermissionError: only root may.
    """
    if user is None and group is None:
        return
    entry = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    gid = entry.pw_gid if group is None else grp.getgrnam(group).gr_gid
    if (entry.pw_uid, gid) == (os.geteuid(), os.getegid()):
        return
    os.initgroups(entry.pw_name, gid)
    os.setresgid(gid, gid, gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    os.environ.update(USER=entry.pw_name, LOGNAME=entry.pw_name, HOME=entry.pw_dir)
    # The kernel gives /proc/self of a process that changed its user to root (proc(5)), and it could
    # not read its own. There was no secret in it yet that the new user may not know.
    _prctl(_PR_SET_DUMPABLE, 1)


def become_subreaper() -> None:
    """Become the parent of descendants whose own parent ends (PR_SET_CHILD_SUBREAPER, prctl(2))."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Be killed when the process that has executed this one ends (PR_SET_PDEATHSIG, prctl(2))."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

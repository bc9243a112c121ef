"""Users and groups that a configuration names."""

from __future__ import annotations

import grp
import os
import pwd
from typing import Final

ROOT: Final = 0


def check_user(name: str) -> None:
    """Check that a user exists and that this process may become it.

    Raises:
        ValueError: it is not so; the text says why, without the name.
    """
    try:
        uid = pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        raise ValueError("is no user of this system") from None
    if os.geteuid() not in {ROOT, uid}:
        raise ValueError(f"is another user than hourd's own, {_user(os.geteuid())}; only root may set one")


def check_group(name: str) -> None:
    """Check that a group exists and that this process may take it on.

    Raises:
        ValueError: it is not so; the text says why, without the name.
    """
    gid = _gid(name)
    if os.geteuid() != ROOT and gid != os.getegid():
        raise ValueError("is another group than hourd's own; only root may set one")


def check_file_group(name: str) -> None:
    """Check that a group exists and that this process may give a file to it.

    Raises:
        ValueError: it is not so; the text says why, without the name.
    """
    if _gid(name) not in {os.getegid(), *os.getgroups()} and os.geteuid() != ROOT:
        raise ValueError("is a group that hourd's own user is not in; only root may set one")


def _gid(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise ValueError("is no group of this system") from None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

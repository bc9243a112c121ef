"""Files that only one process may hold at a time, without ever waiting for one."""

from __future__ import annotations

import contextlib
import fcntl
import os


class HeldError(Exception):
    """Another process holds the lock."""


class Lock:
    """A lock file of this user's own: who may not read it cannot hold it either."""

    def __init__(self, path: str, mode: int = 0o600, *, held: int | None = None) -> None:
        """Create the file where it is missing, and lock it.

        Args:
            path: of the file.
            mode: its permission bits.
            held: the descriptor by which this process holds it already.

        Raises:
            HeldError: another process holds it.
            OSError: the system refused.
        """
        self.path = path
        if held is not None:
            self.fd = held
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        self.fd = os.open(path, flags, mode)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = not self._is_there()  # whoever held it has just removed it
        except BlockingIOError:
            held = True
        if held:
            os.close(self.fd)
            raise HeldError

    def release(self) -> None:
        """Remove the file, if it is still this one, and unlock."""
        with contextlib.suppress(OSError):  # its folder may be gone, or not ours any more
            if self._is_there():
                os.unlink(self.path)
        os.close(self.fd)

    def _is_there(self) -> bool:
        try:
            there = os.lstat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self.fd))

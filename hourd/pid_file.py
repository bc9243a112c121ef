"""The file with the process id: written whole or not at all, held by a lock, removed at the end."""

from __future__ import annotations

import contextlib
import os

from . import errors
from .locks import HeldError, Lock


class PidFile:
    """A file that is ours until it is closed."""

    def __init__(self, path: str, lock: Lock) -> None:
        self._path = path
        self.lock = lock

    def close(self) -> None:
        with contextlib.suppress(OSError):  # its folder may be gone
            os.unlink(self._path)
        self.lock.release()


def hold(path: str) -> PidFile:
    """Write the file.

    Raises:
        errors.UnavailableError: another instance holds it.
        errors.HourdError: it cannot be written.
    """
    draft = f"{path}.new"
    try:
        lock = Lock(_lock_of(path))
    except HeldError:
        raise errors.UnavailableError(f"another instance runs: it holds pid_file {path}") from None
    except OSError as error:
        raise errors.from_os(error, f"write pid_file {path}") from None
    try:
        _write(draft, f"{os.getpid()}\n")
        os.rename(draft, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        lock.release()
        raise errors.from_os(error, f"write pid_file {path}") from None
    return PidFile(path, lock)


def resume(path: str, lock: int) -> PidFile:
    """Go on with the file of the program whose place we have taken: the process has kept its id, and the lock."""
    return PidFile(path, Lock(_lock_of(path), held=lock))


def _lock_of(path: str) -> str:
    return f"{path}.lock"


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    with open(fd, "w", encoding="ascii") as file:
        file.write(text)

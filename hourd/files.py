"""Read a file that somebody else wrote, without being held up by it."""

from __future__ import annotations

import os
import stat


class UnusableError(Exception):
    """The file is there and is not what was asked for; the text says why."""


def read(path: str, limit: int) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes.

    The master reads while it supervises, so that a pipe nobody writes to must not block it:
    ``O_NONBLOCK`` makes opening one return, and what is no regular file is refused.

    Raises:
        OSError: it cannot be read.
        UnusableError: it is no regular file, or too large.
    """
    try:
        with open(path, "rb", opener=_opener) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnusableError("is no regular file")
            content = file.read(limit + 1)
    except IsADirectoryError:
        raise UnusableError("is no regular file") from None
    if len(content) > limit:
        raise UnusableError(f"is larger than {limit // 1024} KiB")
    return content


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)

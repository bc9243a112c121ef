"""What an engine is, for those of hourd and for anybody's own."""

from __future__ import annotations

import abc
from typing import Any


class BusyError(Exception):
    """A check found nothing free, and so nothing out about the other side."""


class Engine(abc.ABC):
    """Something that a worker has open while it serves.

    An instance is made where the application is imported, and opened at most once, in a worker: what
    needs an event loop or a connection belongs in ``open``.
    """

    where = "it"
    """What it talks to and where that is, for messages; never a password."""
    failures: tuple[type[Exception], ...] = ()
    """Exceptions that tell of the other side, besides ``OSError``: who operates the service is shown their text,
    and of all others, which are mistakes in code, the traceback."""

    @abc.abstractmethod
    async def open(self) -> Any:
        """Open it, really connect, and return what the application uses."""

    @abc.abstractmethod
    async def check(self) -> None:
        """Raise when it cannot be used now, ``BusyError`` when all is in use. Cancelled when it takes too long."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Close it. Cancelled when it takes too long; nobody uses it any more."""

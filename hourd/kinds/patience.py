"""How long a client may take for what it owes, in every kind that speaks HTTP.

Timers of each request would cost each request something. So a server looks at its connections every now and then,
and notes for how long each has owed the same: nothing is spent on those who owe nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, NamedTuple, TypeVar

C = TypeVar("C", bound=Hashable)

_LEAST, _MOST = 0.05, 2.0
"""Seconds between two looks."""
_SHARE = 8
"""Looks in the shortest time that anybody has."""
_UNKNOWN = object()
"""What a client owes whose connection could not be looked at."""


class Debt(NamedTuple):
    """What a client owes."""

    what: object
    """Equal for as long as the client makes no progress."""
    seconds: float
    """How long it may owe that."""
    collect: Callable[[], None]
    """What is done then."""


class Patience(Generic[C]):
    """Looks at a server's connections until it is told to stop."""

    def __init__(
        self, connections: Callable[[], Iterable[C]], owes: Callable[[C], Debt | None], shortest: float
    ) -> None:
        """Begin.

        Args:
            connections: returns those that are open.
            owes: tells what the client of one owes.
            shortest: the shortest time that a client may have, in seconds.
        """
        self._connections = connections
        self._owes = owes
        self._pause = max(_LEAST, min(_MOST, shortest / _SHARE))
        self._debts: dict[C, tuple[object, float]] = {}
        self._look()

    def stop(self) -> None:
        self._next.cancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        # Before anything that may fail: it would be the last look, and nobody would have a limit any more.
        self._next = loop.call_later(self._pause, self._look)
        connections = tuple(self._connections())
        before, self._debts = self._debts, {}
        for connection in connections:
            what, since = before.get(connection, (None, now))
            try:
                self._look_at(connection, what, since, now)
            except Exception as error:  # noqa: BLE001, whatever it is, others are looked at
                self._debts[connection] = _UNKNOWN, since
                if what is not _UNKNOWN:
                    message = "cannot tell for how long a client has owed what it owes"
                    loop.call_exception_handler({"message": message, "exception": error})

    def _look_at(self, connection: C, what: object, since: float, now: float) -> None:
        if (debt := self._owes(connection)) is None:
            return
        if what != debt.what:
            since = now
        if now - since > debt.seconds:
            debt.collect()
        else:
            self._debts[connection] = debt.what, since

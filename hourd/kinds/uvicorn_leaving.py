"""uvicorn's HTTP connections while their worker drains, for the rules in ``leaving.py``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from . import kernel
from .leaving import Leaving
from .lingering import Lingering
from .uvicorn_connections import Connection
from .uvicorn_responses import ToTheEnd


def prepare(connections: Iterable[object]) -> Iterator[Leaving]:
    """Let connections leave; yields those of HTTP that do not end already."""
    since = asyncio.get_running_loop().time()
    for each in connections:
        if isinstance(each, Connection) and not isinstance(each.transport, Lingering):
            yield UvicornLeaving(each, since)


class LastResponse(RequestResponseCycle):
    """A response while the worker drains: it asks the client to close, unless more has arrived already.

    uvicorn looks when the response begins, and again at its end: the connection ends if that was said.
    """

    connection: LastConnection
    _kept: bool

    @property
    def keep_alive(self) -> bool:
        if not self.response_complete and self._kept and not self.connection.more_has_arrived(self):
            self._kept = False
        return self._kept

    @keep_alive.setter
    def keep_alive(self, kept: bool) -> None:
        self._kept = kept


class LastConnection(Connection):
    """A connection while its worker drains."""

    transport: Lingering  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self.transport.left:
            return
        self.transport.heard = self.loop.time()
        super().data_received(data)

    def more_has_arrived(self, cycle: RequestResponseCycle) -> bool:
        """Tell whether a further request is here, or a part of it: parsed, or in the kernel's buffer."""
        if self.unfed or self.scope is not cycle.scope:
            return True
        return not self.transport.left and kernel.has_unread(self.transport.get_extra_info("socket"))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.change(cycle)
        super()._start_asgi_task(cycle, app)

    def change(self, cycle: RequestResponseCycle) -> None:
        """Make a response one of the last."""
        if isinstance(cycle, ToTheEnd):
            # It is the last of its connection anyway.
            cycle.transport = self.transport  # type: ignore[assignment]
            return
        if isinstance(cycle, LastResponse):
            return
        kept = cycle.keep_alive
        cycle.__class__ = LastResponse
        cycle.connection = self  # type: ignore[attr-defined]
        cycle.keep_alive = kept
        cycle.transport = self.transport  # type: ignore[assignment]


class UvicornLeaving(Leaving):
    def __init__(self, connection: Connection, since: float) -> None:
        transport: Any = connection.transport
        super().__init__(transport, since)
        self._connection = connection
        connection.transport = self.transport  # type: ignore[assignment]
        connection.__class__ = LastConnection
        assert isinstance(connection, LastConnection)
        for cycle in (connection.running, connection.cycle, *(cycle for cycle, _ in connection.pipeline)):
            if cycle is not None and not cycle.response_complete:
                connection.change(cycle)
        # uvloop keeps the methods that a protocol had. asyncio has another in its place while it sends a file over TLS.
        if transport.get_protocol() is connection:
            transport.set_protocol(connection)

    @property
    def is_gone(self) -> bool:
        return self._connection not in self._connection.connections

    @property
    def is_waiting(self) -> bool:
        cycle = self._connection.cycle
        return cycle is None or (cycle.response_complete and not (self._connection.pipeline or self._connection.unfed))

    @property
    def has_asked(self) -> bool:
        return self._connection.cycle is not None

    @property
    def served_at(self) -> float:
        return self._connection.served_at

    def has_begun(self) -> bool:
        return self._connection.is_asking

    def drop(self) -> None:
        """See ``LastConnection.data_received``."""

    def has_said_so(self) -> bool:
        return False

    def close(self) -> None:
        self.transport.close()

"""Which connections are open: what every kind of stream server needs to drain and to cut."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Protocol, TypeVar

from . import Context, Kind, Listening

P = TypeVar("P")


class Connection(Protocol):
    """A transport, or what a library gives its protocols in place of one."""

    def abort(self) -> None: ...


class Connections:
    """The open connections of a server.

    A protocol stays the user's own object and nothing stands between it and its transport: only its
    class is replaced, by a subclass that notes the beginning and the end of the connection.

    What does not work: attributes on the instance (objects with ``__slots__`` have no room for
    them, and a bound method kept there is a reference cycle for each connection), or a protocol in
    front (a layer on the data path).
    """

    def __init__(self) -> None:
        self.accepted = 0
        self._open: dict[int, Connection] = {}
        self._classes: dict[type, type] = {}

    def __len__(self) -> int:
        return len(self._open)

    def track(self, protocol: P) -> P:
        """Note the connection of a new protocol; returns the protocol.

        Raises:
            TypeError: the object's class cannot be replaced, since it is not written in Python.
        """
        original: type = type(protocol)
        if original not in self._classes:
            self._classes[original] = tracking = self._subclass(original)
            self._classes[tracking] = tracking  # a factory may return the same object again
        protocol.__class__ = self._classes[original]
        return protocol

    def abort(self) -> None:
        """Cut what is open."""
        for connection in tuple(self._open.values()):
            connection.abort()

    def _subclass(self, original: Any) -> type:
        connections = self

        def connection_made(self: Any, transport: Any) -> None:
            connections.accepted += 1
            connections._open[id(self)] = transport  # noqa: SLF001, its own class
            original.connection_made(self, transport)

        def connection_lost(self: Any, error: Exception | None) -> None:
            connections._open.pop(id(self), None)  # noqa: SLF001, its own class
            original.connection_lost(self, error)

        return type(
            original.__name__,
            (original,),
            {
                "__slots__": (),
                "__module__": original.__module__,
                "__qualname__": original.__qualname__,
                "connection_made": connection_made,
                "connection_lost": connection_lost,
            },
        )


class StreamKind(Kind):
    """A kind whose connections are served by one ``asyncio.Protocol`` each."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._connections = Connections()

    def protocol(self) -> asyncio.BaseProtocol:
        """Return what serves a new connection."""
        raise NotImplementedError

    async def listen(self, sock: socket.socket, backlog: int) -> Listening:
        # Without its backlog, create_server() would listen again with one of 100.
        loop = asyncio.get_running_loop()
        return await loop.create_server(self._tracked_protocol, sock=sock, backlog=backlog)

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def accepted(self) -> int:  # type: ignore[override]
        return self._connections.accepted

    async def close(self) -> None:
        self._connections.abort()

    def _tracked_protocol(self) -> asyncio.BaseProtocol:
        return self._connections.track(self.protocol())

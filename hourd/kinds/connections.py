"""Which connections are open: what every kind of stream server needs to drain and to cut."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

from . import Context, Kind, Listening
from .blame import MARK, create_server

P = TypeVar("P")


_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for no time at all (socket(7)): the end is a reset."""


class Connection(Protocol):
    """A transport, or what a library gives its protocols in place of one."""

    def abort(self) -> None: ...


def cut(transport: asyncio.Transport) -> None:
    """End a connection in the middle such that its client sees it: by a regular end a part may seem to be the whole."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)  # of no effect on a unix socket
    transport.abort()


class Connections:
    """The open connections of a server.

    A protocol stays the user's own object and nothing stands between it and its transport: only its
    class is replaced, by a subclass that notes the beginning and the end of the connection.

    What does not work: attributes on the instance (objects with ``__slots__`` have no room for
    them, and a bound method kept there is a reference cycle for each connection), or a protocol in
    front (a layer on the data path).
    """

    def __init__(self, kind: Kind) -> None:
        self.accepted = 0
        self._kind = kind
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

    def end(self, how: Callable[[Any], None]) -> None:
        """End what is open."""
        for connection in tuple(self._open.values()):
            how(connection)

    def begun(self, protocol: object, connection: Connection) -> None:
        self.accepted += 1
        self._open[id(protocol)] = connection

    def ended(self, protocol: object, _error: Exception | None) -> None:
        self._open.pop(id(protocol), None)

    def _subclass(self, original: Any) -> type:
        connections = self
        failed = self._kind.failed

        def connection_made(self: Any, transport: Any) -> None:
            connections.begun(self, transport)
            try:
                original.connection_made(self, transport)
            except Exception as error:  # noqa: BLE001, logged with the server's name, which the loop does not know
                failed("connection_made failed", error)
                transport.abort()  # the loop would leave it open, with a protocol that is half made

        def connection_lost(self: Any, error: Exception | None) -> None:
            connections.ended(self, error)
            try:
                original.connection_lost(self, error)
            except Exception as its_own:  # noqa: BLE001, as above
                failed("connection_lost failed", its_own)

        return type(
            original.__name__,
            (original,),
            {
                "__slots__": (),
                MARK: self._kind,
                "__module__": original.__module__,
                "__qualname__": original.__qualname__,
                "connection_made": connection_made,
                "connection_lost": connection_lost,
            },
        )


class TrackingKind(Kind):
    """A kind that knows its connections, which it accepts with ``create_server``."""

    tls: ClassVar[bool] = True
    proxy_protocol: ClassVar[bool] = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._connections = Connections(self)

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def accepted(self) -> int:  # type: ignore[override]
        return self._connections.accepted

    async def close(self) -> None:
        self._connections.end(lambda connection: connection.abort())


class StreamKind(TrackingKind):
    """A kind whose connections are served by one ``asyncio.Protocol`` each."""

    def protocol(self) -> asyncio.BaseProtocol:
        """Return what serves a new connection."""
        raise NotImplementedError

    async def listen(self, sock: socket.socket, backlog: int) -> Listening:
        return await create_server(self, self._tracked_protocol, sock, backlog)

    async def close(self) -> None:
        self._connections.end(cut)

    def _tracked_protocol(self) -> asyncio.BaseProtocol:
        try:
            return self._connections.track(self.protocol())
        except Exception as error:  # noqa: BLE001, user code may raise anything
            # Event loops differ in what becomes of the connection then, and may leave it open.
            self.failed("cannot make a protocol", error)
            return self._connections.track(_Refusing())


class _Refusing(asyncio.Protocol):
    """Takes the place of a protocol that could not be made."""

    def connection_made(self, transport: Any) -> None:
        transport.abort()

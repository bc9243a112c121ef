"""aiohttp's connections while their worker drains, for the rules in ``leaving.py``."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from . import kernel
from .leaving import Leaving
from .lingering import Lingering


def prepare(server: web.Server) -> Iterator[Leaving]:
    """Let a server's connections leave; yields those that are not closed already."""
    since = asyncio.get_running_loop().time()
    make = functools.partial(server.request_factory, _cls=LastRequest)  # type: ignore[call-arg]
    for connection in server.connections:
        connection._request_factory = make  # noqa: SLF001, aiohttp has no other way
        if connection._current_request is not None:  # noqa: SLF001, as above
            connection._current_request.__class__ = LastRequest  # noqa: SLF001, as above
        if connection.transport is not None and not isinstance(connection.transport, Lingering):
            yield AiohttpLeaving(connection, since)


class LastRequest(web.Request):
    """A request while the worker drains: the response asks the client to close, unless more has arrived already.

    aiohttp looks when the response begins.
    """

    @property
    def keep_alive(self) -> bool:
        return super().keep_alive and _more_has_arrived(self.protocol)


class AiohttpLeaving(Leaving):
    def __init__(self, connection: web.RequestHandler, since: float) -> None:
        transport: Any = connection.transport
        super().__init__(transport, since)
        self._connection = connection
        connection.transport = self.transport  # type: ignore[assignment]
        connection.__class__ = _attentive(type(connection))  # type: ignore[arg-type]
        # uvloop keeps the methods that a protocol had. asyncio has another in its place while it sends a file over TLS.
        if transport.get_protocol() is connection:
            transport.set_protocol(connection)

    @property
    def is_gone(self) -> bool:
        return self._connection._manager is None  # noqa: SLF001

    @property
    def is_waiting(self) -> bool:
        # In between, it may be sending what a handler has returned: a file, say.
        waiter = self._connection._waiter  # noqa: SLF001
        return waiter is not None and not waiter.done() and not self._connection._messages  # noqa: SLF001

    @property
    def is_answering(self) -> bool:
        if self.transport.left:
            return True
        if self._connection._current_request is None:  # noqa: SLF001
            return False
        return self.has_said_so() or not _more_has_arrived(self._connection)

    @property
    def has_asked(self) -> bool:
        return bool(self._connection._request_count)  # noqa: SLF001

    @property
    def served_at(self) -> float:
        return self._connection._next_keepalive_close_time - self._connection.keepalive_timeout  # noqa: SLF001

    def has_begun(self) -> bool | None:
        """Tell it from what the kernel knows: the parser keeps to itself what it has."""
        if (heard := self.transport.heard) is not None:
            return not self.has_asked or heard > self.served_at
        traffic = kernel.traffic(self.sock)
        # The last word of a TLS handshake is the server's, mostly. Where it was the client's, it is waited for longer.
        again = self.has_asked or self.transport.get_extra_info("ssl_object") is not None
        return None if traffic is None else traffic.has_begun(again=again)

    def drop(self) -> None:
        self._connection.close()

    def has_said_so(self) -> bool:
        # Of a websocket, that is; no request comes after it.
        return self._connection._payload_parser is not None  # noqa: SLF001

    def close(self) -> None:
        self._connection.force_close()  # close() ends the connection's task and leaves its socket open


@functools.cache
def _attentive(original: type[web.RequestHandler]) -> type[web.RequestHandler]:
    class Attentive(original):  # type: ignore[valid-type, misc]
        """A connection that notes when its client says something."""

        __slots__ = ()

        def data_received(self, data: bytes) -> None:
            # aiohttp calls it with nothing to have more of what it was given before.
            if data and isinstance(self.transport, Lingering):
                self.transport.heard = asyncio.get_running_loop().time()
            super().data_received(data)

    return Attentive


def _more_has_arrived(connection: web.RequestHandler) -> bool:
    """Tell whether a further request is here: parsed, or in the kernel's buffer."""
    if connection._messages:  # noqa: SLF001
        return True
    return connection.transport is not None and kernel.has_unread(connection.transport.get_extra_info("socket"))

"""How an HTTP connection ends once its worker drains.

Nothing is taken from a client that may count on it:

    a response is about to begin     it says ``Connection: close``, unless the client's next request is
                                     here already: then that one's response says so
    nothing was asked for a second   closed; at a random moment of a second, so that not all clients come
                                     back at once. Sooner, a busy client's next request would cross it
    nothing was ever asked           the request may be on its way, and clients repeat only what fails on
                                     a connection that has served before: closed after two seconds
    a request has come in part       the rest is waited for, five seconds from one piece to the next. Of a unix
                                     socket nobody can tell what has come before: it has these five seconds
    a response is on its way that    finished, then closed as above: its headers have promised to keep
    began before                     the connection

aiohttp offers nothing for this, so some of what follows reads its private attributes, once the worker
drains: until then, a request costs nothing more than without hourd.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import random
import socket
import struct
import termios
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from .connections import cut

LOOK = 0.1
"""Seconds between two looks at which connections are idle."""
SPREAD = 1.0
"""Seconds over which connections are closed."""
_QUIET = 1.0
"""Seconds without a request after which a connection counts as idle."""
_PATIENCE = 2.0
"""Seconds that a connection has for its first request."""
_NEXT_PIECE = 5.0
"""Seconds that a request that has come in part has for the next part."""
_LAST_WORD = 1.0
"""Seconds that a client has to close too, once it was told that nothing more comes."""

_TCP_INFO = struct.Struct("=8B24I4Q")
_SENT, _HEARD, _RECEIVED = 8 + 9, 8 + 11, 8 + 24 + 3
"""``tcpi_last_data_sent``, ``tcpi_last_data_recv`` (milliseconds ago) and ``tcpi_bytes_received`` (linux/tcp.h)."""


class LastRequest(web.Request):
    """A request while the worker drains: the response asks the client to close, unless more has arrived already.

    aiohttp looks when the response begins.
    """

    @property
    def keep_alive(self) -> bool:
        return super().keep_alive and _more_has_arrived(self.protocol)


class Lingering:
    """A transport that closes in stages (RFC 9112, 9.6): it ends what it says, then waits for the client's end.

    Closed at once, what the client says just then would meet a reset. That may take from the client what
    it has not read yet, be it the last response or a websocket's close frame, and does not look like an
    end that was meant. So what is said meanwhile is dropped.
    """

    def __init__(self, connection: web.RequestHandler, transport: asyncio.Transport) -> None:
        self._connection = connection
        self._transport = transport
        self._left = False
        self.heard: float | None = None
        """When the client said something last, by the event loop's clock, while the worker drained."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        if self.left:
            return
        self._left = True
        self._connection.close()  # from now on it drops what it is given
        self._transport.resume_reading()
        try:
            self._end()
        except OSError:  # the client has cut it
            self._transport.abort()
        asyncio.get_running_loop().call_later(_LAST_WORD, self._transport.close)

    @property
    def left(self) -> bool:
        """Whether nothing more will be asked or answered."""
        return self._left or self._transport.is_closing()

    def abort(self) -> None:
        self._transport.abort()

    def cut(self) -> None:
        """End it at the end of its grace. Who was told that nothing more comes may still be reading what came."""
        if self._left or self._connection._payload_parser is not None:  # noqa: SLF001, a websocket's close frame told
            self._transport.abort()
        else:
            cut(self._transport)

    def _end(self) -> None:
        if self._connection._payload_parser is not None:  # noqa: SLF001
            return  # a websocket's close frame has said it, and the client may answer that before it sees an end
        if self._transport.get_write_buffer_size():
            self._transport.write_eof()
            return
        # Not a turn of the loop later, as uvloop would: nothing is to arrive between the look and this.
        with self._transport.get_extra_info("socket").dup() as sock:
            sock.shutdown(socket.SHUT_WR)


def prepare(connection: web.RequestHandler) -> Iterator[Lingering]:
    """Let a connection close in stages; yields how to cut it, unless it is closed already."""
    transport: Any = connection.transport
    if transport is not None:
        lingering = Lingering(connection, transport)
        connection.transport = lingering  # type: ignore[assignment]
        connection.__class__ = _attentive(type(connection))  # type: ignore[arg-type]
        transport.set_protocol(connection)  # uvloop keeps the methods that a protocol had
        yield lingering


@functools.cache
def _attentive(original: type[web.RequestHandler]) -> type[web.RequestHandler]:
    class Attentive(original):  # type: ignore[valid-type, misc]
        """A connection that notes when its client says something."""

        __slots__ = ()

        def data_received(self, data: bytes) -> None:
            if isinstance(self.transport, Lingering):
                self.transport.heard = asyncio.get_running_loop().time()
            super().data_received(data)

    return Attentive


def is_answering(connection: web.RequestHandler) -> bool:
    """Tell whether a connection that was prepared is in the middle of a response, or has had its last one."""
    gone = connection.transport is None or connection.transport.left  # type: ignore[attr-defined]
    return gone or connection._current_request is not None  # noqa: SLF001


def close_if_idle(connection: web.RequestHandler, since: float, now: float) -> None:
    """Close a connection between two requests, when it is due.

    Args:
        connection: one that was prepared.
        since: when its worker began to drain.
        now: the time of the event loop.
    """
    if _is_idle(connection) and _is_due(connection, since, now):
        connection.force_close()  # close() ends the connection's task and leaves its socket open


def _is_idle(connection: web.RequestHandler) -> bool:
    waiter, transport = connection._waiter, connection.transport  # noqa: SLF001
    # While it waits for a request. In between, it may be sending what a handler has returned: a file, say.
    if waiter is None or waiter.done() or transport is None or transport.is_closing():
        return False
    asking = _asks(connection) or _has_begun_to_ask(connection)
    return not (transport.get_write_buffer_size() or _more_has_arrived(connection) or asking)


def _more_has_arrived(connection: web.RequestHandler) -> bool:
    """Tell whether a further request is here: parsed, or in the kernel's buffer (FIONREAD, tcp(7))."""
    if connection._messages:  # noqa: SLF001
        return True
    if connection.transport is None:
        return False
    sock = connection.transport.get_extra_info("socket")
    return fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0" * 4) != bytes(4)


def _asks(connection: web.RequestHandler) -> bool:
    """Tell whether a part of a request has come since the worker drains."""
    heard = getattr(connection.transport, "heard", None)
    if heard is None or asyncio.get_running_loop().time() - heard >= _NEXT_PIECE:
        return False
    return not connection._request_count or bool(heard > _served_at(connection))  # noqa: SLF001


def _served_at(connection: web.RequestHandler) -> float:
    """Return when the last response ended, by the event loop's clock."""
    return connection._next_keepalive_close_time - connection.keepalive_timeout  # noqa: SLF001


def _has_begun_to_ask(connection: web.RequestHandler) -> bool:
    """Tell whether a part of a request had come before: something was received after all that was sent.

    The parser keeps to itself what it has, but the kernel knows; not for unix sockets.
    """
    assert connection.transport is not None
    try:
        told = connection.transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size
        )
    except OSError:
        return False
    info = _TCP_INFO.unpack(told)
    begun: bool = info[_HEARD] < info[_SENT] if connection._request_count else info[_RECEIVED] > 0  # noqa: SLF001
    return begun and bool(info[_HEARD] < _NEXT_PIECE * 1000)


def _is_due(connection: web.RequestHandler, since: float, now: float) -> bool:
    """Tell whether an idle connection is to be closed now; each moment of the spread is as likely as another."""
    if _is_unix(connection):
        since += _NEXT_PIECE  # before, nobody can tell whether a part of a request had come
        if now < since:
            return False
    if not connection._request_count:  # noqa: SLF001
        return now - since >= _PATIENCE
    return now - _served_at(connection) >= _QUIET and random.random() * max(LOOK, since + SPREAD - now) < LOOK  # noqa: S311, no secret


def _is_unix(connection: web.RequestHandler) -> bool:
    assert connection.transport is not None
    family: int = connection.transport.get_extra_info("socket").family
    return family == socket.AF_UNIX

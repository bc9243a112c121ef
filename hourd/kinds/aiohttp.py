"""``kind: aiohttp``: HTTP by an ``aiohttp.web.Application``.

How a connection ends once the worker drains. Nothing is taken away from a client that may count on it:

    a response is about to begin     it says ``Connection: close``, unless the client's next request is
                                     here already: then that one's response says so
    nothing was asked for a second   closed; at a random moment of a second, so that not all clients come
                                     back at once. Sooner, a busy client's next request would cross it
    nothing was ever asked           the request may be on its way, and clients repeat only what fails on
                                     a connection that has served before: closed after two seconds
    a response is on its way that    finished, then closed as above: its headers have promised to keep
    began before                     the connection
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import inspect
import random
import socket
import termios
from typing import Any, ClassVar

from aiohttp import web
from msgspec import Struct

from .. import errors
from ..context import Worker, give_worker
from . import Kind, Listening
from .blame import create_server
from .options import AiohttpOptions

_LOOK = 0.1
"""Seconds between two looks at which connections are idle, while draining."""
_SPREAD = 1.0
"""Seconds over which idle connections are closed."""
_QUIET = 1.0
"""Seconds without a request after which a connection counts as idle."""
_PATIENCE = 2.0
"""Seconds that a connection has for its first request."""
_SERVER_ERROR = 500

WORKER: web.AppKey[Worker] = web.AppKey("hourd.worker", Worker)
"""Where an application finds its worker: ``request.app[hourd.kinds.aiohttp.WORKER]``."""


class Aiohttp(Kind):
    """Serve an application, or what a factory (plain or async) makes in the worker."""

    Options: ClassVar[type[Struct]] = AiohttpOptions

    _server: web.Server | None = None

    async def open(self) -> None:
        app = await self._make_application()
        options = self.context.options
        if options.client_max_size is not None:
            app._client_max_size = options.client_max_size  # noqa: SLF001, aiohttp takes it at creation only
        if not app.frozen:
            app[WORKER] = self.context.worker
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            logger=self.context.log,
            access_log=self.context.log if options.access_log else None,
            keepalive_timeout=options.keepalive_timeout,
            # hourd gives connections their grace itself, before it closes the runner.
            shutdown_timeout=0.1,
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._server = self._runner.server
        self._connection_class = _connection_class(self)

    async def listen(self, sock: socket.socket, backlog: int) -> Listening:
        return await create_server(self, self._accept, sock, backlog)

    @property
    def connections(self) -> int:
        return len(self._server.connections) if self._server else 0

    @property
    def requests(self) -> int:  # type: ignore[override]
        return self._server.requests_count if self._server else 0

    def drain(self) -> None:
        assert self._server is not None
        make = functools.partial(self._server.request_factory, _cls=LastRequest)  # type: ignore[call-arg]
        for connection in self._server.connections:
            # Only now, so that until now a request costs nothing more than without hourd.
            connection._request_factory = make  # noqa: SLF001, aiohttp has no other way
            if connection._current_request is not None:  # noqa: SLF001, as above
                connection._current_request.__class__ = LastRequest  # noqa: SLF001, as above
        self._close_idle(asyncio.get_running_loop().time())

    async def close(self) -> None:
        await self._runner.cleanup()

    def _accept(self) -> asyncio.BaseProtocol:
        assert self._server is not None
        self.accepted += 1
        connection = self._server()
        connection.__class__ = self._connection_class
        return connection

    def _close_idle(self, since: float) -> None:
        """Close what is idle, and look again until no connection is left."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        assert self._server is not None
        for connection in self._server.connections:
            if _is_idle(connection) and _is_due(connection, since, now):
                connection.force_close()  # close() ends the connection's task and leaves its socket open
        if self.connections:
            loop.call_later(_LOOK, self._close_idle, since)

    async def _make_application(self) -> web.Application:
        app = self.context.app
        if not isinstance(app, web.Application) and callable(app):
            app = give_worker(app, self.context.worker)()
            if inspect.isawaitable(app):
                app = await app
        if not isinstance(app, web.Application):
            raise errors.BootError(f"app is {app!r}, expected an aiohttp.web.Application or a factory of one")
        return app


class LastRequest(web.Request):
    """A request while the worker drains: the response asks the client to close, unless more has arrived already.

    aiohttp looks when the response begins.
    """

    @property
    def keep_alive(self) -> bool:
        return super().keep_alive and not _is_last(self.protocol)


def _connection_class(kind: Kind) -> type[web.RequestHandler]:
    class Connection(web.RequestHandler):
        """Counts what goes wrong; aiohttp has logged it with its traceback."""

        __slots__ = ()

        def handle_error(
            self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
        ) -> web.StreamResponse:
            if exc is not None and status >= _SERVER_ERROR:
                kind.errors += 1
            return super().handle_error(request, status, exc, message)

    return Connection


def _is_idle(connection: web.RequestHandler) -> bool:
    """Tell whether a connection is between two requests."""
    return connection._current_request is None and _is_last(connection)  # noqa: SLF001, aiohttp does not tell


def _is_last(connection: web.RequestHandler) -> bool:
    """Tell whether no further request has arrived, neither parsed nor in the kernel's buffer (FIONREAD, tcp(7))."""
    transport = connection.transport
    if transport is None or transport.is_closing():
        return False  # it ends by itself
    if connection._messages:  # noqa: SLF001, aiohttp does not tell
        return False
    waiting = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, b"\0" * 4)
    return waiting == bytes(4)


def _is_due(connection: web.RequestHandler, since: float, now: float) -> bool:
    """Tell whether an idle connection is to be closed now; each moment of the spread is as likely as another."""
    if not connection._request_count:  # noqa: SLF001, aiohttp does not tell
        return now - since >= _PATIENCE
    served = connection._next_keepalive_close_time - connection.keepalive_timeout  # noqa: SLF001, as above
    return now - served >= _QUIET and random.random() * max(_LOOK, since + _SPREAD - now) < _LOOK  # noqa: S311, no secret

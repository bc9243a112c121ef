"""``kind: aiohttp``: HTTP by an ``aiohttp.web.Application``.

How connections end once the worker drains stands in ``leaving.py`` and ``aiohttp_websockets.py``, what is refused in
``aiohttp_limits.py``.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import sys
from typing import Any, ClassVar

from aiohttp import web
from msgspec import Struct

from .. import forwarded
from ..context import Worker
from . import Kind, Listening, access_log, aiohttp_around, aiohttp_leaving, aiohttp_limits, factories
from .aiohttp_websockets import Noting, Websockets, watch
from .blame import create_server
from .leaving import Departure, Leaving
from .options import AiohttpOptions
from .patience import Patience

_SERVER_ERROR = 500
_LAST_TURN = 0.1
"""Seconds that a handler has to end by itself once its connection was cut."""
_TO_END = 1.0
"""Seconds that it has to end once it was cancelled: to roll a transaction back, say."""

WORKER: web.AppKey[Worker] = web.AppKey("hourd.worker", Worker)
"""Where an application finds its worker: ``request.app[hourd.kinds.aiohttp.WORKER]``."""


class Runner(web.AppRunner):
    """Has ``on_shutdown`` run once: when no further request will come, as aiohttp does it, or at the end."""

    _shutdown: asyncio.Task[None] | None = None

    def begin_shutdown(self) -> None:
        """Let handlers that wait for ``on_shutdown``, such as those of event streams, come to their end."""
        if self._shutdown is None:
            self._shutdown = asyncio.get_running_loop().create_task(super().shutdown())

    async def shutdown(self) -> None:
        self.begin_shutdown()
        assert self._shutdown is not None
        await self._shutdown


class ServerRunner(web.ServerRunner):
    """Runs a server that was made already, such as ``make_handler`` does, which knows of no ``on_shutdown``."""

    def begin_shutdown(self) -> None:
        pass


class Aiohttp(Kind):
    """Serve an application, or what a factory (plain or async) makes in the worker."""

    Options: ClassVar[type[Struct]] = AiohttpOptions
    tls: ClassVar[bool] = True
    proxy_protocol: ClassVar[bool] = True
    alpn: ClassVar[tuple[str, ...]] = ("http/1.1",)

    _server: web.Server | None = None
    _access_log: access_log.AccessLog | None = None
    _departure: Departure | None = None

    async def open(self) -> None:
        app = await self._make_application()
        options = self.context.options
        if options.client_max_size is not None:
            app._client_max_size = options.client_max_size  # noqa: SLF001, aiohttp takes it at creation only
        if not app.frozen:
            app[WORKER] = self.context.worker
        runner = Runner(
            app,
            handle_signals=False,
            logger=self.context.log,
            access_log=None,
            keepalive_timeout=options.keepalive_timeout,
            max_line_size=options.line_max_size,
            max_field_size=options.line_max_size,
            max_headers=options.max_headers,
            # hourd gives connections their grace itself, before it closes the runner.
            shutdown_timeout=0.1,
        )
        await self._set_up(runner)

    async def _set_up(self, runner: Runner | ServerRunner) -> None:
        self._runner = runner
        await self._runner.setup()
        assert self._runner.server is not None
        self._server = self._runner.server
        options = self.context.options
        proxies = forwarded.configured(options)
        if proxies:
            self._server.request_factory = aiohttp_around.behind(self._server.request_factory, proxies)
        self._websockets = Websockets()
        self._connection_class = _connection_class(self, self._websockets)
        if options.client_max_size:
            self._connection_class = aiohttp_limits.limiting(self._connection_class, options.client_max_size)
        self._access_log = access_log.opened(self.context, aiohttp_around.describe)
        if self._access_log:
            self._connection_class = aiohttp_around.logging(
                self._connection_class, self._access_log, begin_ids=not proxies
            )
        watch()
        owes = functools.partial(aiohttp_limits.owes, options=options)
        self._patience = Patience(self._get_connections, owes, options.shortest_timeout)

    def _get_connections(self) -> list[web.RequestHandler]:
        return self._server.connections if self._server else []

    async def listen(self, sock: socket.socket, backlog: int) -> Listening:
        return await create_server(self, self._accept, sock, backlog)

    @property
    def connections(self) -> int:
        return len(self._get_connections())

    @property
    def requests(self) -> int:  # type: ignore[override]
        return self._server.requests_count if self._server else 0

    def reopen(self) -> None:
        if self._access_log:
            self._access_log.reopen()

    def drain(self) -> None:
        assert self._server is not None
        # Only now, so that until now a request costs nothing more than without hourd.
        leaving = list(aiohttp_leaving.prepare(self._server))
        self._websockets.leave()
        self._departure = Departure(leaving, self._begin_shutdown)

    async def close(self) -> None:
        self._patience.stop()
        if self._server:
            self._websockets.told.update(self._server.connections)
        if self._departure:
            self._departure.cut()
        try:
            if self._server:
                await _end_handlers(self._server)
            await self._runner.cleanup()
        finally:
            if self._access_log:
                await self._access_log.close()

    def _accept(self) -> asyncio.BaseProtocol:
        assert self._server is not None
        self.accepted += 1
        connection = self._server()
        connection.__class__ = self._connection_class
        return connection

    def _begin_shutdown(self, leaving: list[Leaving]) -> None:
        if all(each.is_answering for each in leaving):
            self._runner.begin_shutdown()

    async def _make_application(self) -> web.Application:
        app = given = self.context.app
        if not isinstance(app, web.Application) and callable(app):
            app = await factories.make(app, self.context.worker)
        if not isinstance(app, web.Application):
            raise factories.refused(app, given, "an aiohttp.web.Application")
        return app


async def _end_handlers(server: web.Server) -> None:
    """Have handlers that are left end while what they use is still open. aiohttp forgets them with their connection."""
    requests = [connection._current_request for connection in server.connections]  # noqa: SLF001, it has no other way
    if tasks := [request.task for request in requests if request is not None]:
        _, late = await asyncio.wait(tasks, timeout=_LAST_TURN)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_TO_END)


def _connection_class(kind: Kind, noted: Websockets) -> type[web.RequestHandler]:
    class Connection(Noting):
        """Counts what goes wrong; aiohttp has logged it with its traceback. What a client does wrong is no error."""

        __slots__ = ()
        websockets = noted

        def handle_error(
            self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
        ) -> web.StreamResponse:
            if isinstance(exc, ConnectionError) and (self in noted.told or self.transport is None):
                # The client has gone, or is treated as if it had: a handler that only sends learns of it in this way.
                raise exc
            fault = exc or sys.exc_info()[1]
            if isinstance(fault, aiohttp_limits.CLIENTS_FAULTS) and not request.writer.output_size:
                kind.context.log.debug("refused a request of %s: %s", request.remote, fault)
                return aiohttp_limits.refuse(self, aiohttp_limits.status_of(fault))
            if exc is not None and status >= _SERVER_ERROR:
                kind.errors += 1
            return super().handle_error(request, status, exc, message)

    return Connection

"""``kind: aiohttp``: HTTP by an ``aiohttp.web.Application``."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import inspect
import random
import struct
import termios
from typing import Any, ClassVar

from aiohttp import web
from msgspec import Struct

from .. import errors
from ..context import Worker, give_worker
from . import Context, Kind, Listening
from .options import AiohttpOptions

_SPREAD = 1.0
"""Seconds over which idle connections are closed, so that not all clients come back at once."""

WORKER: web.AppKey[Worker] = web.AppKey("hourd.worker", Worker)
"""Where an application finds its worker: ``request.app[hourd.kinds.aiohttp.WORKER]``."""


class Aiohttp(Kind):
    """Serve an application, or what a factory (plain or async) makes in the worker."""

    Options: ClassVar[type[Struct]] = AiohttpOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._runner: web.AppRunner | None = None
        self._closing: set[asyncio.TimerHandle] = set()

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
        draining = self.context.worker.draining

        class Request(web.Request):
            """Asks the client to close, once the worker drains; decided when the response starts."""

            @property
            def keep_alive(self) -> bool:
                return not draining.is_set() and super().keep_alive

        self._server.request_factory = functools.partial(self._server.request_factory, _cls=Request)

    async def listen(self, sock: Any, backlog: int) -> Listening:
        return await asyncio.get_running_loop().create_server(self._accept, sock=sock, backlog=backlog)

    @property
    def connections(self) -> int:
        return len(self._server.connections) if self._runner and self._runner.server else 0

    @property
    def requests(self) -> int:  # type: ignore[override]
        return self._server.requests_count if self._runner and self._runner.server else 0

    def drain(self) -> None:
        """Close idle connections one after the other; busy ones close with their response."""
        loop = asyncio.get_running_loop()
        for handler in self._server.connections:
            loop.call_later(random.uniform(0, _SPREAD), _close_if_idle, handler)  # noqa: S311, no secret

    async def close(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    @property
    def _server(self) -> web.Server:
        assert self._runner is not None
        assert self._runner.server is not None
        return self._runner.server

    def _accept(self) -> asyncio.BaseProtocol:
        self.accepted += 1
        return self._server()

    async def _make_application(self) -> web.Application:
        app = self.context.app
        if not isinstance(app, web.Application) and callable(app):
            app = give_worker(app, self.context.worker)()
            if inspect.isawaitable(app):
                app = await app
        if not isinstance(app, web.Application):
            raise errors.BootError(f"app is {app!r}, expected an aiohttp.web.Application or a factory of one")
        return app


def _close_if_idle(handler: web.RequestHandler[Any]) -> None:
    """Close a connection between two requests, unless the next one has arrived."""
    transport = handler.transport
    if transport is None or handler._current_request is not None or handler._messages:  # noqa: SLF001
        return
    waiting = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, b"\0" * 4)
    if struct.unpack("i", waiting)[0] == 0:
        handler.close()

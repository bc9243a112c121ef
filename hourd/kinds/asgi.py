"""``kind: asgi``: HTTP and websockets by an ASGI 3 application.

uvicorn's protocol classes speak to clients, without its server around them. How connections end once the worker drains
stands in ``leaving.py``, what is refused in ``uvicorn_connections.py``.

``scope["state"]`` holds what the pool's
lifespan yielded, if that was a mapping; then what the application's own lifespan put there; and the worker, as
``hourd_worker``.
"""

from __future__ import annotations

import asyncio
import contextvars
import email.utils
import functools
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from msgspec import Struct
from uvicorn import Config
from uvicorn.server import ServerState

from .. import forwarded, request_id
from . import Context, Kind, Listening, access_log, asgi_around, blame, callables, uvicorn_leaving
from .asgi_lifespan import Lifespan
from .blame import create_server
from .leaving import Departure
from .options import AsgiOptions
from .patience import Patience
from .uvicorn_connections import Connection
from .uvicorn_log import Log
from .uvicorn_websockets import Websocket

WORKER = "hourd_worker"
"""Where an application finds its worker: ``scope["state"][WORKER]``."""
_TICK = 1.0
"""Seconds between two looks at the clock, for the Date of responses."""


class Asgi(Kind):
    """Serve an application, or what a factory (plain or async) makes in the worker."""

    Options: ClassVar[type[Struct]] = AsgiOptions
    tls: ClassVar[bool] = True
    proxy_protocol: ClassVar[bool] = True
    alpn: ClassVar[tuple[str, ...]] = ("http/1.1",)

    lifespan: ClassVar[bool] = True
    """Whether the application is told of startup and shutdown, as the option says."""
    websockets: ClassVar[bool] = True
    """Whether it may be asked for websockets; a kind without them needs no options about them."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.server_state = ServerState()
        self.tasks = self.server_state.tasks
        self._lifespan: Lifespan | None = None
        self.access_log: access_log.AccessLog | None = None
        self._departure: Departure | None = None

    async def application(self) -> Callable[..., Any]:
        """Return the ASGI 3 application to serve; a subclass may make it of something else."""
        return await callables.make(self.context.app, self.context.worker)

    async def open(self) -> None:
        options = self.context.options
        app = await blame.run(self, self.application)
        self.app_state = self._make_state()
        self.access_log = access_log.opened(self.context, asgi_around.describe)
        self.request_context = contextvars.copy_context()
        self.request_context.run(request_id.forget)
        self.prepare = asgi_around.preparing(forwarded.configured(options), self.access_log)
        self.config = self._make_config(app)
        if self.lifespan and options.lifespan != "off":
            lifespan = Lifespan(app, self.app_state, self.context.log, required=options.lifespan == "on")
            await blame.run(self, lifespan.start)
            self._lifespan = lifespan
        self._tick()
        self._patience = Patience(self._http_connections, Connection.owes, options.shortest_timeout)

    async def listen(self, sock: socket.socket, backlog: int) -> Listening:
        return await create_server(self, self._accept, sock, backlog)

    @property
    def connections(self) -> int:
        # An application may have something to finish after its client is gone.
        return max(len(self.server_state.connections), len(self.tasks))

    def reopen(self) -> None:
        if self.access_log:
            self.access_log.reopen()

    @property
    def is_leaving(self) -> bool:
        """Whether its connections were asked to end."""
        return self._departure is not None

    def drain(self) -> None:
        connections = tuple(self.server_state.connections)
        # Only now, so that until now a request costs nothing more than without hourd.
        self._departure = Departure(uvicorn_leaving.prepare(connections))
        for each in connections:
            if isinstance(each, Websocket):
                each.leave()

    async def close(self) -> None:
        self._ticking.cancel()
        self._patience.stop()
        if self._departure:
            self._departure.cut()
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()
        tasks = tuple(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._lifespan:
            await self._lifespan.stop()
        if self.access_log:
            await self.access_log.close()

    def _accept(self) -> asyncio.BaseProtocol:
        self.accepted += 1
        return Connection(self)

    def _http_connections(self) -> Iterator[Connection]:
        return (each for each in self.server_state.connections if isinstance(each, Connection))

    def _make_state(self) -> dict[str, Any]:
        yielded = self.context.worker.state
        return {**(yielded if isinstance(yielded, Mapping) else {}), WORKER: self.context.worker}

    def _make_config(self, app: Callable[..., Any]) -> Config:
        """Configure uvicorn's protocols. Its own logging, lifespan, proxy headers and signals are not used."""
        options = self.context.options
        websockets: dict[str, Any] = {"ws": "none"}
        if self.websockets:
            websockets = {
                # Given as a class, so that no module of uvicorn's is imported for it here.
                "ws": functools.partial(Websocket, self),
                "ws_max_size": options.websocket_max_size,
                "ws_ping_interval": options.websocket_ping_interval or None,
                "ws_ping_timeout": options.websocket_ping_timeout or None,
            }
        config = Config(
            _placeholder,
            http=Connection,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            workers=1,
            root_path=options.root_path,
            **websockets,
        )
        config.load()
        config.loaded_app = app  # only now: load() calls what it is given, to see whether that is a factory
        self.log = Log(self)
        return config

    def _tick(self) -> None:
        """Set the headers that uvicorn gives every response."""
        date = email.utils.formatdate(time.time(), usegmt=True).encode()
        self.server_state.default_headers = [(b"date", date), *self.config.encoded_headers]
        self._ticking = asyncio.get_running_loop().call_later(_TICK, self._tick)


async def _placeholder(_scope: Any, _receive: Any, _send: Any) -> None:
    """Stand in for the application while uvicorn's configuration is made."""

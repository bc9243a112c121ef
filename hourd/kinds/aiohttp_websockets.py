"""Which websockets of aiohttp are open, and how they are told that their worker drains.

aiohttp keeps no list of them; its documentation has each application do so. What does not work:
``Application.on_response_prepare`` costs each request something, and a connection learns that it is
upgraded (``RequestHandler.set_parser``) but not whose it is. So ``WebSocketResponse.prepare``, which a
websocket calls once and other responses never, is made to note it here.
"""

from __future__ import annotations

import asyncio
import functools
import weakref

from aiohttp import WSCloseCode, web
from aiohttp.abc import AbstractStreamWriter

from . import leaving

_MESSAGE = b"the server is going away"


class Websockets:
    """The open websockets of a server."""

    def __init__(self) -> None:
        self.told: set[web.RequestHandler] = set()
        """Connections that were closed from here, be they websockets or not: to write to one fails from then on."""
        self._open: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()
        self._farewells: set[asyncio.Task[bool]] = set()
        self._leaving = False

    def note(self, websocket: web.WebSocketResponse) -> None:
        self._open.add(websocket)
        if self._leaving:
            leaving.soon(self._tell, websocket)

    def leave(self) -> None:
        """Close all, and those yet to come, each at a random moment: not all clients are to come back at once."""
        self._leaving = True
        for websocket in tuple(self._open):
            leaving.soon(self._tell, websocket)

    def _tell(self, websocket: web.WebSocketResponse) -> None:
        request = websocket._req  # noqa: SLF001, to note its connection too would keep both alive
        if websocket.closed or request is None:
            return
        self.told.add(request.protocol)
        # This is how a handler that waits for a message learns of it too.
        farewell = websocket.close(code=WSCloseCode.GOING_AWAY, message=_MESSAGE)
        task = asyncio.get_running_loop().create_task(farewell)
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)


class Noting(web.RequestHandler):
    """A connection whose websocket, if it becomes one, is noted."""

    __slots__ = ()
    websockets: Websockets


@functools.cache
def watch() -> None:
    """Have websockets noted from now on."""
    original = web.WebSocketResponse.prepare

    @functools.wraps(original)
    async def prepare(self: web.WebSocketResponse, request: web.BaseRequest) -> AbstractStreamWriter:
        writer = await original(self, request)
        if isinstance(request.protocol, Noting):
            request.protocol.websockets.note(self)
        return writer

    web.WebSocketResponse.prepare = prepare  # type: ignore[method-assign, assignment]

"""ASGI callables around an application: its access log, and who the client is behind proxies.

They are there only when they are configured, and make no coroutine of their own for what the application sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from .. import request_id
from ..forwarded import Proxies
from .access_log import CLIENT_GONE, AccessLog, clock

Scope = dict[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

_SERVER_ERROR = 500
_SWITCHING, _FORBIDDEN = 101, 403
_ID = request_id.HEADER.lower().encode()
_PROTOCOLS = {version: f"HTTP/{version}" for version in ("1.0", "1.1", "2", "3")}
_SECURE = {"http": {"http": "http", "websocket": "ws"}, "https": {"http": "https", "websocket": "wss"}}


def wrapped(app: App, proxies: Proxies | None, log: AccessLog | None) -> App:
    """Return the application with what is configured around it."""
    if log:
        app = Logged(app, log)
    if proxies:
        app = Behind(app, proxies)
    return _begun(app) if proxies or (log and log.has_ids) else app


def _begun(app: App) -> App:
    """Return an application each of whose requests has an id of its own.

    uvicorn begins the task of a request in the context of the one before it.
    """

    def begin(scope: Scope, receive: Any, send: Any) -> Awaitable[None]:
        request_id.begin()
        return app(scope, receive, send)

    return begin


class Behind:
    """Has the application see the client instead of a trusted proxy."""

    def __init__(self, app: App, proxies: Proxies) -> None:
        self._app = app
        self._proxies = proxies
        self._names = frozenset((*(name.encode() for name in proxies.headers), b"host", _ID))

    def __call__(self, scope: Scope, receive: Any, send: Any) -> Awaitable[None]:
        if self._proxies.networks.has_peer(_peer(scope)):
            self._believe(scope)
        return self._app(scope, receive, send)

    def _believe(self, scope: Scope) -> None:
        found: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            if name in self._names:
                found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        told = self._proxies.read(lambda name: found.get(name, ()))
        if told.client:
            scope["client"] = tuple(told.client)
        if told.scheme:
            scope["scheme"] = _SECURE[told.scheme][scope["type"]]
        if told.host:
            headers = [pair for pair in scope["headers"] if pair[0] != b"host"]
            scope["headers"] = [(b"host", told.host.encode()), *headers]
        if given := found.get(request_id.HEADER.lower()):
            request_id.begin(given[-1])


def _peer(scope: Scope) -> object:
    """Return the peer as a socket has it; of a unix socket, uvicorn gives neither a client nor a port."""
    client, server = scope.get("client"), scope.get("server")
    if client is None and (server is None or server[1] is None):
        return ""
    return client and tuple(client)


class Logged:
    """Writes a line for each request and websocket, when the application is done with it."""

    def __init__(self, app: App, log: AccessLog) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        start = clock()
        status = size = 0

        def note(message: Any) -> Any:
            nonlocal status, size
            kind = message["type"]
            if kind == "http.response.body":
                size += len(message.get("body", b""))
            elif kind in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
            elif kind == "websocket.accept":
                status = _SWITCHING
            elif kind == "websocket.close":
                status = status or _FORBIDDEN
            return send(message)

        try:
            await self._app(scope, receive, note)
        except asyncio.CancelledError:
            status = status or CLIENT_GONE
            raise
        finally:
            # Whoever ends without a response has one made for it.
            self._write(scope, status or _SERVER_ERROR, size, clock() - start)

    def _write(self, scope: Scope, status: int, size: int, duration: float) -> None:
        referer = agent = None
        for name, value in scope["headers"]:
            if name == b"user-agent":
                agent = value
            elif name == b"referer":
                referer = value
        target, query = scope["raw_path"], scope["query_string"]
        if query:
            target += b"?" + query
        method = scope.get("method", "GET")  # a websocket has none
        client = scope["client"]
        self._log.write(
            client[0] if client else "unix" if _peer(scope) == "" else "-",
            method,
            target.decode("utf-8", "surrogateescape"),
            _PROTOCOLS[scope["http_version"]],
            status,
            0 if method == "HEAD" else size,
            duration,
            (referer, agent),
        )

"""ASGI callables around an application: its access log, and who the client is behind proxies.

They are there only when they are configured, and make no coroutine of their own for what the application sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from .. import request_id
from ..forwarded import Proxies
from .access_log import CLIENT_GONE, AccessLog, Described, clock

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
        app = logged(app, log, request_id.box if proxies else request_id.begin)
    return Behind(app, proxies) if proxies else app


class Behind:
    """Has the application see the client instead of a trusted proxy."""

    def __init__(self, app: App, proxies: Proxies) -> None:
        self._app = app
        self._proxies = proxies
        self._names = frozenset((*(name.encode() for name in proxies.headers), b"host", _ID))

    def __call__(self, scope: Scope, receive: Any, send: Any) -> Awaitable[None]:
        # uvicorn begins the task of a request in the context of the one before it.
        request_id.begin()
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


def logged(app: App, log: AccessLog, begin: Callable[[], request_id.Box]) -> App:
    """Return an application that notes each request and websocket when it is done with it.

    Args:
        app: the application.
        log: where it notes them.
        begin: begins a request's id, or returns what holds the one that was begun.
    """
    now, ids = clock, log.has_ids

    async def run(scope: Scope, receive: Any, send: Any) -> None:
        start = now()
        box = begin() if ids else None
        status = size = 0

        def note(message: Any) -> Any:
            nonlocal status, size
            kind = message["type"]
            if kind == "http.response.body":
                size += len(message.get("body", b""))
            elif kind == "http.response.start" or kind == "websocket.http.response.start":  # noqa: PLR1714, quicker
                status = message["status"]
            elif kind == "websocket.accept":
                status = _SWITCHING
            elif kind == "websocket.close":
                status = status or _FORBIDDEN
            return send(message)

        try:
            await app(scope, receive, note)
        except asyncio.CancelledError:
            status = status or CLIENT_GONE
            raise
        finally:
            if scope.get("method") == "HEAD":
                size = 0  # it is not sent
            # Whoever ends without a response has one made for it.
            log.note(scope, status or _SERVER_ERROR, size, now() - start, box)

    return run


def describe(scope: Scope) -> Described:
    """Return what the access log shows of a request."""
    referer = agent = None
    for name, value in scope["headers"]:
        if name == b"user-agent":
            agent = value
        elif name == b"referer":
            referer = value
    target, query = scope["raw_path"], scope["query_string"]
    if query:
        target += b"?" + query
    client, version = scope["client"], scope["http_version"]
    return (
        client[0] if client else "unix" if _peer(scope) == "" else "-",
        scope.get("method", "GET"),  # a websocket has none
        target.decode("utf-8", "surrogateescape"),
        _PROTOCOLS.get(version) or f"HTTP/{version}",
        (referer, agent),
    )

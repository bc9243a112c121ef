"""What is around an ASGI application: its access log, and who the client is behind proxies.

It is there only when it is configured.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .. import request_id
from ..forwarded import Proxies
from .access_log import CLIENT_GONE, AccessLog, Described, clock

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

Scope = dict[str, Any]
Fields = dict[bytes, bytes]
"""Headers by name."""
Asked = tuple[Any, Any, Any, Any, Any, Fields]
"""Who asks (a tuple as in the scope, or whether it comes over a unix socket), method, path, query, version, headers."""
Prepare = Callable[[Scope], request_id.Box]
App = Callable[[Scope, Any, Any], Awaitable[None]]

_SERVER_ERROR = 500
_SWITCHING, _FORBIDDEN = 101, 403
_PROTOCOLS = {version: f"HTTP/{version}" for version in ("1.0", "1.1", "2", "3")}
_SECURE = {"http": {"http": "http", "websocket": "ws"}, "https": {"http": "https", "websocket": "wss"}}


def preparing(proxies: Proxies | None, log: AccessLog | None) -> Prepare | None:
    """Return what is to be done with each scope before its application is called, if anything.

    It begins the request's id in the context of who calls it, and returns what holds that.
    """
    if proxies:
        return Behind(proxies).prepare
    return _begin_id if log and log.has_ids else None


def _begin_id(_scope: Scope) -> request_id.Box:
    return request_id.begin()


class Behind:
    """Has the application see the client instead of a trusted proxy."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies
        self._names = frozenset((*(name.encode() for name in proxies.headers), b"host"))

    def prepare(self, scope: Scope) -> request_id.Box:
        """Begin the request's id, and write into its scope what a trusted proxy has told."""
        box = request_id.begin()
        if self._proxies.networks.has_peer(_peer(scope)):
            self._believe(scope)
        return box

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
        if told.request_id:
            request_id.take(told.request_id)


def _peer(scope: Scope) -> object:
    """Return the peer as a socket has it; of a unix socket, uvicorn gives neither a client nor a port."""
    client, server = scope.get("client"), scope.get("server")
    if client is None and (server is None or server[1] is None):
        return ""
    return client and tuple(client)


async def run_logged(
    log: AccessLog,
    cycle: RequestResponseCycle,
    app: Any,
    fields: Fields,
    box: request_id.Box | None,
) -> None:
    """Run uvicorn's cycle of a request to its end, and note it."""
    start = clock()
    asked = _asked(cycle.scope, fields)
    send: Any = cycle.send
    status = size = 0
    end = 0.0

    def sent(message: Any) -> Awaitable[None]:
        nonlocal status, size, end
        if not status:
            status = message.get("status", 0)
        elif not cycle.disconnected:
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                end = clock()
        return send(message)  # type: ignore[no-any-return]

    cycle.send = sent  # type: ignore[assignment, method-assign]
    try:
        await cycle.run_asgi(app)
    finally:
        cycle.send = None  # type: ignore[assignment, method-assign]  # nothing is to refer to itself
        if not cycle.response_complete:
            status = getattr(cycle, "refused", CLIENT_GONE) if cycle.disconnected else _SERVER_ERROR
        if cycle.scope["method"] == "HEAD":
            size = 0  # it is not sent
        log.note(asked, status, size, (end or clock()) - start, box)


def around_websocket(app: App, prepare: Prepare | None, log: AccessLog | None) -> App:
    """Return an application to which the same is done with each websocket; it notes those that have ended."""
    return functools.partial(_run_websocket, app, prepare, log) if prepare or log else app


async def _run_websocket(
    app: App, prepare: Prepare | None, log: AccessLog | None, scope: Scope, receive: Any, send: Any
) -> None:
    start = clock()
    box = prepare(scope) if prepare else None
    if not log:
        await app(scope, receive, send)
        return
    asked = _asked(scope, dict(scope["headers"]))
    status = 0

    def sent(message: Any) -> Awaitable[None]:
        nonlocal status
        match message["type"]:
            case "websocket.http.response.start":
                status = message["status"]
            case "websocket.accept":
                status = _SWITCHING
            case "websocket.close":
                status = status or _FORBIDDEN
        return send(message)  # type: ignore[no-any-return]

    try:
        await app(scope, receive, sent)
    except asyncio.CancelledError:
        status = status or CLIENT_GONE
        raise
    finally:
        log.note(asked, status or _SERVER_ERROR, 0, clock() - start, box)


def _asked(scope: Any, fields: Fields) -> Asked:
    """Return what the access log needs of a scope, which its application may change."""
    unix = _peer(scope) == "" if scope["client"] is None else False
    return (
        scope["client"] or unix,
        scope.get("method"),
        scope.get("raw_path"),
        scope.get("query_string"),
        scope.get("http_version"),
        fields,
    )


def describe(asked: Asked) -> Described:
    """Return what the access log shows of a request."""
    client, method, target, query, version, fields = asked
    name = client[0] if isinstance(client, tuple) else "unix" if client else "-"
    if target is None:  # what came was no request
        return "-", (name, "-", "-", None, None)
    if query:
        target += b"?" + query
    return target.decode("utf-8", "surrogateescape"), (
        name,
        method or "GET",  # a websocket has none
        _PROTOCOLS.get(version) or f"HTTP/{version}",
        fields.get(b"referer"),
        fields.get(b"user-agent"),
    )

"""aiohttp's requests in the access log, and with the client that trusted proxies tell of."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web
from aiohttp.hdrs import CONTENT_LENGTH, REFERER, USER_AGENT
from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.web_protocol import ERROR

from .. import request_id
from ..forwarded import Proxies
from .access_log import CLIENT_GONE, AccessLog, Described, clock

_PROTOCOLS = {HttpVersion11: "HTTP/1.1", HttpVersion10: "HTTP/1.0"}
_SERVER_ERROR = 500
_BODILESS = frozenset((101, 204, 304))


def describe(subject: tuple[str, Any]) -> Described:
    """Return what the access log shows of a request: of its client, and aiohttp's raw message."""
    client, message = subject
    if message is ERROR:  # what came was no request
        return "-", (client, "-", "-", None, None)
    headers = message.headers
    return message.path, (
        client,
        message.method,
        _PROTOCOLS.get(message.version) or "HTTP/{}.{}".format(*message.version),
        headers.get(REFERER),
        headers.get(USER_AGENT),
    )


def _subject(request: web.BaseRequest) -> tuple[str, Any]:
    # What aiohttp's properties would say; most of them are asked for here only, and their caches would be for nothing.
    client = request._cache.get("remote") or _client(request.protocol.peername)  # noqa: SLF001
    return client, request._message  # noqa: SLF001, the attribute of that name is deprecated


def _client(peer: object) -> str:
    if isinstance(peer, tuple):
        return str(peer[0])
    return "-" if peer is None else "unix"


def _body_size(request: web.BaseRequest, response: web.StreamResponse, status: int) -> int:
    """Return how many bytes of a body were sent, or given to be sent when the connection ended."""
    if status in _BODILESS or request._message.method == "HEAD":  # noqa: SLF001, as above
        return 0
    headers = response.headers
    # Of a whole response, the length is in its headers; what is sent as a file is counted nowhere else.
    length = headers.get(CONTENT_LENGTH)
    if length is not None and response.body_length:
        return int(length)
    head = f"HTTP/1.1 {status} {response.reason}\r\n\r\n"
    size = len(head) + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
    return max(0, request.writer.output_size - size)


def logging(original: type[web.RequestHandler], log: AccessLog, *, begin_ids: bool) -> type[web.RequestHandler]:
    """Return a class of connections that log their requests.

    aiohttp would have it done by an ``AbstractAccessLogger``. That is not told of requests whose response never
    comes to its end, and of durations only what uvloop's clock says, which stands still while a handler runs.

    Args:
        original: the class.
        log: where they are noted.
        begin_ids: whether nobody else begins the id of each request: all of a connection have one context.
    """
    begin_ids = begin_ids and log.has_ids

    def box() -> request_id.Box | None:
        return request_id.box() if log.has_ids else None

    class Logging(original):  # type: ignore[valid-type, misc]
        __slots__ = ()

        async def _handle_request(self, request: web.BaseRequest, _start: float | None, *more: Any) -> Any:
            start = clock()
            if begin_ids:
                request_id.begin()
            try:
                return await super()._handle_request(request, start, *more)
            except BaseException as error:
                # How much has come of the response is known with its head only, and not its status.
                log.note(_subject(request), _status(error), request.writer.output_size, clock() - start, box())
                raise

        def log_access(self, request: web.BaseRequest, response: web.StreamResponse, time: float | None) -> None:
            duration, status = clock() - (time or 0.0), response.status
            log.note(_subject(request), status, _body_size(request, response, status), duration, box())

    return Logging


def _status(error: BaseException) -> int:
    """Return who has ended it: an application that fails in the middle of its response has its connection cut."""
    failed = error.__context__ if isinstance(error, ConnectionError) else error
    gone = failed is None or isinstance(failed, ConnectionError | asyncio.CancelledError)
    return CLIENT_GONE if gone else _SERVER_ERROR


def behind(original: Callable[..., web.BaseRequest], proxies: Proxies) -> Callable[..., web.BaseRequest]:
    """Return what makes requests that have the client's address, scheme and host instead of a trusted proxy's."""
    kind = _request_class(proxies)

    def make(*given: Any, _cls: type[web.Request] | None = None) -> web.BaseRequest:
        request_id.begin()
        return original(*given, _cls=kind if _cls is None else _with(_cls, kind))

    return make


@functools.cache
def _with(last: type[web.Request], kind: type[web.Request]) -> type[web.Request]:
    return type(last.__name__, (last, kind), {})


def _request_class(proxies: Proxies) -> type[web.Request]:
    class Request(web.Request):
        """A request that may have come by a proxy; so may what it is cloned to."""

        def __init__(self, message: Any, payload: Any, protocol: Any, *more: Any, **changed: Any) -> None:
            super().__init__(message, payload, protocol, *more, **changed)
            if message is not ERROR and proxies.networks.has_peer(protocol.peername):
                _believe(self, proxies, changed)

    return Request


def _believe(request: web.Request, proxies: Proxies, changed: dict[str, Any]) -> None:
    headers = request.headers

    def lines(name: str) -> Sequence[str]:
        return headers.getall(name, ())

    told = proxies.read(lines)
    believed = {"remote": told.client and told.client.name, "scheme": told.scheme, "host": told.host}
    cache = request._cache  # noqa: SLF001, where aiohttp looks first
    for name, value in believed.items():
        if value is not None and changed.get(name) is None:
            cache[name] = value
            if name != "remote":
                cache.pop("url", None)  # made of scheme and host when it is asked for
    if told.request_id:
        request_id.take(told.request_id)

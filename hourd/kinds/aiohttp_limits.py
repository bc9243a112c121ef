"""What clients of aiohttp may take in time and size; how large a request may be, its parser sees to itself."""

from __future__ import annotations

import asyncio
import http
import math
from typing import Any, ClassVar

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestPayloadError

from . import kernel
from .lingering import Lingering
from .options import HttpOptions
from .patience import Debt

_READS = "reads"
_TOO_MANY = "Too many headers"


class BodyTimeoutError(TimeoutError):
    """The next piece of a request's body did not come in time. As a timeout, aiohttp takes it for no bug."""


CLIENTS_FAULTS = (HttpProcessingError, RequestPayloadError, BodyTimeoutError)
"""What aiohttp raises for what a client did."""


def status_of(fault: BaseException) -> http.HTTPStatus:
    """Return the status that a client's fault is answered with."""
    match fault:
        case BodyTimeoutError():
            return http.HTTPStatus.REQUEST_TIMEOUT
        case LineTooLong() if bytes(fault.args[0])[:1] == b"/":  # a header's value may begin so, too
            return http.HTTPStatus.REQUEST_URI_TOO_LONG
        case LineTooLong():
            return http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        case BadHttpMessage() if fault.message.startswith(_TOO_MANY):
            return http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        case _:
            return http.HTTPStatus.BAD_REQUEST


def refuse(connection: web.RequestHandler, status: http.HTTPStatus) -> web.Response:
    """Return what a client is answered whose connection is to end."""
    linger(connection)
    response = web.Response(status=status, text=f"{status.value} {status.phrase}\n")
    response.force_close()
    return response


def linger(connection: web.RequestHandler) -> None:
    """Have a connection end in stages, so that the client can read the answer while it still talks."""
    transport: Any = connection.transport
    if transport is not None and not isinstance(transport, Lingering):
        connection.transport = Lingering(transport, drop=connection.close)  # type: ignore[assignment]


def limiting(original: type[web.RequestHandler], size: int) -> type[web.RequestHandler]:
    """Return a class of connections whose requests have bodies of up to a size.

    aiohttp measures what ``request.read()`` returns, and that alone: what a handler reads by itself has no end.

    Args:
        original: the class.
        size: in bytes, of what a handler would read: a compressed body counts as what becomes of it.
    """
    limited = type("Body", (_Body,), {"__slots__": (), "most": size})

    class Limiting(original):  # type: ignore[valid-type, misc]
        __slots__ = ()

        async def _handle_request(self, request: web.BaseRequest, *more: Any) -> Any:
            if type(request._payload) is not StreamReader:  # noqa: SLF001, aiohttp has no other way
                return await super()._handle_request(request, *more)  # there is no body
            body: Any = request._payload  # noqa: SLF001, as above
            body.__class__ = limited
            if (request.content_length or 0) > size or body.total_bytes > size:
                body.refuse(request)
            try:
                return await super()._handle_request(request, *more)
            finally:
                if not body.is_eof():
                    body.__class__ = StreamReader  # what comes from now on is dropped by aiohttp

    return Limiting


class _Body(StreamReader):
    """A body while it is a handler's to read."""

    __slots__ = ()
    most: ClassVar[int]

    def feed_data(self, data: bytes, *more: Any) -> Any:
        if self._eof:
            return False  # what came in one piece with what was too much
        if self.total_bytes + len(data) > self.most:
            self.refuse(self._protocol._current_request)  # type: ignore[attr-defined]  # noqa: SLF001, as above
            return False
        return super().feed_data(data, *more)

    def refuse(self, request: Any) -> None:
        """Have it fail where it is read, as ``request.read()`` does. Without the rest of it, the connection ends.

        Args:
            request: its own, unless that was answered already.
        """
        self.set_exception(web.HTTPRequestEntityTooLarge(self.most, self.total_bytes))
        if self._eof:
            return
        self.feed_eof()
        if request is not None:
            request._message = request._message._replace(should_close=True)  # noqa: SLF001, as above
        connection: Any = self._protocol
        linger(connection)
        connection.close()


def owes(connection: web.RequestHandler, options: HttpOptions) -> Debt | None:
    """Tell what a client owes, if it is its turn. An idle connection ends by aiohttp's own timer."""
    if connection.transport is None or connection.transport.is_closing() or connection._payload_parser is not None:  # noqa: SLF001
        return None
    if connection._paused:  # noqa: SLF001
        progress = kernel.taken(connection.transport.get_extra_info("socket"))
        return Debt((_READS, progress), options.send_timeout or math.inf, connection.transport.abort)
    request = connection._current_request  # noqa: SLF001, aiohttp tells nobody, here as below
    if request is not None:
        return _owes_body(connection, request, options)
    if options.head_timeout and connection._waiter is not None and _has_begun(connection):  # noqa: SLF001
        return Debt(connection._request_count, options.head_timeout, lambda: _time_out(connection))  # noqa: SLF001
    return None


def _owes_body(connection: web.RequestHandler, request: web.BaseRequest, options: HttpOptions) -> Debt | None:
    payload: Any = request._payload  # noqa: SLF001
    awaited = not payload.is_eof() and payload._waiter is not None  # noqa: SLF001
    if not awaited or connection._reading_paused or request.writer.output_size or not options.body_timeout:  # noqa: SLF001
        return None
    what = connection._request_count, payload.total_bytes  # noqa: SLF001
    return Debt(what, options.body_timeout, lambda: payload.set_exception(BodyTimeoutError("the body did not come")))


def _has_begun(connection: web.RequestHandler) -> bool:
    """Tell whether a head has come in part. The parser keeps it to itself; of unix sockets nobody can tell."""
    assert connection.transport is not None
    traffic = kernel.traffic(connection.transport.get_extra_info("socket"))
    # Of a TLS connection, the handshake has been heard, and the last word of that is the server's, mostly.
    again = bool(connection._request_count) or connection.transport.get_extra_info("ssl_object") is not None  # noqa: SLF001
    return traffic is not None and traffic.has_begun(again=again)


def _time_out(connection: web.RequestHandler) -> None:
    status = http.HTTPStatus.REQUEST_TIMEOUT
    body = f"{status.value} {status.phrase}\n"
    linger(connection)
    assert isinstance(connection.transport, asyncio.Transport | Lingering)
    connection.transport.write(
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
    )
    connection.force_close()

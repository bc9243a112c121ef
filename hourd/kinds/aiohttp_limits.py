"""What clients of aiohttp may take in time and size; how large a request may be, its parser sees to itself."""

from __future__ import annotations

import asyncio
import http
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestPayloadError

from . import kernel
from .lingering import Lingering
from .options import HttpOptions
from .patience import Debt

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


def owes(connection: web.RequestHandler, options: HttpOptions) -> Debt | None:
    """Tell what a client owes, if it is its turn. An idle connection ends by aiohttp's own timer."""
    if connection.transport is None or connection.transport.is_closing() or connection._payload_parser is not None:  # noqa: SLF001
        return None
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

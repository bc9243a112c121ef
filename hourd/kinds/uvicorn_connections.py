"""The HTTP connections of ``kind: asgi``: uvicorn's protocol, with limits and with what a server has to know.

uvicorn leaves limits to a proxy in front, and httptools has none. Here a request that comes whole in one piece, as
nearly all do, is only looked at for how many headers it has, and for its Host.
"""

from __future__ import annotations

import asyncio
import http
import math
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from . import asgi_around, kernel
from .blame import MARK
from .patience import Debt
from .uvicorn_flow import Flow
from .uvicorn_refusals import Refusing
from .uvicorn_responses import ToTheEnd
from .uvicorn_websockets import Websocket

if TYPE_CHECKING:
    from .asgi import Asgi

_IDLE, _READS = "idle", "reads"
_FIRST = 20.0
"""Seconds until the first request of a connection that is not kept for a second one."""
_VERSIONS = ("1.1", "1.0")


class Connection(Refusing):
    """An HTTP connection."""

    flow: Flow

    # CPython shares the keys of instances that have up to 30 attributes, of which uvicorn takes 28. Slots do not count.
    __slots__ = (
        MARK,
        "_access_log",
        "_body_max_size",
        "_in_pieces",
        "_keeps_alive",
        "_kind",
        "_line_max_size",
        "_max_headers",
        "_may_be_large",
        "_options",
        "_part_of",
        "_prepare",
        "_progress",
        "_stalled",
        "_trailers",
        "served_at",
        "unfed",
    )

    def __init__(self, kind: Asgi) -> None:
        super().__init__(kind.config, kind.server_state, kind.app_state, _loop=asyncio.get_running_loop())
        self.logger = kind.log  # type: ignore[assignment]
        setattr(self, MARK, kind)
        self._kind = kind
        self._access_log = kind.access_log
        self._prepare = kind.prepare
        self._options = options = kind.context.options
        self._line_max_size: int = options.line_max_size
        self._keeps_alive: bool = options.keepalive_timeout > 0
        self._max_headers: int = options.max_headers
        self._body_max_size: int | None = options.client_max_size
        self._trailers: list[tuple[bytes, bytes]] = []
        # Whether it is being fed with so much that a line may be in it which is too long.
        self._in_pieces = False
        # Whether the next head is to be measured.
        self._may_be_large = self._body_max_size is not None
        # What comes in pieces; how much is known of it; and bytes that have come since there was progress.
        self._part_of: object = None
        self._progress = 0, 0
        self._stalled = 0
        self.unfed = b""
        """What has come and waits until the requests before it are answered."""
        self.served_at = -math.inf
        """When its last response ended, by the event loop's clock."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # uvicorn tells the request that came last only.
        if self.running is not None and not self.running.response_complete:
            self.running.disconnected = True
            self.running.message_event.set()

    # --- what comes -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.pipeline or self.unfed:
            self._hold(self.unfed + data)
        elif len(data) > self._line_max_size:
            self._feed_in_pieces(data)
        else:
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._blame(error)
            self.refuse(http.HTTPStatus.BAD_REQUEST)
        else:
            cycle = self.cycle
            if cycle is None or cycle.scope is not self.scope:
                self._check_part_of_head(len(data))
            elif cycle.more_body:
                self._check_progress(cycle, (getattr(cycle, "size", 0), len(self.headers)), len(data))

    def _feed_in_pieces(self, data: bytes) -> None:
        self._in_pieces = self._may_be_large = True
        size = self._line_max_size
        for start in range(0, len(data), size):
            if self.refused or self.transport.is_closing() or self not in self.connections:
                break  # or it has become a websocket
            if self.pipeline or self.unfed:
                self._hold(self.unfed + data[start:])
                break
            self._feed(data[start : start + size])
        self._in_pieces = False
        self._may_be_large = self.is_asking or bool(self.pipeline) or self._body_max_size is not None

    def _hold(self, data: bytes) -> None:
        """Keep what is not to be looked at before the requests that wait are answered."""
        self.unfed = data
        self.flow.pause_reading()
        self.flow.is_held = True

    def _feed_rest(self) -> None:
        data, self.unfed = self.unfed, b""
        self.flow.is_held = False
        if data and not self.transport.is_closing():
            self.data_received(data)
            self.flow.resume_reading()

    def _check_part_of_head(self, size: int) -> None:
        if self.scope is None:
            return  # empty lines
        self._may_be_large = True
        if len(self.url) > self._line_max_size:
            self.refuse(http.HTTPStatus.REQUEST_URI_TOO_LONG)
        else:
            self._check_progress(self.scope, (len(self.url), len(self.headers)), size)

    def _check_progress(self, part_of: object, progress: tuple[int, int], size: int) -> None:
        """Refuse what goes on and on, in a head or, as a chunk's extension or as trailers, in a body.

        Args:
            part_of: what it is.
            progress: how much is known of it; headers, or trailers, last.
            size: how many bytes have come.
        """
        if self._part_of is not part_of:
            self._part_of, self._progress, self._stalled = part_of, (0, 0), 0
        self._stalled = self._stalled + size if progress == self._progress else 0
        self._progress = progress
        if self._stalled > self._line_max_size or progress[1] > self._max_headers:
            self.refuse(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _blame(self, error: httptools.HttpParserError) -> None:
        """Tell of what went wrong in here, and not in what the client has sent."""
        cause = error.__context__
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(
            cause, UnicodeDecodeError | httptools.HttpParserInvalidURLError
        ):
            self._kind.failed("cannot take a request", cause or error)

    def _upgrade(self, rest: bytes) -> None:
        if self._should_upgrade():
            status = self._find_fault(self.scope)  # type: ignore[arg-type]
            if self.cycle is not None and not self.cycle.response_complete:
                status = http.HTTPStatus.BAD_REQUEST  # the responses before would come in between
            if status is not None:
                self.refuse(status)
            else:
                self.handle_websocket_upgrade()
                websocket = self.transport.get_protocol()
                assert isinstance(websocket, Websocket)
                websocket.check_handshake()
        elif rest:  # to nothing that is known here: served as if it had not asked, and what follows in its turn
            self._hold(rest)
            if not self.pipeline:
                self.loop.call_soon(self._feed_rest)

    def on_headers_complete(self) -> None:
        if self.refused:
            return  # it came in one piece with what was refused
        HttpToolsProtocol.on_headers_complete(self)
        cycle = self.cycle
        if cycle is not None and cycle.scope is self.scope:
            # Trailers are no headers: they have passed no proxy's rules, nor those in here.
            self.headers = self._trailers
            if self._trailers:
                self._trailers.clear()

    def on_body(self, body: bytes) -> None:
        if self.refused:
            return
        super().on_body(body)
        cycle = self.cycle
        if cycle is not None:
            cycle.size = size = getattr(cycle, "size", 0) + len(body)  # type: ignore[attr-defined]
            if self._body_max_size is not None and size > self._body_max_size:
                self.refuse(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def on_response_complete(self) -> None:
        """Go on with the next request, without uvicorn's timer for the time until it comes: ``owes`` says when."""
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self.served_at = self.loop.time()
        if self.unfed:
            if not self.pipeline:
                self.loop.call_soon(self._feed_rest)
        elif not self.pipeline:
            self.flow.resume_reading()

    # --- what is done about it --------------------------------------------------------------------

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        scope: Any = cycle.scope
        headers = scope["headers"]
        fields = dict(headers)
        if (
            len(fields) == len(headers) <= self._max_headers
            and b"host" in fields
            and scope["http_version"] == "1.1"
            and not self._may_be_large
        ):
            pass  # the shortest way to know that nothing can be wrong
        elif app is self.app and (status := self._find_fault(scope)) is not None:
            self.refused = status
            app = self.make_refusal(status)
            self.linger(cycle)
        if not self._keeps_alive:
            cycle.keep_alive = False
        self.running = cycle
        # Of its own: neither the request before nor whoever has read this is to be seen in it.
        context = self._kind.request_context.copy()
        box = None if self._prepare is None else context.run(self._prepare, scope)
        if scope.get("http_version") == "1.0":
            cycle.__class__ = ToTheEnd
        self._kind.requests += 1
        log = self._access_log
        running = cycle.run_asgi(app) if log is None else asgi_around.run_logged(log, cycle, app, fields, box)
        self.run(running, context)

    def _find_fault(self, scope: dict[str, Any]) -> http.HTTPStatus | None:
        """Return why a request cannot be served whose head is complete."""
        headers = scope["headers"]
        hosts = [name for name, _ in headers].count(b"host")
        if hosts != 1 and (hosts or scope["http_version"] == "1.1"):
            return http.HTTPStatus.BAD_REQUEST  # RFC 9112, 3.2: one, and exactly one
        if len(headers) > self._max_headers:
            return http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        if self._may_be_large and (status := self._find_too_long(scope)) is not None:
            return status
        if self._body_max_size is not None:
            announced = [int(value) for name, value in headers if name == b"content-length"]
            if max(announced, default=0) > self._body_max_size:
                return http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        if scope["http_version"] not in _VERSIONS:
            return http.HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
        return None

    def _find_too_long(self, scope: dict[str, Any]) -> http.HTTPStatus | None:
        self._may_be_large = self._in_pieces or bool(self.pipeline) or self._body_max_size is not None
        if len(scope.get("raw_path", self.url)) + len(scope.get("query_string", b"")) > self._line_max_size:
            return http.HTTPStatus.REQUEST_URI_TOO_LONG
        if max((len(name) + len(value) for name, value in scope["headers"]), default=0) > self._line_max_size:
            return http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        return None

    # --- how long it may take ---------------------------------------------------------------------

    def owes(self) -> Debt | None:
        """Tell what the client owes, if it is its turn."""
        cycle, options = self.cycle, self._options
        if self.transport.is_closing():
            return None
        is_idle = not self.is_asking and (cycle is None or cycle.response_complete)
        sock = self.transport.get_extra_info("socket")
        if self.flow.write_paused or (is_idle and kernel.has_unsent(sock)):
            return Debt((_READS, kernel.taken(sock)), options.send_timeout or math.inf, self.transport.abort)
        size = getattr(cycle, "size", 0)
        if is_idle:
            idle = options.keepalive_timeout or _FIRST
            return Debt((_IDLE, self.served_at, size), idle, self.transport.close)
        awaited = (
            cycle is not None and cycle.more_body and not (cycle.response_started or cycle.waiting_for_100_continue)
        )
        if self.flow.read_paused or not (self.is_asking or awaited):
            return None
        if self.is_asking:
            return Debt((id(self.scope), self.served_at), options.head_timeout or math.inf, self._time_out)
        return Debt((id(cycle), self.served_at, size), options.body_timeout or math.inf, self._time_out)

    def _time_out(self) -> None:
        self.refuse(http.HTTPStatus.REQUEST_TIMEOUT)

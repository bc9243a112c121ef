"""The HTTP connections of ``kind: asgi``: uvicorn's protocol, with limits and with what a server has to know.

uvicorn leaves limits to a proxy in front, and httptools has none. Here a request that comes whole in one piece, as
nearly all do, is only looked at for how many headers it has, and for its Host.
"""

from __future__ import annotations

import asyncio
import http
import logging
import math
import sys
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import ClientDisconnected

from .blame import MARK
from .lingering import Lingering
from .patience import Debt
from .uvicorn_responses import ToTheEnd
from .uvicorn_websockets import Websocket

if TYPE_CHECKING:
    from .asgi import Asgi

_IDLE = "idle"
_CLIENTS_FAULT = "Invalid UTF-8"
"""How uvicorn's only error begins that the application has no part in."""
_VERSIONS = ("1.1", "1.0")


class Log(logging.LoggerAdapter[logging.Logger]):
    """What uvicorn's protocols log to: errors of the application are counted, and carry the server's name.

    What a client does wrong, or merely does (uvicorn tells of each websocket), is of no interest but for debugging.
    """

    level = logging.INFO
    """Asked for by uvicorn, which has levels of its own below debug."""

    def __init__(self, kind: Asgi) -> None:
        super().__init__(kind.context.log)
        self._kind = kind

    def info(self, msg: object, *args: Any, **more: Any) -> None:
        self.debug(msg, *args, **more)

    def warning(self, msg: object, *args: Any, **more: Any) -> None:
        self.debug(msg, *args, **more)

    def error(self, msg: object, *args: Any, exc_info: Any = None, **_more: Any) -> None:
        text = str(msg).strip() % args if args else str(msg).strip()
        error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
        if isinstance(error, asyncio.CancelledError) or _comes_of_the_end(error) or text.startswith(_CLIENTS_FAULT):
            self.debug(text, exc_info=error)
        else:
            self._kind.failed(text, error)

    def exception(self, msg: object, *args: Any, exc_info: Any = True, **more: Any) -> None:
        self.error(msg, *args, exc_info=exc_info, **more)


def _comes_of_the_end(error: BaseException | None) -> bool:
    """Tell whether an exception is what became of having sent to a client that is gone, or was told to go."""
    while error is not None and not isinstance(error, ClientDisconnected):
        error = error.__cause__ or error.__context__
    return error is not None


class Connection(HttpToolsProtocol):
    """An HTTP connection."""

    # CPython shares the keys of instances that have up to 30 attributes, of which uvicorn takes 28. Slots do not count.
    __slots__ = (
        MARK,
        "_body_max_size",
        "_in_pieces",
        "_kind",
        "_line_max_size",
        "_max_headers",
        "_may_be_large",
        "_options",
        "_part_of",
        "_progress",
        "_refused",
        "_stalled",
        "served_at",
    )

    def __init__(self, kind: Asgi) -> None:
        super().__init__(kind.config, kind.server_state, kind.app_state, _loop=asyncio.get_running_loop())
        self.logger = kind.log  # type: ignore[assignment]
        setattr(self, MARK, kind)
        self._kind = kind
        self._options = options = kind.context.options
        self._line_max_size: int = options.line_max_size
        self._max_headers: int = options.max_headers
        self._body_max_size: int | None = options.client_max_size
        self._refused = False
        # Whether it is being fed with so much that a line may be in it which is too long.
        self._in_pieces = False
        # Whether the next head is to be measured.
        self._may_be_large = self._body_max_size is not None
        # The scope of the request whose head comes in pieces; how much is known of that one: headers, and bytes of
        # its URL; and bytes that have come since there was progress.
        self._part_of: object = None
        self._progress = 0, 0
        self._stalled = 0
        self.served_at = -math.inf
        """When its last response ended, by the event loop's clock."""

    @property
    def is_asking(self) -> bool:
        """Whether a request's head has come in part."""
        return self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)

    # --- what comes -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if len(data) > self._line_max_size:
            self._feed_in_pieces(data)
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.refuse(http.HTTPStatus.BAD_REQUEST)
        else:
            cycle = self.cycle
            if cycle is None or cycle.scope is not self.scope:
                self._check_part_of_head(len(data))

    def _feed_in_pieces(self, data: bytes) -> None:
        self._in_pieces = self._may_be_large = True
        size = self._line_max_size
        for start in range(0, len(data), size):
            if self._refused or self.transport.is_closing() or self not in self.connections:
                break  # or it has become a websocket
            self.data_received(data[start : start + size])
        self._in_pieces, self._may_be_large = False, self.is_asking or self._body_max_size is not None

    def _check_part_of_head(self, size: int) -> None:
        if self.scope is None:
            return  # empty lines
        self._may_be_large = True
        if self._part_of is not self.scope:
            self._part_of, self._progress, self._stalled = self.scope, (0, 0), 0
        progress = len(self.headers), len(self.url)
        self._stalled = self._stalled + size if progress == self._progress else 0
        self._progress = progress
        if len(self.url) > self._line_max_size:
            self.refuse(http.HTTPStatus.REQUEST_URI_TOO_LONG)
        elif self._stalled > self._line_max_size or len(self.headers) > self._max_headers:
            self.refuse(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

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
        elif rest:  # to nothing that is known here: served as if it had not asked, and so is what follows
            self.data_received(rest)

    def on_body(self, body: bytes) -> None:
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
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self.served_at = self.loop.time()

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
            self._refused = True
            app = self._refusal(status)
            self._linger(cycle)
        if scope.get("http_version") == "1.0":
            cycle.__class__ = ToTheEnd
        self._kind.requests += 1
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

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
        self._may_be_large = self._in_pieces or self._body_max_size is not None
        if len(scope.get("raw_path", self.url)) + len(scope.get("query_string", b"")) > self._line_max_size:
            return http.HTTPStatus.REQUEST_URI_TOO_LONG
        if max((len(name) + len(value) for name, value in scope["headers"]), default=0) > self._line_max_size:
            return http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        return None

    def refuse(self, status: http.HTTPStatus) -> None:
        """Answer what is refused, after what is being answered, and end the connection.

        Args:
            status: of the answer.
        """
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self.logger.debug("refused a request: %d %s", status, status.phrase)
        cycle = self.cycle
        self._linger(cycle)
        self.__class__ = _DEAF.get(type(self)) or _deaf(type(self))
        self.transport.set_protocol(self)  # uvloop keeps the methods that a protocol had
        if cycle is None or self.is_asking:
            self._answer(status, at_once=cycle is None or cycle.response_complete)
        elif cycle.response_complete:
            self.transport.close()  # the body of a request that was answered before it was there
        elif self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
            self._answer(status, at_once=False)
        elif cycle.response_started:
            self.transport.cut()  # type: ignore[attr-defined]
        else:
            # The application is told that nobody is there any more, and what it says from now on is dropped.
            cycle.disconnected = True
            cycle.message_event.set()
            self._answer(status, at_once=True)

    def _answer(self, status: http.HTTPStatus, *, at_once: bool) -> None:
        cycle = RequestResponseCycle(
            scope={"type": "http", "method": "GET", "headers": []},  # type: ignore[typeddict-item]
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=_nothing,
        )
        if at_once:
            self._start_asgi_task(cycle, self._refusal(status))
        else:
            self.pipeline.appendleft((cycle, self._refusal(status)))

    def _refusal(self, status: http.HTTPStatus) -> Any:
        """Return the application that refuses."""
        body = f"{status.value} {status.phrase}\n".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]

        async def refuse(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": status.value, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        return refuse

    def _linger(self, cycle: RequestResponseCycle | None) -> None:
        """Have the connection end in stages, so that the client can read the answer while it still talks."""
        if not isinstance(self.transport, Lingering):
            self.transport = Lingering(self.transport, drop=self._ignore_the_rest)  # type: ignore[assignment]
        for each in (cycle, *(queued for queued, _ in self.pipeline)):
            if each is not None:
                each.transport = self.transport

    def _ignore_the_rest(self) -> None:
        self.__class__ = _DEAF.get(type(self)) or _deaf(type(self))
        self.transport.set_protocol(self)

    # --- how long it may take ---------------------------------------------------------------------

    def owes(self) -> Debt | None:
        """Tell what the client owes, if it is its turn."""
        cycle = self.cycle
        if self.is_asking:
            return Debt(id(self.scope), self._options.head_timeout or math.inf, self._time_out)
        if cycle is None or cycle.response_complete:
            return Debt((_IDLE, self.served_at), self._options.keepalive_timeout, self.transport.close)
        if cycle.more_body and not (cycle.response_started or cycle.waiting_for_100_continue or self.flow.read_paused):
            size = getattr(cycle, "size", 0)
            return Debt((id(cycle), size), self._options.body_timeout or math.inf, self._time_out)
        return None

    def _time_out(self) -> None:
        self.refuse(http.HTTPStatus.REQUEST_TIMEOUT)


_DEAF: dict[type[Connection], type[Connection]] = {}


def _deaf(original: type[Connection]) -> type[Connection]:
    class Deaf(original):  # type: ignore[valid-type, misc]
        """A connection that is not listened to any more."""

        def data_received(self, data: bytes) -> None:
            pass

    _DEAF[original] = _DEAF[Deaf] = Deaf
    return Deaf


def _nothing() -> None:
    """Nothing follows a refusal."""

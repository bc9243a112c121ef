"""How an HTTP connection of uvicorn's refuses a request: in its turn, readable to a client that still talks."""

from __future__ import annotations

import asyncio
import contextvars
import http
from collections.abc import Coroutine
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .lingering import Lingering


class Refusing(HttpToolsProtocol):
    """A connection that can refuse what comes; it ends then."""

    __slots__ = ("refused", "running")

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.refused: http.HTTPStatus | None = None
        """With what status the last of its requests was refused."""
        self.running: RequestResponseCycle | None = None
        """What is being answered; more may wait."""

    @property
    def is_asking(self) -> bool:
        """Whether a request's head has come in part."""
        return self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)

    def run(self, coroutine: Coroutine[Any, Any, None], context: contextvars.Context | None = None) -> None:
        task = self.loop.create_task(coroutine, context=context)
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def refuse(self, status: http.HTTPStatus) -> None:
        """Answer what is refused, after what is being answered, and end the connection.

        Args:
            status: of the answer.
        """
        if self.refused or self.transport.is_closing():
            return
        self.refused = status
        self.logger.debug("refused a request: %d %s", status, status.phrase)
        cycle = self.cycle
        self.linger(cycle)
        self.__class__ = _DEAF.get(type(self)) or _deaf(type(self))
        self.transport.set_protocol(self)  # uvloop keeps the methods that a protocol had
        refusal = self.make_refusal(status)
        if cycle is None or self.is_asking:
            unknown: dict[str, Any] = {
                "type": "http",
                "method": "GET",
                "headers": [],
                "client": self.client,
                "server": self.server,
            }
            if cycle is None or cycle.response_complete:
                self._start_asgi_task(self._make_cycle(unknown), refusal)
            else:
                self.pipeline.appendleft((self._make_cycle(unknown), refusal))
        elif cycle.response_complete:
            self.transport.close()  # the body of a request that was answered before it was there
        elif self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline[0] = self._make_cycle(cycle.scope), refusal
        elif cycle.response_started:
            self.transport.cut()  # type: ignore[attr-defined]
        else:
            # The application is told that nobody is there any more, and what it says from now on is dropped.
            cycle.disconnected, cycle.refused = True, status  # type: ignore[attr-defined]
            cycle.message_event.set()
            self.run(self._make_cycle(cycle.scope).run_asgi(refusal))  # the request's own line says it

    def _make_cycle(self, scope: Any) -> RequestResponseCycle:
        """Return what answers last."""
        return RequestResponseCycle(
            scope=scope,
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

    def make_refusal(self, status: http.HTTPStatus) -> Any:
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

    def linger(self, cycle: RequestResponseCycle | None) -> None:
        """Have the connection end in stages, so that the client can read the answer while it still talks."""
        if not isinstance(self.transport, Lingering):
            self.transport = Lingering(self.transport, drop=self._ignore_the_rest)  # type: ignore[assignment]
        for each in (cycle, self.running, *(queued for queued, _ in self.pipeline)):
            if each is not None:
                each.transport = self.transport

    def _ignore_the_rest(self) -> None:
        self.__class__ = _DEAF.get(type(self)) or _deaf(type(self))
        self.transport.set_protocol(self)


_DEAF: dict[type[Refusing], type[Refusing]] = {}


def _deaf(original: type[Refusing]) -> type[Refusing]:
    class Deaf(original):  # type: ignore[valid-type, misc]
        """A connection that is not listened to any more."""

        def data_received(self, data: bytes) -> None:
            pass

    _DEAF[original] = _DEAF[Deaf] = Deaf
    return Deaf


def _nothing() -> None:
    """Nothing follows a refusal."""

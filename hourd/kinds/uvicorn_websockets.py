"""uvicorn's websockets, and how they are told that their worker drains."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.protocol import State

from . import asgi_around, leaving
from .blame import MARK

if TYPE_CHECKING:
    from .asgi import Asgi

_GOING_AWAY = 1001
_MESSAGE = "the server is going away"
_LAST_WORD = 2.0
"""Seconds that a client has to answer that."""


class Websocket(WebSocketsSansIOProtocol):
    """A connection that has become a websocket."""

    def __init__(self, kind: Asgi, **given: Any) -> None:
        super().__init__(**given)
        self.logger = self.conn.logger = kind.log  # type: ignore[assignment]
        setattr(self, MARK, kind)
        kind.requests += 1
        app = asgi_around.around_websocket(self.app, kind.prepare, kind.access_log)
        self.app = functools.partial(self._serve, app)
        self._pong = b""
        """To the last ping of a client that does not read."""
        if kind.is_leaving:
            self.__class__ = LastWebsocket

    async def _serve(self, app: Callable[..., Any], *given: Any) -> Any:
        try:
            return await app(*given)
        finally:
            if self.initial_response is not None and self.close_sent:
                self.handshake_complete = True  # by a refusal in the application's own words; uvicorn forgets that

    def leave(self) -> None:
        """Close it when its handshake is over, at a random moment: not all clients are to come back at once."""
        self.__class__ = LastWebsocket
        if self.handshake_complete:
            leaving.soon(LastWebsocket.tell, self)

    def check_handshake(self) -> None:
        """Refuse a handshake that could not be parsed, of which uvicorn does not hear: it would wait forever."""
        if not (self.handshake_initiated or self.transport.is_closing()):
            self.logger.debug("refused a handshake: %s", self.conn.handshake_exc)
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def send_receive_event_to_app(self) -> None:
        try:
            super().send_receive_event_to_app()
        except InvalidState:  # what uvicorn cannot decode came in one piece with a close frame, which is answered
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def handle_ping(self) -> None:
        """Answer a ping, or only the last of several while the client does not read (RFC 6455, 5.5.3).

        uvicorn would keep them all. To read no more meanwhile would be worse: pongs and close frames of a client
        that is only slow would not be seen either.
        """
        if self.writable.is_set() or self.conn.state is not State.OPEN:
            super().handle_ping()
        elif pongs := self.conn.data_to_send():
            self._pong = pongs[-1]

    def resume_writing(self) -> None:
        super().resume_writing()
        pong, self._pong = self._pong, b""
        if pong and self.conn.state is State.OPEN:
            self.transport.write(pong)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        if self.transport.is_closing() and self.close_timer is None:
            # What it was to read before the close frame may never be read.
            self.close_timer = self.loop.call_later(_LAST_WORD, self.transport.abort)


class LastWebsocket(Websocket):
    """A websocket while its worker drains.

    Its application learns of the end as of any other: by the next message it receives, or when it sends.
    """

    _told = False

    def tell(self) -> None:
        """Send a close frame, and wait a while for the client's."""
        if self.close_sent or self.conn.state is not State.OPEN or self.transport.is_closing():
            return
        self._told = True
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": _GOING_AWAY, "reason": _MESSAGE})
        self.conn.send_close(_GOING_AWAY, _MESSAGE)
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(_LAST_WORD, self.transport.close)

    def start_keepalive(self) -> None:
        super().start_keepalive()
        leaving.soon(self.tell)  # uvicorn calls this when the handshake is over

    def send_receive_event_to_app(self) -> None:
        if self._told:
            self.frames = []  # nobody waits for it, and the client's close frame is to be read
        else:
            super().send_receive_event_to_app()

"""How a connection ends without harm to what its client has not read yet."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from . import tls_end
from .connections import cut
from .stand_in import StandIn

_LAST_WORD = 1.0
"""Seconds that a client has to close too, once it was told that nothing more comes."""


class Lingering(StandIn):
    """A transport that closes in stages (RFC 9112, 9.6): it ends what it says, then waits for the client's end.

    Closed at once, what the client says just then would meet a reset. That may take from the client what
    it has not read yet, be it the last response or a websocket's close frame, and does not look like an
    end that was meant. So what is said meanwhile is dropped.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        drop: Callable[[], None],
        has_said_so: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take a transport.

        Args:
            transport: the connection's own.
            drop: called once, when its protocol is to drop what it is given from now on.
            has_said_so: whether the client was told of the end in its protocol's own way: by a close frame.
        """
        super().__init__(transport)
        self._drop = drop
        self._has_said_so = has_said_so
        self._left = False
        self.heard: float | None = None
        """When the client said something last, by the event loop's clock, since this transport is in place."""

    def close(self) -> None:
        if self.left:
            return
        self._left = True
        self._drop()
        self._transport.resume_reading()
        try:
            self._end()
        except OSError:  # the client has cut it
            self._transport.abort()
        asyncio.get_running_loop().call_later(_LAST_WORD, tls_end.finish, self._transport)

    @property
    def left(self) -> bool:
        """Whether nothing more will be asked or answered."""
        return self._left or self._transport.is_closing()

    def is_closing(self) -> bool:
        return self.left

    def abort(self) -> None:
        self._transport.abort()

    def cut(self) -> None:
        """End it at the end of its grace. Who was told that nothing more comes may still be reading what came."""
        if self._left or self._has_said_so():
            self._transport.abort()
        else:
            cut(self._transport)

    def _end(self) -> None:
        if self._has_said_so():
            return  # the client may answer that before it sees an end
        if self._transport.get_extra_info("ssl_object") is not None:
            tls_end.say(self._transport)
            return
        if self._transport.get_write_buffer_size():
            self._transport.write_eof()
            return
        # Not a turn of the loop later, as uvloop would: nothing is to arrive between the look and this.
        with self._transport.get_extra_info("socket").dup() as sock:
            sock.shutdown(socket.SHUT_WR)

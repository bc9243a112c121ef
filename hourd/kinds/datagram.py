"""``kind: datagram``: any UDP server written as an ``asyncio.DatagramProtocol``; unix datagrams too."""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
from collections import Counter
from typing import Any, ClassVar

from msgspec import Struct

from .. import errors
from ..context import give_worker
from . import Context, Kind, Listening, blame
from .datagram_transport import Transport, begun
from .options import DatagramOptions

_LOOK = 0.05
"""Seconds between two looks at what is left to be answered."""


class Datagram(Kind):
    """Call ``app`` for each socket; it returns the protocol, which gets a transport for as long as that is attended.

    A socket that is let go of is not read any more, and closed once what it had received is done with: once every
    task that came of it has ended, and everything is sent.
    """

    Options: ClassVar[type[Struct]] = DatagramOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._open: set[Transport] = set()
        self._leaving: Counter[Transport] = Counter()
        """Those that are not read any more, with how much they have to finish."""
        self._closer: asyncio.Task[None] | None = None
        self._received = 0
        """By those that are closed."""
        self._taken = False
        """It has taken a socket before."""
        self._spare: Any = None
        """The first protocol: that it can be made is seen before anything is attended."""

    async def open(self) -> None:
        app = self.context.app
        if not callable(app) or inspect.iscoroutinefunction(app):
            raise errors.BootError(f"app is {app!r}, expected an asyncio.DatagramProtocol class or a factory of such")
        self._factory = give_worker(app, self.context.worker)
        self._spare = self._make()

    async def listen(self, sock: socket.socket, backlog: int) -> Listening:  # noqa: ARG002, the master has seen to it
        return await blame.run(self, lambda: self._begin(sock))

    async def _begin(self, sock: socket.socket) -> Listening:
        try:
            protocol, self._spare = self._spare or self._make(), None
            transport = Transport(sock, protocol, failed=self.failed, ended=self._end)
            protocol.connection_made(transport)
        except Exception as error:
            self.failed("the application failed to take a socket", error)
            if not self._taken:
                raise errors.BootError(
                    f"server {self.context.server}: {error!r} when it was to take a socket"
                ) from None
            # What is open goes on, and a sibling is asked.
            raise OSError(errno.ECANCELED, f"server {self.context.server} failed to take a socket") from error
        self._taken = True
        transport.start_reading()
        self._open.add(transport)
        return _Reading(self, transport)

    def _make(self) -> Any:
        made = self._factory()
        if not isinstance(made, asyncio.BaseProtocol) or not hasattr(made, "datagram_received"):
            name = self.context.server
            raise TypeError(f"app of server {name} returned {made!r}, expected an asyncio.DatagramProtocol")
        return made

    # --- what is left -----------------------------------------------------------------------------

    def leave(self, transport: Transport) -> None:
        """Read no more, and close it once it has nothing to finish."""
        transport.stop_reading()
        if transport in self._open:
            self._leaving[transport] = 1  # until the first look: what it has received may begin something yet
            if self._closer is None or self._closer.done():
                self._closer = asyncio.get_running_loop().create_task(self._close_finished())

    async def _close_finished(self) -> None:
        while self._leaving:
            await asyncio.sleep(_LOOK)
            self._look()
            for transport in [each for each, left in self._leaving.items() if not left]:
                transport.close()

    def _look(self) -> None:
        left = Counter(transport for transport, _ in begun())
        for transport in self._leaving:
            self._leaving[transport] = left[transport] + bool(transport.get_write_buffer_size())

    def _end(self, transport: Transport) -> None:
        self._open.discard(transport)
        self._received += transport.received
        if self._leaving.pop(transport, None) is None:
            # Nobody reads the socket any more: its slot is another's to attend.
            self.give_up("the application has closed its transport")

    @property
    def connections(self) -> int:
        """What is left to be finished of what is not read any more; datagrams alone make no connection."""
        return self._leaving.total()

    @property
    def requests(self) -> int:  # type: ignore[override]
        return self._received + sum(transport.received for transport in self._open)

    def drain(self) -> None:
        self._look()

    async def close(self) -> None:
        if self._closer:
            self._closer.cancel()
        tasks = [task for transport, task in begun() if transport in self._open]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for transport in tuple(self._open):
            self._leaving.setdefault(transport, 0)
            transport.abort()
        await asyncio.sleep(0)  # connection_lost is called in the next turn


class _Reading:
    """What a worker closes when it lets go of a socket."""

    def __init__(self, kind: Datagram, transport: Transport) -> None:
        self._kind = kind
        self._transport = transport

    def close(self) -> None:
        self._kind.leave(self._transport)

"""The slots a worker attends: accepting on their sockets, and letting go of them.

Mostly somebody else attends a slot already when it is taken from a worker, and what waits there is
for that one. Where nobody will (a stop; an address that a reload gave up), closing the socket would
reset what waits, so it is accepted first. The master has seen to it that nobody new comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from . import accept_queue, channel, kinds, settings

_MOMENT = 1e-6
"""Seconds: as few as it takes to be a timer."""
_LOOK = 0.02
"""Seconds between two looks at a queue."""
_HANDSHAKE = 0.2
"""Seconds for which a queue has to stay empty: connections whose handshake is under way come yet."""
_LONGEST = 1.0
"""Seconds after which a queue that does not become empty is given up."""


@dataclass(frozen=True, slots=True)
class _Attended:
    server: str
    sock: socket.socket
    listening: kinds.Listening


class Attendance:
    """What a worker accepts on."""

    def __init__(self, servers: Mapping[str, kinds.Kind], configured: Mapping[str, settings.Server]) -> None:
        self._servers = servers
        self._configured = configured
        self._slots: dict[int, list[_Attended]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def attend(self, attend: channel.Attend, packet: channel.Packet) -> None:
        """Accept on a slot's sockets, on all or none of them.

        Raises:
            OSError: the system refused; mostly there is no descriptor left.
        """
        if packet.truncated:
            packet.close()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        sockets = [socket.socket(fileno=fd) for fd in packet.fds]
        attended: list[_Attended] = []
        try:
            for (server, backlog), sock in zip(attend.sockets, sockets, strict=True):
                sock.setblocking(False)
                attended.append(_Attended(server, sock, await self._servers[server].listen(sock, backlog)))
            for server in dict.fromkeys(each.server for each in attended):
                await self._servers[server].attend()
        except OSError:
            for sock in sockets[len(attended) :]:
                sock.close()
            self._leave(attended, ())
            raise
        self._slots.setdefault(attend.slot, []).extend(attended)

    def release(self, slot: int, last: tuple[str, ...]) -> None:
        """Accept no more on a slot's sockets; for the ``last`` servers, once what waits is accepted."""
        self._leave(self._slots.pop(slot, []), last)

    def _leave(self, slot: list[_Attended], last: tuple[str, ...]) -> None:
        for attended in slot:
            task = asyncio.get_running_loop().create_task(self._let_go(attended, last=attended.server in last))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def end(self, *, last: bool = False) -> None:
        """Accept nothing any more; if nobody comes after, once what waits is accepted."""
        for slot in tuple(self._slots):
            self.release(slot, tuple(self._servers) if last else ())
        await asyncio.gather(*self._leaving)

    async def _let_go(self, attended: _Attended, *, last: bool) -> None:
        # Never without a timer before close(): asyncio loses silently what it has accepted in the same
        # turn of the loop, since a server that is closed takes no transport (Server._attach). After a
        # timer, and before the turn goes on to sockets, there is no such connection.
        await asyncio.sleep(_MOMENT)
        if last:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_LONGEST, self._configured[attended.server].grace)):
                    await _stays_empty(attended.sock)
        attended.listening.close()


async def _stays_empty(sock: socket.socket) -> None:
    """Wait until a queue has been empty for a moment; the kind accepts meanwhile."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    while loop.time() < since + _HANDSHAKE:
        if not accept_queue.is_empty(sock):
            since = loop.time()
        await asyncio.sleep(_LOOK)

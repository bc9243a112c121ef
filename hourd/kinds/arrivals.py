"""Connections between ``accept`` and their kind: the PROXY protocol's header first, then the TLS handshake.

Only servers that have one of the two accept here; all others, with the event loop's own ``create_server``. For TLS
that one would do but for draining: it tells nobody of connections whose handshake is under way, so that a worker
would end and cut them. Here they are counted, and the worker lets them in before it drains.

Nothing stays on the data path: the loop has the connection, its protocol is the kind's own. Where a proxy has said
whose a connection is, another object stands in for the transport, which answers for the ends (``Proxied``): uvloop
asks the kernel for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Collection
from typing import Any, Final, Protocol

from .. import descriptors, settings
from ..networks import Networks
from . import Kind, Listening
from .proxy_header import HEADER_MAX, Ends, Header, MalformedError
from .stand_in import StandIn

Factory = Callable[[], asyncio.BaseProtocol]

HEADER_TIME: Final = 5.0
"""Seconds for the PROXY protocol's header: who sends it sends it first of all, in one packet."""
HANDSHAKE_TIME: Final = 10.0
"""Seconds for the TLS handshake. The event loop's own minute is too long for who connects and says nothing."""
SHUTDOWN_TIME: Final = 30.0
"""Seconds that a client has, once we close, to take what was sent and to close too. Less would cut who reads slowly."""
_AT_ONCE: Final = 64
"""Connections that are accepted in one turn of the loop, at most: those that are open are to have theirs."""
_PAUSE: Final = 1.0
"""Seconds without accepting after the system had no descriptor or no memory left for it."""
_REMIND: Final = 60.0
"""Seconds between two warnings of connections without a header, at least."""
_LOOK: Final = 0.02
"""Seconds between two looks at how many are under way, while draining."""


class Certified(Protocol):
    """Who has the certificates."""

    @property
    def current(self) -> ssl.SSLContext:
        """The newest."""

    @property
    def front(self) -> ssl.SSLContext:
        """One that stays the same and shows clients the newest."""

    def watch(self, log: logging.Logger, alpn: tuple[str, ...], *, tell: bool) -> None:
        """Take new ones from now on."""


class Arrivals:
    """The connections of a server that were accepted and are not its kind's yet."""

    def __init__(self, log: logging.Logger, certified: Certified | None, proxies: Networks | None) -> None:
        """Take what is configured.

        Args:
            log: where connections that come to nothing are told of, at level debug.
            certified: ``None`` without TLS.
            proxies: who sends the PROXY protocol's header; ``None`` if nobody does.
        """
        self.log = log
        self._certified = certified
        self._proxies = proxies
        self._without_header = WithoutHeader(log)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """How many there are. Not its length: one that is empty must not be taken for none."""
        return len(self._tasks)

    @property
    def front(self) -> ssl.SSLContext | None:
        return self._certified.front if self._certified else None

    async def listen(self, kind: Kind, factory: Factory, sock: socket.socket, backlog: int) -> Listening:
        """Accept on a bound socket until the result is closed."""
        sock.listen(backlog)
        return _Door(self, kind, factory, sock)

    async def close(self) -> None:
        """Cut those that are not through."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def let_in(self, kind: Kind, factory: Factory, sock: socket.socket, peer: object) -> None:
        """Begin with a connection that was accepted."""
        task = asyncio.get_running_loop().create_task(self._arrive(kind, factory, sock, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _arrive(self, kind: Kind, factory: Factory, sock: socket.socket, peer: object) -> None:
        handed_over = False
        try:
            ends = await self._introduction(sock, peer)
            protocol = factory()
            if ends is not None:
                protocol = _Introducing(protocol, ends)
            handed_over = True
            await self._hand_over(protocol, sock)
        except MalformedError as error:
            self._without_header.note(peer or "a client", str(error), asyncio.get_running_loop().time())
        except OSError as error:  # TLS errors and timeouts too
            self.log.debug("cut %s: %s", peer or "a client", error or "it took too long")
        except Exception as error:  # noqa: BLE001, user code may raise anything
            kind.failed("cannot serve a connection", error)
        finally:
            if not handed_over:
                sock.close()

    async def _introduction(self, sock: socket.socket, peer: object) -> Ends | None:
        if self._proxies is None or not self._proxies.has_peer(peer):
            return None
        try:
            async with asyncio.timeout(HEADER_TIME):
                return await _read_header(sock)
        except TimeoutError:
            raise MalformedError(f"it did not come within {HEADER_TIME:g}s") from None

    async def _hand_over(self, protocol: asyncio.BaseProtocol, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        if self._certified is None:
            await loop.connect_accepted_socket(lambda: protocol, sock)
            return
        await loop.connect_accepted_socket(
            lambda: protocol,
            sock,
            ssl=self._certified.current,
            ssl_handshake_timeout=HANDSHAKE_TIME,
            ssl_shutdown_timeout=SHUTDOWN_TIME,
        )


class WithoutHeader:
    """Tells of connections that were cut since they lacked the header: nobody else would, if a proxy never sends it."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._count = 0
        self._next = 0.0

    def note(self, peer: object, why: str, now: float) -> None:
        """Note a connection; of the first one it is told at once, then of all since, once a minute."""
        self._log.debug("cut %s: no header of the PROXY protocol: %s", peer, why)
        self._count += 1
        if now < self._next:
            return
        advice = "have those in proxy_protocol.from send it (send-proxy), or take them out"
        what = "cut %d connection(s) without a header of the PROXY protocol, %s last (%s); %s"
        self._log.warning(what, self._count, peer, why, advice)
        self._count, self._next = 0, now + _REMIND


def make(
    server: settings.Server, certified: Certified | None, log: logging.Logger, alpn: tuple[str, ...], *, tell: bool
) -> Arrivals | None:
    """Return what a server's connections pass first, if anything."""
    if certified:
        certified.watch(log, alpn, tell=tell)
    proxies = Networks(server.proxy_protocol.trusted) if server.proxy_protocol else None
    return Arrivals(log, certified, proxies) if certified or proxies else None


async def settle(servers: Collection[Kind], patience: float) -> None:
    """Wait for connections that are accepted and no kind's yet.

    Args:
        servers: which accept nothing any more.
        patience: seconds, at most.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while any(server.arriving for server in servers):  # noqa: ASYNC110, it takes some milliseconds
                await asyncio.sleep(_LOOK)


class _Door:
    """Accepts on one socket."""

    def __init__(self, arrivals: Arrivals, kind: Kind, factory: Factory, sock: socket.socket) -> None:
        self._arrivals = arrivals
        self._kind = kind
        self._factory = factory
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._refused = False
        self._open()

    def close(self) -> None:
        if self._pause:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _open(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(error)
                return
            self._refused = False
            sock.setblocking(False)
            self._arrivals.let_in(self._kind, self._factory, sock, peer)

    def _rest(self, error: OSError) -> None:
        """Accept nothing for a while: what cannot be accepted would keep the loop turning."""
        if not self._refused:
            self._refused = True
            advice = f" ({descriptors.ADVICE})" if error.errno in (errno.EMFILE, errno.ENFILE) else ""
            self._arrivals.log.error("cannot accept: %s%s", os.strerror(error.errno or 0), advice)
        self._loop.remove_reader(self._sock)
        self._pause = self._loop.call_later(_PAUSE, self._open)


async def _read_header(sock: socket.socket) -> Ends | None:
    """Read a header, and not a byte more.

    Raises:
        MalformedError: it is none, or its end never comes.
        OSError: the connection was cut, or ended before anything came.
    """
    header, begun = Header(), False
    while not header.complete:
        try:
            data = sock.recv(HEADER_MAX, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            await _readable(sock)
            continue
        if not data and not begun:
            raise ConnectionAbortedError("it ended at once")  # as a balancer's look whether anybody is here
        if not data:
            raise MalformedError("the connection ended")
        begun = True
        # What stays there is not the header's: who waits for more is not woken by what he has seen.
        sock.recv(header.take(data))
    return header.ends()


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


class _Introducing(asyncio.Protocol):
    """Stands in for a protocol until its connection is made."""

    def __init__(self, protocol: Any, ends: Ends) -> None:
        self._protocol = protocol
        self._ends = ends

    def connection_made(self, transport: Any) -> None:
        transport.set_protocol(self._protocol)
        self._protocol.connection_made(Proxied(transport, self._ends))


class Proxied(StandIn):
    """A transport that knows the ends of its connection from a proxy."""

    def __init__(self, transport: Any, ends: Ends) -> None:
        super().__init__(transport)
        self._ends = ends

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._ends.peer} {self._transport!r}>"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "peername":
            return self._ends.peer
        if name == "sockname":
            return self._ends.local
        found = self._transport.get_extra_info(name, default)
        return _ProxiedSocket(found, self._ends) if name == "socket" and found is not None else found


class _ProxiedSocket:
    """A socket that knows its ends from a proxy; some libraries ask it rather than the transport."""

    def __init__(self, sock: Any, ends: Ends) -> None:
        self._sock = sock
        self._ends = ends

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def getpeername(self) -> tuple[Any, ...]:
        return self._ends.peer

    def getsockname(self) -> tuple[Any, ...]:
        return self._ends.local

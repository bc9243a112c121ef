"""A strict client: it sends each request at its time, whatever became of those before, and judges each once.

In a closed loop, a server that stands still is asked nothing meanwhile, and its stillness shows in one
request only ("coordinated omission"). Here requests are due at set moments, evenly spread, and each one's
latency counts from the moment at which it was due: waiting for a free connection, or for this program to
get a CPU, is part of it.

Two sorts at the same time: *fresh* requests open a connection, ask with ``Connection: close`` and are done;
*keep-alive* ones take turns on some connections, and wait when all are busy. A connection is replaced once
its server has said ``Connection: close``, or has closed it while nothing was asked on it. One that has rested
for long is looked at before it is used again, as clients do that pool connections: after a second without
a request a server may close it.

Verdicts: a request that was sent is *answered* when one complete response came, with its number in it and
nothing after it. Otherwise it is *lost*: refused, reset, ended, garbled, or not answered within 10 s. None is
repeated. What was due and never sent, since no connection became free, is counted apart: the machine could not
carry that much.

The client is a process of its own, without an event loop: some 50 microseconds of CPU time for each request.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import resource
import select
import socket
import subprocess  # noqa: TID251, for its constants
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from struct import Struct
from typing import Any, BinaryIO

import measure

APPLICATION = '''
"""Answers with the number of the request."""

from aiohttp import web


async def answer(request):
    return web.Response(text=request.headers["Number"])


def create_app():
    app = web.Application()
    app.router.add_get("/", answer)
    return app
'''
"""What the client expects to talk to: put it into ``application.py``."""
SERVER = {"kind": "aiohttp", "app": "application:create_app", "bind": "127.0.0.1:0"}
PATIENCE = 10.0
"""Seconds after its sending when a request that was not answered is lost."""
_LAST = 30.0
"""Seconds for what has piled up, when no more becomes due."""
_LONG = 0.5
"""Seconds of rest after which a connection is looked at before it is used."""
_RECORD = Struct("=dff")
_CHUNK = _RECORD.size * 65536
_TOLD = 1000
"""Losses that are kept with their circumstances; all are counted."""
_REQUEST = b"GET / HTTP/1.1\r\nHost: benchmark\r\nNumber: %010d\r\n\r\n"
_LAST_REQUEST = b"GET / HTTP/1.1\r\nHost: benchmark\r\nNumber: %010d\r\nConnection: close\r\n\r\n"
_DIGITS = 10
_OK = b"HTTP/1.1 200 OK\r\n"
_CLOSE = b"\r\nConnection: close"
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_STDIN = 0


# --- for who uses it ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be sent."""

    port: int
    rate: int
    """Requests a second."""
    fresh: float
    """The share of them that open a connection of their own."""
    connections: int = 0
    """For all others."""


@dataclass(frozen=True, slots=True)
class Request:
    """One that was answered."""

    due: float
    """Monotonic seconds."""
    late: float
    """Seconds until it was sent: until a connection was free and this program had got to it."""
    latency: float
    """Seconds from when it was due to its answer."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One that was not."""

    due: float
    sent: float
    at: float
    fresh: bool
    why: str


class Driver:
    """A client that is running."""

    def __init__(self, process: subprocess.Popen[str], records: tuple[BinaryIO, BinaryIO]) -> None:
        self.pid = process.pid
        self._process = process
        self._records = records
        self.begun = self.answered = self.lost = 0
        """Requests that were sent; known once it was stopped."""
        self.unsent = 0
        """Requests for which no connection became free."""
        self.unasked = 0
        """Responses to no request."""
        self.losses: list[Loss] = []
        """The circumstances of the first."""

    def stop(self) -> None:
        """Send no more, wait for the last answers and take the account."""
        try:
            said, _ = self._process.communicate(timeout=_LAST + 2 * PATIENCE)
            account = json.loads(said)
        except (subprocess.TimeoutExpired, ValueError):
            raise measure.CannotRunError("the client failed") from None
        self.begun, self.answered, self.lost = account["begun"], account["answered"], account["lost"]
        self.unsent, self.unasked = account["unsent"], account["unasked"]
        self.losses = [Loss(**loss) for loss in account["losses"]]
        if self.begun != self.answered + self.lost:
            raise measure.CannotRunError(f"the client gave not every request one verdict: {account}")

    def requests(self, *, fresh: bool) -> Iterator[Request]:
        """Yield those that were answered, in the order of the answers."""
        file = self._records[fresh]
        file.seek(0)
        while chunk := file.read(_CHUNK):
            yield from (Request(*times) for times in _RECORD.iter_unpack(chunk))


@contextlib.contextmanager
def driven(load: Load) -> Iterator[Driver]:
    """Send requests until the driver is stopped, or the block ends."""
    # In memory: who writes a file on a disk may have to wait for it, here some 150 ms once in a minute.
    with _memory("keep-alive") as kept, _memory("fresh") as fresh:
        fds = kept.fileno(), fresh.fileno()
        command = [sys.executable, __file__, json.dumps(asdict(load)), *map(str, fds)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "pass_fds": fds}
        with measure.executed(command, env=measure.environment(), **pipes) as process:
            yield Driver(process, (kept, fresh))


def _memory(name: str) -> BinaryIO:
    return open(os.memfd_create(name), "w+b", buffering=0)


# --- the client -----------------------------------------------------------------------------------


class Connection:
    """One connection, with the request that is under way on it, if there is one."""

    __slots__ = ("due", "fresh", "idle_since", "number", "received", "sent", "sock", "unsent")

    def __init__(self, *, fresh: bool) -> None:
        self.fresh = fresh
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.number = 0
        """Of the request under way; 0: none."""
        self.due = self.sent = self.idle_since = 0.0
        self.unsent = self.received = b""


class Client:
    """Sends until standard input ends."""

    def __init__(self, load: Load, *fds: int) -> None:
        self._load = load
        self._fds = fds
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._idle: deque[Connection] = deque()
        self._kept = 0
        """Keep-alive connections that are open."""
        self._waiting: deque[float] = deque()
        """When the keep-alive requests were due for which no connection was free."""
        self._begun = self._answered = self._lost = self._unasked = 0
        self._losses: list[Loss] = []
        self._records = bytearray(), bytearray()
        """Of keep-alive requests, and of fresh ones."""

    def run(self) -> dict[str, Any]:
        """Send, wait for the last answers and return the account."""
        self._send_and_receive()
        self._finish()
        self._write()
        return {
            "begun": self._begun,
            "answered": self._answered,
            "lost": self._lost,
            "unsent": len(self._waiting),
            "unasked": self._unasked,
            "losses": [asdict(loss) for loss in self._losses],
        }

    def _send_and_receive(self) -> None:
        clock, readable = measure.clock, [self._epoll.fileno()]
        self._epoll.register(_STDIN, _IN)
        step, share = 1 / self._load.rate, 0.0
        due = clock() + step
        look = due + 1
        while self._hear(0):
            now = clock()
            while due <= now:
                share += self._load.fresh
                if share >= 1:
                    share -= 1
                    self._open(due, fresh=True)
                else:
                    self._waiting.append(due)
                due += step
            self._use_free_connections()
            if now >= look:
                look = now + 1
                self._write()
                self._give_up(now - PATIENCE)
            if (left := due - clock()) > 0:
                select.select(readable, (), (), left)  # epoll itself waits for whole milliseconds

    def _finish(self) -> None:
        """Send what waits for a connection, and wait for the answers to all."""
        end = measure.clock() + _LAST
        while self._busy() or (self._waiting and measure.clock() < end):
            if measure.clock() < end:
                self._use_free_connections()
            self._hear(0.1)
            self._give_up(measure.clock() - PATIENCE)

    def _hear(self, timeout: float) -> bool:
        """Take what has come; returns whether to go on."""
        go_on = True
        for fd, mask in self._epoll.poll(timeout):
            if fd == _STDIN:
                self._epoll.unregister(_STDIN)
                go_on = False
            elif connection := self._connections.get(fd):  # else it was closed by an event before this one
                self._on_event(connection, mask)
        return go_on

    def _busy(self) -> list[Connection]:
        return [connection for connection in self._connections.values() if connection.number]

    def _write(self) -> None:
        for records, fd in zip(self._records, self._fds, strict=True):
            os.write(fd, records)
            records.clear()

    def _give_up(self, before: float) -> None:
        for connection in self._busy():
            if connection.sent < before:
                self._fail(connection, f"no answer within {PATIENCE:g}s")

    # --- requests ---------------------------------------------------------------------------------

    def _use_free_connections(self) -> None:
        """Send what waits on the connections that have rested longest, and on new ones while there may be more."""
        long_ago = measure.clock() - _LONG
        while self._waiting and self._idle:
            if self._idle[0].idle_since < long_ago and _has_ended(self._idle[0]):
                self._receive(self._idle[0])
            else:
                self._ask(self._idle.popleft(), self._waiting.popleft())
        for _ in range(min(len(self._waiting), self._load.connections - self._kept)):
            self._kept += 1
            self._open(self._waiting.popleft(), fresh=False)

    def _open(self, due: float, *, fresh: bool) -> None:
        """Connect and ask: on the loopback interface, a connection is there as soon as it was asked for."""
        connection = Connection(fresh=fresh)
        fd = connection.sock.fileno()
        self._connections[fd] = connection
        code = connection.sock.connect_ex(("127.0.0.1", self._load.port))
        self._epoll.register(fd, _IN)
        self._ask(connection, due, refused="" if code in {0, errno.EINPROGRESS} else os.strerror(code))

    def _ask(self, connection: Connection, due: float, refused: str = "") -> None:
        self._begun += 1
        connection.number, connection.due, connection.sent = self._begun, due, measure.clock()
        if refused:
            self._fail(connection, f"connect: {refused}")
            return
        connection.unsent = (_LAST_REQUEST if connection.fresh else _REQUEST) % self._begun
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        try:
            sent = connection.sock.send(connection.unsent)
        except BlockingIOError:
            self._epoll.modify(connection.sock, _IN | _OUT)
        except OSError as error:
            self._fail(connection, f"send: {error.strerror}")
        else:
            connection.unsent = connection.unsent[sent:]

    def _on_event(self, connection: Connection, mask: int) -> None:
        if mask & _OUT and connection.unsent:
            self._epoll.modify(connection.sock, _IN)
            self._send(connection)
        if mask & ~_OUT and connection.sock.fileno() >= 0:
            self._receive(connection)

    def _receive(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(65536)
        except BlockingIOError:
            return  # the event was that of an earlier connection with the same descriptor
        except OSError as error:
            self._fail(connection, f"receive: {error.strerror}")
            return
        if not data or not connection.number:
            self._unasked += bool(data)
            self._fail(connection, f"ended after {connection.received[:200]!r}")
            return
        connection.received += data
        head, _, body = connection.received.partition(b"\r\n\r\n")
        if len(body) >= _DIGITS:
            if body != b"%010d" % connection.number or not head.startswith(_OK):
                self._fail(connection, f"answered {connection.received[:200]!r}")
            else:
                self._succeed(connection, closes=connection.fresh or _CLOSE in head)

    # --- verdicts ---------------------------------------------------------------------------------

    def _succeed(self, connection: Connection, *, closes: bool) -> None:
        self._answered += 1
        now, due = measure.clock(), connection.due
        self._records[connection.fresh].extend(_RECORD.pack(due, connection.sent - due, now - due))
        connection.idle_since = now
        connection.number, connection.received = 0, b""
        if closes:
            self._close(connection)
        else:
            self._idle.append(connection)

    def _fail(self, connection: Connection, why: str) -> None:
        """Close a connection; if something was asked on it, that is lost."""
        if connection.number:
            self._lost += 1
            if len(self._losses) < _TOLD:
                self._losses.append(Loss(connection.due, connection.sent, measure.clock(), connection.fresh, why))
            connection.number = 0
        else:
            self._idle.remove(connection)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        del self._connections[connection.sock.fileno()]
        connection.sock.close()  # and epoll forgets it
        if not connection.fresh:
            self._kept -= 1


def _has_ended(connection: Connection) -> bool:
    """Tell whether something came on a connection on which nothing was asked."""
    try:
        connection.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def main() -> None:
    """Be the client."""
    gc.disable()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(json.dumps(Client(Load(**json.loads(sys.argv[1])), *map(int, sys.argv[2:])).run()))


if __name__ == "__main__":
    main()

"""A transport for datagrams that can stop to read and still answers.

A worker that lets go of a socket must not read from it any more, since its successor does, and has to answer
what it has read. The transports of asyncio and uvloop read until they are closed; this one has ``stop_reading``.
It is otherwise what ``loop.create_datagram_endpoint`` gives, on both event loops.

What is received is handed on in a context of its own (``contextvars``). A task that is begun in it, or by one that
was, is known by that: it is what a worker has to wait for before it ends. What ``connection_made`` has begun, a
loop that cleans up now and then, say, is not.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from . import blame

_BATCH = 32
"""Datagrams that are read in a turn of the loop at most: others are to have their turn too."""
_LARGEST = 256 * 1024
"""Bytes of a datagram; asyncio takes as many."""
_HIGH = 64 * 1024
"""Bytes that may wait to be sent until the protocol is asked to pause."""
_OVERHEAD = 8
"""Bytes that each datagram counts for besides its own: empty ones take room too."""
_AGAIN = 0.01
"""Seconds until a unix socket is tried again: it is said to be writable while the other end's queue is full."""
_received = memoryview(bytearray(_LARGEST))
"""Where a datagram is received, whoever's it is: it is taken out of there at once."""
_origin: contextvars.ContextVar[Transport] = contextvars.ContextVar("hourd.datagram")


class Transport(asyncio.DatagramTransport):
    """Sends and receives the datagrams of a bound socket."""

    def __init__(
        self,
        sock: socket.socket,
        protocol: Any,
        *,
        failed: Callable[[str, Exception], None],
        ended: Callable[[Transport], None],
    ) -> None:
        """Take a socket, which belongs to the transport from now on.

        Args:
            sock: bound, and not blocking.
            protocol: an ``asyncio.DatagramProtocol``; ``connection_made`` has yet to be called.
            failed: takes an exception of the protocol, and what has failed.
            ended: called once the socket is closed.
        """
        super().__init__({"socket": sock, "sockname": sock.getsockname(), "peername": None})
        self.received = 0
        """Datagrams so far."""
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._protocol = protocol
        self._failed = failed
        self._ended = ended
        self._reading = self._closing = self._paused = False
        self._unsent: deque[tuple[bytes, Any]] = deque()
        self._size = 0
        self.set_write_buffer_limits()

    # --- receiving --------------------------------------------------------------------------------

    def start_reading(self) -> None:
        if self._closing:
            return
        context = contextvars.copy_context()
        context.run(_origin.set, self)
        # Event loops run a callback in the context in which it was given to them.
        context.run(self._loop.add_reader, self._sock.fileno(), self._read)
        self._reading = True

    def stop_reading(self) -> None:
        """Read no more; what was read can still be answered."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def _read(self) -> None:
        for _ in range(_BATCH):
            if not self._reading:
                return  # closed by what the protocol has done
            try:
                size, address = self._sock.recvfrom_into(_received)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._call("error_received", error)
                return
            self.received += 1
            self._call("datagram_received", bytes(_received[:size]), address)

    # --- sending ----------------------------------------------------------------------------------

    def sendto(self, data: Any, addr: Any = None) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._sock.fileno() < 0:
            return  # a task that answers has outlived its grace
        if not self._unsent and self._send(data, addr):
            return
        self._unsent.append((bytes(data), addr))
        self._size += len(data) + _OVERHEAD
        if len(self._unsent) == 1:
            self._send_later()
        if self._size > self._high and not self._paused:
            self._paused = True
            self._call("pause_writing")

    def _send(self, data: Any, addr: Any) -> bool:
        """Send a datagram, or tell the protocol why that cannot be; returns whether it is done with."""
        try:
            self._sock.sendto(data, addr) if addr is not None else self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._call("error_received", error)
        return True

    def _send_later(self) -> None:
        if self._sock.family == socket.AF_UNIX:
            self._loop.call_later(_AGAIN, self._send_on)
        else:
            self._loop.add_writer(self._sock.fileno(), self._send_on)

    def _send_on(self) -> None:
        if self._sock.fileno() < 0:
            return
        while self._unsent and self._send(*self._unsent[0]):
            data, _ = self._unsent.popleft()
            self._size -= len(data) + _OVERHEAD
        if self._sock.family == socket.AF_UNIX:
            if self._unsent:
                self._send_later()
        elif not self._unsent:
            self._loop.remove_writer(self._sock.fileno())
        if self._paused and self._size <= self._low:
            self._paused = False
            self._call("resume_writing")
        if self._closing and not self._unsent:
            self._loop.call_soon(self._end)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set how many bytes may wait until the protocol is asked to pause, and when it may resume."""
        if high is None:
            high = _HIGH if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return self._size

    # --- the end ----------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Read no more, and close the socket once everything is sent."""
        if not self._closing:
            self._closing = True
            self.stop_reading()
            if not self._unsent:
                self._loop.call_soon(self._end)

    def abort(self) -> None:
        """Close the socket; what was not sent yet is dropped."""
        if self._unsent:
            self._unsent.clear()
            self._size = 0
            if self._sock.family != socket.AF_UNIX:
                self._loop.remove_writer(self._sock.fileno())
            self._closing = False
        self.close()

    def _end(self) -> None:
        if self._sock.fileno() < 0:
            return
        try:
            self._call("connection_lost", None)
        finally:
            self._sock.close()
            self._ended(self)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def _call(self, method: str, *arguments: Any) -> None:
        """Call the protocol. What it raises ends nothing: the next datagram is somebody else's."""
        try:
            getattr(self._protocol, method)(*arguments)
        except Exception as error:  # noqa: BLE001, logged with the server's name, which the loop does not know
            self._failed(f"{method} failed", error)


def begun() -> Iterator[tuple[Transport, asyncio.Task[Any]]]:
    """Yield every task that was begun for what a transport has received, and is not done."""
    for task in asyncio.all_tasks():
        context = blame.context_of(task)
        transport = context.get(_origin) if context else None
        if transport is not None:
            yield transport, task

"""A strict client's end of a connection: HTTP/1.1 and websockets written and read by hand.

A library would repeat a request silently on another connection when one fails. Here nothing is repeated, and
every way in which an answer can fail to come has its own exception.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import socket
import struct
from dataclasses import dataclass, field

import chaos_sockets
import measure

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
"""Opcodes of frames (RFC 6455, 5.2)."""
_GOODBYES = (1001, 1012)  # going away, service restart
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PIECE = 64 * 1024


class WrongError(Exception):
    """Something came that is not the answer."""


class GoodbyeError(Exception):
    """The server closed a websocket and said that it goes away, as it should."""


@dataclass(slots=True)
class Response:
    """An answer, whole."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def last(self) -> bool:
        """Whether the server has said that it will close the connection."""
        return "close" in self.headers.get("connection", "").lower()


@dataclass(slots=True)
class Connection:
    """One connection; opened at most once."""

    address: str = ""
    opened: float = 0.0
    """Monotonic seconds, before it was asked for."""
    connected: float = 0.0
    """Monotonic seconds, once it was there; 0 before."""
    name: str = ""
    """As ``chaos_sockets.held`` lists it."""
    worker: int = 0
    """Process id, once an answer has told it."""
    _sock: socket.socket | None = None
    _reader: asyncio.StreamReader = field(default_factory=asyncio.StreamReader)
    _writer: asyncio.StreamWriter | None = None

    async def dial(self, address: str, sort: int = socket.SOCK_STREAM) -> socket.socket:
        """Connect to ``HOST:PORT``, ``unix:/path`` or ``unix:@abstract``; the socket is for a library."""
        family, place = _place(address)
        sock = self._sock = socket.socket(family, sort | socket.SOCK_NONBLOCK)
        if family == socket.AF_UNIX and sort == socket.SOCK_DGRAM:
            sock.bind("")  # a name of its own, or nobody could answer
        self.address, self.opened = address, measure.clock()
        await asyncio.get_running_loop().sock_connect(sock, place)
        self.connected = measure.clock()
        self.name = chaos_sockets.name(sock)
        return sock

    async def open(self, address: str) -> None:
        """Connect as ``dial`` does, for the methods below."""
        sock = await self.dial(address)
        connect = asyncio.open_unix_connection if sock.family == socket.AF_UNIX else asyncio.open_connection
        self._reader, self._writer = await connect(sock=sock)

    def close(self) -> None:
        """Let go of it."""
        if self._writer is not None:
            self._writer.close()
        elif self._sock is not None:
            self._sock.close()

    @property
    def ended(self) -> bool:
        """Whether the server has closed or reset it, as far as the kernel knows at this moment."""
        try:
            return self._reader.at_eof() or self._peek() == b""
        except OSError:
            return True

    def check(self) -> None:
        """Raise ``OSError`` if it was reset."""
        self._peek()

    def _peek(self) -> bytes | None:
        assert self._sock is not None
        try:
            return self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    async def send(self, data: bytes) -> None:
        """Write, and wait while the buffers are full."""
        assert self._writer is not None
        self._writer.write(data)
        await self._writer.drain()

    async def trickle(self, data: bytes, seconds: float) -> None:
        """Write byte after byte, over so many seconds."""
        for number in range(len(data)):
            await self.send(data[number : number + 1])
            await asyncio.sleep(seconds / len(data))

    def finish(self) -> None:
        """Say that this was all."""
        assert self._writer is not None
        self._writer.write_eof()

    async def read(self, size: int) -> bytes:
        """Read exactly so many bytes."""
        return await self._reader.readexactly(size)

    async def read_end(self) -> None:
        """Read the end of the stream, and nothing before it."""
        if more := await self._reader.read(100):
            raise WrongError(f"more came than was asked for: {more!r}")

    async def surplus(self, seconds: float) -> bytes:
        """Wait so long at most, and return what came meanwhile or was there; nothing if that is the end."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(seconds):
                return await self._reader.read(100)
        return b""

    async def read_line(self) -> bytes:
        """Read a line."""
        return await self._reader.readuntil(b"\n")

    # --- HTTP/1.1 (RFC 9112) ----------------------------------------------------------------------

    async def read_response(self, *, pause: float = 0.0) -> Response:
        """Read an answer to GET or POST.

        Args:
            pause: seconds to wait after each 64 KiB of the body.
        """
        response = _parse(await self._reader.readuntil(b"\r\n\r\n"))
        self.worker = int(response.headers.get("x-worker", self.worker))
        if "chunked" in response.headers.get("transfer-encoding", ""):
            response.body = await self._read_chunks(pause)
        elif "content-length" in response.headers:
            response.body = await self._read_pieces(int(response.headers["content-length"]), pause)
        elif response.status not in (204, 304):
            response.body = await self._reader.read()
        return response

    async def _read_chunks(self, pause: float) -> bytes:
        body = bytearray()
        while size := int((await self.read_line()).split(b";")[0], 16):
            body += await self._read_pieces(size, pause)
            if await self.read(2) != b"\r\n":
                raise WrongError("a chunk does not end where it should")
        while await self.read_line() != b"\r\n":
            pass  # a trailer
        return bytes(body)

    async def _read_pieces(self, size: int, pause: float) -> bytes:
        body = bytearray()
        while len(body) < size:
            piece = await self.read(min(_PIECE, size - len(body)))
            body += piece
            if pause:
                await asyncio.sleep(pause * len(piece) / _PIECE)
        return bytes(body)

    # --- websockets (RFC 6455) --------------------------------------------------------------------

    async def upgrade(self, path: str) -> None:
        """Become a websocket."""
        key = base64.b64encode(os.urandom(16))
        await self.send(
            b"GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n" % (path.encode(), key)
        )
        response = _parse(await self._reader.readuntil(b"\r\n\r\n"))
        self.worker = int(response.headers.get("x-worker", self.worker))
        accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
        if response.status != 101 or response.headers.get("sec-websocket-accept") != accept:
            raise WrongError(f"no websocket: {response.status} {response.headers}")

    async def send_frame(self, opcode: int, payload: bytes) -> None:
        """Send a frame of at most 125 bytes, masked as a client must."""
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[number % 4] for number, byte in enumerate(payload))
        await self.send(bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked)

    async def read_text(self) -> str:
        """Read a text message.

        Raises:
            GoodbyeError: the server said that it goes away.
            WrongError: it closed in another way.
        """
        while True:
            opcode, payload = await self._read_frame(await self.read(2))
            if opcode == TEXT:
                return payload.decode()
            await self._react(opcode, payload)

    async def idle(self, seconds: float) -> None:
        """Ask nothing for a while, and hear what the server has to say; raises as ``read_text`` does."""
        head = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                head = await self.read(2)
        if head:
            await self._react(*await self._read_frame(head))

    async def leave(self) -> None:
        """Close a websocket, and read that the server agrees."""
        await self.send_frame(CLOSE, struct.pack("!H", 1000))
        while (await self._read_frame(await self.read(2)))[0] != CLOSE:
            pass

    async def _react(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            await self.send_frame(PONG, payload)
        elif opcode == CLOSE:
            code = struct.unpack_from("!H", payload)[0] if len(payload) >= 2 else 1005
            with contextlib.suppress(OSError):
                await self.send_frame(CLOSE, payload[:2])
            raise GoodbyeError if code in _GOODBYES else WrongError(f"websocket closed with {code} {payload[2:]!r}")
        else:
            raise WrongError(f"a frame that nobody asked for: {opcode} {payload!r}")

    async def _read_frame(self, head: bytes) -> tuple[int, bytes]:
        size = head[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self.read(2))
        return head[0] & 0x0F, await self.read(size)


def _place(address: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        return socket.AF_UNIX, "\0" + path[1:] if path.startswith("@") else path
    host, _, port = address.removeprefix("udp:").rpartition(":")
    host = host.strip("[]")
    return socket.AF_INET6 if ":" in host else socket.AF_INET, (host, int(port))


def _parse(head: bytes) -> Response:
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    version, _, rest = first.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdigit():
        raise WrongError(f"this is no response: {first!r}")
    pairs = (line.partition(":") for line in lines)
    return Response(int(rest[:3]), {name.strip().lower(): value.strip() for name, _, value in pairs})

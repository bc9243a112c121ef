"""What the chaos tool serves: every kind, and workers that misbehave when they are told to.

Each answer names its worker. A worker takes orders at a socket of its own (``orders/PID.sock``), which has
nothing to do with hourd. Before it does harm to itself it stops, so that the connections that it holds can be
listed while they cannot change; SIGCONT lets it go on, without another turn of its event loop in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncssh
from aiohttp import WSMsgType, web

ORDERS = "orders"
"""A folder in the working directory; without it no orders are taken."""
MOOD = "mood"
"""A file in the working directory: what the import is to do."""
_PIECE = 16 * 1024
_UPLOAD_MAX = 64 * 1024**2
_FOREVER = 0.0


def _import_in_this_mood() -> None:
    """Take time, or fail, as an application would."""
    if not os.path.exists(MOOD):
        return
    with open(MOOD, encoding="ascii") as file:
        match file.read().split():
            case "slow", seconds:
                time.sleep(float(seconds))  # noqa: TID251, an import that is slow
            case ["raise"]:
                raise RuntimeError("this import was told to fail")


_import_in_this_mood()


# --- orders ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[list[bytes]]:
    """Take orders while the worker lives; yields what it hoards."""
    hoard: list[bytes] = []
    if not _takes_orders():
        yield hoard
        return
    path = os.path.join(ORDERS, f"{os.getpid()}.sock")

    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = (await reader.readline()).decode().split()
        writer.close()
        # Outside of a task: what ends the loop is to be raised where the loop hears it.
        asyncio.get_running_loop().call_soon(_obey, words, hoard)

    server = await asyncio.start_unix_server(obey, path)
    try:
        yield hoard
    finally:
        server.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _takes_orders() -> bool:
    return os.path.isdir(ORDERS)


def _obey(words: list[str], hoard: list[bytes]) -> None:
    """Do harm. Durations are seconds, 0 is forever; sizes are MiB."""
    what, amount = words
    if what == "grow":
        hoard.append(b"x" * int(amount) * 1024**2)
        return
    if what == "quit":
        _accept_no_more()
    os.kill(os.getpid(), signal.SIGSTOP)  # noqa: TID251, itself
    match what:
        case "exit":
            os._exit(int(amount))
        case "quit":
            sys.exit(int(amount))
        case "block":
            _repeat(time.sleep, 0.1, float(amount))  # noqa: TID251, the fault that is injected
        case "gil":
            # PyDLL calls C without letting go of the GIL.
            _repeat(lambda seconds: ctypes.PyDLL(None).usleep(int(seconds * 1e6)), 0.1, float(amount))


def _repeat(step: Callable[[float], Any], seconds: float, amount: float) -> None:
    end = time.monotonic() + amount  # noqa: TID251, as long as was asked
    while amount == _FOREVER or time.monotonic() < end:  # noqa: TID251, as above
        step(seconds)


def _accept_no_more() -> None:
    """Make the event loop deaf to listening sockets.

    It turns a few times more after ``sys.exit``; what it accepted then would be on no list.
    """
    fds = [int(name) for name in os.listdir("/proc/self/fd")]
    loops = [fd for fd in fds if _target(fd) == "anon_inode:[eventpoll]"]
    for fd in fds:
        if _target(fd).startswith("socket:") and _listens(fd):
            for loop in loops:
                with contextlib.suppress(OSError):
                    select.epoll.fromfd(os.dup(loop)).unregister(fd)


def _target(fd: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{fd}")
    return ""


def _listens(fd: int) -> bool:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


# --- HTTP -----------------------------------------------------------------------------------------


def create_app() -> web.Application:
    """Return the application; hourd calls this in each worker."""
    app = web.Application(client_max_size=_UPLOAD_MAX)
    app.on_response_prepare.append(_sign)
    app.add_routes(
        [
            web.get("/", _hello),
            web.post("/echo", _echo_body),
            web.post("/sum", _sum),
            web.get("/bytes/{size}", _bytes),
            web.get("/pieces/{size}", _pieces),
            web.get("/ws", _websocket),
        ]
    )
    return app


async def _sign(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Worker"] = str(os.getpid())


async def _hello(request: web.Request) -> web.Response:
    """Repeat the number of the request, so that no answer can be taken for another's."""
    return web.Response(text=request.query.get("n", ""))


async def _echo_body(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def _sum(request: web.Request) -> web.Response:
    digest = hashlib.sha256()
    async for data in request.content.iter_any():
        digest.update(data)
    return web.Response(text=digest.hexdigest())


async def _bytes(request: web.Request) -> web.Response:
    body = random.randbytes(int(request.match_info["size"]))
    return web.Response(body=body, headers={"X-Sum": hashlib.sha256(body).hexdigest()})


async def _pieces(request: web.Request) -> web.StreamResponse:
    """Stream without a length, so that only the last piece says that it was all."""
    body = random.randbytes(int(request.match_info["size"]))
    response = web.StreamResponse(headers={"X-Sum": hashlib.sha256(body).hexdigest()})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for start in range(0, len(body), _PIECE):
        await response.write(body[start : start + _PIECE])
    await response.write_eof()
    return response


async def _websocket(request: web.Request) -> web.WebSocketResponse:
    socket_ = web.WebSocketResponse()
    await socket_.prepare(request)
    async for message in socket_:
        if message.type is WSMsgType.TEXT:
            await socket_.send_str(message.data)
    return socket_


# --- SSH ------------------------------------------------------------------------------------------


class Shell(asyncssh.SSHServer):
    """Runs ``echo TEXT STATUS``: says who it is and the text, and exits with the status."""

    def begin_auth(self, _username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == ("chaos", "chaos")

    def session_requested(self) -> Callable[..., Any]:
        return _run


async def _run(_stdin: object, stdout: Any, _stderr: object) -> None:
    _, text, status = (stdout.channel.get_command() or "echo nothing 1").split()
    stdout.write(f"{os.getpid()} {text}\n")
    stdout.channel.exit(int(status))


# --- TCP and UDP ------------------------------------------------------------------------------------------

_NAME = struct.Struct("!I")
"""The worker's pid comes first, before what is echoed."""


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes until the client has said that it was all."""
    writer.write(_NAME.pack(os.getpid()))
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


class Answer(asyncio.DatagramProtocol):
    """Send each datagram back, at once: who dies has read one at most that it had not answered."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.DatagramTransport)
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._transport.sendto(_NAME.pack(os.getpid()) + data, address)


class Echo(asyncio.Protocol):
    """The same as a protocol."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(_NAME.pack(os.getpid()))

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)

    def eof_received(self) -> bool:
        self._transport.close()  # once everything is written
        return True

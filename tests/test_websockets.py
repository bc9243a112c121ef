"""Websockets while their worker drains: told, given their grace, then cut."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import pytest
from aiohttp import WSMsgType

from .daemon import PATIENCE, Daemon, connect, pool
from .test_kind_aiohttp import counts

AIOHTTP = """
import asyncio

from aiohttp import WSMsgType, web

from hourd.kinds.aiohttp import WORKER

ENDS = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED)


async def receives(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    while (await ws.receive()).type not in ENDS:
        await ws.send_str("again")
    return ws


async def iterates(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


async def beats(request):
    ws = web.WebSocketResponse(heartbeat=0.2, timeout=0.5)
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(message.data)
    return ws


async def sends(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    while True:
        await ws.send_str("tick")
        await asyncio.sleep(0.01)


async def is_busy(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    while not ws.closed:
        await asyncio.sleep(0.05)
    return ws


async def begins_late(request):
    await request.app[WORKER].draining.wait()
    return await iterates(request)


async def says_so_itself(request):
    ws = web.WebSocketResponse(timeout=0.5)
    await ws.prepare(request)
    await request.app[WORKER].draining.wait()
    await ws.close(code=1012, message=b"its own words")
    return ws


async def ignores(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    await asyncio.sleep(3600)


HANDLERS = (receives, iterates, beats, sends, is_busy, begins_late, says_so_itself, ignores)
app = web.Application()
sub = web.Application()
for each in HANDLERS:
    app.router.add_get(f"/{each.__name__}", each)
sub.router.add_get("/iterates", iterates)
app.add_subapp("/sub", sub)
"""
ASGI = """
import asyncio


class Gone(Exception):
    pass


class Socket:
    def __init__(self, receive, send):
        self._receive, self._send = receive, send

    async def receive(self):
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            assert message["code"] in (1000, 1001, 1005, 1012), message
            raise Gone
        return message.get("text") or message["bytes"]

    async def send(self, text):
        await self._send({"type": "websocket.send", "text": text})

    async def close(self, code, reason):
        await self._send({"type": "websocket.close", "code": code, "reason": reason})


async def receives(ws, worker):
    while True:
        await ws.receive()
        await ws.send("again")


async def iterates(ws, worker):
    while True:
        await ws.send(await ws.receive())


async def sends(ws, worker):
    while True:
        await ws.send("tick")
        await asyncio.sleep(0.01)


async def sends_in_another_way(ws, worker):
    # As Starlette does: the end is another exception, raised from the first.
    try:
        await sends(ws, worker)
    except OSError:
        raise RuntimeError("disconnected")


async def is_busy(ws, worker):
    while True:
        await asyncio.sleep(0.05)
        await ws.receive()


async def says_so_itself(ws, worker):
    await worker.draining.wait()
    await ws.close(1012, "its own words")


async def ignores(ws, worker):
    await asyncio.sleep(3600)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise ValueError("none here")
    name, worker = scope["path"].rpartition("/")[2], scope["state"]["hourd_worker"]
    assert (await receive())["type"] == "websocket.connect"
    if name == "begins_late":
        await worker.draining.wait()
    await send({"type": "websocket.accept"})
    try:
        await globals()[name.replace("begins_late", "iterates").replace("beats", "iterates")](Socket(receive, send), worker)
    except Gone:
        pass
"""
APPS = {"aiohttp": AIOHTTP, "asgi": ASGI}
SERVED = pytest.mark.parametrize(("loop", "kind"), [("uvloop", "aiohttp"), ("asyncio", "aiohttp"), ("uvloop", "asgi")])
SEVERAL = 5
PING, PONG, CLOSE = 0x9, 0x8A, 0x88
GOING_AWAY = struct.pack("!H", 1001) + b"the server is going away"
OWN_WORDS = struct.pack("!H", 1012) + b"its own words"


def serve(kind, loop, *, grace="30s"):
    server = {"kind": kind, "app": "app:app", "grace": grace}
    return Daemon(pool(workers=1, loop=loop, server=server), {"app.py": APPS[kind]})


async def read(websocket):
    """Read until it is closed; returns the code."""
    async for message in websocket:
        assert (message.type, message.data) == (WSMsgType.TEXT, "tick")
    return websocket.close_code


def wait_replaced(daemon):
    """Wait until the old worker has ended."""
    daemon.wait_until(lambda status: len(status["pools"]["web"]["workers"]) == 1)


@SERVED
def test_each_is_told_with_a_code_and_its_handler_ends(loop, kind):
    paths = ["receives", "iterates", "beats", "sends", "is_busy", "begins_late", "sub/iterates"]
    paths = (paths + ["sends_in_another_way"] * (kind == "asgi")) * SEVERAL
    with serve(kind, loop) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()

        async def talk(session, path, compress):
            async with session.ws_connect(f"http://{address}/{path}", compress=compress) as websocket:
                return await read(websocket)

        async def talk_all():
            async with aiohttp.ClientSession() as session:
                talking = [
                    asyncio.create_task(talk(session, path, 15 * (number % 2))) for number, path in enumerate(paths)
                ]
                await asyncio.to_thread(daemon.wait_until, lambda status: counts(status)[2] == len(paths))
                assert (await asyncio.to_thread(daemon.reload)).ok
                return await asyncio.gather(*talking)

        assert asyncio.run(talk_all()) == [1001] * len(paths)
        wait_replaced(daemon)
        assert " cut " not in daemon.log


def upgrade(sock, path):
    """Become a websocket; returns the file of what the server says."""
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    replies = sock.makefile("rb")
    assert replies.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
    while replies.readline() != b"\r\n":
        pass
    return replies


def frame(opcode, payload=b""):
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload  # masked with zeros


def frames(replies):
    """Read frames, which are short, until a close frame is one; returns them."""
    result = []
    while not result or result[-1][0] != CLOSE:
        head = replies.read(2)
        result.append((head[0], replies.read(head[1])))
    return result


def end(answers, sock, replies, reason):
    """Read the close frame, answer it, or not, and return what comes then."""
    assert frames(replies)[-1] == (CLOSE, reason)
    if answers:
        sock.sendall(frame(8, reason))
    return replies.read()


@SERVED
def test_one_close_frame_goes_out_and_then_the_connection_ends(loop, kind):
    with serve(kind, loop) as daemon, contextlib.ExitStack() as stack:
        daemon.expect("READY=1")
        opened = []
        for path, reason in [("iterates", GOING_AWAY), ("sends", GOING_AWAY), ("says_so_itself", OWN_WORDS)] * 2:
            sock = stack.enter_context(connect(daemon.addresses()[0]))
            opened.append((sock, stack.enter_context(upgrade(sock, path)), reason))
        with ThreadPoolExecutor(len(opened)) as clients:
            ends = [clients.submit(end, number % 2, *each) for number, each in enumerate(opened)]
            assert daemon.reload().ok
            assert [end.result() for end in ends] == [b""] * len(opened)
        wait_replaced(daemon)


@SERVED
@pytest.mark.parametrize("path", ["receives", "sends"])
def test_a_client_that_talks_all_the_time_reads_the_close_frame(path, loop, kind):
    """Closed at once, the connection would be reset, and writing would fail before that frame is read."""
    with serve(kind, loop) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, upgrade(sock, path) as replies:
            heard = []
            listening = threading.Thread(target=lambda: heard.extend(frames(replies)))
            assert daemon.reload().ok
            listening.start()
            while listening.is_alive():
                sock.sendall(frame(1, b"hello"))
                time.sleep(0.001)
            assert heard[-1] == (CLOSE, GOING_AWAY)
        wait_replaced(daemon)


@pytest.mark.parametrize("kind", APPS)
def test_not_all_are_told_at_once(kind):
    with serve(kind, "uvloop") as daemon:
        daemon.expect("READY=1")
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(connect(daemon.addresses()[0])) for _ in range(40)]
            replies = [stack.enter_context(upgrade(sock, "iterates")) for sock in socks]
            told = []

            def listen(each):
                frames(each)
                told.append(time.monotonic())

            threads = [threading.Thread(target=listen, args=(each,)) for each in replies]
            for thread in threads:
                thread.start()
            assert daemon.reload().ok
            for thread in threads:
                thread.join()
            assert max(told) - min(told) > 0.3


@SERVED
def test_one_that_does_not_end_is_cut_at_the_grace(loop, kind):
    with serve(kind, loop, grace="2s") as daemon:
        daemon.expect("READY=1")
        daemon.allow("cut 1 connections that were open after its grace of 2s")
        with connect(daemon.addresses()[0]) as sock, upgrade(sock, "ignores") as replies:
            assert daemon.reload().ok
            assert frames(replies) == [(CLOSE, GOING_AWAY)]
            assert replies.read() == b""
        daemon.wait_log("cut 1 connections")
        wait_replaced(daemon)
        assert daemon.pool()["cut"] == 1


def flood(address, stack, count):
    """Send pings with numbers, and read nothing; returns the socket, and the file of what the server says."""
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(PATIENCE)
    host, _, port = address.rpartition(":")
    sock.connect((host, int(port)))
    replies = stack.enter_context(upgrade(sock, "iterates"))
    sock.sendall(b"".join(frame(PING, struct.pack("!I", number) + bytes(121)) for number in range(count)))
    return sock, replies


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_pongs_do_not_wait_for_a_client_that_does_not_read_and_its_connection_ends(loop):
    server, impatient = (
        {"kind": "asgi", "app": "app:app"},
        {"websocket_ping_interval": "1s", "websocket_ping_timeout": "1s"},
    )
    settings = pool(workers=1, loop=loop, server=server)
    servers = settings["pools"]["web"]["servers"]
    servers["impatient"] = {**servers["main"], "options": impatient}
    # More than the kernel would take, of what is asked and of what is answered together (4 and 6 MiB, tcp(7)).
    count = 130_000
    with Daemon(settings, {"app.py": ASGI}) as daemon, contextlib.ExitStack() as stack:
        daemon.expect("READY=1")
        flood(daemon.addresses(server="impatient")[0], stack, count)
        daemon.wait_until(lambda status: counts(status)[:2] == (0, 1))
        sock, replies = flood(daemon.addresses()[0], stack, count)
        pongs = 1
        while replies.read(6) != struct.pack("!BBI", PONG, 125, count - 1):
            replies.read(121)
            pongs += 1
        assert pongs < count
        replies.read(121)
        sock.sendall(frame(PING, b"again"))
        assert replies.read(7) == struct.pack("!BB", PONG, 5) + b"again"

"""``kind: asgi`` against the ASGI specification: what an application is given, in which order, and what it may do.

The application under test checks what it gets itself, as the specification's texts have it (specs/main.rst, www.rst and
lifespan.rst of asgiref, "HTTP & WebSocket ASGI Message Format" 2.x), and tells what it has found when asked for it.
"""

from __future__ import annotations

import asyncio
import http.client
import json

import aiohttp
import pytest
from aiohttp import WSMsgType

from .daemon import Daemon, connect, pool
from .test_kind_aiohttp import LOOPS

APP = """
import asyncio
import json

SEEN = []

def is_headers(value):
    return all(type(pair) in (tuple, list) and len(pair) == 2 and type(pair[0]) is bytes and type(pair[1]) is bytes
               and pair[0] == pair[0].lower() for pair in value)

def is_host(value):
    return value is None or (len(value) == 2 and type(value[0]) is str and type(value[1]) in (int, type(None)))

COMMON = {
    "type": lambda value: value in ("http", "websocket"),
    "asgi": lambda value: value["version"] == "3.0" and value["spec_version"] in ("2.0", "2.1", "2.2", "2.3", "2.4", "2.5"),
    "http_version": lambda value: value in ("1.0", "1.1"),
    "path": lambda value: type(value) is str and "%" not in value,
    "raw_path": lambda value: type(value) is bytes,
    "query_string": lambda value: type(value) is bytes,
    "root_path": lambda value: type(value) is str,
    "headers": is_headers,
    "client": is_host,
    "server": is_host,
    "state": lambda value: type(value) is dict,
}
HTTP = {**COMMON, "method": lambda value: type(value) is str and value.isupper(), "scheme": lambda value: value == "http"}
WEBSOCKET = {**COMMON, "scheme": lambda value: value == "ws", "subprotocols": lambda value: all(type(v) is str for v in value)}
LIFESPAN = {
    "type": lambda value: value == "lifespan",
    "asgi": lambda value: value["version"] == "3.0" and value["spec_version"] in ("1.0", "2.0"),
    "state": lambda value: type(value) is dict,
}

def check(scope, wanted, more=()):
    assert type(scope) is dict
    assert set(wanted) <= set(scope) <= {*wanted, *more}, (set(wanted) ^ set(scope))
    for name, is_good in wanted.items():
        assert is_good(scope[name]), (name, scope[name])

def check_request(message):
    assert set(message) <= {"type", "body", "more_body"} and message["type"] == "http.request", message
    assert type(message.get("body", b"")) is bytes and type(message.get("more_body", False)) is bool
    return message

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        check(scope, LIFESPAN)
        scope["state"]["of lifespan"] = SEEN
        assert await receive() == {"type": "lifespan.startup"}
        await send({"type": "lifespan.startup.complete"})
        assert await receive() == {"type": "lifespan.shutdown"}
        await send({"type": "lifespan.shutdown.complete"})
        return
    assert scope["state"]["of lifespan"] is SEEN  # the values are the same, the mapping is a copy
    scope["state"]["of request"] = True
    if scope["type"] == "websocket":
        check(scope, WEBSOCKET, {"extensions"})
        await websocket(scope, receive, send)
    else:
        check(scope, HTTP, {"extensions"})
        await globals()[scope["path"].strip("/").partition("/")[0] or "index"](scope, receive, send)

async def respond(send, value, status=200):
    await send({"type": "http.response.start", "status": status, "headers": [(b"Content-Type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})

async def index(scope, receive, send):
    check_request(await receive())
    shown = {name: repr(scope[name]) for name in ("method", "path", "raw_path", "query_string", "http_version")}
    shown["headers"] = [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]]
    await respond(send, shown)

async def seen(scope, receive, send):
    await respond(send, SEEN)

async def body(scope, receive, send):
    size, more, pieces = 0, True, 0
    while more:
        message = check_request(await receive())
        size += len(message.get("body", b""))
        more, pieces = message.get("more_body", False), pieces + 1
    # The body is over: the next thing to come is the client's end, or that of the response.
    waiting = asyncio.ensure_future(receive())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await respond(send, size)
    assert (await waiting)["type"] == "http.disconnect"
    SEEN.append("disconnect after the response")

async def disconnect(scope, receive, send):
    check_request(await receive())
    SEEN.append("waits")
    message = await receive()
    assert message == {"type": "http.disconnect"}, message
    SEEN.append("disconnected")
    # Sending is allowed still, and of no effect (or an OSError, from 2.4 on).
    try:
        await respond(send, None)
    except OSError:
        pass
    assert await receive() == {"type": "http.disconnect"}  # again and again
    SEEN.append("and nothing happened")

async def stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})  # headers are optional
    for number in range(3):
        await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
    await send({"type": "http.response.body", "more_body": True})
    await send({"type": "http.response.body"})

async def same_header(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": [(b"x-a", b"1"), (b"X-A", b"2")]})
    await send({"type": "http.response.body"})

async def refused(scope, receive, send):
    wrong = {
        "body": [{"type": "http.response.body", "body": b""}],
        "unknown": [{"type": "http.response.unknown"}],
        "websocket": [{"type": "websocket.accept"}],
    }[scope["query_string"].decode()]
    try:
        for message in wrong:
            await send(message)
    except Exception as error:
        await respond(send, type(error).__name__)

async def websocket(scope, receive, send):
    assert await receive() == {"type": "websocket.connect"}
    match scope["path"]:
        case "/reject":
            await send({"type": "websocket.close"})
            assert (await receive())["type"] == "websocket.disconnect"
            SEEN.append("rejected")
            return
        case "/deny":
            assert "websocket.http.response" in scope["extensions"]
            await send({"type": "websocket.http.response.start", "status": 418, "headers": [(b"x-why", b"teapot")]})
            await send({"type": "websocket.http.response.body", "body": b"short", "more_body": True})
            await send({"type": "websocket.http.response.body", "body": b" and stout"})
            return
    await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][1], "headers": [(b"x-more", b"yes")]})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            SEEN.append(["disconnect", message["code"], message.get("reason")])
            try:
                await send({"type": "websocket.send", "text": "too late"})
            except OSError:
                SEEN.append("an OSError")
            return
        assert message["type"] == "websocket.receive"
        given = {name: value for name, value in message.items() if value is not None and name != "type"}
        ((name, value),) = given.items()  # one of text and bytes
        assert type(value) is {"text": str, "bytes": bytes}[name]
        if value == "close":
            await send({"type": "websocket.close", "code": 3001, "reason": "asked to"})
            assert (await receive())["type"] == "websocket.disconnect"
            SEEN.append("closed")
            return
        await send({"type": "websocket.send", name: value})
"""


def serve(loop):
    server = {"kind": "asgi", "app": "app:app", "options": {"lifespan": "on"}}
    return Daemon(pool(workers=1, loop=loop, server=server), {"app.py": APP})


async def wait_seen(session, *what):
    """Wait until the application has seen things, in this order."""
    async with asyncio.timeout(30):
        while True:
            async with session.get("/seen") as response:
                if (seen := await response.json())[-len(what) :] == list(what):
                    return
            assert len(seen) < 50, seen
            await asyncio.sleep(0.02)


def run(loop, talk):
    """Talk to the checking application, which must not have raised anything."""
    with serve(loop) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()

        async def begin():
            async with aiohttp.ClientSession(f"http://{address}") as session:
                await talk(session, address)

        asyncio.run(begin())
        assert daemon.pool()["workers"][0]["errors"] == 0


@LOOPS
def test_the_scope_of_requests(loop):
    async def talk(session, address):
        with connect(address) as sock, sock.makefile("rb") as replies:
            sock.sendall(
                b"GET /index/%2e/../?a=%20b&c HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two: 2\r\nX-High: \xe9\r\n\r\n"
            )
            assert replies.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = http.client.parse_headers(replies)
            assert headers["Transfer-Encoding"] == "chunked"
            size = int(replies.readline(), 16)
            shown = json.loads(replies.read(size))
        assert shown.pop("headers") == [["host", "x"], ["x-two", "1"], ["x-two", "2"], ["x-high", "é"]]
        assert shown == {
            "method": "'GET'",
            "path": "'/index/./../'",
            "raw_path": "b'/index/%2e/../'",
            "query_string": "b'a=%20b&c'",
            "http_version": "'1.1'",
        }

    run(loop, talk)


@LOOPS
def test_bodies_and_the_end_of_requests(loop):
    async def pieces():
        for _ in range(5):
            yield b"x" * 100_000
            await asyncio.sleep(0.01)

    async def talk(session, address):
        for data, size in ((None, 0), (b"x" * 10, 10), (pieces(), 500_000), (b"x" * 500_000, 500_000)):
            async with session.post("/body", data=data) as response:
                assert await response.json() == size
            await wait_seen(session, "disconnect after the response")
        sock = connect(address)
        sock.sendall(b"GET /disconnect HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_seen(session, "waits")
        sock.close()
        await wait_seen(session, "disconnected", "and nothing happened")

    run(loop, talk)


@LOOPS
def test_what_an_application_may_send(loop):
    async def talk(session, address):
        async with session.get("/stream") as response:
            assert await response.read() == b"012"
            assert response.headers["Transfer-Encoding"] == "chunked"
        async with session.head("/stream") as response:
            assert (response.status, await response.read()) == (200, b"")
        async with session.get("/same_header") as response:
            assert response.status == 204
            assert response.headers.getall("x-a") == ["1", "2"]
            assert "Transfer-Encoding" not in response.headers
        for wrong in ("body", "unknown", "websocket"):
            async with session.get(f"/refused?{wrong}") as response:
                assert await response.json() == "RuntimeError"

    run(loop, talk)


@LOOPS
def test_websockets(loop):
    async def talk(session, address):
        async with session.ws_connect("/ws", protocols=("one", "two")) as ws:
            assert ws.protocol == "two"
            assert ws._response.headers["x-more"] == "yes"
            await ws.send_str("hellö")
            assert await ws.receive_str() == "hellö"
            await ws.send_bytes(b"\xff\0")
            assert await ws.receive_bytes() == b"\xff\0"
            await ws.close(code=3000, message=b"enough")
        await wait_seen(session, ["disconnect", 3000, "enough"], "an OSError")
        async with session.ws_connect("/ws", protocols=("one", "two")) as ws:
            await ws.send_str("close")
            message = await ws.receive()
            assert (message.type, message.data, message.extra) == (WSMsgType.CLOSE, 3001, "asked to")
        await wait_seen(session, "closed")
        ws = await session.ws_connect("/ws", protocols=("one", "two"))
        ws._response.connection.transport.abort()
        await wait_seen(session, ["disconnect", 1005, None], "an OSError")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await session.ws_connect("/reject")
        await wait_seen(session, "rejected")
        async with session.get(
            "/deny",
            headers={
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
            },
        ) as response:
            assert (response.status, response.headers["x-why"]) == (418, "teapot")
            assert await response.read() == b"short and stout"

    run(loop, talk)

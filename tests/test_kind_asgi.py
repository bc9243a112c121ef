"""``kind: asgi`` with applications of its own, aiohttp's client and plain sockets."""

from __future__ import annotations

import asyncio
import http.client
import io
import os

import aiohttp
import pytest

from .daemon import Daemon, connect, pool
from .test_kind_aiohttp import GET, LIFESPAN, LOOPS, answer, counts

APP = """
import asyncio, json, os

from hourd import Worker


async def read(receive):
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        more = message.get("more_body", False)
    return body


async def respond(send, body, status=200):
    await send({"type": "http.response.start", "status": status,
                "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


START = {"type": "http.response.start", "status": 200, "headers": []}


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise ValueError("none here")
    worker = scope["state"]["hourd_worker"]
    assert worker is Worker.current()
    match scope["path"]:
        case "/":
            body = await read(receive)
            if body is None:
                return
            await respond(send, body if scope["method"] == "POST" else str(os.getpid()).encode())
        case "/fail":
            raise RuntimeError("handled on purpose")
        case "/nothing":
            pass
        case "/wait":
            await worker.draining.wait()
            await respond(send, b"draining")
        case "/stream":
            await send({**START, "headers": ((name, b"1") for name in [b"x-mine"])})
            await send({"type": "http.response.body", "body": b"begin\\n", "more_body": True})
            await worker.draining.wait()
            await send({"type": "http.response.body", "body": b"end\\n", "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        case "/forever":
            await send(START)
            while True:
                await send({"type": "http.response.body", "body": b"tick\\n", "more_body": True})
                await asyncio.sleep(0.01)
        case "/file":
            # In pieces as large as the loop takes them.
            await send({**START, "headers": [(b"content-length", str(os.path.getsize("large")).encode())]})
            with open("large", "rb") as file:
                while data := file.read(65536):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        case "/parts":
            # Everything at once: the application has returned long before the client has it.
            with open("large", "rb") as file:
                await respond(send, file.read())
        case "/state":
            state = {name: value for name, value in scope["state"].items() if name != "hourd_worker"}
            await respond(send, json.dumps(state).encode())
        case "/scope" | "/shop/scope":
            shown = {name: str(scope[name]) for name in ("type", "path", "raw_path", "root_path", "scheme", "client")}
            await respond(send, json.dumps(shown).encode())


class WithLifespan:
    # What every other framework makes of the same messages.
    def __init__(self, begin="complete", end="complete", message="", raises=False, dies=False):
        self.begin, self.end, self.message, self.raises, self.dies = begin, end, message, raises, dies

    async def __call__(self, scope, receive, send):
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        assert (await receive())["type"] == "lifespan.startup"
        if self.raises:
            raise RuntimeError("startup on purpose")
        scope["state"]["pool"] = "opened by lifespan"
        await send({"type": f"lifespan.startup.{self.begin}", "message": self.message})
        if self.dies:
            raise RuntimeError("later on purpose")
        assert (await receive())["type"] == "lifespan.shutdown"
        print("shutting down", flush=True)
        await send({"type": f"lifespan.shutdown.{self.end}", "message": "shutdown on purpose"})


def make():
    return app


async def make_async():
    await asyncio.sleep(0)
    return app


def make_with(worker):
    assert worker.state is Worker.current().state
    return app


class Awaited:
    def __init__(self, scope, receive, send):
        self.given = scope, receive, send

    def __await__(self):
        return app(*self.given).__await__()


def asgi2(scope):
    raise AssertionError("nobody asks")


def returns_nothing():
    return None


def factory_fails():
    raise RuntimeError("factory on purpose")


with_lifespan = WithLifespan()
fails = WithLifespan(begin="failed", message="no database on purpose")
raises = WithLifespan(raises=True)
fails_to_end = WithLifespan(end="failed")
dies = WithLifespan(dies=True)


async def reads_first(scope, receive, send):
    # takes whatever it is called with for a request
    await receive()
    await respond(send, b"1")
"""
FILES = {"app.py": APP, "life.py": LIFESPAN}


def asgi(app="app", **server):
    return {"kind": "asgi", "app": f"app:{app}", "bind": "127.0.0.1:0", "grace": "10s", **server}


def config(app="app", *, server=None, **settings):
    return pool(server=asgi(app, **(server or {})), **{"lifespan": "life:lifespan", **settings})


async def ask(session, address, path="/"):
    async with session.get(f"http://{address}{path}") as response:
        assert response.status == 200
        return await response.json(content_type=None)


@LOOPS
@pytest.mark.parametrize("app", ["app", "make", "make_async", "make_with", "Awaited"])
def test_each_form_of_application_serves_at_every_address(app, loop, tmp_path):
    bind = ["127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/s"]
    with Daemon(config(app, server={"bind": bind}, loop=loop), FILES) as daemon:
        daemon.expect("READY=1")

        async def talk():
            ipv4, ipv6, _ = daemon.addresses()
            async with aiohttp.ClientSession() as session:
                for address in (ipv4, ipv6):
                    assert (await ask(session, address, "/state"))["slot"] in (0, 1)
            unix = aiohttp.UnixConnector(f"{tmp_path}/s")
            async with aiohttp.ClientSession(connector=unix) as session:
                assert await ask(session, "x") in daemon.workers()

        asyncio.run(talk())


def test_large_bodies_both_ways_and_status_counts():
    with Daemon(config(workers=1), FILES) as daemon:
        daemon.expect("READY=1")
        body = os.urandom(10_000_000)

        async def talk():
            async with aiohttp.ClientSession() as session:
                for _ in range(3):
                    async with session.post(f"http://{daemon.addresses()[0]}/", data=io.BytesIO(body)) as response:
                        assert await response.read() == body
                await asyncio.to_thread(daemon.wait_until, lambda status: counts(status) == (1, 1, 3))

        asyncio.run(talk())
        daemon.wait_until(lambda status: counts(status) == (0, 1, 3))


@LOOPS
def test_an_exception_is_shown_once_with_its_server_and_counted(loop):
    with Daemon(config(workers=1, loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose", "without starting response")
        before = daemon.workers()
        for path in (b"/fail ", b"/nothing "):
            with connect(daemon.addresses()[0]) as sock:
                sock.sendall(GET.replace(b"/ ", path))
                assert sock.recv(12) == b"HTTP/1.1 500"
        daemon.wait_log(r"error +hourd\.server\.web\.main\[\d+\] [^$]*Traceback[^$]*RuntimeError: handled on purpose")
        daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["errors"] == 2)
        assert daemon.workers() == before
        assert daemon.log.count("RuntimeError: handled on purpose") == 1


@pytest.mark.parametrize(
    ("app", "options", "message"),
    [
        ("returns_nothing", {}, "made None, expected an ASGI 3 application, or a factory of one"),
        ("factory_fails", {}, "RuntimeError: factory on purpose"),
        ("asgi2", {}, "an ASGI 2 application, which takes (scope) alone; wrap it"),
        ("__name__", {}, "app is 'app', expected an ASGI 3 application, or a factory of one"),
        ("fails", {}, "the application's lifespan failed to start:\nno database on purpose"),
        ("raises", {}, "RuntimeError: startup on purpose\nan application that has no lifespan is served with options"),
        ("raises", {"lifespan": "on"}, "RuntimeError: startup on purpose"),
        ("app", {"lifespan": "on"}, "ValueError: none here"),
        ("app", {"root_path": "shop"}, "options: root_path is 'shop', expected a path such as /shop"),
        ("app", {"line_max_size": "0"}, "options: line_max_size is 0B, expected at least 256B"),
    ],
)
def test_what_cannot_be_served_is_told(app, options, message):
    with Daemon(config(app, server={"options": options}), FILES) as daemon:
        daemon.allow("server main", "it is stopped at once", "options: .* expected")
        assert daemon.wait() == (78 if "expected" in message and options else 75)
        assert message in daemon.log


def test_who_takes_the_lifespan_for_a_request_is_served_without():
    """As the specification has it: the application may simply know no lifespan."""
    with Daemon(config("reads_first", workers=1), FILES) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(GET)
            assert answer(replies)[1] == b"1"


def test_a_lifespan_that_fails_while_it_is_served_is_told_of_at_once():
    with Daemon(config("dies", workers=1), FILES) as daemon:
        daemon.allow("on purpose")
        daemon.expect("READY=1")
        daemon.wait_log(r"hourd\.server\.web\.main.* lifespan failed while it is served\n[^$]*later on purpose")
        daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["errors"] == 1)


@pytest.mark.parametrize(("lifespan", "pool_too"), [("auto", True), ("on", False), ("off", True)])
def test_its_lifespan_shares_its_state_and_ends_after_the_last_request(lifespan, pool_too):
    options = {"lifespan": lifespan}
    settings = {"lifespan": "life:lifespan" if pool_too else None, "workers": 1}
    with Daemon(config("with_lifespan", server={"options": options}, **settings), FILES) as daemon:
        daemon.allow("shutting down")
        daemon.expect("READY=1")

        async def talk():
            async with aiohttp.ClientSession() as session:
                return await ask(session, daemon.addresses()[0], "/state")

        wanted = {"slot": 0} if pool_too else {}
        if lifespan != "off":
            wanted["pool"] = "opened by lifespan"
        assert asyncio.run(talk()) == wanted
        assert daemon.reload().ok
        daemon.wait_for_the_old()
        assert daemon.log.count("shutting down") == (lifespan != "off")


def test_a_shutdown_that_fails_is_told():
    with Daemon(config("fails_to_end", workers=1), FILES) as daemon:
        daemon.allow("shutting down", "lifespan failed to shut down:\nshutdown on purpose")
        daemon.expect("READY=1")
        assert daemon.reload().ok
        daemon.wait_log("lifespan failed to shut down")


def test_the_scope_has_the_root_path():
    with Daemon(config(server={"options": {"root_path": "/shop"}}), FILES) as daemon:
        daemon.expect("READY=1")

        async def talk():
            async with aiohttp.ClientSession() as session:
                return await ask(session, daemon.addresses()[0], "/scope")

        scope = asyncio.run(talk())
        assert "127.0.0.1" in scope.pop("client")
        assert scope == {
            "type": "http",
            "path": "/shop/scope",
            "raw_path": "b'/shop/scope'",
            "root_path": "/shop",
            "scheme": "http",
        }


def test_http_1_0_gets_no_chunks():
    """A response without a length ends with its connection, also one that began before its worker drained."""
    with Daemon(config(), FILES) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
            assert replies.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = http.client.parse_headers(replies)
            assert (headers["Transfer-Encoding"], headers["X-Mine"]) == (None, "1")
            assert replies.readline() == b"begin\n"
            assert daemon.reload().ok
            assert replies.read() == b"end\n"

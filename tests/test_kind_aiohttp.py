"""``kind: aiohttp`` with aiohttp's client and with plain sockets."""

from __future__ import annotations

import asyncio
import http.client
import io
import os
import signal

import aiohttp
import pytest

from .daemon import Daemon, connect, pool

APP = """
import asyncio
import os

from aiohttp import web

from hourd import Worker
from hourd.kinds.aiohttp import WORKER


async def echo(request):
    return web.Response(body=await request.read())


async def count(request):
    return web.Response(text=str(sum([len(part) async for part in request.content.iter_any()])))


async def pid(request):
    return web.Response(text=str(os.getpid()))


async def fail(request):
    raise RuntimeError("handled on purpose")


async def wait(request):
    Worker.current().state["waiting"] = True
    await request.app[WORKER].draining.wait()
    return web.Response(text="draining")


async def state(request):
    return web.json_response(Worker.current().state)


async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begin\\n")
    await request.app[WORKER].draining.wait()
    await response.write(b"end\\n")
    return response


async def forever(request):
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"tick\\n")
        await asyncio.sleep(0.01)


async def file(request):
    return web.FileResponse("large")


async def parts(request):
    return web.Response(body=open("large", "rb"))


def make():
    app = web.Application()
    app.add_routes([web.post("/", echo), web.get("/", pid), web.get("/fail", fail), web.get("/wait", wait),
                    web.get("/stream", stream), web.get("/forever", forever), web.get("/state", state),
                    web.get("/file", file), web.get("/parts", parts), web.post("/count", count),
                    web.post("/pid", pid)])
    return app


async def make_async():
    await asyncio.sleep(0)
    return make()


def make_with(worker):
    assert worker.state is Worker.current().state
    return make()


def returns_nothing():
    return None


def factory_fails():
    raise RuntimeError("factory on purpose")


async def startup_fails(app):
    raise RuntimeError("startup on purpose")


def make_failing():
    app = make()
    app.on_startup.append(startup_fails)
    return app


async def cleanup_fails(app):
    raise RuntimeError("cleanup on purpose")


def make_failing_at_the_end():
    app = make()
    app.on_cleanup.append(cleanup_fails)
    return app


app = make()
"""
LIFESPAN = """
import contextlib


@contextlib.asynccontextmanager
async def lifespan(worker):
    yield {"slot": worker.slot}
"""
LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def web(app="make", **server):
    return {"kind": "aiohttp", "app": f"app:{app}", "bind": "127.0.0.1:0", "grace": "10s", **server}


def config(app="make", *, server=None, **settings):
    return pool(server=web(app, **(server or {})), **{"lifespan": "life:lifespan", **settings})


FILES = {"app.py": APP, "life.py": LIFESPAN}


def answer(replies):
    """Read one answer from a socket's file; returns its headers and body."""
    status = replies.readline()
    assert status == b"HTTP/1.1 200 OK\r\n", status
    headers = http.client.parse_headers(replies)
    return headers, replies.read(int(headers["Content-Length"]))


def counts(status):
    (worker,) = [each for each in status["pools"]["web"]["workers"] if each["state"] == "serving"]
    return worker["connections"], worker["accepted"], worker["requests"]


@LOOPS
@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("app", ["app", "make", "make_async", "make_with"])
def test_each_form_of_application_serves_at_every_address(app, loop, preload, tmp_path):
    bind = ["127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/s"]
    with Daemon(config(app, server={"bind": bind}, loop=loop, preload=preload), FILES) as daemon:
        daemon.expect("READY=1")

        async def talk():
            ipv4, ipv6, _ = daemon.addresses()
            async with aiohttp.ClientSession() as session:
                for address in (ipv4, ipv6):
                    async with session.get(f"http://{address}/state") as response:
                        assert (await response.json())["slot"] in (0, 1)
            unix = aiohttp.UnixConnector(f"{tmp_path}/s")
            async with aiohttp.ClientSession(connector=unix) as session, session.get("http://x/") as response:
                assert int(await response.text()) in daemon.workers()

        asyncio.run(talk())


def test_large_bodies_both_ways_and_status_counts():
    with Daemon(config(workers=1, server={"options": {"client_max_size": "20MiB"}}), FILES) as daemon:
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


def test_a_body_beyond_client_max_size_is_refused_however_it_is_read():
    def ask(path, *headers, body=b""):
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(b"\r\n".join([b"POST %s HTTP/1.1" % path, b"Host: x", *headers, b"", body]))
            status = replies.readline().split()[1]
            headers = http.client.parse_headers(replies)
            replies.read(int(headers["Content-Length"]))
            if headers["Connection"] == "close":
                assert replies.read() == b""
                return status, "closed"
            sock.sendall(GET)
            answer(replies)
            return status, "kept"

    chunked = b"Transfer-Encoding: chunked"
    servers = {
        "main": web(options={"client_max_size": "1KiB"}),
        "without_a_limit": web(options={"client_max_size": 0}),
    }
    with Daemon({"pools": {"web": {"workers": 1, "servers": servers}}}, FILES) as daemon:
        daemon.expect("READY=1")
        for path in (b"/", b"/count"):
            assert ask(path, b"Content-Length: 1024", body=b"x" * 1024) == (b"200", "kept")
            assert ask(path, b"Content-Length: 2000", body=b"x" * 2000) == (b"413", "kept")
            assert ask(path, b"Content-Length: 3000000") == (b"413", "closed")
            assert ask(path, chunked, body=b"200\r\n" + b"x" * 512 + b"\r\n0\r\n\r\n") == (b"200", "kept")
            assert ask(path, chunked, body=b"800\r\n" + b"x" * 1024 + b"x") == (b"413", "closed")
        assert ask(b"/pid", b"Content-Length: 3000000") == (b"200", "closed")

        with connect(daemon.addresses(server="without_a_limit")[0]) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
            assert sock.recv(12) == b"HTTP/1.1 200"


@LOOPS
def test_an_exception_is_shown_with_its_server_and_counted(loop):
    with Daemon(config(workers=1, loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose")
        before = daemon.workers()
        with connect(daemon.addresses()[0]) as sock:
            sock.sendall(GET.replace(b"/ ", b"/fail "))
            assert sock.recv(12) == b"HTTP/1.1 500"
        daemon.wait_log(r"error +hourd\.server\.web\.main\[\d+\] [^$]*Traceback[^$]*RuntimeError: handled on purpose")
        daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["errors"] == 1)
        assert daemon.workers() == before


def test_a_cleanup_that_fails_takes_nothing_from_the_access_log():
    server = {"grace": "0s", "options": {"access_log": True}}
    with Daemon(config("make_failing_at_the_end", workers=1, server=server), FILES) as daemon:
        daemon.allow("on purpose", "open after its grace")
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.sendall(GET.replace(b"/ ", b"/forever "))
            assert sock.recv(12) == b"HTTP/1.1 200"
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
        assert '"GET /forever HTTP/1.1" 499' in daemon.log


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("returns_nothing", "made None, expected an aiohttp.web.Application, or a factory of one"),
        ("factory_fails", "RuntimeError: factory on purpose"),
        ("make_failing", "RuntimeError: startup on purpose"),
        ("__name__", "app is 'app', expected an aiohttp.web.Application, or a factory of one"),
    ],
)
def test_what_is_no_application_is_told(app, message):
    with Daemon(config(app), FILES) as daemon:
        daemon.allow("server main", "it is stopped at once")
        assert daemon.wait() == 75
        assert message in daemon.log

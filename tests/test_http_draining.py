"""The kinds that speak HTTP while their worker drains: no request is lost, and clients are told to go."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import time

import aiohttp
import pytest

from hourd.kinds.leaving import Departure

from . import test_kind_aiohttp, test_kind_asgi
from .daemon import PATIENCE, Daemon, connect, pool
from .test_kind_aiohttp import GET, LOOPS, answer, counts
from .witness import KeepAlive, web

LARGE = 20_000_000
SERVED = pytest.mark.parametrize(
    ("loop", "kind"),
    [("uvloop", test_kind_aiohttp), ("asyncio", test_kind_aiohttp), ("uvloop", test_kind_asgi)],
    ids=["uvloop-aiohttp", "asyncio-aiohttp", "uvloop-asgi"],
)
"""Each has an application that answers the same paths, and how it is configured."""


@SERVED
def test_pipelined_requests_are_all_answered_also_while_draining(loop, kind):
    with Daemon(kind.config(workers=1, loop=loop), kind.FILES) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(GET * 20)
            assert {answer(replies)[1] for _ in range(20)} == {b"%d" % daemon.workers()[0]}
            sock.sendall(GET.replace(b"/ ", b"/wait ") + GET * 40)
            daemon.until(lambda: counts(daemon.status())[2] == 21)
            assert daemon.reload().ok
            headers = [answer(replies)[0] for _ in range(41)]
            assert [each["Connection"] for each in headers] == [None] * 40 + ["close"]
            assert replies.read() == b""


@SERVED
def test_a_request_in_flight_is_answered_and_asks_to_close(loop, kind):
    with Daemon(kind.config(workers=1, loop=loop), kind.FILES) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(GET.replace(b"/ ", b"/wait "))
            daemon.until(lambda: counts(daemon.status())[2] == 1)
            assert daemon.reload().ok
            headers, body = answer(replies)
            assert (body, headers["Connection"]) == (b"draining", "close")
            assert replies.read() == b""


@SERVED
def test_a_response_that_began_before_is_finished_and_its_connection_closed(loop, kind):
    with Daemon(kind.config(workers=1, loop=loop, server={"grace": "60s"}), kind.FILES) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(GET.replace(b"/ ", b"/stream "))
            while replies.readline() != b"begin\n":
                pass
            assert daemon.reload().ok
            assert replies.read() == b"\r\n4\r\nend\n\r\n0\r\n\r\n"
        # Long before its grace is over, and without a word about a cut.
        daemon.wait_until(lambda status: len(status["pools"]["web"]["workers"]) == 1)


@SERVED
def test_an_idle_connection_ends_without_an_error(loop, kind):
    with Daemon(kind.config(workers=1, loop=loop), kind.FILES) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(GET)
            answer(replies)
            assert daemon.reload().ok
            assert replies.read() == b""


@SERVED
def test_a_connection_that_has_not_asked_yet_is_answered(loop, kind):
    """The client's first request is on its way when its worker is told to drain."""
    with Daemon(kind.config(workers=2, loop=loop), kind.FILES) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        for _ in range(3):
            # Also who drains already: it may have accepted a moment ago.
            old = {str(each["pid"]).encode() for each in daemon.pool()["workers"]}
            socks = [connect(address) for _ in range(10)]
            daemon.wait_until(
                lambda status: sum(each["connections"] for each in status["pools"]["web"]["workers"]) == 10
            )
            reloading = asyncio.run(reload_and_ask(daemon, socks))
            assert {body for _, body in reloading} <= old
            for sock in socks:
                sock.close()


async def reload_and_ask(daemon, socks):
    reloading = asyncio.create_task(asyncio.to_thread(daemon.reload))
    await asyncio.to_thread(
        daemon.wait_until, lambda status: "draining" in {each["state"] for each in status["pools"]["web"]["workers"]}
    )
    answers = []
    for sock in socks:
        sock.sendall(GET)
        with sock.makefile("rb") as replies:
            answers.append(answer(replies))
    assert (await reloading).ok
    return answers


@SERVED
def test_a_client_with_keep_alive_sees_no_error_over_reloads(loop, kind):
    with Daemon(kind.config(loop=loop), kind.FILES) as daemon:
        daemon.expect("READY=1")

        async def ask(session, done):
            count = 0
            while not done.is_set():
                async with session.post(f"http://{address}/", data=b"x" * 3000) as response:
                    assert await response.read() == b"x" * 3000
                count += 1
            return count

        async def talk():
            done = asyncio.Event()
            async with aiohttp.ClientSession() as session:
                asking = [asyncio.create_task(ask(session, done)) for _ in range(8)]
                for _ in range(2):
                    assert (await asyncio.to_thread(daemon.reload)).ok
                done.set()
                return await asyncio.gather(*asking)

        (address,) = daemon.addresses()
        assert min(asyncio.run(talk())) > 0


@SERVED
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_a_request_that_comes_in_pieces_is_answered(loop, kind, family, tmp_path):
    """It takes longer than a connection has that asks nothing, and began before its worker was told to drain."""
    bind = f"unix:{tmp_path}/web.sock" if family == "unix" else "127.0.0.1:0"
    with Daemon(kind.config(workers=1, loop=loop, server={"bind": bind}), kind.FILES) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(GET[:1])
            daemon.until(lambda: counts(daemon.status())[0] == 1)
            assert daemon.reload().ok
            for number in range(1, len(GET)):
                time.sleep(4 / len(GET))
                sock.sendall(GET[number : number + 1])
            headers, body = answer(replies)
            assert headers["Connection"] == "close"
            assert body not in {b"%d" % pid for pid in daemon.workers()}


@SERVED
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_next_requests_that_have_begun_are_answered(loop, kind, family, tmp_path):
    """The connections have been quiet for so long that they may be closed."""
    bind = f"unix:{tmp_path}/web.sock" if family == "unix" else "127.0.0.1:0"
    with (
        Daemon(kind.config(workers=1, loop=loop, server={"bind": bind}), kind.FILES) as daemon,
        contextlib.ExitStack() as stack,
    ):
        daemon.expect("READY=1")
        socks = [stack.enter_context(connect(daemon.addresses()[0])) for _ in range(40)]
        replies = [stack.enter_context(sock.makefile("rb")) for sock in socks]
        for sock, reply in zip(socks, replies, strict=True):
            sock.sendall(GET)
            answer(reply)
        time.sleep(1.5)
        for sock in socks:
            sock.sendall(GET[:-2])
        assert daemon.reload().ok
        for sock in socks:
            sock.sendall(GET[-2:-1])
        time.sleep(1.5)
        for sock, reply in zip(socks, replies, strict=True):
            sock.sendall(GET[-1:])
            assert answer(reply)[0]["Connection"] == "close"


@SERVED
def test_a_file_is_sent_whole(loop, kind):
    """When its worker drains, the handler has returned long since."""
    with (
        Daemon(kind.config(workers=1, loop=loop, server={"grace": "60s"}), kind.FILES) as daemon,
        contextlib.ExitStack() as stack,
    ):
        daemon.expect("READY=1")
        with (daemon.folder / "large").open("wb") as file:
            file.truncate(LARGE)
        opened = []
        for path in (b"/file ", b"/parts "):
            sock = stack.enter_context(connect(daemon.addresses()[0]))
            replies = stack.enter_context(sock.makefile("rb"))
            sock.sendall(GET)
            answer(replies)
            opened.append((sock, path, replies))
        first = stack.enter_context(connect(daemon.addresses()[0]))
        for sock, path, replies in opened:
            sock.sendall(GET.replace(b"/ ", path))
            assert replies.readline() == b"HTTP/1.1 200 OK\r\n"
        assert daemon.reload().ok
        assert first.recv(1) == b""  # what is idle is closed by now
        for _, _, replies in opened:
            assert int(http.client.parse_headers(replies)["Content-Length"]) == len(replies.read()) == LARGE


@SERVED
def test_a_request_that_has_come_in_part_is_waited_for(loop, kind):
    with (
        Daemon(kind.config(workers=1, loop=loop, server={"grace": "60s"}), kind.FILES) as daemon,
        contextlib.ExitStack() as stack,
    ):
        daemon.expect("READY=1")
        idle, fresh, kept = (stack.enter_context(connect(daemon.addresses()[0])) for _ in range(3))
        with kept.makefile("rb") as replies:
            kept.sendall(GET)
            answer(replies)
        daemon.wait_until(lambda status: counts(status) == (3, 3, 1))
        for sock in (fresh, kept):
            sock.sendall(GET[:20])
        assert daemon.reload().ok
        assert idle.recv(1) == b""
        for sock in (fresh, kept):
            sock.sendall(GET[20:])
            with sock.makefile("rb") as replies:
                assert answer(replies)[0]["Connection"] == "close"
                assert replies.read() == b""


@SERVED
def test_a_connection_that_was_closed_is_not_reset(loop, kind):
    """What crosses the end meets silence: a reset could take the last response from the client."""
    with Daemon(kind.config(workers=1, loop=loop), kind.FILES) as daemon, contextlib.ExitStack() as stack:
        daemon.expect("READY=1")
        socks = [stack.enter_context(connect(daemon.addresses()[0])) for _ in range(2)]
        idle, busy = ((sock, stack.enter_context(sock.makefile("rb"))) for sock in socks)
        idle[0].sendall(GET)
        answer(idle[1])
        busy[0].sendall(GET.replace(b"/ ", b"/wait "))
        daemon.until(lambda: counts(daemon.status())[2] == 2)
        assert daemon.reload().ok
        assert answer(busy[1])[0]["Connection"] == "close"
        for sock, replies in (busy, idle):
            assert replies.read() == b""
            for _ in range(3):
                sock.sendall(GET)
            assert replies.read() == b""


EVENTS = """
import asyncio, os
from aiohttp import web
from hourd.kinds.aiohttp import WORKER

STOP = web.AppKey("stop", asyncio.Event)

async def events(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"data: first\\n\\n")
    await request.app[STOP].wait()
    await response.write(b"data: last\\n\\n")
    return response

async def ask(request):
    # What on_shutdown has closed, a database it may be, is missed by who asks afterwards.
    return web.Response(status=500 if request.app[STOP].is_set() else 200, text=str(os.getpid()))

async def wait(request):
    await request.app[WORKER].draining.wait()
    return await ask(request)

async def begin(app):
    app[STOP] = asyncio.Event()

async def on_shutdown(app):
    print("shutting down", flush=True)
    app[STOP].set()

def create():
    app = web.Application()
    app.on_startup.append(begin)
    app.on_shutdown.append(on_shutdown)
    app.router.add_get("/events", events)
    app.router.add_get("/", ask)
    app.router.add_get("/wait", wait)
    return app
"""


@LOOPS
def test_handlers_that_wait_for_on_shutdown_end_long_before_their_grace(loop):
    with Daemon(pool(workers=1, loop=loop, server=web(grace="1h")), {"app.py": EVENTS}) as daemon:
        daemon.allow("shutting down")
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with connect(address) as stream, stream.makefile("rb") as replies, KeepAlive(address, 5) as clients:
            stream.sendall(GET.replace(b"/ ", b"/events "))
            while replies.readline() != b"data: first\n":
                pass
            clients.wait_for(50)
            assert daemon.reload().ok
            assert b"data: last\n" in replies.read()
            clients.wait_for(50)
        daemon.wait_log("worker web/0 gen=1 .* ended")
        assert daemon.log.count("shutting down") == 1


def test_a_request_that_waits_for_its_turn_comes_before_on_shutdown():
    with Daemon(pool(workers=1, server=web()), {"app.py": EVENTS}) as daemon:
        daemon.allow("shutting down")
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(GET.replace(b"/ ", b"/wait ") + GET)
            daemon.until(lambda: counts(daemon.status())[2] == 1)
            assert daemon.reload().ok
            assert [answer(replies)[0]["Connection"] for _ in range(2)] == [None, "close"]


@SERVED
def test_a_response_that_is_cut_does_not_look_whole(loop, kind):
    with Daemon(kind.config(workers=1, loop=loop, server={"grace": "100ms"}), kind.FILES) as daemon:
        daemon.allow("open after its grace")
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            # An HTTP/1.0 response without a length is as long as its connection.
            sock.sendall(GET.replace(b"/ ", b"/forever ").replace(b"1.1", b"1.0"))
            assert sock.recv(10)
            assert daemon.reload().ok
            with sock.makefile("rb") as rest, pytest.raises(ConnectionResetError):
                rest.read()


def test_a_connection_that_cannot_be_looked_at_keeps_no_other_from_its_end():
    class Odd:
        @property
        def is_gone(self):
            if ended.is_set():
                return True
            raise RuntimeError("on purpose")

    class Plain:
        is_gone = False
        looks = 0

        def close_if_idle(self, _now):
            self.looks += 1
            self.is_gone = self.looks == 3

    def look(leaving):
        if len(leaving) == 1:
            ended.set()
        if leaving:
            raise RuntimeError("on purpose too")
        over.set()

    async def leave():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, about: told.append(str(about["exception"])))
        Departure([Odd(), Plain()], look)
        async with asyncio.timeout(PATIENCE):
            await over.wait()

    told, ended, over = [], asyncio.Event(), asyncio.Event()
    asyncio.run(leave())
    assert told == ["on purpose", "on purpose too"]

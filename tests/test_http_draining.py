"""``kind: aiohttp`` while its worker drains: no request is lost, and clients are told to go."""

from __future__ import annotations

import asyncio

import aiohttp

from .daemon import Daemon, connect
from .test_kind_aiohttp import FILES, GET, LOOPS, answer, config, counts


@LOOPS
def test_pipelined_requests_are_all_answered_also_while_draining(loop):
    with Daemon(config(workers=1, loop=loop), FILES) as daemon:
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


@LOOPS
def test_a_request_in_flight_is_answered_and_asks_to_close(loop):
    with Daemon(config(workers=1, loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(GET.replace(b"/ ", b"/wait "))
            daemon.until(lambda: counts(daemon.status())[2] == 1)
            assert daemon.reload().ok
            headers, body = answer(replies)
            assert (body, headers["Connection"]) == (b"draining", "close")
            assert replies.read() == b""


@LOOPS
def test_a_response_that_began_before_is_finished_and_its_connection_closed(loop):
    with Daemon(config(workers=1, loop=loop, server={"grace": "60s"}), FILES) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(GET.replace(b"/ ", b"/stream "))
            while replies.readline() != b"begin\n":
                pass
            assert daemon.reload().ok
            assert replies.read() == b"\r\n4\r\nend\n\r\n0\r\n\r\n"
        # Long before its grace is over, and without a word about a cut.
        daemon.wait_until(lambda status: len(status["pools"]["web"]["workers"]) == 1)


@LOOPS
def test_an_idle_connection_ends_without_an_error(loop):
    with Daemon(config(workers=1, loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(GET)
            answer(replies)
            assert daemon.reload().ok
            assert replies.read() == b""


@LOOPS
def test_a_connection_that_has_not_asked_yet_is_answered(loop):
    """The client's first request is on its way when its worker is told to drain."""
    with Daemon(config(workers=2, loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        for _ in range(3):
            old = {str(pid).encode() for pid in daemon.workers()}
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


@LOOPS
def test_a_client_with_keep_alive_sees_no_error_over_reloads(loop):
    with Daemon(config(loop=loop), FILES) as daemon:
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
                for _ in range(4):
                    assert (await asyncio.to_thread(daemon.reload)).ok
                done.set()
                return await asyncio.gather(*asking)

        (address,) = daemon.addresses()
        assert min(asyncio.run(talk())) > 0

"""``kind: callable`` with plain sockets: a coroutine function of the worker and its slot's sockets."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading

import pytest

from .daemon import Daemon, connect, pool, talk

APP = """
import asyncio
import os
import pathlib


class Echo(asyncio.Protocol):
    def __init__(self, known):
        self.known = known

    def connection_made(self, transport):
        self.transport = transport
        self.known.add(transport)
        transport.write(f"{os.getpid()}\\n".encode())

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, error):
        self.known.discard(self.transport)


async def serve(worker, sockets):
    assert all(sock.getsockopt(1, 30) == 1 and not sock.getblocking() for sock in sockets)  # SO_ACCEPTCONN
    with pathlib.Path("called").open("a") as file:
        file.write(f"{len(sockets)} {worker.state}\\n")
    known = set()
    create_server = asyncio.get_running_loop().create_server
    servers = [await create_server(lambda: Echo(known), sock=sock) for sock in sockets]
    try:
        await worker.draining.wait()
        for server in servers:
            server.close()
        while known:
            await asyncio.sleep(0.01)
    finally:
        for transport in known:
            transport.abort()


class Serving:
    async def __call__(self, worker, sockets):
        await serve(worker, sockets)


serving = Serving()


async def fails(worker, sockets):
    raise RuntimeError("on purpose")


async def fails_later(worker, sockets):
    await asyncio.sleep(0.3)
    raise RuntimeError("on purpose")


async def returns(worker, sockets):
    pass


async def cancels(worker, sockets):
    asyncio.current_task().cancel()
    await asyncio.sleep(1)


async def fails_draining(worker, sockets):
    await worker.draining.wait()
    raise RuntimeError("on purpose")


async def when_told(worker, sockets):
    task = asyncio.create_task(serve(worker, sockets))
    while not pathlib.Path("fail").exists():
        await asyncio.wait([task], timeout=0.02)
        if task.done():
            return
    pathlib.Path("fail").rename("failed")
    raise RuntimeError("told so")


async def slow(reader, writer):
    await reader.read(1)
    writer.write(b"wait\\n")
    while not pathlib.Path("failed").exists():
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)
    writer.write(b"done\\n")


async def forgets(worker, sockets):
    async def forgotten():
        raise RuntimeError("forgotten on purpose")
    asyncio.create_task(forgotten())
    await serve(worker, sockets)


async def closes(worker, sockets):
    # The connections go on when the sockets are closed and gone.
    await serve(worker, sockets)
    for sock in sockets:
        sock.close()


async def one(worker):
    pass


def plain(worker, sockets):
    pass
"""


def served(app="serve", **server):
    return {"kind": "callable", "app": f"app:{app}", "bind": "127.0.0.1:0", "grace": "5s", **server}


def calls(daemon):
    return (daemon.folder / "called").read_text().splitlines()


@pytest.mark.parametrize(
    ("app", "loop", "preload"), [("serve", "uvloop", True), ("serving", "asyncio", False), ("closes", "uvloop", True)]
)
def test_a_call_has_all_sockets_of_its_slot(app, loop, preload, tmp_path):
    bind = ["127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/s"]
    config = pool(server=served(app, bind=bind), workers=2, loop=loop, preload=preload)
    with Daemon(config, {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        for address in daemon.addresses():
            assert talk(address, b"hello\n").endswith(b"\nhello\n")
        assert calls(daemon).count("3 None") == 2  # who attended a slot before its worker came had no unix socket there
        assert daemon.reload().ok
        daemon.wait_for_the_old()
        for address in daemon.addresses():
            assert talk(address, b"again\n").endswith(b"\nagain\n")


@pytest.mark.parametrize("loop", ["asyncio"])
def test_nothing_is_lost_over_reloads_and_a_killed_worker(loop):
    with Daemon(pool(server=served(), workers=2, loop=loop), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("SIGKILL")
        (address,) = daemon.addresses()
        done, lost, answered = threading.Event(), [], []

        def load():
            while not done.is_set():
                pid = b"0"
                try:
                    with connect(address) as sock, sock.makefile("rb") as replies:
                        pid = replies.readline()
                        sock.sendall(b"hello\n")
                        assert replies.readline() == b"hello\n"
                        answered.append(pid)
                except (OSError, AssertionError) as error:
                    lost.append((pid, error))

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            assert daemon.reload().ok
        before = daemon.workers()
        os.kill(before[0], signal.SIGKILL)
        daemon.wait_until(lambda status: status["pools"]["web"]["restarts"] == 1)
        daemon.wait_until(lambda _: len(daemon.workers()) == 2)
        count = len(answered)
        daemon.until(lambda: len(answered) > count + 50)
        done.set()
        for thread in threads:
            thread.join()
        # What the killed one had in its hands may be lost, nothing else.
        assert len(lost) <= 4
        assert [error for pid, error in lost if pid.strip() not in (b"", str(before[0]).encode())] == []


def test_a_slot_that_is_given_back_is_a_call_that_ends():
    with Daemon(pool(server=served("serve"), workers=2), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("SIGKILL")
        (address,) = daemon.addresses()
        pids = daemon.workers()
        socks = [connect(address) for _ in range(16)]
        files = [sock.makefile("rb") for sock in socks]
        for file in files:
            file.readline()
        # Who was ready first may have attended the other's slot for a moment, by a call of its own.
        daemon.wait_until(lambda status: all(len(each["attended_by"]) == 1 for each in status["pools"]["web"]["slots"]))
        before = len(calls(daemon))
        os.kill(pids[0], signal.SIGKILL)
        daemon.until(lambda: len(calls(daemon)) >= before + 2)  # the sibling's for this slot, and the successor's
        daemon.wait_until(lambda _: len(daemon.workers()) == 2)
        for sock, file in zip(socks, files, strict=True):
            file.close()
            sock.close()
        daemon.wait_until(lambda status: all(each["connections"] == 0 for each in status["pools"]["web"]["workers"]))
        assert pids[1] in daemon.workers()


@pytest.mark.skipif(not shutil.which("ss"), reason="only ss tells the backlog of somebody else's socket")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_the_backlog_stays_as_configured(loop):
    with Daemon(pool(server=served(backlog=321), loop=loop), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()

        def backlogs():
            listed = subprocess.run(["ss", "-Hltn"], check=True, capture_output=True, text=True).stdout.splitlines()
            return [line.split()[2] for line in listed if address in line.split()]

        daemon.until(lambda: backlogs() == ["321"] * 2)


@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("fails", r"server main cannot go on: app failed:\nTraceback.*app\.py.*RuntimeError: on purpose"),
        ("returns", r"server main cannot go on: app returned before worker\.draining was set"),
        ("cancels", r"server main cannot go on: app failed:\nTraceback.*CancelledError"),
        ("one", r"app is <function one .*, expected a coroutine function of \(worker, sockets\)"),
        ("plain", r"app is <function plain .*, expected a coroutine function of \(worker, sockets\)"),
    ],
)
def test_who_cannot_serve_does_not_start(app, why):
    with Daemon(pool(server=served(app)), {"app.py": APP}) as daemon:
        daemon.allow("on purpose", "returned before", "expected a coroutine", "stopped at once", "CancelledError")
        assert daemon.wait() == 75
        assert re.search(f"cannot start: .*{why}", daemon.log, re.DOTALL)


def test_a_reload_to_what_cannot_serve_is_refused():
    with Daemon(pool(server=served()), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose", "exited with code 75 while it drained")
        before = daemon.workers()
        daemon.configure(pool(server=served("fails")))
        answer = daemon.reload()
        assert not answer.ok
        assert "RuntimeError: on purpose" in answer.error
        assert daemon.workers() == before


def test_who_fails_later_is_replaced_with_growing_delays():
    restart = {"backoff": "200ms", "backoff_max": "400ms"}
    with Daemon(pool(server=served("fails_later"), workers=1, restart=restart), {"app.py": APP}) as daemon:
        daemon.allow("on purpose")
        for delay in (r"starting another at once", r"next attempt in 0\.[12]s", r"next attempt in 0\.[34]s"):
            daemon.wait_log(rf"error .*exited with code 75 after serving for \S+; {delay}: server main cannot go on")


def test_siblings_attend_for_who_gives_up_and_other_servers_may_finish():
    config = pool(server=served("when_told"), workers=2)
    slow = {"kind": "stream", "app": "app:slow", "bind": "127.0.0.1:0"}
    config["pools"]["web"]["servers"]["other"] = slow
    with Daemon(config, {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("told so")
        (address,), (other,), before = daemon.addresses(), daemon.addresses(server="other"), daemon.workers()
        asked = [connect(other) for _ in range(8)]
        for sock in asked:
            sock.sendall(b"x")
            assert sock.recv(100) == b"wait\n"
        (daemon.folder / "fail").touch()
        for sock in asked:  # of both workers, mostly
            with sock, sock.makefile("rb") as answer:
                assert answer.read() == b"done\n"
        daemon.wait_until(lambda status: status["pools"]["web"]["restarts"] == 1)
        daemon.wait_until(lambda _: len(set(daemon.workers()) - set(before)) == 1 and len(daemon.workers()) == 2)
        assert talk(address, b"hello\n").endswith(b"hello\n")


def test_an_exception_while_draining_is_counted_and_shown():
    with Daemon(pool(server=served("fails_draining")), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose")
        assert daemon.reload().ok
        daemon.wait_log(r"hourd\.server\.web\.main\[\d+\] app failed while it drained\nTraceback")


def test_an_exception_in_a_forgotten_task_is_shown_with_its_server():
    with Daemon(pool(server=served("forgets"), workers=1), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose")
        daemon.wait_log(r"hourd\.server\.web\.main\[\d+\] Task exception was never retrieved")


def test_a_call_that_does_not_return_is_cut_after_the_grace():
    with Daemon(pool(server=served(grace="200ms"), workers=1), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("open after its grace")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            replies.readline()
            assert daemon.reload().ok
            assert replies.read() == b""
        daemon.wait_log(r"cut 1 connections that were open after its grace of 0\.2s")

"""``kind: stream`` with plain sockets: a coroutine function of a reader and a writer."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess

import pytest

from .daemon import Daemon, connect, pool, talk

APP = """
import asyncio
import pathlib

from hourd import Worker


async def fail():
    raise RuntimeError("forgotten on purpose")


async def serve(reader, writer):
    while line := await reader.readline():
        match line.split():
            case [b"fail"]:
                raise RuntimeError("on purpose")
            case [b"forget"]:
                asyncio.create_task(fail())
            case [b"finish"]:
                await Worker.current().draining.wait()
                await asyncio.sleep(0.3)
                pathlib.Path("finished").touch()
        writer.write(line)


class Told:
    async def __call__(self, reader, writer, worker):
        writer.write(b"waiting\\n")
        await worker.draining.wait()
        writer.write(b"draining\\n")


told = Told()


def plain(reader, writer):
    writer.close()
"""
FAILED = r"error +hourd\.server\.web\.main\[\d+\] error while serving [^\n]*\nTraceback[^$]*RuntimeError: on purpose"


def stream(app="serve", **server):
    return {"kind": "stream", "app": f"app:{app}", "bind": "127.0.0.1:0", "grace": "5s", **server}


def reset(sock):
    """Close a connection with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("preload", [True, False], ids=["preload", "no preload"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_it_answers_at_every_address(loop, preload, tmp_path):
    bind = ["127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/s"]
    with Daemon(pool(server=stream(bind=bind), loop=loop, preload=preload), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        addresses = daemon.addresses()
        assert len(addresses) == 3
        for address in addresses:
            data = b"x" * 300_000 + b"\n"  # more than any buffer on the way takes at once
            assert talk(address, b"") == b""
            with connect(address) as sock, sock.makefile("rb") as replies:
                for size in (1, 1000, 50_000):
                    sock.sendall(data[-size:])
                    assert replies.readline() == data[-size:]


def test_status_counts_connections():
    with Daemon(pool(server=stream(), workers=1), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        for _ in range(3):
            talk(address)
        with connect(address), connect(address):
            daemon.wait_until(lambda status: counts(status) == (2, 5))
        daemon.wait_until(lambda status: counts(status) == (0, 5))


def counts(status):
    (worker,) = status["pools"]["web"]["workers"]
    return worker["connections"], worker["accepted"]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_an_exception_is_shown_with_its_server_and_the_worker_lives_on(loop):
    with Daemon(pool(server=stream(), workers=1, loop=loop), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose")
        (address,), before = daemon.addresses(), daemon.workers()
        assert talk(address, b"fail\n") == b""
        daemon.wait_log(FAILED)
        assert talk(address, b"again\n") == b"again\n"
        daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["errors"] == 1)
        assert daemon.workers() == before


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_an_exception_in_a_forgotten_task_is_shown_with_its_server(loop):
    with Daemon(pool(server=stream(bind=":0"), workers=1, loop=loop), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose")
        assert talk(daemon.addresses()[0].replace("0.0.0.0", "127.0.0.1"), b"forget\n") == b"forget\n"
        daemon.wait_log("RuntimeError: forgotten on purpose")
        assert " hourd.server.web.main[" in daemon.log


def test_a_line_beyond_the_limit_ends_its_connection_only():
    with Daemon(pool(server=stream(options={"limit": "1KiB"})), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("chunk is longer than limit|chunk exceed the limit")
        (address,) = daemon.addresses()
        with connect(address) as sock:
            sock.sendall(b"x" * 10_000)
            assert ended(sock)
        daemon.wait_log("error while serving")
        assert talk(address, b"x" * 1000 + b"\n") == b"x" * 1000 + b"\n"


def ended(sock):
    try:
        return sock.recv(1000) == b""
    except ConnectionResetError:
        return True


def test_a_handler_hears_that_the_worker_drains():
    with Daemon(pool(server=stream("told")), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with connect(address) as sock, sock.makefile("rb") as lines:
            assert lines.readline() == b"waiting\n"
            assert daemon.reload().ok
            assert lines.read() == b"draining\n"


def test_a_handler_may_finish_after_its_client_is_gone():
    with Daemon(pool(server=stream(), workers=1), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        sock = connect(address)
        sock.sendall(b"hello\nfinish\n")
        assert sock.recv(100) == b"hello\n"
        reset(sock)
        assert daemon.reload().ok
        daemon.until((daemon.folder / "finished").exists)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_what_outlasts_the_grace_is_cut_counted_and_logged(loop):
    with Daemon(pool(server=stream(grace="200ms"), workers=1, loop=loop), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("open after its grace")
        (address,) = daemon.addresses()
        with connect(address) as one, connect(address) as two:
            daemon.wait_until(lambda status: counts(status)[0] == 2)
            assert daemon.reload().ok
            for sock in (one, two):
                with pytest.raises(ConnectionResetError):
                    sock.recv(1000)
        daemon.wait_log(r"warning +hourd\.server\.web\.main\[\d+\] cut 2 connections that were open after its grace")


def test_a_plain_function_is_refused():
    with Daemon(pool(server=stream("plain")), {"app.py": APP}) as daemon:
        daemon.allow("expected a coroutine function", "it is stopped at once")
        assert daemon.wait() == 75
        assert "server main (kind stream): app is <function plain" in daemon.log


@pytest.mark.skipif(not shutil.which("ss"), reason="only ss tells the backlog of somebody else's socket")
def test_every_socket_has_the_backlog_that_is_configured(tmp_path):
    bind = ["127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/s"]
    with Daemon(pool(server=stream(bind=bind, backlog=321)), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        ipv4, ipv6, unix = daemon.addresses()
        listed = subprocess.run(["ss", "-Hltnx"], check=True, capture_output=True, text=True).stdout.splitlines()
        for address, number in ((ipv4, 2), (ipv6, 2), (unix.removeprefix("unix:"), 1)):
            backlogs = [line.split()[3] for line in listed if address in line.split()]
            assert backlogs == ["321"] * number

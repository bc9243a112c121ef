"""``kind: protocol`` with plain sockets: a factory of ``asyncio.Protocol``."""

from __future__ import annotations

import pytest

from .daemon import Daemon, connect, pool, talk

APP = """
import asyncio

from hourd import Worker


async def forgotten():
    raise RuntimeError("forgotten on purpose")


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data == b"fail":
            raise RuntimeError("received on purpose")
        self.transport.write(data)


class Slots(asyncio.Protocol):
    __slots__ = ("transport",)

    connection_made = Echo.connection_made
    data_received = Echo.data_received


class Buffered(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport, self.buffer = transport, bytearray(100)

    def get_buffer(self, size):
        return self.buffer

    def buffer_updated(self, size):
        self.transport.write(bytes(self.buffer[:size]))


class Super(Echo):
    def connection_made(self, transport):
        super().connection_made(transport)

    def connection_lost(self, error):
        super().connection_lost(error)


class Meta(type):
    pass


class WithMeta(Echo, metaclass=Meta):
    pass


def make_echo():
    return Echo()


class Draining(Echo):
    def __init__(self, worker):
        self.worker = worker

    def connection_made(self, transport):
        super().connection_made(transport)
        self.task = asyncio.create_task(self.end())
        transport.write(b"hello\\n")

    async def end(self):
        await self.worker.draining.wait()
        self.transport.write(b"draining\\n")
        self.transport.close()


class MadeFails(Echo):
    def connection_made(self, transport):
        raise RuntimeError("made on purpose")


class LostFails(Echo):
    def connection_lost(self, error):
        raise RuntimeError("lost on purpose")


def factory_fails():
    raise RuntimeError("factory on purpose")


def returns_nothing():
    return None


class Forgets(Echo):
    def data_received(self, data):
        asyncio.get_running_loop().create_task(forgotten())
        super().data_received(data)


async def handler(reader, writer):
    pass


class Other:
    pass
"""
LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


def protocol(app, **server):
    return {"kind": "protocol", "app": f"app:{app}", "bind": "127.0.0.1:0", "grace": "5s", **server}


def counts(status):
    (worker,) = status["pools"]["web"]["workers"]
    return worker["connections"], worker["accepted"]


@LOOPS
@pytest.mark.parametrize("app", ["Echo", "Slots", "Buffered", "Super", "WithMeta", "make_echo"])
def test_a_protocol_serves_and_is_counted(app, loop, tmp_path):
    bind = ["127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/s"]
    with Daemon(pool(server=protocol(app, bind=bind), workers=1, loop=loop), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        for address in daemon.addresses():
            with connect(address) as sock:
                sock.sendall(b"hello")
                assert sock.recv(100) == b"hello"
        with connect(daemon.addresses()[0]) as one, connect(daemon.addresses()[2]) as two:
            daemon.wait_until(lambda status: counts(status) == (2, 5))
            for sock in (one, two):
                sock.sendall(b"hello")
                assert sock.recv(100) == b"hello"
        daemon.wait_until(lambda status: counts(status) == (0, 5))


@LOOPS
@pytest.mark.parametrize("preload", [True, False])
def test_a_protocol_that_is_given_the_worker_hears_that_it_drains(loop, preload):
    config = pool(server=protocol("Draining"), workers=1, loop=loop, preload=preload)
    with Daemon(config, {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as lines:
            assert lines.readline() == b"hello\n"
            assert daemon.reload().ok
            assert lines.read() == b"draining\n"


@LOOPS
@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("Echo", "received on purpose"),
        ("MadeFails", "made on purpose"),
        ("LostFails", "lost on purpose"),
        ("factory_fails", "factory on purpose"),
        ("returns_nothing", "app of server main returned None"),
    ],
)
def test_an_exception_is_shown_with_its_server_and_ends_its_connection_only(app, message, loop):
    with Daemon(pool(server=protocol(app), workers=1, loop=loop), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose", "returned None")
        before = daemon.workers()
        (address,) = daemon.addresses()
        with connect(address) as sock:
            sock.sendall(b"hello")
            expected = b"hello" if app in ("Echo", "LostFails") else b""
            assert received(sock) == expected
            if app == "Echo":
                sock.sendall(b"fail")
                assert received(sock) == b""
        daemon.wait_log(rf"error +hourd\.server\.web\.main\[\d+\] [^\n]*\nTraceback[^$]*Error: {message}")
        daemon.wait_until(lambda status: counts(status) == (0, 1))
        (worker,) = daemon.pool()["workers"]
        assert worker["errors"] == 1
        assert daemon.log.count("Traceback") == 1
        assert daemon.workers() == before


def received(sock):
    try:
        return sock.recv(100)
    except (ConnectionResetError, BrokenPipeError):
        return b""


@LOOPS
@pytest.mark.parametrize(("app", "data"), [("Forgets", b"hello"), ("Echo", b"fail")])
def test_an_exception_is_shown_with_its_server_also_at_a_wildcard_address(app, data, loop):
    with Daemon(pool(server=protocol(app, bind="0.0.0.0:0"), workers=1, loop=loop), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose")
        with connect(daemon.addresses()[0].replace("0.0.0.0", "127.0.0.1")) as sock:
            sock.sendall(data)
            received(sock)
        daemon.wait_log("RuntimeError: .* on purpose")
        assert " hourd.server.web.main[" in daemon.log


@pytest.mark.parametrize("app", ["handler", "Other", "__name__"])
def test_what_makes_no_protocols_is_refused(app):
    with Daemon(pool(server=protocol(app)), {"app.py": APP}) as daemon:
        daemon.allow("expected an asyncio.Protocol", "it is stopped at once")
        assert daemon.wait() == 75
        assert "expected an asyncio.Protocol class or a factory of protocols" in daemon.log


def test_options_are_refused():
    with Daemon(pool(server=protocol("Echo", options={"limit": 3})), {"app.py": APP}) as daemon:
        assert daemon.wait() == 78
        daemon.allow("limit")
        assert "pools.web.servers.main.options.limit" in daemon.log


def test_connections_beyond_the_grace_are_cut(tmp_path):
    config = pool(server=protocol("Echo", grace="200ms", bind=f"unix:{tmp_path}/s"), workers=1)
    with Daemon(config, {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("cut 1 connection")
        (address,) = daemon.addresses()
        with connect(address) as sock:
            sock.sendall(b"hello")
            assert received(sock) == b"hello"
            assert daemon.reload().ok
            assert received(sock) == b""
        daemon.wait_log(r"hourd\.server\.web\.main\[\d+\] cut 1 connection")
        assert talk(address) == b""

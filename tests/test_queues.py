"""What waits in the queue of an address that is given up is served: by a stop, and by a reload."""

from __future__ import annotations

import contextlib
import errno
import select
import signal
import socket
import struct
import threading

import pytest

from .around import GATE, Gate
from .daemon import PATIENCE, Daemon, connect

APP = """
import gate
from aiohttp import web

async def pid(request):
    return web.Response(text="ok", headers={"Server": "x", "Date": "x"})

async def block(request):
    gate.wait_at_gate()  # the event loop with it
    return await pid(request)

app = web.Application()
app.add_routes([web.get("/", pid), web.get("/block", block)])
"""
LIFE = """
import contextlib
import gate

@contextlib.asynccontextmanager
async def lifespan():
    yield

@contextlib.asynccontextmanager
async def failing(worker):
    if worker.slot == 1:
        await gate.at_gate()
        raise RuntimeError("on purpose")
    yield
"""
GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
OK = (
    b"HTTP/1.1 200 OK\r\nServer: x\r\nDate: x\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 2\r\nConnection: close\r\n\r\nok"
)
FILES = {"app.py": APP, "gate.py": GATE, "life.py": LIFE}
BLOCK = GET.replace(b"/ ", b"/block ")
MANY = 50
LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
PLACES = {"ipv4": "127.0.0.1:0", "ipv6": "[::1]:0", "path": "unix:{folder}/s", "abstract": "unix:@hourd-{name}"}
BINDS = pytest.mark.parametrize("bind", PLACES)


def web(bind="127.0.0.1:0", **settings):
    return {"kind": "aiohttp", "app": "app:app", "bind": bind, "grace": "20s", **settings}


def config(pools, **settings):
    """Return a configuration of pools, each with its servers."""
    settings = {"workers": 1, "timeouts": {"slow": "60s", "hung": "90s"}, **settings}  # who is blocked is left alone
    return {"pools": {name: {"servers": servers, **settings} for name, servers in pools.items()}}


def place(bind, folder):
    return PLACES[bind].format(folder=folder, name=folder.name)


def reach(address, *, timeout=PATIENCE):
    if not address.startswith("unix:"):
        return connect(address, timeout=timeout)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout)
    try:
        sock.connect(address.removeprefix("unix:").replace("@", "\0", 1))
    except OSError:
        sock.close()
        raise
    return sock


def ask(address, request=GET):
    sock = reach(address)
    sock.sendall(request)
    return sock


def read(sock):
    """Return the whole answer: everything until its connection ends."""
    with sock, sock.makefile("rb") as replies:
        return replies.read()


@contextlib.contextmanager
def blocked(daemon, address):
    """Keep a worker's event loop from turning, with connections in its queue; yields those."""
    with Gate(daemon.folder) as gate:
        first = ask(address, BLOCK)
        _, held = gate.next()
        gate.remove()
        yield [first, *(ask(address) for _ in range(MANY))]
        held.close()


def begin(address):
    """Begin to connect, whoever listens."""
    host, _, port = address.rpartition(":")
    sock = socket.socket()
    sock.setblocking(False)
    assert sock.connect_ex((host, int(port))) == errno.EINPROGRESS
    return sock


def wait_connected(sock):
    assert select.select([], [sock], [], PATIENCE)[1]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def retransmissions(sock):
    """Return how often its packets, the first one included, had to be repeated (``tcpi_total_retrans``)."""
    return struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]


@contextlib.contextmanager
def clients(address):
    """Have threads connect and ask all the time; yields what they get: answers, and None for who cannot connect."""
    results, done = [], threading.Event()

    def ask_on():
        while not done.is_set():
            try:
                sock = reach(address, timeout=0.5)
            except (ConnectionRefusedError, FileNotFoundError, TimeoutError):
                results.append(None)
                done.wait(0.05)
                continue
            sock.settimeout(PATIENCE)
            try:
                sock.sendall(GET)
                results.append(read(sock))
            except OSError as error:
                sock.close()
                results.append(error)

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        done.set()
        for thread in threads:
            thread.join()


def is_refused(address):
    try:
        reach(address).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


@LOOPS
@BINDS
def test_what_waits_when_it_is_stopped_is_answered(bind, loop, tmp_path):
    with Daemon(config({"web": {"main": web(place(bind, tmp_path))}}, loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with blocked(daemon, address) as waiting:
            daemon.signal(signal.SIGTERM)
            daemon.expect("STOPPING=1")
        assert [read(sock) for sock in waiting] == [OK] * (MANY + 1)
        assert daemon.wait() == 0
        assert is_refused(address)


@LOOPS
@pytest.mark.parametrize(
    ("removed", "bind"),
    [*(("server", bind) for bind in PLACES), ("address", "ipv4"), ("pool", "ipv4"), ("pool", "path")],
)
def test_what_waits_at_what_a_reload_removes_is_answered(removed, bind, loop, tmp_path):
    stays, goes = "127.0.0.2:0", place(bind, tmp_path)
    before, after = {
        "address": ({"web": {"main": web([stays, goes])}}, {"web": {"main": web([stays])}}),
        "server": ({"web": {"main": web(stays), "other": web(goes)}}, {"web": {"main": web(stays)}}),
        "pool": ({"web": {"main": web(stays)}, "more": {"other": web(goes)}}, {"web": {"main": web(stays)}}),
    }[removed]
    with Daemon(config(before, loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        address = daemon.addresses(*list(before)[-1:], list(before[list(before)[-1]])[-1])[-1]
        daemon.configure(config(after, loop=loop))
        with blocked(daemon, address) as waiting:
            assert daemon.reload().ok
        assert [read(sock) for sock in waiting] == [OK] * (MANY + 1)
        daemon.wait_until(lambda status: {w["state"] for w in status["pools"]["web"]["workers"]} == {"serving"})
        daemon.until(lambda: is_refused(address))


@LOOPS
def test_a_server_that_a_reload_would_have_removed_serves_on_when_that_fails(loop):
    both = {"web": {"main": web(), "other": web()}}
    with Daemon(config(both, loop=loop, workers=2, lifespan="life:lifespan"), FILES) as daemon:
        daemon.expect("READY=1")
        daemon.allow("was refused", "on purpose")
        (address,) = daemon.addresses(server="other")
        daemon.configure(config({"web": {"main": web()}}, loop=loop, workers=2, lifespan="life:failing"))
        with Gate(daemon.folder) as gate, contextlib.ExitStack() as stack:
            reloading = threading.Thread(target=daemon.reload)
            reloading.start()
            _, held = gate.next()
            # Nobody attends one of its slots now.
            early = [stack.enter_context(begin(address)) for _ in range(MANY)]
            gate.remove()
            held.close()
            reloading.join()
            late = [stack.enter_context(ask(address)) for _ in range(MANY)]
            assert {retransmissions(sock) for sock in late} == {0}
            for sock in early:
                sock.settimeout(PATIENCE)
                wait_connected(sock)
                sock.sendall(GET)
            assert [read(sock) for sock in early + late] == [OK] * 2 * MANY


@LOOPS
@pytest.mark.parametrize("bind", ["ipv4", "ipv6", "path"])
def test_no_connection_is_reset_while_it_stops(bind, loop, tmp_path):
    with Daemon(config({"web": {"main": web(place(bind, tmp_path))}}, loop=loop, workers=2), FILES) as daemon:
        daemon.expect("READY=1")
        with clients(daemon.addresses()[0]) as results:
            daemon.until(lambda: len(results) > MANY)
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
        assert {str(each) for each in results} == {str(OK), str(None)}


@LOOPS
@pytest.mark.parametrize("bind", ["ipv4", "ipv6", "path"])
def test_no_connection_is_reset_while_a_reload_removes_its_server(bind, loop, tmp_path):
    both = {"web": {"main": web(), "other": web(place(bind, tmp_path))}}
    with Daemon(config(both, loop=loop, workers=2), FILES) as daemon:
        daemon.expect("READY=1")
        daemon.configure(config({"web": {"main": web()}}, loop=loop, workers=2))
        with clients(daemon.addresses(server="other")[0]) as results:
            daemon.until(lambda: len(results) > MANY)
            assert daemon.reload().ok
            daemon.until(lambda: None in results)
        assert {str(each) for each in results} == {str(OK), str(None)}


@LOOPS
def test_no_connection_is_reset_over_reloads(loop):
    with Daemon(config({"web": {"main": web()}}, loop=loop, workers=2), FILES) as daemon:
        daemon.expect("READY=1")
        with clients(daemon.addresses()[0]) as results:
            for _ in range(5):
                assert daemon.reload().ok
        assert {str(each) for each in results} == {str(OK)}

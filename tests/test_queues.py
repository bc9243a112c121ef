"""What waits in the queue of an address that is given up is served: by a stop, and by a reload."""

from __future__ import annotations

import contextlib
import errno
import random
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

async def wait(request):
    await gate.at_gate()
    return await pid(request)

async def block(request):
    gate.wait_at_gate()  # the event loop with it
    return await pid(request)

app = web.Application()
app.add_routes([web.get("/", pid), web.get("/wait", wait), web.get("/block", block)])
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
WAIT = GET.replace(b"/ ", b"/wait ")
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


def own_place():
    """Return a place of this machine that nobody else has."""
    a, b, c = (random.randint(1, 254) for _ in range(3))
    return f"127.{a}.{b}.{c}:8000"


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
    sock = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET)
    sock.setblocking(False)
    assert sock.connect_ex((host.strip("[]"), int(port))) == errno.EINPROGRESS
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


@LOOPS
def test_what_was_given_up_is_wanted_again_at_once(loop):
    place = own_place()
    with_it, without = {"web": {"main": web(), "other": web(place)}}, {"web": {"main": web()}}
    with Daemon(config(with_it, loop=loop, workers=2), FILES) as daemon:
        daemon.expect("READY=1")
        for _ in range(2):
            for pools in (without, with_it):
                daemon.configure(config(pools, loop=loop, workers=2))
                assert daemon.reload().ok
            assert read(ask(place)) == OK


@LOOPS
def test_what_was_given_up_is_wanted_again_while_a_worker_has_it_still(loop):
    place = own_place()
    with_it, without = {"web": {"main": web(), "other": web(place)}}, {"web": {"main": web()}}
    with Daemon(config(with_it, loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        with blocked(daemon, place) as waiting:
            daemon.configure(config(without, loop=loop))
            assert daemon.reload().ok
            with begin(place) as early:
                daemon.configure(config(with_it, loop=loop))
                assert daemon.reload().ok
                with begin(place) as late:
                    for sock in (early, late):
                        sock.settimeout(PATIENCE)
                        wait_connected(sock)
                    assert retransmissions(late) == 0
                    for sock in (early, late):
                        sock.sendall(GET)
                        assert read(sock) == OK
        assert [read(sock) for sock in waiting] == [OK] * (MANY + 1)
        daemon.configure(config(without, loop=loop))
        assert daemon.reload().ok
        daemon.until(lambda: is_refused(place))


@LOOPS
def test_what_was_given_up_is_free_while_its_workers_drain(loop):
    place = own_place()
    with_it, without = {"web": {"main": web(), "other": web(place)}}, {"web": {"main": web()}}
    settings = {"loop": loop, "timeouts": {"slow": "1s", "hung": "90s"}}
    with Daemon(config(with_it, **settings), FILES) as daemon, Gate(daemon.folder) as gate:
        daemon.allow("slow|no sign of life")
        daemon.expect("READY=1")
        sock = ask(place, WAIT)
        _, held = gate.next()
        daemon.configure(config(without, **settings))
        assert daemon.reload().ok
        daemon.until(lambda: is_refused(place))
        assert {worker["state"] for worker in daemon.pool()["workers"]} == {"serving", "draining"}
        host, _, port = place.rpartition(":")
        socket.create_server((host, int(port))).close()
        held.close()
        assert read(sock) == OK


@LOOPS
def test_a_socket_file_that_was_removed_is_made_again(loop, tmp_path):
    place = f"unix:{tmp_path}/s"
    with Daemon(config({"web": {"main": web(place)}}, loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        with blocked(daemon, place) as waiting:
            (tmp_path / "s").unlink()
            assert daemon.reload().ok
            assert read(ask(place)) == OK
        assert [read(sock) for sock in waiting] == [OK] * (MANY + 1)
        assert daemon.reload().ok
        assert read(ask(place)) == OK


def test_a_socket_file_of_somebody_else_is_kept(tmp_path):
    path = tmp_path / "s"
    with (
        Daemon(config({"web": {"main": web(f"unix:{path}")}}), FILES) as daemon,
        socket.socket(socket.AF_UNIX) as other,
    ):
        daemon.allow("reload refused, nothing was changed: .*another process listens there")
        daemon.expect("READY=1")
        workers = daemon.workers()
        path.unlink()
        other.bind(str(path))
        other.listen()
        answer = daemon.reload()
        assert (answer.ok, answer.error) == (False, f"cannot listen at unix:{path}: another process listens there")
        assert daemon.workers() == workers


@LOOPS
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_nobody_waits_where_an_address_becomes_wider(family, loop):
    narrow, wide = {"ipv4": ("127.0.0.1", "0.0.0.0"), "ipv6": ("[::1]", "[::]")}[family]
    with Daemon(config({"web": {"main": web(f"{narrow}:0")}}, loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        port = address.rpartition(":")[2]
        daemon.configure(config({"web": {"main": web(f"{wide}:{port}")}}, loop=loop))
        with blocked(daemon, address) as waiting:
            assert daemon.reload().ok
            with begin(address) as late:
                late.settimeout(PATIENCE)
                wait_connected(late)
                assert retransmissions(late) == 0
                late.sendall(GET)
                assert read(late) == OK
        assert [read(sock) for sock in waiting] == [OK] * (MANY + 1)
        assert daemon.addresses() == [f"{wide}:{port}"]

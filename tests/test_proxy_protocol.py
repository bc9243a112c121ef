"""The PROXY protocol before every kind of stream server: whose a connection is, and what is no header."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import struct
import tempfile
import threading
import time
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hourd.kinds.arrivals import WithoutHeader
from hourd.kinds.proxy_header import HEADER_MAX, LINE_MAX, SIGNATURE, Ends, Header, MalformedError

from .certificates import client, issue
from .daemon import ECHO, PATIENCE, Daemon, connect, pool
from .witness import web

LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
V1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
V1_IPV6 = b"PROXY TCP6 2001:db8::1 2001:DB8:0::2 1 65535\r\n"


def v2(family=0x11, command=0x21, addresses=None, more=b""):
    if addresses is None:
        addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 56324, 443)
    rest = addresses + more
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest


V2 = v2()
V2_IPV6 = v2(
    0x21,
    addresses=b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\1" + b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\2" + b"\0\1\xff\xff",
)
TLVS = v2(more=b"\x02\0\x05a.org\x04\0\x02\0\0")
IPV4 = Ends(("192.0.2.1", 56324), ("198.51.100.2", 443))
IPV6 = Ends(("2001:db8::1", 1, 0, 0), ("2001:db8::2", 65535, 0, 0))
GOOD = {
    "v1": (V1, IPV4),
    "v1 IPv6": (V1_IPV6, IPV6),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1 unknown, with more": (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
    "v2": (V2, IPV4),
    "v2 IPv6": (V2_IPV6, IPV6),
    "v2 with more": (TLVS, IPV4),
    "v2 local": (v2(0, 0x20, b""), None),
    "v2 local with addresses": (v2(command=0x20), None),
    "v2 unspecified": (v2(0, 0x21, b"abc"), None),
    "v2 UDP": (v2(0x12), None),
    "v2 unix": (v2(0x31, addresses=b"\0" * 216), None),
}
BAD = {
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 20,
    "line end": b"\r\n\r\nx",
    "small letters": V1.lower(),
    "no family": b"PROXY \r\n",
    "unknown family": b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
    "other family": b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    "host name": b"PROXY TCP4 localhost 1.2.3.4 1 2\r\n",
    "port": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
    "port with zeros": b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
    "port with sign": b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
    "two spaces": b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
    "one port": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "no CR": V1.replace(b"\r", b""),
    "too long": b"PROXY UNKNOWN " + b"x" * LINE_MAX + b"\r\n",
    "version 3": v2(command=0x31),
    "other command": v2(command=0x22),
    "other family in v2": v2(0x41),
    "other transport": v2(0x13),
    "too short for its addresses": v2(addresses=b"\0" * 11),
    "too long in v2": v2(more=b"\0" * HEADER_MAX),
}


def read(data, sizes=()):
    """Feed a header in pieces; returns what it says and what was left."""
    header, at = Header(), 0
    sizes = iter(sizes)
    while not header.complete:
        piece = data[at : at + next(sizes, len(data))]
        if not piece:
            raise EOFError
        at += header.take(piece)
    return header.ends(), data[at:]


@pytest.mark.parametrize("name", GOOD)
def test_headers(name):
    text, ends = GOOD[name]
    assert read(text + b"more\r\n") == (ends, b"more\r\n")
    assert read(text + b"more", [1] * 10_000) == (ends, b"more")


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_header(name):
    with pytest.raises(MalformedError):
        read(BAD[name])
    with pytest.raises(MalformedError):
        read(BAD[name], [1] * 10_000)


@given(
    st.binary(max_size=300)
    | st.sampled_from([V1, V2, TLVS]).flatmap(lambda text: st.builds(bytes.__add__, st.just(text), st.binary())),
    st.lists(st.integers(1, 50)),
)
def test_any_bytes_are_read_the_same_however_they_come(data, sizes):
    def outcome(sizes):
        try:
            return read(data, sizes)
        except (MalformedError, EOFError) as error:
            return type(error)

    assert outcome(sizes) == outcome([])


@given(st.sampled_from([V1, V1_IPV6, V2, V2_IPV6, TLVS]), st.data())
def test_no_change_of_a_header_breaks_anything_else(text, data):
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.binary(max_size=4)) + text[at + data.draw(st.integers(0, 4)) :]
    with contextlib.suppress(MalformedError, EOFError):
        ends, _ = read(changed)
        assert ends is None or all(0 <= end[1] <= 65535 for end in ends)


# --- kinds ------------------------------------------------------------------------------------------

TELL = """
async def serve(reader, writer):
    sock = writer.get_extra_info("socket")
    for told in (writer.get_extra_info("peername"), sock.getpeername(), writer.get_extra_info("sockname"), sock.getsockname()):
        writer.write(f"{told}\\n".encode())
    while data := await reader.read(1000):
        writer.write(data)
"""
HTTP = """
from aiohttp import web

async def ask(request):
    return web.Response(text=f"{request.remote} {request.transport.get_extra_info('peername')} {request.scheme}")

async def file(request):
    return web.FileResponse("app.py")

def make():
    app = web.Application()
    app.add_routes([web.get("/", ask), web.get("/file", file)])
    return app
"""
PROTOCOL = """
import asyncio

class Tell(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"{transport.get_extra_info('peername')}\\n".encode())

    def get_buffer(self, hint):
        self.buffer = bytearray(100)
        return self.buffer

    def buffer_updated(self, size):
        self.transport.writelines([bytes(self.buffer[:size])])

    def eof_received(self):
        self.transport.write(b"end")
"""
FROM = {"from": ["127.0.0.1", "::1", "unix"]}


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix="hourd-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def told(sock, lines=1):
    with sock.makefile("rb") as replies:
        return [replies.readline().decode().strip() for _ in range(lines)]


@LOOPS
def test_a_stream_server_knows_both_ends_at_every_address(loop, folder):
    server = {"bind": ["127.0.0.1:0", "[::1]:0", f"unix:{folder}/s"], "proxy_protocol": FROM}
    with Daemon(pool(server=server, loop=loop), {"app.py": TELL}) as daemon:
        daemon.expect("READY=1")
        for address in daemon.addresses():
            for header, ends in [(V1, IPV4), (V1_IPV6, IPV6), (V2, IPV4), (V2_IPV6, IPV6), (TLVS, IPV4)]:
                with connect(address) as sock:
                    sock.sendall(header + b"hello\n")
                    assert told(sock, 5) == [str(ends.peer)] * 2 + [str(ends.local)] * 2 + ["hello"]
            for header in (GOOD["v1 unknown"][0], GOOD["v2 local"][0], GOOD["v2 unix"][0]):
                with connect(address) as sock:
                    sock.sendall(header + b"hello\n")
                    own = sock.getsockname()
                    assert told(sock, 5)[::4] == [str(own), "hello"]


@LOOPS
def test_a_header_that_comes_in_pieces(loop):
    with Daemon(pool(server={"proxy_protocol": FROM}, loop=loop), {"app.py": TELL}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        for header in (V1, TLVS):
            with connect(address) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for number in range(len(header)):
                    sock.sendall(header[number : number + 1])
                    time.sleep(0.002)
                sock.sendall(b"hello\n")
                assert told(sock, 5)[::4] == [str(IPV4.peer), "hello"]


@LOOPS
def test_what_is_no_header_is_cut_at_once_and_no_error(loop):
    with Daemon(pool(server={"proxy_protocol": FROM}, workers=1, loop=loop), {"app.py": TELL}) as daemon:
        daemon.allow("without a header")
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        connect(address).close()  # of a look whether anybody is here, nobody is told
        for text in BAD.values():
            with connect(address) as sock, contextlib.suppress(ConnectionResetError):
                sock.sendall(text)
                assert sock.recv(100) == b""
        with connect(address) as sock:
            sock.sendall(V1[:20])
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
        with connect(address) as sock:  # says nothing
            begun = time.monotonic()
            assert sock.recv(100) == b""
            assert 4 < time.monotonic() - begun < PATIENCE / 2
        daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["connections"] == 0)
        assert daemon.pool()["workers"][0]["errors"] == 0
        (told,) = [line for line in daemon.log.splitlines() if "without a header" in line]
        assert re.search(r"warning +hourd.server.web.main\S* cut 1 .* last \(it begins with b'GET ", told)


def test_those_without_a_header_are_told_of_once_a_minute(caplog):
    without = WithoutHeader(logging.getLogger("hourd.server"))
    for second in range(0, 121, 30):
        without.note("10.0.0.1", f"why {second}", now=1000.0 + second)
    told = [record.message.partition(";")[0] for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [
        f"cut {count} connection(s) without a header of the PROXY protocol, 10.0.0.1 last ({why})"
        for count, why in [(1, "why 0"), (2, "why 60"), (2, "why 120")]
    ]


@pytest.mark.parametrize("loop", ["asyncio"])
def test_others_are_not_listened_to(loop):
    """What they say is the application's: an address is who decides, not what seems to come."""
    with Daemon(pool(server={"proxy_protocol": {"from": ["10.0.0.0/8"]}}, loop=loop), {"app.py": TELL}) as daemon:
        daemon.expect("READY=1")
        with connect(*daemon.addresses()) as sock:
            sock.sendall(V1)
            own = str(sock.getsockname())
            assert told(sock, 5) == [own, own, *[str(sock.getpeername())] * 2, V1.decode().strip()]


def both(loop, server, folder):
    """Return a configuration of a server without TLS, and the same one with it."""
    server = {"bind": "127.0.0.1:0", "grace": "5s", **server, "proxy_protocol": FROM}
    servers = {"plain": server, "tls": {**server, "tls": issue(folder)}}
    return {"pools": {"web": {"workers": 1, "loop": loop, "servers": servers}}}


@LOOPS
def test_aiohttp(loop, folder):
    with Daemon(both(loop, web(app="app:make"), folder), {"app.py": HTTP}, folder=folder) as daemon:
        daemon.expect("READY=1")
        for server in ("plain", "tls"):
            sock = connect(*daemon.addresses(server=server))
            sock.sendall(V2)
            if server == "tls":
                sock = client().wrap_socket(sock, server_hostname="localhost")
            with sock, sock.makefile("rb") as replies:
                sock.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n")
                assert replies.readline() == b"HTTP/1.1 200 OK\r\n"
                size = int(http.client.parse_headers(replies)["Content-Length"])
                assert replies.read(size) == HTTP.encode()
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                scheme = {"plain": "http", "tls": "https"}[server]
                assert replies.read().endswith(f"192.0.2.1 {IPV4.peer} {scheme}".encode())


@LOOPS
def test_a_protocol_with_buffers(loop, folder):
    config = both(loop, {"kind": "protocol", "app": "app:Tell"}, folder)
    with Daemon(config, {"app.py": PROTOCOL}, folder=folder) as daemon:
        daemon.expect("READY=1")
        sock = connect(*daemon.addresses(server="tls"))
        sock.sendall(V1)
        with client().wrap_socket(sock, server_hostname="localhost") as sock:
            sock.sendall(b"hello\n")
            assert told(sock, 2) == [str(IPV4.peer), "hello"]
        with connect(*daemon.addresses(server="plain")) as sock:
            sock.sendall(V1 + b"hello\n")
            sock.shutdown(socket.SHUT_WR)
            assert told(sock, 3) == [str(IPV4.peer), "hello", "end"]


SSH = """
import asyncssh

class Server(asyncssh.SSHServer):
    def connection_made(self, conn):
        self.conn = conn

    def begin_auth(self, username):
        return False

    def session_requested(self):
        return Session(self.conn)

class Session(asyncssh.SSHServerSession):
    def __init__(self, conn):
        self.conn = conn

    def connection_made(self, chan):
        self.chan = chan

    def exec_requested(self, command):
        self.chan.write(f"{self.conn.get_extra_info('peername')}")
        return True

    def session_started(self):
        self.chan.exit(0)
"""


@pytest.mark.parametrize("loop", ["uvloop"])
def test_ssh(loop, folder):
    options = {"host_keys": [str(folder / "key")], "create_host_keys": True}
    config = both(loop, {"kind": "ssh", "app": "app:Server", "options": options}, folder)

    async def run(address, *, tls):
        sock = connect(address)
        sock.sendall(V1)
        sock.setblocking(False)
        if not tls:
            return await ask(sock=sock)

        async def relay(reader, writer):
            """Speak TLS for asyncssh, as stunnel would."""
            their_reader, their_writer = await asyncio.open_connection(
                sock=sock, ssl=client(), server_hostname="localhost"
            )
            await asyncio.gather(copy(reader, their_writer), copy(their_reader, writer))
            ended.set()

        ended = asyncio.Event()
        async with await asyncio.start_server(relay, "127.0.0.1", 0) as relaying:
            answer = await ask(*relaying.sockets[0].getsockname())
            await ended.wait()
        return answer

    async def copy(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(10_000):
                writer.write(data)
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    async def ask(*address, **more):
        async with asyncssh.connect(*address, **more, known_hosts=None, username="x", client_keys=None) as conn:
            return (await conn.run("where")).stdout

    with Daemon(config, {"app.py": SSH}, folder=folder) as daemon:
        daemon.expect("READY=1")
        for server in ("plain", "tls"):
            assert asyncio.run(run(*daemon.addresses(server=server), tls=server == "tls")) == str(IPV4.peer)


# --- draining and descriptors --------------------------------------------------------------------------


@LOOPS
def test_a_header_that_is_under_way_survives_a_reload(loop):
    with Daemon(pool(server={"proxy_protocol": FROM}, workers=1, loop=loop), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (address,), (old,) = daemon.addresses(), daemon.workers()
        with connect(address) as sock:
            sock.sendall(V1[:20])
            daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["connections"] == 1)
            assert daemon.reload().ok
            assert daemon.workers() != [old]
            sock.sendall(V1[20:])
            assert int(told(sock)[0].split()[0]) == old


@pytest.mark.parametrize("loop", ["uvloop"])
def test_reloads_under_load_lose_nobody(loop, folder):
    server = {"proxy_protocol": FROM, "tls": issue(folder), "bind": ["127.0.0.1:0", f"unix:{folder}/s"]}
    with Daemon(pool(server=server, loop=loop), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        addresses, done, failures, counts = daemon.addresses(), threading.Event(), [], []

        def ask(address):
            context, count = client(), 0
            while not done.is_set():
                try:
                    sock = connect(address)
                    sock.sendall(V2)
                    with context.wrap_socket(sock, server_hostname="localhost") as sock, sock.makefile("rb") as replies:
                        assert replies.readline()
                        sock.sendall(b"hello\n")
                        assert replies.readline() == b"hello\n"
                except Exception as error:  # noqa: BLE001
                    failures.append(repr(error))
                    return
                count += 1
            counts.append(count)

        threads = [threading.Thread(target=ask, args=(address,)) for address in addresses for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            assert daemon.reload().ok
        done.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert min(counts) > 5


@pytest.mark.parametrize("loop", ["uvloop"])
def test_a_worker_without_descriptors_does_not_spin(loop):
    config = pool(server={"proxy_protocol": FROM}, workers=1, loop=loop)
    with Daemon(config, {"app.py": ECHO}) as daemon, contextlib.ExitStack() as stack:
        daemon.expect("READY=1")
        daemon.allow("cannot accept: Too many open files")
        (address,), (worker,) = daemon.addresses(), daemon.workers()
        open_files = len(os.listdir(f"/proc/{worker}/fd"))
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (open_files + 5, 1000))
        socks = [stack.enter_context(connect(address)) for _ in range(12)]
        for sock in socks:
            sock.sendall(V1)
        daemon.wait_log("cannot accept: Too many open files .raise LimitNOFILE")
        before = cpu(worker)
        time.sleep(1)
        assert cpu(worker) - before < 0.5
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (1000, 1000))
        for sock in socks:
            assert told(sock)
        assert daemon.log.count("cannot accept") == 1


def cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@LOOPS
def test_what_waits_at_the_end_is_served(loop):
    """Nobody comes after: the worker accepts what waits, and reads their headers, before it ends."""
    with Daemon(pool(server={"proxy_protocol": FROM}, workers=1, loop=loop), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (address,), (worker,) = daemon.addresses(), daemon.workers()
        os.kill(worker, signal.SIGSTOP)
        socks = [connect(address) for _ in range(10)]
        for sock in socks:
            sock.sendall(V1)
        daemon.signal(signal.SIGTERM)
        daemon.wait_log("stopping")
        os.kill(worker, signal.SIGCONT)
        for sock in socks:
            assert told(sock)
            sock.close()
        assert daemon.wait() == 0

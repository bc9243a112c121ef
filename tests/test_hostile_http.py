"""Malformed, slow and oversized requests: answered or cut, while other clients notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hourd.kinds.patience import Debt, Patience

from . import test_kind_aiohttp, test_kind_asgi
from .daemon import PATIENCE, Daemon, connect, pool
from .test_kind_aiohttp import GET, answer, counts
from .witness import KeepAlive

KINDS = pytest.mark.parametrize("kind", [test_kind_aiohttp, test_kind_asgi], ids=["aiohttp", "asgi"])


def post(*lines: bytes, body: bytes = b"") -> bytes:
    """Return a request with further header lines."""
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: x", *lines, b"", body])


def get(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET / HTTP/1.1", b"Host: x", *lines, b"", b""])


CHUNKED = b"Transfer-Encoding: chunked"
SMUGGLED = b"GET /state HTTP/1.1\r\nHost: x\r\n\r\n"
"""What an attacker hopes to have answered: it stands where a second request would be, if the first were believed."""
ATTACKS = {
    # PortSwigger, "HTTP request smuggling": CL.TE, TE.CL and TE.TE; RFC 9112, 6.1 and 6.3
    "CL.TE": post(b"Content-Length: 30", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "TE.CL": post(CHUNKED, b"Content-Length: 4", body=b"5c\r\n" + SMUGGLED),
    "CL 0 and TE": post(b"Content-Length: 0", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "TE twice": post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"),
    "TE chunked, identity": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "TE identity": post(b"Transfer-Encoding: identity", body=SMUGGLED),
    "TE xchunked": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "TE chunked in quotes": post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "TE after a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "TE with a space before the colon": post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "TE with a tab before the colon": post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n"),
    "TE folded": post(b"Transfer-Encoding:\r\n chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
    "TE in HTTP/1.0": post(CHUNKED, body=b"0\r\n\r\n").replace(b"1.1", b"1.0"),
    "TE hidden behind a bare LF": post(b"X: y\nTransfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
    "TE hidden behind a bare CR": post(b"X: y\rTransfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
    # RFC 9110, 8.6, and RFC 9112, 6.3: Content-Length
    "CL twice, different": post(b"Content-Length: 5", b"Content-Length: 6", body=b"hello" + SMUGGLED),
    "CL twice, the same": post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "CL as a list": post(b"Content-Length: 5, 5", body=b"hello"),
    "CL with a sign": post(b"Content-Length: +5", body=b"hello"),
    "CL negative": post(b"Content-Length: -5", body=b"hello"),
    "CL in hexadecimal": post(b"Content-Length: 0x5", body=b"hello"),
    "CL with an underscore": post(b"Content-Length: 1_0", body=b"hello" * 2),
    "CL in other digits": post("Content-Length: \N{ARABIC-INDIC DIGIT FIVE}".encode(), body=b"hello"),
    "CL empty": post(b"Content-Length:", body=SMUGGLED),
    "CL with spaces inside": post(b"Content-Length: 5 5", body=b"hello" * 11),
    "CL beyond 64 bits": post(b"Content-Length: 18446744073709551621", body=b"hello"),
    # RFC 9112, 7.1: chunks; llhttp CVE-2022-32213, -32214, -32215, CVE-2023-30589; "TERM.EXT" and "EXT.TERM"
    "chunk size negative": post(CHUNKED, body=b"-1\r\n\r\n"),
    "chunk size with 0x": post(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk size with a sign": post(CHUNKED, body=b"+5\r\nhello\r\n0\r\n\r\n"),
    "chunk size with an underscore": post(CHUNKED, body=b"1_0\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": post(CHUNKED, body=b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "chunk size empty": post(CHUNKED, body=b"\r\nhello\r\n0\r\n\r\n"),
    "chunk size after a space": post(CHUNKED, body=b" 5\r\nhello\r\n0\r\n\r\n"),
    "chunk size before a space": post(CHUNKED, body=b"5 \r\nhello\r\n0\r\n\r\n"),
    "chunk size ends with LF": post(CHUNKED, body=b"5\nhello\r\n0\r\n\r\n"),
    "chunk extension ends with LF": post(CHUNKED, body=b"5;a\nhello\r\n0\r\n\r\n"),
    "chunk extension with a bare CR": post(CHUNKED, body=b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    "chunk longer than it says": post(CHUNKED, body=b"5\r\nhello!\r\n0\r\n\r\n"),
    "chunk ends with other bytes": post(CHUNKED, body=b"5\r\nhelloXX0\r\n\r\n"),
    "chunk ends with LF": post(CHUNKED, body=b"5\r\nhello\n0\r\n\r\n"),
    "trailer without a colon": post(CHUNKED, body=b"0\r\nno colon\r\n\r\n"),
    # RFC 9112, 2.2, 5.1 and 5.2: lines and fields
    "lines end with LF": b"GET / HTTP/1.1\nHost: x\n\n",
    "a line ends with CR": b"GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
    "headers end with LF": b"GET / HTTP/1.1\r\nHost: x\r\n\n",
    "a folded header": get(b"X: a", b" b"),
    "a space before the first header": b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    "a space in a name": get(b"X Y: z"),
    "a space before a colon": get(b"X : y"),
    "no name": get(b": y"),
    "no colon": get(b"X"),
    "NUL in a name": get(b"X\0: y"),
    "NUL in a value": get(b"X: a\0b"),
    "a control character in a name": get(b"X\x01: y"),
    "a letter beyond ASCII in a name": get("É: y".encode()),
    # RFC 9112, 3: the request line
    "no method": b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown method": b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/1.10": b"GET / HTTP/1.10\r\nHost: x\r\n\r\n",
    "HTTP/1.a": b"GET / HTTP/1.a\r\nHost: x\r\n\r\n",
    "http/1.1": b"GET / http/1.1\r\nHost: x\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    # RFC 9112, 3.2
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": get(b"Host: y"),
    # Something else
    "a TLS handshake": bytes.fromhex("16030100c8010000c40303") + bytes(range(190)),
    "zeros": bytes(100),
    # Nothing is wrong with it
    "HTTP/1.0 without headers": b"GET / HTTP/1.0\r\n\r\n",
}


def outcome(address: str, data: bytes) -> str:
    """Send something and return the status lines that come back until the connection ends."""
    with connect(address, timeout=20) as sock:
        sock.sendall(data)
        with sock.makefile("rb") as replies, contextlib.suppress(TimeoutError):
            text = replies.read()
            return " ".join(line.split()[1].decode() for line in text.splitlines() if line.startswith(b"HTTP/"))
    return "kept"


TOLERATED = {
    # RFC 9112, 6.1: the message is to be taken as it says, and its connection to be closed, which it is.
    "TE in HTTP/1.0": "200",
    # RFC 9112, 3: a server may be lenient about whitespace between the parts of the request line.
    "two spaces": "200",
    "HTTP/1.0 without headers": "200",
}
LENIENT = {
    "aiohttp": {"HTTP/0.9": "200", "HTTP/2.0": "200"},  # aiohttp answers in the version it was asked in
    "asgi": {"HTTP/0.9": "505", "HTTP/2.0": "505"},
}
LIMITS = {"client_max_size": "1MiB"}
IMPATIENT = {"head_timeout": "1s", "body_timeout": "1s", "keepalive_timeout": "3s"}
"""Only where that is what is shown: a busy machine needs more for what is none of it."""


@contextlib.contextmanager
def serving(kind, **options):
    """Serve with one worker, and have other clients ask all the time: whatever happens, they notice nothing."""
    with Daemon(kind.config(workers=1, server={"options": {**LIMITS, **options}}), kind.FILES) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with KeepAlive(address, 3) as others:
            others.wait_for(10)
            yield daemon, address
            others.wait_for(10)
        assert daemon.pool()["workers"][0]["errors"] == 0


@KINDS
def test_what_is_malformed_is_refused_and_nothing_after_it_answered(kind):
    name = kind.__name__.rpartition("_")[2]
    wanted = dict.fromkeys(ATTACKS, "400") | TOLERATED | LENIENT[name]
    with serving(kind, keepalive_timeout="5s") as (_, address), ThreadPoolExecutor(16) as attackers:
        found = attackers.map(lambda data: outcome(address, data), ATTACKS.values())
        assert dict(zip(ATTACKS, found, strict=True)) == wanted


@pytest.mark.parametrize("bad", [b"\0", b"GET / HTTP/1.1\r\nHost: x\r\nX y: z\r\n\r\n"], ids=["zero", "head"])
def test_what_was_asked_before_is_answered_first(bad):
    """aiohttp forgets what has come in the same piece: it refuses all of it."""
    with serving(test_kind_asgi) as (_, address), connect(address) as sock, sock.makefile("rb") as replies:
        sock.sendall(GET * 3 + bad)
        for _ in range(3):
            answer(replies)
        assert replies.readline().split()[1] == b"400"
        assert b"HTTP/1." not in replies.read()


TOO_LARGE = {
    "a long target": (get().replace(b"/", b"/" + b"x" * 10_000, 1), "414"),
    "a long query": (get().replace(b"/", b"/?" + b"x" * 10_000, 1), "414"),
    "a long value": (get(b"X: " + b"x" * 10_000), "431"),
    "a long name": (get(b"X" * 10_000 + b": y"), "431"),
    "many headers": (get(*(b"X-%d: y" % number for number in range(200))), "431"),
    "a large body": (post(b"Content-Length: 2000000", body=b"x" * 2_000_000), "413"),
    "a large body in chunks": (post(CHUNKED, body=(b"1000\r\n" + b"x" * 4096 + b"\r\n") * 500 + b"0\r\n\r\n"), "413"),
}
FITS = {
    "target": (get().replace(b"/", b"/?" + b"x" * 8000, 1)),
    "value": (get(b"X: " + b"x" * 8000)),
    "headers": (get(*(b"X-%d: " % number + b"y" * 4000 for number in range(100)))),
    "body": post(b"Content-Length: 1000000", body=b"x" * 1_000_000),
}


@KINDS
@pytest.mark.parametrize("piece", [1_000_000, 5000, 700])
def test_what_is_too_large_is_refused_and_what_is_not_is_answered(kind, piece):
    with serving(kind) as (_, address):

        def status(data):
            with connect(address) as sock, sock.makefile("rb") as replies:
                with contextlib.suppress(ConnectionError):  # it does not have to hear all of it
                    for start in range(0, len(data), piece):
                        sock.sendall(data[start : start + piece])
                return replies.readline().split()[1].decode()

        assert {name: status(data) for name, (data, _) in TOO_LARGE.items()} == {
            name: wanted for name, (_, wanted) in TOO_LARGE.items()
        }
        assert {name: status(data) for name, data in FITS.items()} == dict.fromkeys(FITS, "200")


@KINDS
@pytest.mark.parametrize("flood", [b"x" * 1000, b"X: y\r\n" * 100, b"\r\n" * 100], ids=["line", "headers", "nothing"])
def test_a_flood_is_cut(kind, flood):
    with serving(kind, **IMPATIENT) as (_, address), connect(address) as sock:
        sock.sendall(b"" if flood.startswith(b"\r") else b"GET /")
        end = time.monotonic() + 20
        cut = False
        while not cut and time.monotonic() < end:
            try:
                sock.sendall(flood)
            except ConnectionError:
                cut = True
            time.sleep(0.001)
        assert cut


@pytest.mark.parametrize(
    ("begun", "flood"),
    [
        (post(CHUNKED, body=b"1\r\nx\r\n0\r\n"), b"X: y\r\n" * 100),
        (post(CHUNKED, body=b"1\r\nx\r\n0\r\nX: "), b"y" * 1000),
        (post(CHUNKED, body=b"5;x="), b"y" * 1000),
    ],
    ids=["trailers", "trailer", "extension"],
)
def test_a_flood_after_the_head_is_cut(begun, flood):
    with serving(test_kind_asgi) as (_, address), connect(address) as sock:
        sock.sendall(begun)
        with contextlib.suppress(ConnectionError):
            while True:  # for as long as it is taken
                sock.sendall(flood)
                if select.select([sock], [], [], 0.001)[0]:
                    break
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(12) in (b"HTTP/1.1 431", b"")


def test_trailers_are_no_headers():
    """Of a proxy, neither: it passes them on as they came, after the headers that it has written."""
    chunk, trailers = b"1\r\nx\r\n0\r\n", b"X-Forwarded-For: 6.6.6.6\r\nHost: evil\r\n" * 30
    data = post(b"X-Forwarded-For: 192.0.2.7", CHUNKED, body=chunk + trailers + b"\r\n").replace(b"/", b"/scope", 1)
    with (
        serving(test_kind_asgi, trusted_proxies=["127.0.0.1"]) as (_, address),
        connect(address) as sock,
        sock.makefile("rb") as replies,
    ):
        for _ in range(2):
            sock.sendall(data)
            assert json.loads(answer(replies)[1])["client"] == "('192.0.2.7', 0)"


def test_thousands_of_requests_in_one_piece_are_answered_in_order_and_not_kept():
    count, batch = 60_000, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    with serving(test_kind_asgi) as (daemon, address), connect(address) as sock, sock.makefile("rb") as replies:
        (pid,) = daemon.workers()
        before = peak_memory(pid)

        def ask():
            for _ in range(count // 1000):
                sock.sendall(batch)

        with ThreadPoolExecutor(1) as asker:
            asker.submit(ask)
            for _ in range(count):
                answer(replies)
        assert peak_memory(pid) - before < 32 * 1024**2


ORDER = """
import asyncio
import contextvars

user = contextvars.ContextVar("user", default="nobody")
gone = asyncio.Event()


async def app(scope, receive, send):
    length = 0
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass
        return gone.set()
    if scope["path"] == "/gone":
        await gone.wait()
    while (message := await receive())["type"] == "http.request":
        length += len(message["body"])
        if not message["more_body"]:
            break
    text = f"{user.get()} {length}".encode()
    user.set(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(text)).encode())]})
    await send({"type": "http.response.body", "body": text})
"""


@contextlib.contextmanager
def ordered(loop="uvloop", **options):
    server = {"kind": "asgi", "app": "app:app", "bind": "127.0.0.1:0", "options": {"lifespan": "off", **options}}
    with Daemon(pool(workers=1, server=server, loop=loop), {"app.py": ORDER}) as daemon:
        daemon.expect("READY=1")
        yield daemon.addresses()[0]


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_bodies_among_requests_in_one_piece_are_taken_and_requests_have_contexts_of_their_own(loop):
    with ordered(loop) as address, connect(address) as sock, sock.makefile("rb") as replies:
        for size in (0, 20_000, 100_000, 300_000):
            large = post(b"Content-Length: %d" % size, body=b"x" * size)
            sock.sendall(GET + large + GET + large)
            found = [answer(replies)[1] for _ in range(4)]
            assert found == [b"nobody 0", b"nobody %d" % size] * 2


def test_who_goes_while_further_requests_wait_is_told_of():
    with ordered() as address:
        with connect(address) as sock:
            sock.sendall(get().replace(b"/", b"/stream", 1) + GET * 2)
            sock.recv(12)
        with connect(address) as sock, sock.makefile("rb") as replies:
            sock.sendall(get().replace(b"/", b"/gone", 1))
            assert answer(replies)[1] == b"nobody 0"


def test_a_part_of_a_request_behind_others_has_time():
    with (
        ordered(head_timeout="300ms") as address,
        connect(address) as sock,
        sock.makefile("rb") as replies,
        connect(address) as other,
    ):
        sock.sendall(get().replace(b"/", b"/gone", 1) + GET + GET[:10])
        time.sleep(1)
        other.sendall(get().replace(b"/", b"/stream", 1))
        other.recv(12)
        other.close()
        sock.sendall(GET[10:])
        assert [answer(replies)[1] for _ in range(3)] == [b"nobody 0"] * 3


def peak_memory(pid):
    """Return the most bytes that a process has had in memory."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


LARGE = """
from aiohttp import web


def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"x"] if environ["PATH_INFO"] == "/" else (b"x" * 65536 for _ in range(1000))


async def small(request):
    return web.Response(text="x")


async def large(request):
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):
        await response.write(b"x" * 65536)
    return response


def make():
    app = web.Application()
    app.add_routes([web.get("/", small), web.get("/large", large)])
    return app
"""


@pytest.mark.parametrize(("kind", "app", "more"), [("wsgi", "app:wsgi", {"threads": 1}), ("aiohttp", "app:make", {})])
def test_who_does_not_read_is_cut_and_holds_nobody_up(kind, app, more):
    options = {"send_timeout": "500ms", **more}
    server = {"kind": kind, "app": app, "bind": "127.0.0.1:0", "options": options}
    with Daemon(pool(workers=1, server=server), {"app.py": LARGE}) as daemon:
        daemon.allow("wait for a thread")
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with connect(address) as sock, connect(address) as other, other.makefile("rb") as replies:
            sock.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            daemon.wait_until(lambda status: counts(status)[2] == 1)
            other.sendall(GET)
            assert replies.readline() == b"HTTP/1.1 200 OK\r\n"
            daemon.wait_until(lambda status: counts(status)[0] == 1)


@pytest.mark.parametrize(("kind", "app"), [("wsgi", "app:wsgi"), ("aiohttp", "app:make")])
def test_who_reads_slowly_is_not_cut(kind, app):
    server = {
        "kind": kind,
        "app": app,
        "bind": "127.0.0.1:0",
        "options": {"send_timeout": "500ms", "keepalive_timeout": "500ms"},
    }
    with Daemon(pool(workers=1, server=server), {"app.py": LARGE}) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
            for _ in range(12):
                assert sock.recv(8192)
                time.sleep(0.1)


def test_a_body_that_is_too_large_is_not_asked_for():
    """Whoever asks beforehand does not have to send it. aiohttp asks for it, and refuses what then comes."""
    with serving(test_kind_asgi) as (_, address), connect(address) as sock, sock.makefile("rb") as replies:
        sock.sendall(post(b"Content-Length: 2000000", b"Expect: 100-continue"))
        assert replies.readline().split()[1] == b"413"


@KINDS
def test_who_dribbles_is_cut_in_time(kind):
    """Slowloris with headers, and R.U.D.Y. with a body: many of them, each in time, and nobody else waits."""
    with serving(kind, **IMPATIENT) as (daemon, address), contextlib.ExitStack() as stack:
        began = time.monotonic()
        slow = [stack.enter_context(connect(address)) for _ in range(20)]
        heads, bodies = slow[:10], slow[10:]
        for sock in heads[5:]:
            sock.sendall(GET)  # some have been served before
            with sock.makefile("rb") as replies:
                answer(replies)
        for sock in heads:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        for sock in bodies:
            sock.sendall(post(b"Content-Length: 1000", body=b"x"))
        ended = threading.Event()

        def dribble():
            while not ended.wait(0.3):
                for sock in heads:
                    with contextlib.suppress(OSError):
                        sock.sendall(b"X: y\r\n")

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            for sock in slow:
                with sock.makefile("rb") as replies:
                    assert replies.readline().split()[1] == b"408"
                    while replies.readline() not in (b"\r\n", b""):
                        pass
                    replies.read()
        finally:
            ended.set()
            thread.join()
        assert 1 < time.monotonic() - began < 20
        daemon.wait_until(lambda status: counts(status)[0] <= 3)


@KINDS
def test_a_body_that_comes_slowly_but_comes_is_taken(kind):
    with serving(kind, **IMPATIENT) as (_, address), connect(address) as sock, sock.makefile("rb") as replies:
        sock.sendall(post(b"Content-Length: 10"))
        for _ in range(10):
            time.sleep(0.3)
            sock.sendall(b"x")
        assert answer(replies)[1] == b"x" * 10


@KINDS
def test_who_never_asks_is_cut_without_a_word(kind):
    with serving(kind, keepalive_timeout="1s") as (_, address), contextlib.ExitStack() as stack:
        silent, empty = (stack.enter_context(connect(address)) for _ in range(2))
        empty.sendall(b"\r\n")
        for sock in (silent, empty):
            assert sock.recv(100) == b""


@KINDS
def test_the_end_of_a_client_in_the_middle_is_no_error(kind):
    with serving(kind, **IMPATIENT) as (daemon, address):
        for data in (GET[:10], post(b"Content-Length: 1000", body=b"x"), post(CHUNKED, body=b"5\r\nhe")):
            for linger in (False, True):
                with connect(address) as sock:
                    sock.sendall(data)
                    if linger:
                        sock.shutdown(socket.SHUT_WR)
                        sock.settimeout(5)
                        with contextlib.suppress(TimeoutError):
                            sock.recv(100)
        daemon.wait_until(lambda status: counts(status)[0] <= 3)


def test_a_connection_that_cannot_be_looked_at_takes_no_limit_from_others():
    def owes(connection):
        if connection == "odd":
            raise RuntimeError("on purpose")
        return Debt("a head", 0.2, collected.set)

    async def look():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, about: told.append(str(about["exception"])))
        patience = Patience(lambda: ["odd", "plain"], owes, 0.2)
        async with asyncio.timeout(PATIENCE):
            await collected.wait()
        patience.stop()

    told, collected = [], asyncio.Event()
    asyncio.run(look())
    assert told == ["on purpose"]

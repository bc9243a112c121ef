"""Which kind an application is of, told from the object; and ``hourd start APP`` that does so."""

from __future__ import annotations

import asyncio
import functools
import re

import asyncssh
import pytest
from aiohttp import web

from hourd.kinds import detection
from hourd.kinds.detection import UnclearError, detect, detect_made

from .daemon import Daemon, connect, pool


async def stream(reader, writer): ...
async def stream_with_worker(reader, writer, worker): ...
async def accept(client_reader, client_writer): ...
async def two(a, b): ...
async def handler(request, response): ...
async def serve(worker, sockets): ...
async def serve_tls(worker, sockets, tls): ...
async def asgi(scope, receive, send): ...
async def three(a, b, c): ...
def asgi_decorated(scope, receive, send): ...
def wsgi(environ, start_response): ...
def wsgi_falcon(env, start_response, more=None): ...
def wsgi_short(env, start): ...
def plain_two(left, right): ...
def plain_three(a, b, c): ...
def anything(*args): ...
async def anything_async(*args, **named): ...
async def session(process): ...
async def one(request): ...
def asgi2(scope): ...
def factory(): ...
def factory_with_worker(worker): ...
def factory_with_default(debug=False): ...
async def async_factory(): ...
def makes_aiohttp() -> web.Application: ...
def makes_protocol() -> Echo: ...
def makes_datagrams() -> Datagrams: ...
def makes_unknown() -> not_there.Thing: ...  # noqa: F821


@functools.wraps(stream)
def wrapped_stream(*args):
    return stream(*args)


@functools.wraps(wsgi)
def wrapped_wsgi(*args, **named):
    return wsgi(*args, **named)


class Echo(asyncio.Protocol):
    pass


class NeedsMore(asyncio.BufferedProtocol):
    def __init__(self, more):
        pass


class Datagrams(asyncio.DatagramProtocol):
    pass


class Ssh(asyncssh.SSHServer):
    pass


class Session(asyncssh.SSHServerSession):
    pass


class Asgi:
    async def __call__(self, scope, receive, send): ...


class Wsgi:
    def __call__(self, environ, start_response): ...


class Streams:
    async def __call__(self, reader, writer): ...


class RequestResponse:
    async def __call__(self, request, response): ...


class AwaitedAsgi:
    def __init__(self, scope, receive, send): ...

    def __await__(self): ...


class IteratedWsgi:
    def __init__(self, environ, start_response): ...

    def __iter__(self): ...


Container = type("Container", (), {"__module__": "hourd.container"})


class OfApiHour(Container):
    def __init__(self, config, worker, loop): ...


@pytest.mark.parametrize(
    ("app", "kind", "why"),
    [
        (stream, "stream", "is a coroutine function of (reader, writer)"),
        (stream_with_worker, "stream", "is a coroutine function of (reader, writer)"),
        (accept, "stream", "is a coroutine function of (client_reader, client_writer)"),
        (Streams(), "stream", "called with (reader, writer)"),
        (serve, "callable", "is a coroutine function of (worker, sockets)"),
        (serve_tls, "callable", "is a coroutine function of (worker, sockets, tls)"),
        (asgi, "asgi", "is a coroutine function of (scope, receive, send)"),
        (asgi_decorated, "asgi", "is a function of (scope, receive, send)"),
        (three, "asgi", "is a coroutine function of (a, b, c)"),
        (Asgi(), "asgi", "is tests.test_detection.Asgi, called with (scope, receive, send)"),
        (AwaitedAsgi, "asgi", "is tests.test_detection.AwaitedAsgi, called with (scope, receive, send)"),
        (functools.partial(asgi_decorated), "asgi", "(scope, receive, send)"),
        (wsgi, "wsgi", "is a function of (environ, start_response)"),
        (wsgi_falcon, "wsgi", "is a function of (env, start_response, more)"),
        (wsgi_short, "wsgi", "is a function of (env, start)"),
        (wrapped_wsgi, "wsgi", "is a function of (environ, start_response)"),
        (Wsgi(), "wsgi", "is tests.test_detection.Wsgi, called with (environ, start_response)"),
        (IteratedWsgi, "wsgi", "is tests.test_detection.IteratedWsgi, called with (environ, start_response)"),
        (Echo, "protocol", "is tests.test_detection.Echo, an asyncio.Protocol"),
        (NeedsMore, "protocol", "is tests.test_detection.NeedsMore, an asyncio.Protocol"),
        (makes_protocol, "protocol", "makes tests.test_detection.Echo, an asyncio.Protocol"),
        (Ssh, "ssh", "is tests.test_detection.Ssh, a class of asyncssh"),
        (Session, "ssh", "is tests.test_detection.Session, a class of asyncssh"),
        (session, "ssh", "is a coroutine function of (process)"),
        (web.Application(), "aiohttp", "is an aiohttp.web.Application"),
        (makes_aiohttp, "aiohttp", "makes aiohttp.web_app.Application, an aiohttp.web.Application"),
        (OfApiHour, "container", "is a subclass of hourd.Container"),
    ],
)
def test_what_it_is(app, kind, why):
    found = detect(app)
    assert found is not None
    assert found.kind == kind
    assert why in found.why


@pytest.mark.parametrize(
    "app",
    [
        factory,
        factory_with_worker,
        factory_with_default,
        async_factory,
        makes_unknown,
        Asgi,
        Wsgi,
        web.Application,
        functools.partial(NeedsMore, 1),
        lambda: Echo(),  # noqa: PLW0108, that is how it is written
    ],
)
def test_a_factory_has_to_be_called(app):
    assert detect(app) is None


@pytest.mark.parametrize(
    ("app", "why"),
    [
        (anything, "could be of kind asgi or wsgi: it is a function of (*); say which with --kind"),
        (anything_async, "could be of kind stream or asgi: it is a coroutine function of (*); say which with --kind"),
        (Datagrams, "serves datagrams (asyncio.DatagramProtocol): say so with --kind datagram"),
        (makes_datagrams, "serves datagrams (asyncio.DatagramProtocol): say so with --kind datagram"),
        (asgi2, "takes (scope) alone"),
        (one, "which is of no kind that could be told from it"),
        (two, "which is of no kind that could be told from it; say which with --kind"),
        (handler, "which is of no kind that could be told from it; say which with --kind"),
        (plain_two, "which is of no kind that could be told from it; say which with --kind"),
        (plain_three, "which is of no kind that could be told from it; say which with --kind"),
        (RequestResponse(), "of no kind"),
        (wrapped_stream, "of no kind"),
        (Echo(), "of no kind"),
        (3, "is 3, which is of no kind that could be told from it; say which with --kind"),
        (None, "is None, which"),
        (re, "is <module 're'"),
        (dict, "of no kind"),
    ],
)
def test_what_cannot_be_told(app, why):
    with pytest.raises(UnclearError) as error:
        detect(app)
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("made", "kind", "why"),
    [
        (Echo(), "protocol", "makes tests.test_detection.Echo, an asyncio.Protocol"),
        (Asgi(), "asgi", "makes tests.test_detection.Asgi, called with"),
        (web.Application(), "aiohttp", "makes an aiohttp.web.Application"),
        (wsgi, "wsgi", "makes a function of (environ, start_response)"),
    ],
)
def test_what_a_factory_has_made(made, kind, why):
    found = detect_made(made)
    assert found.kind == kind
    assert why in found.why


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (factory, "makes <function factory"),
        (None, "makes None, which is of no kind that could be told from it; say which with --kind"),
        (Datagrams(), "serves datagrams"),
        (anything, "makes what could be of kind asgi or wsgi"),
    ],
)
def test_what_a_factory_has_made_and_cannot_be_told(made, why):
    with pytest.raises(UnclearError, match=re.escape(why)):
        detect_made(made)


def test_every_kind_that_is_found_is_told_in_the_registry():
    assert {kind for kind, _ in detection._KINDS} >= {"aiohttp", "protocol", "ssh", "callable", "stream"}


# --- hourd start APP ------------------------------------------------------------------------------

APP = """
import asyncio
import asyncssh
from aiohttp import web
from hourd import Worker


async def hello(request):
    return web.Response(text="hello")

def create_app():
    with open("made", "a") as file:
        file.write("x")
    app = web.Application()
    app.router.add_get("/", hello)
    return app

async def create_app_later(worker):
    return create_app()

def annotated() -> web.Application:
    return create_app()

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\nhello")
        self.transport.close()

def make_echo():
    return Echo()

async def serve(worker, sockets):
    servers = [await asyncio.get_running_loop().create_server(Echo, sock=sock) for sock in sockets]
    await worker.draining.wait()
    for server in servers:
        server.close()

async def stream(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\nhello")

app = create_app()

class Shell(asyncssh.SSHServer):
    pass

def either(*args):
    pass

def fails():
    raise RuntimeError("on purpose")

def makes_nothing():
    pass

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]

class Datagrams(asyncio.DatagramProtocol):
    pass
"""


def get(address):
    with connect(address) as sock, sock.makefile("rb") as response:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return response.read()


def started(app, *more):
    arguments = ("start", f"app:{app}", "--bind", "127.0.0.1:0", "--workers", "2", "--control", "control.sock", *more)
    return Daemon("{}", {"app.py": APP}, arguments=arguments)


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("app", r"kind aiohttp, since app:app is an aiohttp\.web\.Application\n"),
        ("create_app", r"kind aiohttp, since app:create_app makes an aiohttp\.web\.Application\n"),
        ("create_app_later", r"kind aiohttp, since app:create_app_later makes an aiohttp"),
        ("annotated", r"kind aiohttp, since app:annotated makes aiohttp\.web_app\.Application"),
        ("Echo", r"kind protocol, since app:Echo is app\.Echo, an asyncio\.Protocol\n"),
        ("make_echo", r"kind protocol, since app:make_echo makes app\.Echo, an asyncio\.Protocol\n"),
        ("serve", r"kind callable, since app:serve is a coroutine function of \(worker, sockets\)\n"),
        ("stream", r"kind stream, since app:stream is a coroutine function of \(reader, writer\)\n"),
    ],
)
def test_start_finds_the_kind_and_says_so(app, said):
    with started(app) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses("main")
        response = get(address)
        assert response.startswith(b"HTTP/1.1 200 OK\r\n")
        assert response.endswith(b"hello")
        assert re.search(f"server main: {said}", daemon.log)
        assert daemon.log.count("server main: kind ") == 1
        if app.startswith("create_app"):  # and once when the module was imported
            assert (daemon.folder / "made").read_text() == "x" * 3


@pytest.mark.parametrize(
    ("app", "code", "said"),
    [
        ("either", 78, r"server main: app:either could be of kind asgi or wsgi: .*; say which with --kind"),
        ("Datagrams", 78, r"server main: app:Datagrams serves datagrams .*--kind datagram"),
        ("Shell", 78, r"server main: kind ssh, since app:Shell is app\.Shell, .* needs options, .*host_keys"),
        ("hello", 78, r"server main: app:hello is <function hello .*, which is of no kind"),
        ("makes_nothing", 78, r"server main \(kind auto\): app:makes_nothing makes None, which is of no kind"),
        ("fails", 75, r"server main \(kind auto\) failed to open:\nTraceback.*app\.py.*RuntimeError: on purpose"),
    ],
)
def test_start_asks_back(app, code, said):
    with started(app) as daemon:
        daemon.allow("server main", "it is stopped at once")
        assert daemon.wait() == code
        assert re.search(f"cannot start: {said}", daemon.log, re.DOTALL)


def test_an_option_says_which():
    with started("either", "--kind", "stream") as daemon:
        daemon.allow("server main", "it is stopped at once")
        assert daemon.wait() == 75
        assert "server main (kind stream): app is <function either" in daemon.log


def test_a_file_may_leave_it_to_the_object():
    config = pool(server={"kind": "auto", "app": "app:serve"})
    with Daemon(config, {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        assert get(daemon.addresses()[0]).endswith(b"hello")
        daemon.configure(pool(server={"kind": "auto", "app": "app:either"}))
        daemon.allow("could be of kind")
        answer = daemon.reload()
        assert not answer.ok
        assert "app:either could be of kind asgi or wsgi" in answer.error
        assert daemon.run("check", "-c", str(daemon.file), "--import").returncode == 78
    with Daemon(pool(server={"kind": "auto", "app": "app:serve", "options": {"limit": 3}}), {"app.py": APP}) as daemon:
        daemon.allow("limit")
        assert daemon.wait() == 78
        assert "limit" in daemon.log

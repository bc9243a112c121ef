"""``kind: container``: code in the manner of API-Hour, driven by real clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket

import aiohttp
import pytest

from hourd import errors
from hourd.kinds import api_hour
from hourd.kinds.stand_ins import entry_of

from .daemon import Daemon, connect, pool
from .witness import KeepAlive

BASE = """
import asyncio, logging, os

from aiohttp import web

import hourd


class Base(hourd.Container):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = ["init"]
        self.app = self.servers["http"] = web.Application()
        self.app.add_routes([web.get("/", self.index), web.get("/slow", self.slow), web.get("/calls", self.told)])

    async def index(self, request):
        return web.Response(text=str(os.getpid()))

    async def told(self, request):
        return web.Response(text=" ".join(self.calls))

    async def slow(self, request):
        self.engines["db"].append("asked")
        await self.worker.draining.wait()
        await asyncio.sleep(0.3)
        self.engines["db"].append("answered")
        return web.Response(text="slow")

    async def pre_start(self):
        self.calls.append("pre_start")

    async def start(self):
        await super().start()
        self.calls.append("start")
        self.engines["db"] = []

    async def shutdown(self):
        await super().shutdown()
        self.engines["db"].append("shutdown")

    async def cleanup(self):
        await super().cleanup()
        if "db" not in self.engines:
            return  # it was not started
        self.engines["db"].append("cleanup")
        self.worker.log.info("journal of %d: %s", self.worker.slot, " ".join(self.engines["db"]))


async def shout(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
    writer.close()


class Reverse(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data[::-1])
"""
FORMS = """
class Plain(Base):
    def make_servers(self):
        self.calls.append("make_servers")
        return [self.app]


class Handlers(Base):
    def make_servers(self):
        return [self.app, shout, Reverse]


class Handler(Base):
    def make_servers(self):
        return [self.app._make_handler(access_log=None)]


class Kit(Base):
    # as the starter kit does it
    async def make_servers(self, sockets):
        self.calls.append("make_servers")
        handlers = {}
        handler = self.app._make_handler(keepalive_timeout=self.worker.cfg.keepalive, logger=self.worker.log,
                                         access_log=self.worker.log.access_log)
        for sock in sockets:
            srv = await self.loop.create_server(handler, sock=sock.sock)
            handlers[srv] = handler
        return handlers


class Several(Base):
    async def make_servers(self, sockets):
        http, words, reverse = sockets
        handler = self.app._make_handler()
        return {
            await asyncio.start_server(shout, sock=words.sock): shout,
            await self.loop.create_server(Reverse, sock=reverse): Reverse,
            await self.loop.create_server(handler, sock=http.sock): handler,
        }


class Own(Base):
    # hourd is told of no handler for two of them
    async def make_servers(self, sockets):
        http, words, reverse = sockets
        return [self.app, await asyncio.start_server(shout, sock=words.sock),
                await self.loop.create_server(Reverse, sock=reverse.sock)]


class Silent(Base):
    # fills self.servers, and returns nothing
    async def make_servers(self, sockets):
        self.servers["words"] = await asyncio.start_server(shout, sock=sockets[0].sock)
"""
FILES = {"app.py": BASE + FORMS}
LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
THREE = ["127.0.0.1:0", "127.0.0.2:0", "127.0.0.3:0"]


def config(app, *, server=None, **settings):
    return pool(server={"kind": "container", "app": f"app:{app}", "grace": "10s", **(server or {})}, **settings)


async def get(address, path="", connector=None):
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(f"http://{address}/{path}") as response,
    ):
        assert response.status == 200
        return await response.text()


def say(address, text):
    with connect(address) as sock, sock.makefile("rb") as replies:
        sock.sendall(text)
        return replies.readline()


@pytest.mark.parametrize(
    ("app", "calls", "loop"),
    [
        ("Plain", "init pre_start make_servers start", "uvloop"),
        ("Kit", "init pre_start make_servers start", "uvloop"),
        ("Kit", "init pre_start make_servers start", "asyncio"),
        ("Handler", "init pre_start start", "asyncio"),
    ],
)
def test_each_form_of_make_servers_is_called_once_and_serves(app, calls, loop, tmp_path):
    bind = ["127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/s"]
    with Daemon(config(app, loop=loop, server={"bind": bind}), FILES) as daemon:
        daemon.expect("READY=1")

        async def talk():
            for address in daemon.addresses()[:2]:
                assert await get(address, "calls") == calls
                assert int(await get(address)) in daemon.workers()
            assert await get("x", connector=aiohttp.UnixConnector(f"{tmp_path}/s"))

        asyncio.run(talk())


def test_what_is_broken_in_its_config_is_a_refused_reload():
    with Daemon(config("Plain"), FILES) as daemon:
        daemon.allow("reload refused, nothing was changed: .*NOT_SET is not set")
        daemon.expect("READY=1")
        workers, (address,) = daemon.workers(), daemon.addresses()
        daemon.configure(config("Plain", server={"options": {"config": {"password": "${NOT_SET}"}}}))
        answer = daemon.reload()
        assert not answer.ok
        assert answer.error.endswith(
            "options.config.password: the environment variable NOT_SET is not set; ${NOT_SET:-default} gives a default"
        )
        assert daemon.workers() == workers
        assert int(asyncio.run(get(address))) in workers


@pytest.mark.parametrize(
    ("app", "loop"), [("Handlers", "uvloop"), ("Several", "asyncio"), ("Own", "uvloop"), ("Own", "asyncio")]
)
def test_each_address_has_its_own_server_also_where_a_sibling_attends(app, loop):
    with Daemon(
        config(app, loop=loop, server={"bind": THREE}, timeouts={"slow": "300ms", "hung": "60s"}), FILES
    ) as daemon:
        daemon.expect("READY=1")
        http_at, words, reverse = daemon.addresses()

        def ask_all():
            for _ in range(10):
                assert asyncio.run(get(http_at))
                assert say(words, b"word\n") == b"WORD\n"
                assert say(reverse, b"\nabc") == b"cba\n"

        ask_all()
        stopped = daemon.workers()[0]
        os.kill(stopped, signal.SIGSTOP)
        daemon.wait_until(lambda status: len(status["pools"]["web"]["slots"][0]["attended_by"]) == 2)
        ask_all()
        os.kill(stopped, signal.SIGCONT)
        daemon.wait_until(lambda status: all(len(slot["attended_by"]) == 1 for slot in status["pools"]["web"]["slots"]))
        ask_all()
        daemon.allow("worker web/0.* is slow")


@LOOPS
def test_what_outlasts_the_grace_at_a_server_of_its_own_is_cut(loop):
    with Daemon(config("Silent", loop=loop, workers=1, server={"grace": "300ms"}), FILES) as daemon:
        daemon.expect("READY=1")
        assert say(daemon.addresses()[0], b"word\n") == b"WORD\n"
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(b"word\n")
            assert replies.readline() == b"WORD\n"
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
            with pytest.raises(ConnectionResetError):  # it is to see that this is no regular end
                sock.recv(1)
        daemon.allow("cut 1 connections that were open after its grace of 0.3s")
        assert "journal of 0: shutdown cleanup" in daemon.log


def test_engines_are_stopped_when_the_last_request_is_answered():
    with Daemon(config("Kit", workers=1), FILES) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["requests"] == 1)
            daemon.signal(signal.SIGTERM)
            assert replies.read().endswith(b"slow")
        assert daemon.wait() == 0
        assert "journal of 0: asked shutdown answered cleanup\n" in daemon.log


class Bereaved(KeepAlive):
    """One worker is killed: what was in flight there may be lost, at most one request of each client."""

    def __exit__(self, *error):
        lost = self.failures[:]
        assert len(lost) <= 5, lost
        self.failures = []
        super().__exit__(*error)


@pytest.mark.parametrize("app", ["Plain", "Kit"])
def test_nothing_is_lost_in_reloads_and_little_when_a_worker_is_killed(app):
    with Daemon(config(app, timeouts={"slow": "10s", "hung": "60s"}), FILES) as daemon:
        daemon.expect("READY=1")
        with KeepAlive(daemon.addresses()[0], 5) as clients:
            for _ in range(2):
                clients.wait_for(100)
                assert daemon.reload().ok
            clients.wait_for(100)
        daemon.wait_for_the_old()
        with Bereaved(daemon.addresses()[0], 5) as clients:
            clients.wait_for(50)
            os.kill(daemon.workers()[0], signal.SIGKILL)
            daemon.wait_until(lambda status: status["pools"]["web"]["restarts"] == 1)
            daemon.until(lambda: len(daemon.workers()) == 2)
            aim = clients.answered + 100
            daemon.until(lambda: clients.answered > aim)
        daemon.allow("SIGKILL")


LASTING = """
class Forever(Base):
    def make_servers(self):
        return [self.app]

    async def shutdown(self):
        await asyncio.sleep(1000)

    async def cleanup(self):
        self.worker.log.info("cleanup")
        await asyncio.sleep(1000)


class Failing(Forever):
    async def shutdown(self):
        raise RuntimeError("shutdown on purpose")

    async def cleanup(self):
        raise RuntimeError("cleanup on purpose")


class FailingServer(Failing):
    def make_servers(self):
        async def fail(app):
            raise RuntimeError("server on purpose")

        self.app.on_cleanup.append(fail)
        return [self.app]


class FailingStart(Failing):
    async def start(self):
        raise RuntimeError("start on purpose")
"""


def test_the_grace_is_all_that_the_end_may_take():
    files = {"app.py": BASE + LASTING}
    with Daemon(config("Forever", workers=1, server={"grace": "300ms"}), files) as daemon:
        daemon.expect("READY=1")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        daemon.allow("did not end within the grace", "cut 1 connections")
        assert re.search("shutdown did not end.*cleanup\n.*cleanup did not end", daemon.log, re.DOTALL)
        assert "killing worker" not in daemon.log


def test_what_fails_at_the_end_is_told_and_keeps_nothing_from_its_end():
    with Daemon(config("FailingServer", workers=1), {"app.py": BASE + LASTING}) as daemon:
        daemon.expect("READY=1")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        daemon.allow("on purpose")
        told = re.findall(r"RuntimeError: (\w+) on purpose", daemon.log)
        assert told == ["shutdown", "server", "cleanup"]


def test_what_was_begun_is_cleaned_up_when_its_start_fails():
    with Daemon(config("FailingStart", workers=1), {"app.py": BASE + LASTING}) as daemon:
        daemon.allow("on purpose", "it is stopped at once")
        assert daemon.wait() == 75
        assert "RuntimeError: start on purpose" in daemon.log
        assert "RuntimeError: cleanup on purpose" in daemon.log


OLD = """
import api_hour


class Container(api_hour.Container):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.servers["http"] = web.Application(loop=kwargs["loop"])
        self.servers["http"]["ah_container"] = self
        self.servers["http"].router.add_route("GET", "/", index)

    @classmethod
    def make_event_loop(cls, config):
        return asyncio.new_event_loop()

    @types.coroutine
    def start(self):
        yield from super().start()
        self.engines["db"] = self.loop.create_task(open_db(self.config["engines"]["db"]["host"]))
        yield from asyncio.wait([self.engines["db"]], return_when=asyncio.ALL_COMPLETED)

    async def stop(self):
        self.worker.log.info("stopped: %s", self.engines["db"].result())
        await super().stop()

    def make_servers(self):
        return [self.servers["http"].make_handler(logger=self.worker.log,
                                                  debug=self.worker.cfg.debug,
                                                  keep_alive=self.worker.cfg.keepalive,
                                                  access_log=self.worker.log.access_log,
                                                  access_log_format=self.worker.cfg.access_log_format)]


async def open_db(host):
    return f"connected to {host}"


async def index(request):
    container = request.app["ah_container"]
    return web.Response(text=f"{container.engines['db'].result()} {container.config.main.greeting}"
                             f" {container.worker.cfg.keepalive} {container.worker.alive}")
"""
MAIN = "main: {greeting: hello}\nengines: {db: {host: db.example}}\n"


@pytest.mark.parametrize(
    "given", ["main.yaml", {"main": {"greeting": "hello"}, "engines": {"db": {"host": "db.example"}}}]
)
def test_code_of_its_time_runs_with_another_import(given):
    code = "import asyncio, types\nfrom aiohttp import web\n" + OLD.replace("api_hour", "hourd")
    options = {"config": given, "cfg": {"keepalive": 15}, "access_log": True}
    files = {"app.py": code.replace("app:", "app:"), "main.yaml": MAIN}
    server = {"app": "app:Container", "options": options}
    # aiohttp deprecates much of what was usual then.
    with Daemon(config("Container", server=server), files, environment={"PYTHONWARNINGS": "ignore"}) as daemon:
        daemon.expect("READY=1")
        assert asyncio.run(get(daemon.addresses()[0])) == "connected to db.example hello 15 True"
        daemon.wait_log(r'127\.0\.0\.1 - - \[.*"GET / HTTP/1\.1" 200')
        daemon.allow("stop is called as cleanup", "make_event_loop is not called", "custom kwargs")
        assert daemon.log.count("stop is called as cleanup") == 1
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert daemon.log.count("stopped: connected to db.example") == 2


GENERATOR = """
class Generator(Base):
    def pre_start(self):
        yield from super().pre_start()


class Nothing(Base):
    async def make_servers(self, sockets):
        pass


class Missing(Base):
    pass


class Encrypted(Base):
    async def make_servers(self, sockets):
        import ssl
        await asyncio.start_server(shout, sock=sockets[0].sock, ssl=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))


class Broken(Base):
    def make_servers(self):
        return [shout]

    async def start(self):
        raise RuntimeError("start on purpose")
"""


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("Generator", "Generator.pre_start is a generator function, which was a coroutine with @asyncio.coroutine"),
        ("Nothing", "make_servers has servers for 0 of 3 addresses (127.0.0.1:0, 127.0.0.2:0, 127.0.0.3:0)"),
        ("Missing", "Missing has no make_servers"),
        ("Encrypted", "make_servers gives a server ssl; leave that to tls:"),
        ("Broken", "RuntimeError: start on purpose"),
        ("__name__", "app is 'app', expected a subclass of hourd.Container"),
        ("shout", "shout() got an unexpected keyword argument 'config'"),
    ],
)
def test_what_cannot_be_served_is_told_before_anybody_is_ready(app, message):
    with Daemon(config(app, server={"bind": THREE}), {"app.py": BASE + GENERATOR}) as daemon:
        daemon.allow("server main", "it is stopped at once")
        assert daemon.wait() == 75
        assert message in daemon.log


def test_what_is_missing_in_old_code_is_told_with_where_to_read_on():
    code = "import asyncio, types\nfrom aiohttp import web\n" + OLD
    with Daemon(config("Container"), {"app.py": code}) as daemon:
        daemon.allow("cannot import", "it is stopped at once", "stopping")
        assert daemon.wait() == 75
        assert "No module named 'api_hour'" in daemon.log
        assert "docs/migration.md" in daemon.log


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot read config "), ("a: [\n", "config main.yaml:2: "), ("\0", "config main.yaml: ")],
)
def test_a_config_that_cannot_be_read_is_told(text, message, tmp_path):
    if text is not None:
        (tmp_path / "main.yaml").write_text(text)
    with contextlib.chdir(tmp_path), pytest.raises(errors.ConfigError) as refused:
        api_hour.read_config("main.yaml")
    assert str(refused.value).startswith(message)


def test_a_config_is_both_mapping_and_attributes():
    config = api_hour.read_config({"a": {"b": [{"c": 1}]}})
    assert isinstance(config, dict)
    assert config["a"].b[0].c == 1
    assert not hasattr(config.a, "c")
    assert api_hour.read_config(None) is None


def test_a_setting_that_there_is_not_is_told():
    with pytest.raises(AttributeError, match=r"worker.cfg has no reload: .* options: \{cfg: ...\}"):
        api_hour.Cfg({"keepalive": 3}).reload  # noqa: B018


def sock_at(address):
    """Return a socket bound to an address, which is the one of ``bind`` that is asked for."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family)
    sock.bind(address)
    return sock


@pytest.mark.parametrize(
    ("address", "bind", "entry"),
    [
        (("127.0.0.1", 0), ["127.0.0.2:0", "127.0.0.1:0"], 1),
        (("127.0.0.1", 0), ["127.0.0.2:0", "0.0.0.0:PORT"], 1),
        (("127.0.0.1", 0), ["127.0.0.2:0", ":PORT"], 1),
        (("127.0.0.1", 0), ["127.0.0.1:0", "127.0.0.1:PORT"], 1),
        (("::1", 0), [":1", "[::1]:PORT"], 1),
        (("127.0.0.1", 0), ["127.0.0.2:0", "systemd:http"], 1),
        (("127.0.0.1", 0), ["fd:7", "systemd:http"], None),
        ("\0hourd-test", ["127.0.0.1:0", "unix:@hourd-test"], 1),
    ],
)
def test_which_address_a_socket_has(address, bind, entry):
    with sock_at(address) as sock:
        name = sock.getsockname()
        bind = [text.replace("PORT", str(name[1])) for text in bind]
        if entry is None:
            with pytest.raises(errors.ConfigError, match="cannot tell which of fd:7, systemd:http"):
                entry_of(sock, bind)
        else:
            assert entry_of(sock, bind) == entry

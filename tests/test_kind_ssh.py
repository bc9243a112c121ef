"""``kind: ssh`` with asyncssh's client."""

from __future__ import annotations

import asyncio
import contextlib

import asyncssh
import pytest

from .daemon import Daemon, connect, pool

APP = """
import asyncio

import asyncssh

from hourd import Worker


async def process(process):
    match process.command:
        case "fail":
            raise RuntimeError("processed on purpose")
        case "wait":
            process.stdout.write("waiting\\n")
            await Worker.current().draining.wait()
            process.stdout.write("draining\\n")
        case "name":
            process.stdout.write(await process.stdin.readline())
    process.exit(0)


async def given(process, worker):
    process.stdout.write(f"slot {worker.slot}\\n")
    process.exit(0)


class Session(asyncssh.SSHServerSession):
    def connection_made(self, chan):
        self.chan = chan

    def exec_requested(self, command):
        if command == "fail":
            raise RuntimeError("session on purpose")
        self.chan.write(command)
        return True

    def session_started(self):
        self.chan.exit(0)


class Server(asyncssh.SSHServer):
    def __init__(self, worker):
        assert worker is Worker.current()

    def begin_auth(self, username):
        if username == "fail":
            raise RuntimeError("login on purpose")
        return True

    def password_auth_supported(self):
        return True

    def validate_password(self, username, password):
        return password == "right"

    def session_requested(self):
        return Session()


class LoginOnly(Server):
    session_requested = asyncssh.SSHServer.session_requested


def make_server(worker):
    return Server(worker)


class MadeFails(asyncssh.SSHServer):
    def connection_made(self, conn):
        raise RuntimeError("made on purpose")


def factory_fails():
    raise RuntimeError("factory on purpose")


def returns_nothing():
    return None


class Other: pass
"""
KEY = asyncssh.generate_private_key("ssh-ed25519")
LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


def ssh(app, **options):
    given = {"host_keys": ["host_key"], "create_host_keys": True, "authorized_keys": "authorized", **options}
    given = {name: value for name, value in given.items() if value is not None}
    return {"kind": "ssh", "app": f"app:{app}", "bind": "127.0.0.1:0", "grace": "5s", "options": given}


def files(**more):
    return {"app.py": APP, "authorized": KEY.export_public_key().decode(), **more}


def client(address, **options):
    host, _, port = address.rpartition(":")
    given = {"username": "me", "client_keys": [KEY], "known_hosts": None, "config": None, **options}
    return asyncssh.connect(host.strip("[]"), int(port), **given)


async def run(address, command, text=None, **options):
    async with client(address, **options) as connection:
        return await connection.run(command, input=text)


@LOOPS
@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize(
    ("app", "command", "said"),
    [
        ("process", "name", "hello\n"),
        ("given", "", "slot 0\n"),
        ("Session", "hello", "hello"),
        ("Server", "hello", "hello"),
        ("make_server", "hello", "hello"),
    ],
)
def test_each_form_of_application_serves_and_is_counted(app, command, said, loop, preload):
    server = {**ssh(app), "bind": ["127.0.0.1:0", "[::1]:0"]}
    typed = "hello\n" if command == "name" else None  # the others end before they could read
    with Daemon(pool(server=server, workers=1, loop=loop, preload=preload), files()) as daemon:
        daemon.expect("READY=1")
        for address in daemon.addresses():
            done = asyncio.run(run(address, command, typed, password="right"))
            assert (done.stdout, done.exit_status) == (said, 0)
        daemon.wait_until(lambda status: counts(status) == (0, 2))


def counts(status):
    (worker,) = status["pools"]["web"]["workers"]
    return worker["connections"], worker["accepted"]


def test_it_serves_at_a_unix_socket(tmp_path):
    server = {**ssh("process"), "bind": f"unix:{tmp_path}/s"}
    with Daemon(pool(server=server), files()) as daemon:
        daemon.expect("READY=1")

        async def talk():
            with connect(daemon.addresses()[0]) as sock:
                sock.setblocking(False)
                options = {"username": "me", "client_keys": [KEY], "known_hosts": None, "config": None}
                async with asyncssh.connect(sock=sock, **options) as connection:
                    return await connection.run("name", input="hello\n")

        assert asyncio.run(talk()).stdout == "hello\n"


@pytest.mark.parametrize(("app", "options"), [("process", {"client_keys": None}), ("Server", {"password": "wrong"})])
def test_who_may_not_log_in_is_kept_out(app, options):
    with Daemon(pool(server=ssh(app)), files()) as daemon:
        daemon.expect("READY=1")
        with pytest.raises(asyncssh.PermissionDenied):
            asyncio.run(run(daemon.addresses()[0], "name", **{"client_keys": None, **options}))


def test_nobody_may_log_in_is_said():
    with Daemon(pool(server=ssh("process", authorized_keys=None), workers=1), files()) as daemon:
        daemon.expect("READY=1")
        daemon.allow("nobody can log in")
        daemon.wait_log("warning +hourd.server.web.main.*nobody can log in: set authorized_keys")


def test_a_session_hears_that_the_worker_drains_and_a_new_one_is_served():
    with Daemon(pool(server=ssh("process")), files()) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()

        async def talk():
            async with client(address) as connection:
                process = await connection.create_process("wait")
                assert await process.stdout.readline() == "waiting\n"
                answer = await asyncio.to_thread(daemon.reload)
                assert answer.ok, answer.error
                assert await process.stdout.read() == "draining\n"
            assert (await run(address, "name", "new\n")).stdout == "new\n"

        asyncio.run(talk())


def test_a_session_beyond_the_grace_is_cut():
    with Daemon(pool(server={**ssh("process"), "grace": "200ms"}, workers=1), files()) as daemon:
        daemon.expect("READY=1")
        daemon.allow("open after its grace")

        async def talk():
            async with client(daemon.addresses()[0]) as connection:
                await connection.create_process("name")
                assert (await asyncio.to_thread(daemon.reload)).ok
                await connection.wait_closed()

        asyncio.run(talk())
        daemon.wait_log(r"warning +hourd\.server\.web\.main\[\d+\] cut 1 connection")


@LOOPS
@pytest.mark.parametrize(
    ("app", "options", "command", "message"),
    [
        ("process", {}, "fail", "RuntimeError: processed on purpose"),
        ("Session", {}, "fail", "RuntimeError: session on purpose"),
        ("Server", {"username": "fail"}, "", "RuntimeError: login on purpose"),
        ("MadeFails", {}, "", "RuntimeError: made on purpose"),
        ("factory_fails", {}, "", "RuntimeError: factory on purpose"),
        ("returns_nothing", {}, "", "TypeError: app returned None"),
    ],
)
def test_an_exception_is_shown_with_its_server_and_the_worker_lives_on(app, options, command, message, loop):
    with Daemon(pool(server=ssh(app), workers=1, loop=loop), files()) as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose", "returned None")
        before = daemon.workers()
        with contextlib.suppress(asyncssh.Error, OSError):
            done = asyncio.run(run(daemon.addresses()[0], command, password="right", **options))
            assert done.exit_status == (1 if app == "process" else None)
        daemon.wait_log(rf"error +hourd\.server\.web\.main\[\d+\] [^\n]*\nTraceback[^$]*{message}")
        daemon.wait_until(lambda status: counts(status) == (0, 1))
        (worker,) = daemon.pool()["workers"]
        assert worker["errors"] == 1
        assert daemon.log.count("Traceback") == 1
        assert daemon.workers() == before


def test_a_failing_session_leaves_others_of_its_connection_alone():
    with Daemon(pool(server=ssh("process"), workers=1), files()) as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose")

        async def talk():
            async with client(daemon.addresses()[0]) as connection:
                other = await connection.create_process("name")
                assert (await connection.run("fail")).exit_status == 1
                other.stdin.write("still here\n")
                assert await other.stdout.readline() == "still here\n"

        asyncio.run(talk())

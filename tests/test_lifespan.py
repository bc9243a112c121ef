"""The lifespan: around everything that a worker serves, and in the servers' hands."""

from __future__ import annotations

import pytest

from .daemon import Daemon, connect, pool, talk

APP = """
import asyncio
import contextlib
import pathlib

from hourd import Worker


def note(text):
    with open("notes", "a") as file:
        file.write(text + "\\n")


@contextlib.asynccontextmanager
async def lifespan(worker):
    note("opening")
    await asyncio.sleep(0.3)
    note("open")
    yield {"pool": worker.pool}
    note("closing")


@contextlib.asynccontextmanager
async def without_worker():
    yield {"pool": "none"}


@contextlib.asynccontextmanager
async def fails_at_boot():
    raise RuntimeError("boot on purpose")
    yield


@contextlib.asynccontextmanager
async def fails_at_shutdown():
    yield
    raise RuntimeError("shutdown on purpose")


@contextlib.asynccontextmanager
async def same_task():
    entered_in = asyncio.current_task()
    yield
    note(f"same task: {asyncio.current_task() is entered_in}")


class Classic:
    def __init__(self, worker):
        self.worker = worker

    async def __aenter__(self):
        return {"pool": self.worker.pool}

    async def __aexit__(self, *error):
        note("closing")


async def serve(reader, writer):
    note("connection")
    writer.write(repr(Worker.current().state).encode())
    await reader.read()
    await asyncio.sleep(0.1)
    note("connection ended")


def not_callable(worker):
    return 5
"""
LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


def config(lifespan, **settings):
    return pool(**{"lifespan": f"app:{lifespan}", "workers": 1, **settings})


@LOOPS
@pytest.mark.parametrize("preload", [True, False])
def test_it_is_opened_before_the_first_connection_and_closed_after_the_last(loop, preload):
    with Daemon(config("lifespan", loop=loop, preload=preload), {"app.py": APP}) as daemon:
        # The master listens from the start; what connects now waits for the worker.
        daemon.until(lambda: daemon.log and "starting" in daemon.log)
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with connect(address) as sock:
            assert sock.recv(100) == b"{'pool': 'web'}"
            daemon.ask("stop")
            daemon.expect("STOPPING=1")
        assert daemon.wait() == 0
        assert notes(daemon) == ["opening", "open", "connection", "connection ended", "closing"]


def notes(daemon):
    return (daemon.folder / "notes").read_text().splitlines()


@pytest.mark.parametrize(("lifespan", "state"), [("without_worker", "none"), ("Classic", "web")])
def test_what_it_yields_is_the_state(lifespan, state):
    with Daemon(config(lifespan, workers=2), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        assert talk(daemon.addresses()[0]) == f"{{'pool': '{state}'}}".encode()


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize(
    ("lifespan", "message"),
    [
        ("fails_at_boot", "RuntimeError: boot on purpose"),
        ("not_callable", "does not support the asynchronous context manager protocol"),
        ("missing", "cannot import app:missing"),
    ],
)
def test_its_exception_at_boot_is_shown(lifespan, message, preload):
    with Daemon(config(lifespan, preload=preload), {"app.py": APP}) as daemon:
        daemon.allow("lifespan", "it is stopped at once")
        assert daemon.wait() == 75
        assert message in daemon.log
        assert ("Traceback" in daemon.log) == (lifespan != "missing")


@LOOPS
def test_its_exception_at_shutdown_is_logged(loop):
    with Daemon(config("fails_at_shutdown", loop=loop), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("shutdown on purpose", "while it drained")
        talk(daemon.addresses()[0])
        assert daemon.ask("stop").ok
        assert daemon.wait() == 0
        assert daemon.log.count("RuntimeError: shutdown on purpose") == 1


def test_a_lifespan_that_fails_is_a_reason_to_refuse_a_reload():
    with Daemon(config("lifespan"), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("boot on purpose")
        daemon.configure(config("fails_at_boot"))
        answer = daemon.reload()
        assert not answer.ok
        assert "RuntimeError: boot on purpose" in answer.error
        assert talk(daemon.addresses()[0]) == b"{'pool': 'web'}"


def test_it_is_left_in_the_task_that_entered_it():
    with Daemon(config("same_task"), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        assert daemon.ask("stop").ok
        assert daemon.wait() == 0
        assert notes(daemon) == ["same task: True"]

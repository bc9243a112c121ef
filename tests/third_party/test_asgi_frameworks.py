"""ASGI frameworks, unchanged: asked by real clients, reloaded, with a worker killed while clients ask, and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed

from ..daemon import Daemon, pool
from ..witness import KeepAlive

APPS = Path(__file__).parent / "apps"
CLIENTS = 4
BODY = os.urandom(1_000_000)
WITHOUT_WEBSOCKETS = ("django",)
WITHOUT_LIFESPAN = ("django",)


def serve(name):
    """Start a framework's application with two workers."""
    server = {"kind": "asgi", "app": f"{name}_app:app", "grace": "10s"}
    files = {f"{name}_app.py": (APPS / f"{name}_app.py").read_text()}
    # Their warnings are theirs.
    daemon = Daemon(pool(server=server), files, environment={"PYTHONWARNINGS": ""})
    daemon.allow("Not Found: /nowhere", r"info +hourd.*\nended\n")
    return daemon


async def ask_everything(name, address):
    async with aiohttp.ClientSession(f"http://{address}") as session:

        async def ask(path, **more):
            async with session.request("POST" if more else "GET", path, **more) as response:
                assert response.status == 200, (path, await response.text())
                return await response.json()

        assert await ask("/json") == {"hello": "world"}
        assert await ask("/items/caf%C3%A9") == {"name": "café"}
        if name not in WITHOUT_LIFESPAN:
            assert await ask("/started") == {"started": True}
        assert await ask("/upload", data=BODY) == {"size": len(BODY)}
        async with session.get("/stream") as response:
            assert await response.text() == "".join(f"line {number}\n" for number in range(5))
        async with session.get("/nowhere") as response:
            assert response.status == 404


async def talk(address, reload):
    """Talk over a websocket, and be told of the end while its worker drains."""
    async with connect_websocket(f"ws://{address}/ws") as websocket:
        for text in ("hello", "x" * 100_000, "bye"):
            await websocket.send(text)
            assert await websocket.recv() == text
        answer = await asyncio.to_thread(reload)
        assert answer.ok
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


@pytest.mark.parametrize("name", ["starlette", "fastapi", "falcon", "django", "quart", "sanic"])
def test_it_answers_and_loses_nothing(name):
    with serve(name) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        asyncio.run(ask_everything(name, address))
        with KeepAlive(address, CLIENTS) as clients:
            clients.wait_for(50)
            if name in WITHOUT_WEBSOCKETS:
                assert daemon.reload().ok
            else:
                asyncio.run(talk(address, daemon.reload))
            clients.wait_for(50)
            assert not clients.failures
            kill(daemon, clients)
        began = time.monotonic()
        daemon.wait_for_the_old()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert time.monotonic() - began < 10, "it is stopped within its grace"
        assert " cut " not in daemon.log
        if name not in WITHOUT_LIFESPAN:
            # Two workers before the reload, of the two after it one was killed, and its successor.
            assert daemon.log.splitlines().count("ended") == 4


def kill(daemon, clients):
    """Kill a worker: only what it was just being asked is lost, which each client has noticed once at most."""
    daemon.allow("killed by SIGKILL", "signal 9")
    victim = daemon.workers()[0]
    os.kill(victim, signal.SIGKILL)
    daemon.wait_until(lambda _: victim not in daemon.workers() and len(daemon.workers()) == 2)
    clients.wait_for(50)
    assert len(clients.failures) <= CLIENTS
    clients.failures.clear()
    clients.wait_for(50)

"""What one worker of hourd can run side by side: HTTP, SSH and plain TCP, on one shared state.

etc/hourd.yaml starts it. The state lives as long as its worker, and each worker has its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import asyncssh
from aiohttp import web

if TYPE_CHECKING:
    from hourd import Worker

T = TypeVar("T")


@dataclass
class Board:
    """Counters and a small message board."""

    counts: Counter[str] = field(default_factory=Counter)
    messages: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    users: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[Board]:
    """Open what the servers of a worker share; a connection pool to a database would stand here."""
    yield Board()


async def unless_draining(worker: Worker, waiting: Awaitable[T]) -> T | None:
    """Wait for something, or return nothing once the worker is to finish."""
    wanted = asyncio.ensure_future(waiting)
    draining = asyncio.ensure_future(worker.draining.wait())
    try:
        await asyncio.wait((wanted, draining), return_when=asyncio.FIRST_COMPLETED)
        return wanted.result() if wanted.done() else None
    finally:
        wanted.cancel()
        draining.cancel()


# --- HTTP -----------------------------------------------------------------------------------------


def create_app(worker: Worker) -> web.Application:
    """Make the application; hourd calls this in each worker, and gives it the worker."""
    board: Board = worker.state

    async def index(_request: web.Request) -> web.Response:
        board.counts["http"] += 1
        return web.Response(text=f"{report(worker)}\n")

    async def messages(_request: web.Request) -> web.Response:
        board.counts["http"] += 1
        return web.json_response({"slot": worker.slot, "messages": list(board.messages)})

    async def say(request: web.Request) -> web.Response:
        board.counts["http"] += 1
        board.messages.append(await request.text())
        return web.Response(status=201)

    app = web.Application()
    app.add_routes([web.get("/", index), web.get("/messages", messages), web.post("/messages", say)])
    return app


def report(worker: Worker) -> str:
    """Say who this is and what it has done."""
    done = ", ".join(f"{name} {count}" for name, count in sorted(worker.state.counts.items()))
    return f"worker {worker.slot} of {worker.name}, generation {worker.generation}, pid {os.getpid()}: {done}"


# --- SSH ------------------------------------------------------------------------------------------


class Shell(asyncssh.SSHServer):
    """A line shell. hourd makes one for each connection, and gives it the worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._board: Board = worker.state
        self._user = ""

    def begin_auth(self, username: str) -> bool:
        self._user = username
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        # Known to everybody: only for a server that listens on loopback.
        return username == "demo" and hmac.compare_digest(password.encode(), b"demo")

    def session_requested(self) -> Callable[..., Awaitable[None]]:
        return self._talk

    async def _talk(self, stdin: asyncssh.SSHReader[str], stdout: asyncssh.SSHWriter[str], _: object) -> None:
        self._board.counts["ssh"] += 1
        self._board.users.append(self._user)
        try:
            if command := stdout.channel.get_command():
                stdout.write(self._obey(command))
            else:
                await self._read_commands(stdin, stdout)
        finally:
            self._board.users.remove(self._user)
            stdout.channel.exit(0)

    async def _read_commands(self, stdin: asyncssh.SSHReader[str], stdout: asyncssh.SSHWriter[str]) -> None:
        greeting = os.environ.get("DEMO_GREETING", "welcome")
        stdout.write(f"{greeting}, {self._user}: status, who, say TEXT, read, exit\n> ")
        while line := await unless_draining(self._worker, stdin.readline()):
            if line.strip() == "exit":
                return
            stdout.write(f"{self._obey(line)}> ")
        if self._worker.draining.is_set():
            stdout.write("\nthis worker is being replaced: please connect again\n")

    def _obey(self, line: str) -> str:
        match line.strip().partition(" "):
            case "", _, _:
                return ""
            case "status", _, _:
                return f"{report(self._worker)}\n"
            case "who", _, _:
                return "".join(f"{user}\n" for user in self._board.users)
            case "say", _, text:
                self._board.messages.append(text)
                return ""
            case "read", _, _:
                return "".join(f"{message}\n" for message in self._board.messages)
            case word, _, _:
                return f"{word}: no such command; there are status, who, say TEXT, read, exit\n"


# --- TCP ------------------------------------------------------------------------------------------


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, worker: Worker) -> None:
    """Send back what comes, until the client ends or the worker drains."""
    worker.state.counts["tcp"] += 1
    while data := await unless_draining(worker, reader.read(65536)):
        writer.write(data)
        await writer.drain()

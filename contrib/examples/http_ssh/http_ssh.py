"""What is typed over SSH is shown over HTTP, whichever of the workers is asked.

Workers are processes: what all of them are to see lies outside. Here it is a file that only grows.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncssh
from aiohttp import web

if TYPE_CHECKING:
    from hourd import Worker

SHOWN = 64 * 1024
"""Bytes at the end of the text that are shown."""


class Text:
    """The text that all workers share."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def append(self, line: str) -> None:
        """Add a line. With the lock it is whole, even if the system takes only a part at a time."""
        rest = memoryview(f"{line}\n".encode())
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def read(self) -> str:
        """Return the end of the text."""
        size = os.fstat(self._fd).st_size
        return os.pread(self._fd, SHOWN, max(0, size - SHOWN)).decode(errors="replace")

    def close(self) -> None:
        os.close(self._fd)


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[Text]:
    """Open the text in each worker: a lock belongs to an open file, so that a shared one would lock nobody out."""
    with contextlib.closing(Text(os.environ["TYPED"])) as text:
        yield text


class Server(asyncssh.SSHServer):
    """One SSH connection. Everybody may log in, without a password: only for loopback."""

    def __init__(self, worker: Worker) -> None:
        self._text: Text = worker.state

    def begin_auth(self, _username: str) -> bool:
        return False  # none is needed

    def session_requested(self) -> Session:
        return Session(self._text)


class Session(asyncssh.SSHServerSession[str]):
    """One session: each line that is typed becomes a line of the text."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._rest = ""

    def connection_made(self, chan: asyncssh.SSHServerChannel[str]) -> None:
        self._chan = chan

    def shell_requested(self) -> bool:
        return True

    def session_started(self) -> None:
        self._chan.write("Type lines; end with ctrl-d.\n")

    def data_received(self, data: str, _datatype: asyncssh.DataType) -> None:
        *lines, self._rest = (self._rest + data).split("\n")
        for line in lines:
            self._text.append(line)
            self._chan.write(f"{len(line)} characters\n")

    def eof_received(self) -> bool:
        if self._rest:
            self._text.append(self._rest)
        self._chan.exit(0)
        return False


def create_app(worker: Worker) -> web.Application:
    """Make the HTTP application of a worker."""

    async def index(_request: web.Request) -> web.Response:
        text: Text = worker.state
        return web.Response(text=text.read(), headers={"X-Worker": str(worker.slot)})

    app = web.Application()
    app.router.add_get("/", index)
    return app

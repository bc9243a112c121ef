"""A whole service in one file: a protocol of its own over TCP, and HTTP beside it.

The protocol counts words: a client sends lines, and gets for each how many words it has.
HTTP shows how many lines and words the worker has counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from hourd import Worker

LINE_MAX = 1024


@dataclass
class Service:
    """What both servers of a worker share."""

    lines: int = 0
    words: int = 0
    open: set[WordCount] = field(default_factory=set)


@contextlib.asynccontextmanager
async def lifespan(worker: Worker) -> AsyncIterator[Service]:
    """Begin before the first connection and end after the last."""
    service = Service()
    ending = asyncio.ensure_future(end_with(worker, service))
    yield service
    ending.cancel()


async def end_with(worker: Worker, service: Service) -> None:
    """Tell the clients that are connected when the worker is to finish."""
    await worker.draining.wait()
    for connection in tuple(service.open):
        connection.end()


class WordCount(asyncio.Protocol):
    """One connection. hourd makes a new one for each, and gives it the worker."""

    def __init__(self, worker: Worker) -> None:
        self._service: Service = worker.state
        self._rest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._service.open.add(self)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            words = len(line.split())
            self._service.lines += 1
            self._service.words += words
            self._transport.write(b"%d\n" % words)
        if len(self._rest) > LINE_MAX:
            self.end()

    def connection_lost(self, _error: Exception | None) -> None:
        self._service.open.discard(self)

    def end(self) -> None:
        """Say so, and close once everything is sent."""
        self._transport.write(b"bye\n")
        self._transport.close()


def create_app(worker: Worker) -> web.Application:
    """Make the HTTP application of a worker."""

    async def index(_request: web.Request) -> web.Response:
        service: Service = worker.state
        return web.json_response({"pid": os.getpid(), "lines": service.lines, "words": service.words})

    app = web.Application()
    app.router.add_get("/", index)
    return app

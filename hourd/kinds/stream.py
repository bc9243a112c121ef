"""``kind: stream``: any stream server written as a coroutine function of a reader and a writer."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from msgspec import Struct

from .. import errors
from ..context import give_worker
from .callables import is_coroutine_function
from .connections import StreamKind
from .options import StreamOptions


class Stream(StreamKind):
    """Run ``app(reader, writer)`` for each connection, as ``asyncio.start_server`` would."""

    Options: ClassVar[type[Struct]] = StreamOptions

    async def open(self) -> None:
        app = self.context.app
        if not is_coroutine_function(app):
            raise errors.BootError(f"app is {app!r}, expected a coroutine function of (reader, writer)")
        self._handler = give_worker(app, self.context.worker, arguments=2)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        # A handler may have something to finish after its client is gone.
        return max(super().connections, len(self._tasks))

    def protocol(self) -> asyncio.BaseProtocol:
        reader = asyncio.StreamReader(limit=self.context.options.limit, loop=asyncio.get_running_loop())
        return asyncio.StreamReaderProtocol(reader, self._connected)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._handle(reader, writer))
        # The loop keeps only weak references to its tasks.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._handler(reader, writer)
        except Exception as error:
            if _is_gone(error):
                self.context.log.debug("the peer closed the connection", exc_info=True)
                return
            self.failed(f"error while serving {writer.get_extra_info('peername') or 'a client'}", error)
        finally:
            writer.close()

    async def close(self) -> None:
        await super().close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _is_gone(error: Exception) -> bool:
    """Tell whether an exception only says that the peer is gone; uvloop has its own way of saying so to writers."""
    return isinstance(error, ConnectionError) or (isinstance(error, RuntimeError) and "handler is closed" in str(error))

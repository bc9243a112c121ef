"""``kind: lines``: a server that answers each line with a line, written as ``async def app(line)``.

A client that is told ``goodbye`` reads the answers it still waits for, closes and comes again.
"""

import asyncio
from typing import Annotated

from msgspec import Meta, Struct

from hourd import StreamKind


class Lines(StreamKind):
    """Answer each line; say goodbye when the worker drains."""

    class Options(Struct, frozen=True, kw_only=True):
        longest: Annotated[int, Meta(ge=1, description="bytes in a line, at most")] = 65536
        goodbye: Annotated[str, Meta(pattern=r"^[^\r\n]+$", description="said when the worker drains")] = "BYE"

    async def open(self) -> None:
        if not asyncio.iscoroutinefunction(self.context.app):
            raise TypeError(f"app is {self.context.app!r}, expected a coroutine function of (line)")
        self.writers = set()

    def protocol(self) -> asyncio.BaseProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(self.context.options.longest), self.converse)

    async def converse(self, reader, writer) -> None:
        self.writers.add(writer)
        try:
            async for line in reader:
                self.requests += 1
                writer.write(await self.context.app(line.rstrip(b"\r\n")) + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # the client is gone
        except Exception as error:  # noqa: BLE001, the application may raise anything
            self.failed("a conversation failed", error)
        finally:
            self.writers.discard(writer)
            writer.close()

    def drain(self) -> None:
        for writer in self.writers:
            if not writer.is_closing():
                writer.write(self.context.options.goodbye.encode() + b"\n")

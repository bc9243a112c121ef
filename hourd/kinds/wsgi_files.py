"""The file-like objects of an environ: ``wsgi.input``, ``wsgi.errors`` and ``wsgi.file_wrapper``."""

from __future__ import annotations

import io
import logging
import os
import stat
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, BinaryIO

from .wsgi_threads import Threads

IN_MEMORY = 1024 * 1024
"""Bytes of a request's or response's body that are kept in memory; what is larger goes to a temporary file."""
BLOCK = 256 * 1024
"""Bytes of a file that are read at a time."""
EMPTY = io.BytesIO
_LONGEST_RECORD = 64 * 1024


class ClientGone(ConnectionError):  # noqa: N818, not an error of ours
    """Nobody is there any more to be answered."""


def comes_of_the_end(error: BaseException | None) -> bool:
    """Tell whether an exception is what became of a client's end."""
    while error is not None and not isinstance(error, ClientGone):
        error = error.__cause__ or error.__context__
    return error is not None


async def read_body(receive: Callable[[], Awaitable[Any]], threads: Threads) -> tuple[BinaryIO, int]:
    """Read a request's body, whole; returns it from its beginning, and its size in bytes.

    Args:
        receive: as ASGI has it.
        threads: who writes to a disk.

    Raises:
        ClientGone: the client did not send all of it, or was refused meanwhile.
    """
    file: BinaryIO = io.BytesIO()
    size, on_disk = 0, False
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone  # noqa: TRY301
            data = message.get("body", b"")
            size += len(data)
            if size > IN_MEMORY and not on_disk:
                file, on_disk = await threads.call(_to_disk, file), True
            if on_disk:
                await threads.call(file.write, data)
            else:
                file.write(data)
            if not message.get("more_body", False):
                await threads.call(file.seek, 0) if on_disk else file.seek(0)
                return file, size
    except BaseException:
        file.close()
        raise


def _to_disk(memory: BinaryIO) -> BinaryIO:
    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115, closed by whoever reads it
    file.write(memory.getbuffer())  # type: ignore[attr-defined]
    return file


class FileWrapper:
    """``wsgi.file_wrapper``: says that a response is a file, which the server then sends in its own way."""

    def __init__(self, filelike: Any, block_size: int = 65536) -> None:
        self.filelike = filelike
        self._block_size = block_size
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if data := self.filelike.read(self._block_size):
            return data  # type: ignore[no-any-return]
        raise StopIteration

    def size(self) -> int | None:
        """Return how many bytes are left of a file on a disk; ``None`` for anything else.

        Objects that only look like one (``gzip.GzipFile`` has a ``fileno()`` too) are read as any iterable is.
        """
        raw = self.filelike.raw if isinstance(self.filelike, io.BufferedReader | io.BufferedRandom) else self.filelike
        if not isinstance(raw, io.FileIO) or raw.closed:
            return None
        found = os.fstat(raw.fileno())
        return max(0, found.st_size - self.filelike.tell()) if stat.S_ISREG(found.st_mode) else None


class Errors:
    """``wsgi.errors``: what is written until a flush, or the end of the request, is one record of the server's log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._text: list[str] = []
        self._length = 0

    def write(self, text: str) -> int:
        self._text.append(text)
        self._length += len(text)
        if self._length > _LONGEST_RECORD:
            self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._text:
            text, self._text, self._length = "".join(self._text).rstrip(), [], 0
            if text:
                self._log.error("%s", text)

"""Lines from an event loop to a file or to standard error, without the loop ever waiting for them.

Lines are collected and handed, in batches, to a thread that waits in the loop's place: for a pipe that is not
read, a terminal that was stopped, a disk. What is on its way is bounded; beyond that, lines are dropped, and counted.

What does not work: non-blocking writes. ``O_NONBLOCK`` belongs to the file description, which is shared with
siblings and with whoever started hourd. To open ``/proc/self/fd/2`` anew needs permission, which a pipe of
root's does not give to the user of the workers. To ask ``poll()`` first is a race with siblings. And nothing of that
helps against a disk that stalls.

Lines of several processes never mix: each write is of whole lines, to anything but a file at most ``PIPE_BUF`` bytes
(pipe(7)), and files are written with ``O_APPEND``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import select
import signal
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

LINE_MAX: Final = 4096
"""Bytes of a line, its end included: what a pipe takes whole (PIPE_BUF)."""
_EVERY: Final = 0.1
"""Seconds for which lines are collected."""
_SHAPED: Final = 64
"""Items that become lines at once: that takes less time than one by one, and keeps them for a moment only."""
_BATCH: Final = 64 * 1024
"""Bytes after which a batch is handed over sooner."""
_PENDING_MAX: Final = 1024 * 1024
"""Bytes that may be on their way to one destination."""
_LAST_WAIT: Final = 1.0
"""Seconds that the last lines have at the end."""
_REMIND: Final = 10.0
"""Seconds between two lines in the log that say how many were dropped."""
_INHERITED: Final = {None: 2, "/dev/stderr": 2, "/dev/stdout": 1}
"""Paths that mean what this process has open already: they may lead to what it may not open again."""
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class LineWriter:
    """Lines to one destination. Everything but ``_Thread`` belongs to the event loop."""

    def __init__(self, path: str | None, shape: Callable[[Any], str], what: str, log: logging.Logger) -> None:
        """Open the destination and begin.

        Args:
            shape: makes a line of an item, with its end; ASCII, of at most ``LINE_MAX`` bytes.
            path: a file, which is created with mode 0640; ``None`` for standard error.
            what: it is called in the log.
            log: where it is told that lines were dropped, and why.

        Raises:
            OSError: the file cannot be opened.
        """
        self._what = f"{what} ({path or 'standard error'})"
        self._log = log
        self._thread = _Thread(path)
        self._shape = shape
        self._items: list[Any] = []
        self._lines: list[str] = []
        self._size = 0
        self._due = 0
        """The number of items at which something is to be done."""
        self._ticking = False
        self._handed = 0
        self._dropped = 0
        self._told = 0
        self._tell_next = 0.0
        self._troubled: str | None = None

    def add(self, item: Any) -> None:
        """Take what a line is to be made of."""
        self._items.append(item)
        if len(self._items) >= self._due:
            self._begin_or_hand_over()

    def reopen(self) -> None:
        """Open the file anew, after a rotation: lines so far go to the one that is open."""
        self._hand_over()
        self._thread.todo.put(_REOPEN)

    async def close(self) -> None:
        """Write what is left, for a second at most, and close."""
        self._hand_over()
        ended = asyncio.Event()
        self._thread.end(asyncio.get_running_loop(), ended)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WAIT):
                await ended.wait()
        self._tell(last=True)
        if not ended.is_set():
            self._log.warning("%s: the last lines were not taken within %gs", self._what, _LAST_WAIT)

    def _begin_or_hand_over(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._due = _SHAPED
            asyncio.get_running_loop().call_later(_EVERY, self._tick)
        else:
            self._make_lines()
            if self._size >= _BATCH:
                self._hand_over()

    def _make_lines(self) -> None:
        items, self._items = self._items, []
        lines = list(map(self._shape, items))
        self._lines += lines
        self._size += sum(map(len, lines))

    def _tick(self) -> None:
        """Hand over what has come; until nothing comes and nothing is on its way or is to be told."""
        self._tell()
        self._hand_over()
        thread = self._thread
        if self._handed == thread.written and self._told == self._dropped + thread.lost and not thread.trouble:
            self._ticking = False
            self._due = 0
        else:
            asyncio.get_running_loop().call_later(_EVERY, self._tick)

    def _hand_over(self) -> None:
        self._make_lines()
        lines, size = self._lines, self._size
        if not lines:
            return
        self._lines, self._size = [], 0
        if self._handed + size - self._thread.written > _PENDING_MAX:
            self._dropped += len(lines)
            return
        self._handed += size
        self._thread.todo.put(lines)

    def _tell(self, *, last: bool = False) -> None:
        """Log what has gone wrong: a cause once, and how many lines it has cost when there is room again."""
        trouble = self._thread.trouble
        if trouble and trouble != self._troubled:
            self._log.warning("%s: %s; lines are lost", self._what, trouble)
        self._troubled = trouble
        if self._thread.remark:
            self._log.warning("%s: %s", self._what, self._thread.remark)
            self._thread.remark = None
        lost = self._dropped + self._thread.lost
        now = asyncio.get_running_loop().time()
        # While lines wait, one that tells of this might be dropped as well: to standard error, it takes the same way.
        full = trouble or self._handed != self._thread.written
        if lost > self._told and (last or (not full and now >= self._tell_next)):
            self._log.warning("%s: %d lines were dropped", self._what, lost - self._told)
            self._told, self._tell_next = lost, now + _REMIND


class _Reopen:
    """Among batches: open the file anew."""


_REOPEN: Final = _Reopen()


class _Thread:
    """Writes, and waits. What others read of it are single numbers and texts."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path in _INHERITED else path
        self._fd = _open(path) if self._path else os.dup(_INHERITED[path])
        self._in_pieces = not stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._torn = False
        """A part of a line was written last, and no end of it."""
        self._stuck = False
        """The file could not be opened again, and that was told."""
        self._ended: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self.todo: queue.SimpleQueue[list[str] | _Reopen | None] = queue.SimpleQueue()
        self.written = 0
        """Bytes that are not on their way any more."""
        self.lost = 0
        """Lines that could not be written."""
        self.trouble: str | None = None
        """Why they cannot, now."""
        self.remark: str | None = None
        """What is to be told once."""
        # Signals are for the loop's thread. And who writes to a terminal from the background gets one, unless
        # it is blocked (SIGTTOU, termios(3)).
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            # A daemon: should it wait for good, the process ends nevertheless.
            threading.Thread(target=self._run, name="hourd-line-writer", daemon=True).start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def end(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
        """End after what is to be done; the event is set then."""
        self._ended = loop, ended
        self.todo.put(None)

    def _run(self) -> None:
        while todo := self.todo.get():
            if isinstance(todo, _Reopen):
                self._reopen()
            else:
                self._write_lines(todo)
        os.close(self._fd)
        assert self._ended
        loop, ended = self._ended
        with contextlib.suppress(RuntimeError):  # the loop has not waited for this
            loop.call_soon_threadsafe(ended.set)

    def _write_lines(self, lines: list[str]) -> None:
        size = sum(map(len, lines))
        if self._path and not os.fstat(self._fd).st_nlink:
            self._reopen()
            if not self._stuck:
                self.remark = "the file was deleted; another was made"
        for piece, count in _pieces(lines) if self._in_pieces else [(_encoded(lines), len(lines))]:
            try:
                self._write(piece)
            except OSError as error:
                self.lost += count
                self.trouble = error.strerror or str(error)
            else:
                self.trouble = None
        self.written += size

    def _write(self, data: bytes) -> None:
        left = memoryview(b"\n" + data if self._torn else data)
        whole = len(left)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # somebody else who has it has made it non-blocking
                _wait_until_writable(self._fd)
            except OSError:
                # A disk that is full may have taken a part.
                self._torn = self._torn or (not self._in_pieces and len(left) < whole)
                raise
        self._torn = False

    def _reopen(self) -> None:
        if not self._path:
            return
        try:
            fd = _open(self._path)
        except OSError as error:
            if not self._stuck:
                self.remark = f"the file cannot be opened again: {error.strerror or error}; lines go where they went"
            self._stuck = True
            return
        self._stuck = False
        os.close(self._fd)
        self._fd = fd


def _open(path: str | None) -> int:
    """Open a file for lines. Its folder may be somebody else's, who may have put there what is not ours to write to.

    Raises:
        OSError: it cannot be opened, or is no regular file of this user's or of root's.
    """
    assert path
    fd = os.open(path, _FLAGS, 0o640)  # without waiting for the reader of a FIFO
    there = os.fstat(fd)
    why = None
    if not stat.S_ISREG(there.st_mode):
        why = "it is no regular file"
    elif there.st_uid not in (os.geteuid(), 0) or there.st_nlink > 1:
        why = "it belongs to another user, or has another name"
    if why:
        os.close(fd)
        raise OSError(0, why)
    os.set_blocking(fd, True)
    return fd


def _encoded(lines: Iterable[str]) -> bytes:
    return "".join(lines).encode("ascii")


def _pieces(lines: Iterable[str]) -> Iterator[tuple[bytes, int]]:
    """Yield whole lines that a pipe takes at once, and how many they are."""
    piece: list[str] = []
    size = 0
    for line in lines:
        if size + len(line) > LINE_MAX:
            yield _encoded(piece), len(piece)
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    yield _encoded(piece), len(piece)


def _wait_until_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()

"""Logging, set up once in each process: to standard error, as text, JSON or for the journal.

Standard error is left as it is, since it is shared with whoever started hourd. A consumer that does
not read must stop neither the master nor a worker's loop, so a line that would block is dropped, and the drops
are counted.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from typing import Any

import msgspec

from . import request_id
from .settings import Log

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_CHUNK = 4096  # PIPE_BUF: what a pipe that polls writable takes without blocking


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.123Z info hourd[4200] message``."""

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        return f"{_timestamp(record)} {level:<7} {record.name}[{record.process}] {super().format(record)}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if (request := request_id.known()) is not None:
            entry["request_id"] = request
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry).decode()


class JournalFormatter(logging.Formatter):
    """Each line with its priority, as sd-daemon(3) describes; the journal knows time and process."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_SYSLOG.get(record.levelno, 5)}>"
        text = f"{record.name}: {super().format(record)}"
        return "\n".join(prefix + line for line in text.splitlines())


_FORMATTERS = {"text": TextFormatter, "json": JsonFormatter, "journal": JournalFormatter}


class NonBlockingHandler(logging.Handler):
    """Write to standard error only what it takes at once."""

    def __init__(self) -> None:
        super().__init__()
        self._poll = select.poll()
        self._poll.register(2, select.POLLOUT)
        self._dropped = 0
        self._terminal = os.isatty(2)

    def emit(self, record: logging.LogRecord) -> None:
        if self._dropped and self._write(f"[{self._dropped} log lines were dropped: standard error was not read]\n"):
            self._dropped = 0
        if not self._write(self.format(record) + "\n"):
            self._dropped += 1

    def _write(self, text: str) -> bool:
        if not self._terminal:
            return self._write_now(text)
        # In the background, a terminal may answer with SIGTTOU (stty tostop); blocked, it lets us write.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            return self._write_now(text)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _write_now(self, text: str) -> bool:
        data = memoryview(text.encode(errors="backslashreplace"))
        for start in range(0, len(data), _CHUNK):
            if not any(events & select.POLLOUT for _, events in self._poll.poll(0)):
                return False
            try:
                os.write(2, data[start : start + _CHUNK])
            except OSError:
                return False  # the terminal or the reader is gone: nobody is left to tell
        return True


def set_up(log: Log) -> None:
    """Send everything that is logged in this process to standard error."""
    handler = NonBlockingHandler()
    handler.setFormatter(_FORMATTERS[log.format]())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[log.level])


def reopen() -> None:
    """Reopen the log files of this process (SIGUSR1, after a rotation)."""
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        if isinstance(handler, logging.FileHandler) and handler.stream is not None:
            old = handler.setStream(handler._open())  # noqa: SLF001, documented in spite of its name
            if old is not None:
                old.close()


def _timestamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"

"""Signals of the master: a handler only enqueues, through ``signal.set_wakeup_fd``."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

from .events import Event, Interrupted, ReloadAsked, ScaleAsked, StopAsked

SIGNALS: dict[signal.Signals, Event] = {
    signal.SIGHUP: ReloadAsked(),
    signal.SIGTERM: StopAsked(),
    signal.SIGINT: Interrupted(),
    signal.SIGQUIT: StopAsked(now=True),
    signal.SIGTTIN: ScaleAsked(+1),
    signal.SIGTTOU: ScaleAsked(-1),
}
"""What a signal means; the README has the same list."""
OTHERS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


class Signals:
    """The signals that came, readable as from a file."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in (*SIGNALS, *OTHERS):
            signal.signal(number, _ignore)

    def fileno(self) -> int:
        return self._read.fileno()

    def close(self) -> None:
        """Hear no more signals; they are still handled, so that none ends the process."""
        signal.set_wakeup_fd(-1)
        self._read.close()
        self._write.close()

    def take(self) -> Iterator[signal.Signals]:
        """Yield the signals since the last call, in order."""
        try:
            numbers = self._read.recv(4096)
        except BlockingIOError:
            return
        yield from map(signal.Signals, numbers)


def _ignore(_signal: int, _frame: object) -> None:
    """Do nothing: the number is on its way through the wakeup descriptor."""

"""Signals of the master: a handler only enqueues; ``signal.set_wakeup_fd`` ends the wait."""

from __future__ import annotations

import contextlib
import signal
import socket

from .events import Event, Interrupted, ReloadAsked, StepAsked, StopAsked

SIGNALS: dict[signal.Signals, Event] = {
    signal.SIGHUP: ReloadAsked(),
    signal.SIGTERM: StopAsked(),
    signal.SIGINT: Interrupted(),
    signal.SIGQUIT: StopAsked(now=True),
    signal.SIGTTIN: StepAsked(+1),
    signal.SIGTTOU: StepAsked(-1),
}
"""What a signal means; the README has the same list."""
OTHERS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


class Signals:
    """The signals that came; becomes readable when there are some.

    The wakeup descriptor only wakes: its buffer may be full, and which signals came is noted apart,
    once each, so that a storm of one kind cannot drown another.
    """

    def __init__(self) -> None:
        self._came: dict[int, None] = {}
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in (*SIGNALS, *OTHERS):
            signal.signal(number, self._note)

    def fileno(self) -> int:
        return self._read.fileno()

    def close(self) -> None:
        """Hear no more signals; they are still handled, so that none ends the process."""
        signal.set_wakeup_fd(-1)
        self._read.close()
        self._write.close()

    @property
    def untaken(self) -> bool:
        """Whether some have come since they were taken."""
        return bool(self._came)

    def take(self) -> list[signal.Signals]:
        """Return the signals since the last call, in the order of their first coming."""
        with contextlib.suppress(BlockingIOError):
            self._read.recv(65536)
        came, self._came = self._came, {}
        return [signal.Signals(number) for number in came]

    def _note(self, number: int, _frame: object) -> None:
        self._came[number] = None

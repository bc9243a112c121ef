"""The stacks of a process that hangs: written by itself, on a signal, even while it is in C code.

The signal handler is faulthandler's. It needs neither the event loop nor the interpreter's lock, and
writes to the process's scoreboard, behind the record: to a place of bounded size that the master
can read at any time.
"""

from __future__ import annotations

import faulthandler
import os
import signal

from . import scoreboard

SIGNAL = signal.SIGRTMAX
"""One that nobody has another use for. A process that does not know it would die of it."""


def show_on_signal(board_fd: int) -> None:
    """Write the stacks of all threads when asked.

    Args:
        board_fd: of this process's scoreboard; stays open for as long as the process lives.
    """
    os.lseek(board_fd, scoreboard.STACKS, os.SEEK_SET)
    faulthandler.register(SIGNAL, file=board_fd, all_threads=True)

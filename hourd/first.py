"""What ``hourd start`` does before anything else is imported: as PID 1 it keeps the signals that come too early.

The kernel drops a signal to PID 1 of a PID namespace that it has no handler for (pid_namespaces(7)), and a
container that was told to stop while it started would be killed at the end of its patience. A signal that is
blocked waits instead, until ``daemon.py`` lets it in. Elsewhere the default is right: nothing was begun, so that the
process may die of it.
"""

from __future__ import annotations

import os
import signal
import sys

if os.getpid() == 1 and sys.argv[1:2] == ["start"]:
    # Not SIGINT: Python has a handler for it from the beginning.
    early = (
        signal.SIGHUP,
        signal.SIGTERM,
        signal.SIGQUIT,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGUSR1,
        signal.SIGUSR2,
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, early)

"""How molds and workers end: in order, but without taking their objects apart.

At its end Python frees what it holds, object by object, and every page that is touched on the way is
copied first where it is shared with the mold. While others serve, that is time and memory for nothing:
the kernel frees a process as a whole.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End the process as the interpreter would: wait for threads, run what is registered for the exit, flush.

    Args:
        code: the exit code.
    """
    # What the interpreter itself calls first, and processes of ``multiprocessing`` do too.
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001, there is no public name
    atexit._run_exitfuncs()  # noqa: SLF001, likewise; it prints what they raise
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or None: there is nobody to tell
            stream.flush()
    os._exit(code)

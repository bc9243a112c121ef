"""Wire a daemon up from its configuration, and run it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable

from setproctitle import setproctitle

from . import config, errors, log, privileges
from .master import Master
from .settings import Settings

_logger = logging.getLogger("hourd")


def run(read: Callable[[], Settings]) -> int:
    """Run in the foreground until stopped; returns the exit code.

    Args:
        read: returns the configuration as it is now; called at the start and at each reload.

    Raises:
        errors.HourdError: it could not start, and nothing was left behind.
    """
    if sys.platform != "linux":
        raise errors.UnavailableError(f"hourd needs Linux 5.4 or later, this is {sys.platform}")
    settings = read()
    log.set_up(settings.log, blocking=False)
    setproctitle(f"hourd: master [{settings.name}]")
    privileges.become_subreaper()
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(contextlib.closing(Master(settings, read)))
        _open_control(master, settings)
        if settings.pid_file:
            _write_pid_file(settings.pid_file)
            stack.callback(_remove_pid_file, settings.pid_file)
        return master.run()


def _open_control(master: Master, settings: Settings) -> None:
    """Listen for operators. A daemon serves also without, so that a bad place is a warning."""
    path = config.control_path(settings, os.environ)
    try:
        if settings.control is None:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        master.listen(path)
    except errors.UnavailableError as error:
        raise errors.UnavailableError(f"another instance runs, or its place is taken: {error}") from None
    except OSError as error:
        _logger.warning(
            "no control socket at %s: %s; hourd status, reload and stop will not find this daemon (set control)",
            path,
            error.strerror or error,
        )


def _write_pid_file(path: str) -> None:
    """Write the process id, whole or not at all."""
    draft = f"{path}.{os.getpid()}"
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with open(fd, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
        os.rename(draft, path)
    except OSError as error:
        raise errors.from_os(error, f"write pid_file {path}") from None


def _remove_pid_file(path: str) -> None:
    """Remove the file, unless another instance has written its own."""
    try:
        with open(path, encoding="ascii") as file:
            mine = file.read().strip() == str(os.getpid())
        if mine:
            os.unlink(path)
    except OSError as error:
        _logger.warning("cannot remove pid_file %s: %s", path, error.strerror)

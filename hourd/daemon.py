"""Wire a daemon up from its configuration, and run it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator

from setproctitle import setproctitle

from . import config, errors, inherited, log, privileges
from .locks import HeldError, Lock
from .master import Master
from .settings import Settings
from .systemd import Manager

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
    handed = inherited.collect(os.environ)
    settings = read()
    log.set_up(settings.log)
    setproctitle(f"hourd: master [{settings.name}]")
    privileges.become_subreaper()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(handed))
        manager = stack.enter_context(contextlib.closing(Manager(os.environ)))
        master = Master(settings, lambda: _same_daemon(settings, read()), manager=manager, handed=handed)
        stack.enter_context(contextlib.closing(master))
        _open_control(master, settings)
        if settings.pid_file:
            stack.enter_context(_pid_file(settings.pid_file))
        return master.run()


def _same_daemon(old: Settings, new: Settings) -> Settings:
    """Return the new configuration, unless it changes what only a restart can change.

    Raises:
        errors.ConfigError: it does.
    """
    changed = [key for key in ("name", "control", "pid_file") if getattr(old, key) != getattr(new, key)]
    if changed:
        raise errors.ConfigError(f"{', '.join(changed)}: cannot be changed by a reload; restart hourd")
    return new


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


@contextlib.contextmanager
def _pid_file(path: str) -> Iterator[None]:
    """Hold the process id's file, which is written whole or not at all."""
    draft = f"{path}.new"
    try:
        lock = Lock(f"{path}.lock")
    except HeldError:
        raise errors.UnavailableError(f"another instance runs: it holds pid_file {path}") from None
    except OSError as error:
        raise errors.from_os(error, f"write pid_file {path}") from None
    try:
        _write(draft, f"{os.getpid()}\n")
        os.rename(draft, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        lock.release()
        raise errors.from_os(error, f"write pid_file {path}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # its folder may be gone
            os.unlink(path)
        lock.release()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    with open(fd, "w", encoding="ascii") as file:
        file.write(text)

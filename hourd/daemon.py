"""Wire a daemon up from its configuration, and run it."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Callable

from setproctitle import setproctitle

from . import config, errors, inherited, log, pid_file, privileges, upgrade
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
    before = upgrade.receive(os.environ)
    if before and upgrade.is_trial(os.environ):
        read()
        upgrade.say_yes()
        return errors.EXIT_STOPPED
    handed = inherited.resume(before.handed) if before else inherited.collect(os.environ)
    settings = before.settings[before.committed] if before else read()
    log.set_up(settings.log)
    # Also for the watchdog's SIGABRT: where it stood still is in the log then.
    faulthandler.enable(2)
    setproctitle(f"hourd: master [{settings.name}]")
    privileges.become_subreaper()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(handed))
        manager = stack.enter_context(contextlib.closing(Manager(os.environ)))
        master = Master(settings, lambda: _same_daemon(settings, read()), manager=manager, handed=handed, before=before)
        stack.enter_context(contextlib.closing(master))
        if not before:
            _open_control(master, settings)
        if settings.pid_file:
            lock = before.lock if before else None
            held = pid_file.hold(settings.pid_file) if lock is None else pid_file.resume(settings.pid_file, lock)
            stack.enter_context(contextlib.closing(held))
            master.parts.lock = held.lock.fd
        # Before us, some may have been blocked: what came while this program took another's place is heard now.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
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

"""The exceptions of hourd, each with the exit code that the process ends with."""

from __future__ import annotations

import errno

EXIT_STOPPED = 0
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69
EXIT_INTERNAL = 70
EXIT_SYSTEM = 71
EXIT_BOOT = 75
EXIT_PERMISSION = 77
EXIT_CONFIG = 78


class HourdError(Exception):
    """What the operator can act on: its text is printed as it is, without a traceback."""

    exit_code = EXIT_INTERNAL


class RefusedError(HourdError):
    """A command was refused, failed, or found no daemon."""

    exit_code = EXIT_REFUSED


class UnavailableError(HourdError):
    """An address is taken, another instance runs, or the platform is not supported."""

    exit_code = EXIT_UNAVAILABLE


class SystemRefusedError(HourdError):
    """The system refused a process, a descriptor or memory."""

    exit_code = EXIT_SYSTEM


class BootError(HourdError):
    """The application could not boot; the same configuration may work later."""

    exit_code = EXIT_BOOT


class NoPermissionError(HourdError):
    """The user that hourd runs as may not do what the configuration asks for."""

    exit_code = EXIT_PERMISSION


class ConfigError(HourdError):
    """The configuration is wrong; its text has one line for each mistake."""

    exit_code = EXIT_CONFIG


BY_EXIT_CODE: dict[int, type[HourdError]] = {
    kind.exit_code: kind
    for kind in (
        HourdError,
        RefusedError,
        UnavailableError,
        SystemRefusedError,
        BootError,
        NoPermissionError,
        ConfigError,
    )
}


def from_os(error: OSError, doing: str) -> HourdError:
    """Say what the system refused in the operator's terms.

    Args:
        error: what the system answered.
        doing: what hourd was doing, with the name of the thing (``"bind 127.0.0.1:80"``).
    """
    kinds: dict[int | None, type[HourdError]] = {
        errno.EADDRINUSE: UnavailableError,
        errno.EADDRNOTAVAIL: UnavailableError,
        errno.EACCES: NoPermissionError,
        errno.EPERM: NoPermissionError,
        errno.ENOENT: ConfigError,
        errno.ENOTDIR: ConfigError,
    }
    return kinds.get(error.errno, SystemRefusedError)(f"cannot {doing}: {error.strerror or error}")

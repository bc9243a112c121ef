"""The files of ``kind: ssh``: read with a clear word about what is wrong, made where that is wanted."""

from __future__ import annotations

import contextlib
import errno
import os

import asyncssh

from .. import errors

_WRONG = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What the system says of a path that the configuration should not have."""


def read(path: str, *, create: bool) -> asyncssh.SSHKey:
    """Read a private host key.

    Args:
        path: relative to the working directory.
        create: whether to make it if it is missing.

    Raises:
        errors.ConfigError: it is missing, encrypted, or no private key.
        errors.NoPermissionError: the worker's user may not read it, or not make it.
    """
    absolute = os.path.abspath(path)
    if create and not os.path.lexists(path):
        _create(path)
    try:
        return asyncssh.read_private_key(path)
    except FileNotFoundError:
        raise errors.ConfigError(
            f"host key {absolute} does not exist; make one (ssh-keygen -t ed25519 -N '' -f {absolute}) "
            "or set create_host_keys: true"
        ) from None
    except OSError as error:
        raise refused(error, f"read host key {absolute}") from None
    except ValueError as error:
        message = f"host key {absolute}: {error}; expected a private key without a passphrase"
        raise errors.ConfigError(message) from None


def refused(error: OSError, doing: str) -> errors.HourdError:
    """Say what the system refused; a path that cannot be is a mistake in the configuration."""
    if error.errno in _WRONG:
        return errors.ConfigError(f"cannot {doing}: {error.strerror}")
    return errors.from_os(error, doing)


def _create(path: str) -> None:
    """Make a key that nobody else reads. Workers boot side by side: the first one wins, and all use its key."""
    draft = f"{path}.{os.getpid()}"
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as file:
            file.write(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
            file.flush()
            os.fsync(fd)  # a machine that loses power must not come back with an empty key
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        os.unlink(draft)
    except OSError as error:
        raise refused(error, f"create host key {os.path.abspath(path)}") from None

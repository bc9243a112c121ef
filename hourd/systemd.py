"""What the service manager is told (sd_notify(3)). Does nothing where there is none."""

from __future__ import annotations

import functools
import logging
import os
import socket
import time

_logger = logging.getLogger("hourd")


def notify(*lines: str) -> None:
    """Send assignments such as ``READY=1`` to the service manager, if there is one."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, fileno=_descriptor())
        try:
            sock.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, address)
        finally:
            sock.detach()
    except OSError as error:
        _logger.warning("cannot tell the service manager %s: %s", lines[0], error.strerror)


@functools.cache
def _descriptor() -> int:
    """Open a socket, once: when no descriptor is left, the service manager is to hear what goes on all the same."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()


def reloading() -> None:
    """Say that a reload begins; the time tells it from an earlier one."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

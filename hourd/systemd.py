"""The service manager: what it is told, and what it keeps for us (sd_notify(3)). Does nothing where there is none.

Nothing here waits. What the manager has no room for is told later, in the same order.
"""

from __future__ import annotations

import array
import errno
import logging
import math
import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

_EXTENDED = 30.0
"""Seconds that a start, reload or stop may still take, as far as the manager was told."""
_EXTENDED_EVERY = 10.0
"""Seconds after which it is told again, as long as that goes on."""
_AGAIN = 0.1
"""Seconds until it is asked again whether it has room."""
_REPLACED = ("STATUS=", "WATCHDOG=", "EXTEND_TIMEOUT_USEC=")
"""What a later one makes superfluous."""
_FED_MOST = 0.01
"""Seconds between two feedings of the watchdog, at least."""
_FDS = 200
"""Descriptors in one message; the kernel takes 253 (SCM_MAX_FD)."""
_logger = logging.getLogger("hourd")


@dataclass(slots=True)
class _Message:
    lines: tuple[str, ...]
    name: str = ""
    """Under which the sockets are kept."""
    sockets: list[socket.socket] = field(default_factory=list)


class Manager:
    """The service manager, or nobody."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        # Opened at once: when no descriptor is left, the manager is to hear what goes on all the same.
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if path else None
        self._outbox: deque[_Message] = deque()
        self._every = _watchdog(environ)
        self._fed = -math.inf
        self._extended = -math.inf
        self._full = False
        self._told_why = ""
        """Why it cannot be told anything, as was said last."""

    def tell(self, *lines: str) -> None:
        """Tell assignments such as ``READY=1``."""
        if self._full and lines[0].startswith(_REPLACED):
            # It does not read: what is not true any more is not to pile up.
            first = lines[0].partition("=")[0]
            self._outbox = deque(each for each in self._outbox if each.lines[0].partition("=")[0] != first)
        self._send_later(_Message(lines))

    def reloading(self) -> None:
        """Tell that a reload begins; the time tells it from an earlier one."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    # --- what it keeps ------------------------------------------------------------------------------

    def keep(self, name: str, sock: socket.socket) -> None:
        """Have a socket kept beyond our death; those of one name are given back, and forgotten, together.

        It is not to be watched (FDPOLL): that a socket which listens is readable says nothing of its health.
        """
        last = self._outbox[-1] if self._outbox else None
        if last and last.name == name and len(last.sockets) < _FDS:
            last.sockets.append(sock)
            return
        self._send_later(_Message(("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0"), name, [sock]))

    def forget(self, name: str) -> None:
        """Have no socket of a name kept any more."""
        self._outbox = deque(message for message in self._outbox if message.name != name)
        self._send_later(_Message(("FDSTOREREMOVE=1", f"FDNAME={name}")))

    @property
    def is_there(self) -> bool:
        """Whether anybody keeps anything."""
        return self._sock is not None

    @property
    def knows_all(self) -> bool:
        """Whether nothing is left to be told."""
        return not self._outbox

    def close(self) -> None:
        """Tell what is left to be told, as far as there is room."""
        self.flush()
        if self._sock:
            self._sock.close()

    # --- when it is told ----------------------------------------------------------------------------

    def patience(self, now: float, *, changing: bool) -> float:
        """Return in how many seconds it is to hear of us again.

        Args:
            now: seconds of the system's clock: the manager forgives nobody.
            changing: whether a start, reload or stop is under way.
        """
        if not self.is_there:
            return math.inf
        rests = [self._fed + self._every - now, _AGAIN if self._full else math.inf]
        return min(*rests, self._extended + _EXTENDED_EVERY - now if changing else math.inf)

    def completed(self, now: float, *, changing: bool) -> None:
        """Note that a pass was completed: everything that had happened and was due is done."""
        if now >= self._fed + self._every:
            self._fed = now
            self.tell("WATCHDOG=1")
        if not changing:
            self._extended = -math.inf
        elif now >= self._extended + _EXTENDED_EVERY:
            self._extended = now
            self.tell(f"EXTEND_TIMEOUT_USEC={_EXTENDED * 1e6:.0f}")
        self.flush()

    def flush(self) -> None:
        """Tell what is still to be told, as far as there is room."""
        self._full = False
        while self._outbox and not self._full:
            message = self._outbox[0]
            try:
                self._send(message)
            except OSError as error:
                self._full = error.errno in (errno.EAGAIN, errno.ETOOMANYREFS)
                if self._full:
                    continue
                why = error.strerror or str(error)
                if why != self._told_why:
                    self._told_why = why
                    _logger.warning("cannot tell the service manager %s: %s", message.lines[0], why)
            self._outbox.popleft()

    def _send_later(self, message: _Message) -> None:
        if self._sock:
            self._outbox.append(message)

    def _send(self, message: _Message) -> None:
        assert self._sock is not None
        fds = [sock.fileno() for sock in message.sockets if sock.fileno() >= 0]
        if fds or not message.sockets:  # what is closed by now needs nobody to keep it
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            self._sock.sendmsg(["\n".join(message.lines).encode()], rights, socket.MSG_NOSIGNAL, self._address)


def _watchdog(environ: Mapping[str, str]) -> float:
    """Return how often the watchdog is to be fed, in seconds: twice in its time (sd_watchdog_enabled(3))."""
    meant = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    limit = environ.get("WATCHDOG_USEC", "")
    return max(_FED_MOST, int(limit) / 2e6) if meant and limit.isdecimal() and int(limit) else math.inf

"""What the kernel knows of a connection that its protocol does not."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from typing import NamedTuple

_TCP_INFO = struct.Struct("=8B24I4Q")
_SENT, _HEARD, _ACKED, _RECEIVED = 8 + 9, 8 + 11, 8 + 24 + 2, 8 + 24 + 3
"""``tcpi_last_data_sent``, ``tcpi_last_data_recv`` (milliseconds ago), ``tcpi_bytes_acked`` and ``tcpi_bytes_received``
(linux/tcp.h)."""


class Traffic(NamedTuple):
    """What has gone over a TCP connection."""

    sent: float
    """Seconds since data was sent last."""
    heard: float
    """Seconds since data was received last."""
    received: int
    """Bytes received so far."""
    acked: int
    """Bytes that the other side has taken so far."""

    def has_begun(self, *, again: bool) -> bool:
        """Tell whether the client has begun to say something after all that it was told.

        Args:
            again: whether it was told something already.
        """
        return self.heard < self.sent if again else self.received > 0


def has_unread(sock: socket.socket) -> bool:
    """Tell whether something has come that nobody has read yet (FIONREAD, tcp(7))."""
    return fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0" * 4) != bytes(4)


def has_unsent(sock: socket.socket) -> bool:
    """Tell whether the other side has not taken all that was sent (SIOCOUTQ, tcp(7) and unix(7))."""
    return fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4) != bytes(4)


def taken(sock: socket.socket) -> object:
    """Return what changes whenever the other side takes something of what was sent."""
    told = traffic(sock)
    return fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4) if told is None else told.acked


def traffic(sock: socket.socket) -> Traffic | None:
    """Return what has gone over a connection; nothing for a unix socket, of which the kernel keeps no such record."""
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None
    info = _TCP_INFO.unpack(told)
    return Traffic(info[_SENT] / 1000, info[_HEARD] / 1000, info[_RECEIVED], info[_ACKED])

"""How a TLS connection is told that nothing more comes, where event loops have one way only: ``close()``.

That one sends close_notify and waits up to ``SHUTDOWN_TIME`` for the client's, who may not look. And asyncio's
takes what the client says meanwhile for an error, and resets the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ssl
import termios
from typing import Any

_LOOK = 0.1
"""Seconds between two looks at whether everything was sent."""


def say(transport: asyncio.Transport) -> None:
    """Send close_notify once all is written, and go on reading (RFC 8446, 6.1)."""
    if transport.is_closing():
        return
    if transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(_LOOK, say, transport)
        return
    with contextlib.suppress(ssl.SSLError):  # it wants to read the client's, and so will the event loop
        transport.get_extra_info("ssl_object").unwrap()
    transport.writelines(())  # has the event loop look whether there is something to send


def finish(transport: asyncio.Transport) -> None:
    """Close, and do not wait for the client once it has all that was sent."""
    transport.close()
    if _find(transport, "ssl_object") is not None:
        _abort_when_sent(transport, sent=False)


def _abort_when_sent(transport: asyncio.Transport, *, sent: bool) -> None:
    sock = _find(transport, "socket")
    if sock is None or sock.fileno() < 0:
        return
    empty = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4) == bytes(4)
    if empty and sent:
        transport.abort()
        return
    # Twice, since the event loop may have more that it is about to write.
    asyncio.get_running_loop().call_later(_LOOK, lambda: _abort_when_sent(transport, sent=empty))


def _find(transport: asyncio.Transport, name: str) -> Any:
    """Return what a transport knows; asyncio's fails to say that it knows nothing any more, once it has ended."""
    try:
        return transport.get_extra_info(name)
    except AttributeError:
        return None

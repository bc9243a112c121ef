"""The queue of a socket: connections that nobody has accepted yet, or datagrams that nobody has read."""

from __future__ import annotations

import array
import contextlib
import errno
import select
import socket
import struct

_TCP_INFO = struct.Struct("=8B5I")
_UNACKED = 8 + 4

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_SO_DETACH_FILTER = 27
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")
_DATAGRAM = 1024
"""Bytes that stand for a datagram. Of the kernel's memory, the least takes 0.8 KiB, one that fills a packet 2.3."""
_FLAGS, _SYN, _ACK = 13, 0x02, 0x10  # of the TCP header, which is where the data of such a filter begins
_NO_SYN = b"".join(
    struct.pack("=HBBI", code, if_true, if_false, value)
    for code, if_true, if_false, value in (
        (0x30, 0, 0, _FLAGS),  # load a byte
        (0x54, 0, 0, _SYN | _ACK),  # and
        (0x15, 0, 1, _SYN),  # skip one unless equal
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # pass it whole
    )
)
"""In classic BPF (Documentation/networking/filter.rst): no segment that asks for a new connection."""
_NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)


def length(sock: socket.socket) -> int:
    """Return how many connections wait at a TCP socket (``tcpi_unacked`` of one that listens, linux/tcp.h).

    Datagrams are told by the memory that they take, so that it is an estimate (``SK_MEMINFO_RMEM_ALLOC``).
    """
    if sock.type == socket.SOCK_DGRAM:
        taken = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        return int(_MEMINFO.unpack(taken)[0]) // _DATAGRAM
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    return int(_TCP_INFO.unpack(info)[_UNACKED])


def is_empty(sock: socket.socket) -> bool:
    """Tell whether nobody waits at a socket of any kind; a closed one has no queue."""
    if sock.fileno() < 0:
        return True
    look = select.poll()
    look.register(sock, select.POLLIN)
    return not look.poll(0)


def make_room(sock: socket.socket, backlog: int) -> int:
    """Let so many datagrams wait at a socket; returns for how many there is room: net.core.rmem_max is a limit."""
    size = backlog * _DATAGRAM
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    # Twice as much as was asked for: half of it is for what the kernel itself adds (socket(7)).
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 // _DATAGRAM


def shut(sock: socket.socket) -> None:
    """Let nobody new come to a TCP or UDP socket, in whichever processes it is; who waits or comes just now stays.

    To close it would reset those, or drop their datagrams. The client of a request for a connection that is dropped
    asks again after a second, and is served or refused by what there is then; a datagram is lost. Where the
    system does not let it (seccomp), nothing happens.
    """
    program = array.array("B", _NOTHING if sock.type == socket.SOCK_DGRAM else _NO_SYN)
    address, size = program.buffer_info()
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", size // 8, address))


def open_again(sock: socket.socket) -> None:
    """Undo ``shut``."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise

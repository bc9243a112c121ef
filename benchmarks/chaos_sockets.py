"""What the kernel knows: who holds which connection, what was dropped, and networks of one's own.

Who holds a connection is the exact answer to whether a request was in flight on a process that was killed. The
kernel lists sockets with their inodes (sock_diag(7)), and /proc lists which inodes a process has open. A
connection that waits in the queue of a listening socket belongs to nobody yet, and has no inode.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import measure

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_INET_REQUEST = struct.Struct("=BBBBI48x")  # inet_diag_req_v2
_INET_STATES = 0xFFF & ~(1 << 10) & ~(1 << 6)  # but LISTEN and TIME_WAIT, which nobody has open as a connection
_UNIX_REQUEST = struct.Struct("=BBHIIIII")  # unix_diag_req
_SHOW_PEER, _PEER = 4, 2
_UNIX_HEAD = 16
_BUFFER = 1 << 20

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_IFREQ = struct.Struct("16sh14x")

DROPS = ("ListenOverflows", "ListenDrops", "TCPReqQFullDrop")
"""Counters that must not grow: each of them is a connection that somebody lost."""
_SHOWN = {
    *DROPS, "TCPBacklogDrop", "TCPAbortOnData", "TCPAbortOnClose", "TCPAbortOnTimeout", "TCPTimeouts", "TCPRcvQDrop",
    "ActiveOpens", "PassiveOpens", "AttemptFails", "EstabResets", "OutRsts", "RetransSegs",
}  # fmt: skip


def own_network() -> bool:
    """Move this process, and what it starts, into a network namespace that has a loopback only.

    Returns:
        Whether that was permitted (CAP_SYS_ADMIN, unshare(2)).
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        name, flags = _IFREQ.unpack(fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0)))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(name, flags | _IFF_UP))
    return True


def counters() -> dict[str, int]:
    """Read the counters of TCP in this network namespace (/proc/net/snmp and netstat, proc(5))."""
    found: dict[str, int] = {}
    for file in ("/proc/net/snmp", "/proc/net/netstat"):
        lines = [line.split() for line in Path(file).read_text().splitlines()]
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            if names[0] in ("Tcp:", "TcpExt:"):
                found |= {name: int(value) for name, value in zip(names[1:], values[1:], strict=True) if name in _SHOWN}
    return found


def name(sock: socket.socket) -> str:
    """Return what ``held`` calls the connection whose client's end this is."""
    if sock.family == socket.AF_UNIX:
        return f"inode {os.fstat(sock.fileno()).st_ino}"
    host, port = sock.getsockname()[:2]
    return f"{'udp ' if sock.type == socket.SOCK_DGRAM else ''}{host} {port}"


def held(pid: int) -> frozenset[str]:
    """Return the connections that a process has open, by the names of their clients' ends.

    It has to stand still, or the answer is old before it is given.

    Raises:
        ProcessLookupError: it has ended.
        measure.CannotRunError: the kernel does not tell.
    """
    mine = _inodes(pid)
    found = {client for inode, client in (*_inet(socket.AF_INET), *_inet(socket.AF_INET6)) if inode in mine}
    return frozenset(found | {f"inode {client}" for inode, client in _unix() if inode in mine})


def _inodes(pid: int) -> set[int]:
    found = set()
    try:
        for fd in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(fd.path)
                if target.startswith("socket:["):
                    found.add(int(target[8:-1]))
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, f"process {pid} has ended") from None
    return found


def _inet(family: socket.AddressFamily) -> Iterator[tuple[int, str]]:
    """Yield each TCP connection: the inode of one end, the name of the other (inet_diag_msg)."""
    size = 4 if family == socket.AF_INET else 16
    for message in _ask(_INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _INET_STATES)):
        (port,) = struct.unpack_from("!H", message, 6)
        host = socket.inet_ntop(family, message[24 : 24 + size])
        (inode,) = struct.unpack_from("=I", message, 68)
        yield inode, f"{host} {port}"


def _unix() -> Iterator[tuple[int, int]]:
    """Yield the inodes of both ends of each unix connection (unix_diag_msg, and its attribute of the peer)."""
    for message in _ask(_UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_PEER, 0, 0)):
        (inode,) = struct.unpack_from("=I", message, 4)
        at = _UNIX_HEAD
        while at + 4 <= len(message):
            length, kind = struct.unpack_from("=HH", message, at)
            if kind == _PEER:
                yield inode, struct.unpack_from("=I", message, at + 4)[0]
            at += max(4, (length + 3) & ~3)


def _ask(request: bytes) -> Iterator[bytes]:
    """Yield what the kernel answers to a request for a list (netlink(7))."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock:
        sock.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _DUMP, 1, 0) + request)
        while True:
            data, at = sock.recv(_BUFFER), 0
            while at < len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (code,) = struct.unpack_from("=i", data, at + _HEADER.size)
                    raise measure.CannotRunError(f"the kernel does not list sockets (sock_diag): {os.strerror(-code)}")
                yield data[at + _HEADER.size : at + length]
                at += (length + 3) & ~3

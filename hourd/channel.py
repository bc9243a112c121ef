"""Messages and descriptors between the master and its molds and workers.

A channel is a SOCK_SEQPACKET socket pair: a message arrives whole or not at all, in order, and the
end of one side is an end-of-file on the other. What a child says is bounded, and decoded against
the few messages that it may send. Its process id comes from the kernel (SCM_CREDENTIALS, unix(7)).
"""

from __future__ import annotations

import array
import os
import socket
import struct
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

PROTOCOL = 2
"""Molds run the hourd that is installed now, which may be newer than the master: they compare this."""
MOLD_FD = 3
"""The descriptor on which a mold finds its channel."""

_LIMIT = 64 * 1024
_TEXT_LIMIT = 8 * 1024  # characters, of at most 4 bytes
MAX_FDS = 250  # the kernel's SCM_MAX_FD is 253
_CREDENTIALS = struct.Struct("3i")


class Message(Struct, frozen=True, tag=True, array_like=True):
    """Anything that is sent."""


class Begin(Message, frozen=True):
    """Master to mold, with a memfd and its scoreboard: what it is a mold of (``orders.Orders``)."""


class Fork(Message, frozen=True):
    """Master to mold, with the worker's channel and scoreboard: fork a worker."""

    slot: int


class Watch(Message, frozen=True):
    """Master to mold, with pidfds: workers that an earlier mold forked, and that the mold is to see off."""


class Quit(Message, frozen=True):
    """Master to mold: end."""


class Reopen(Message, frozen=True):
    """Master to mold and worker: reopen log files."""


class Attend(Message, frozen=True):
    """Master to worker, with as many sockets: accept on them."""

    slot: int
    sockets: list[tuple[str, int]]
    """The server's name and backlog, for each socket."""


class Release(Message, frozen=True):
    """Master to worker: accept no more on a slot's sockets."""

    slot: int
    last: tuple[str, ...] = ()
    """Servers that nobody attends there any more: what waits for them is accepted first."""


class Drain(Message, frozen=True):
    """Master to worker: finish and end."""


class Imported(Message, frozen=True):
    """Mold to master: ready to fork."""


class Unsafe(Message, frozen=True):
    """Mold to master: what the import left behind does not survive a fork."""

    reason: str


class Hello(Message, frozen=True):
    """Worker to master, first: the process exists."""


class Ready(Message, frozen=True):
    """Worker to master: can serve."""


class Attends(Message, frozen=True):
    """Worker to master: accepts on a slot's sockets now."""

    slot: int


class CannotAttend(Message, frozen=True):
    """Worker to master: does not accept on a slot's sockets, for want of descriptors."""

    slot: int


class Leaving(Message, frozen=True):
    """Worker to master: was sent SIGTERM and wants to be replaced."""


class Refused(Message, frozen=True):
    """Mold or worker to master: why it will end."""

    reason: str
    exit_code: int


FromMaster: TypeAlias = Begin | Fork | Watch | Quit | Reopen | Attend | Release | Drain
FromChild: TypeAlias = Imported | Unsafe | Hello | Ready | Attends | CannotAttend | Leaving | Refused

_encode = msgspec.msgpack.Encoder().encode
_decode_from_master = msgspec.msgpack.Decoder(FromMaster).decode
_decode_from_child = msgspec.msgpack.Decoder(FromChild).decode


class ProtocolError(Exception):
    """The other side sent what it may not."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A message as it was received."""

    message: Any
    fds: tuple[int, ...] = ()
    pid: int = 0
    """The sender, as the kernel knows it; 0 where nobody asked."""
    truncated: bool = False
    """Not all descriptors have arrived: this process has none left."""

    def close(self) -> None:
        """Close the descriptors that have arrived."""
        for fd in self.fds:
            os.close(fd)


def pair() -> tuple[MasterEnd, socket.socket]:
    """Return the master's end of a new channel, and the child's as a socket to be handed over."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return MasterEnd(ours), theirs


class _End:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send a message whole.

        Raises:
            BlockingIOError: a non-blocking end has no room: the other side does not read.
            OSError: the other side is gone.
        """
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._sock.sendmsg([_encode(message)], ancillary, socket.MSG_NOSIGNAL)


class MasterEnd(_End):
    """The master's end: never blocks, takes no descriptors, knows who sent."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.setblocking(False)

    def receive(self) -> Packet | None:
        """Return the next message, or ``None`` at the end of the channel.

        Raises:
            BlockingIOError: there is no message.
            ProtocolError: the child sent something else.
        """
        try:
            data, ancillary, flags = self._read()
        except ConnectionResetError:
            # It ended before it had read everything. That is told first, and once; what it said before is still here.
            data, ancillary, flags = self._read()
        if not data:
            return None
        if flags & socket.MSG_TRUNC:
            raise ProtocolError("sent a message that is too long")
        pid = 0
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                pid = _CREDENTIALS.unpack_from(value)[0]
        try:
            return Packet(_decode_from_child(data), pid=pid)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"sent a message that is none: {error}") from None

    def _read(self) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
        # Without room for SCM_RIGHTS the kernel closes descriptors that a child may send.
        return self._sock.recvmsg(_LIMIT, socket.CMSG_SPACE(_CREDENTIALS.size))[:3]


class ChildEnd(_End):
    """A mold's or worker's end."""

    def receive(self) -> Packet | None:
        """Return the next message, or ``None`` when the master is gone.

        Raises:
            BlockingIOError: the end is non-blocking and there is no message.
        """
        size = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(_LIMIT, size, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        if not data:
            return None
        fds = array.array("i")
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
        # The kernel hands over as many as there is room for, and says so (unix(7)).
        return Packet(_decode_from_master(data), tuple(fds), truncated=bool(flags & socket.MSG_CTRUNC))

    def set_blocking(self, *, flag: bool) -> None:
        self._sock.setblocking(flag)

    def leave_open(self) -> None:
        """Leave it to the kernel to close this at the end of the process, which is what it tells the master."""
        self._sock.detach()

    def refuse(self, reason: str, exit_code: int) -> None:
        """Say why this process will end: to the master, or to whoever reads standard error."""
        text = reason
        if len(reason) > _TEXT_LIMIT:
            text = f"{reason[: _TEXT_LIMIT // 2]}\n[...]\n{reason[-_TEXT_LIMIT // 2 :]}"
        try:
            self.send(Refused(text, exit_code))
        except OSError:  # the master is gone, or user code has closed this
            os.write(2, f"{text}\n".encode(errors="replace"))

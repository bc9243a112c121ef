"""The control socket: how operators talk to a running daemon. Both ends.

One JSON object a line asks, one answers. Only root and the user of the master may connect: the
workers' user may not, so that a compromised worker cannot command the master.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import socket
import struct
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from . import errors, state, unix

_MODE = 0o600
_BACKLOG = 128
_CLIENTS = 64
_REQUEST_LIMIT = 64 * 1024
_CHUNK = 64 * 1024
_NONE_LEFT = (errno.EMFILE, errno.ENFILE)
_PEER = struct.Struct("3i")
_logger = logging.getLogger("hourd")


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator asks."""

    command: Literal["status", "reload", "scale", "stop", "upgrade"]
    now: bool = False
    hand_over: bool = False
    pool: str = ""
    workers: int = 0


class Answer(Struct, frozen=True, omit_defaults=True):
    """What an operator gets."""

    ok: bool
    error: str = ""
    generation: int = 0
    seconds: float = 0.0
    version: str = ""
    """Of the program that answers."""
    status: Any = None


_decode_request = msgspec.json.Decoder(Request).decode
_decode_answer = msgspec.json.Decoder(Answer).decode


class Client:
    """One connection of an operator, in the master."""

    def __init__(self, sock: socket.socket, server: Control, read: bytes = b"", unsent: bytes = b"") -> None:
        self._sock = sock
        self._server = server
        self._read = bytearray(read)
        self._unsent = bytearray(unsent)

    def save(self, waits_for: int | None) -> state.Client:
        fd = self._sock.fileno()
        return state.Client(socket=fd, read=bytes(self._read), unsent=bytes(self._unsent), waits_for=waits_for)

    def answer(self, answer: Answer) -> None:
        """Send as much as can be sent, and the rest when the client reads."""
        self._unsent += msgspec.json.encode(answer) + b"\n"
        self._flush()

    def on_event(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush()
        if mask & selectors.EVENT_READ:
            self._receive()

    def close(self) -> None:
        self._server.forget(self, self._sock)
        self._sock.close()
        self._server.keep_one()

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._server.watch(self, self._sock, write=bool(self._unsent))

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._read += data
        if not data or len(self._read) > _REQUEST_LIMIT:
            self.close()
            return
        *lines, rest = bytes(self._read).split(b"\n")
        self._read[:] = rest
        for line in lines:
            self._obey(line)

    def _obey(self, line: bytes) -> None:
        try:
            request = _decode_request(line)
        except msgspec.MsgspecError as error:
            self.answer(Answer(ok=False, error=f"not understood: {error}"))
            return
        self._server.on_request(request, self)


class Control:
    """The master's end: a listening socket and its clients, driven by the master's selector."""

    def __init__(
        self,
        sock: socket.socket,
        file: unix.File,
        selector: selectors.BaseSelector,
        on_request: Callable[[Request, Client], None],
    ) -> None:
        """Take a socket that listens, and its file."""
        self.on_request = on_request
        self._selector = selector
        self._clients: set[Client] = set()
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        """Given up to accept, and turn away, a client when no other descriptor is left."""
        self._kept: int | None = None
        """Given up for one client, which can say stop, when no other descriptor is left."""
        self.keep_one()
        self._short = False
        self._sock, self._file = sock, file
        selector.register(self._sock, selectors.EVENT_READ, self._accept)

    def save(self, waits_for: Callable[[Client], int | None]) -> state.Control:
        """Return it, for the program that takes our place; what each client waits for, others know."""
        clients = [client.save(waits_for(client)) for client in self._clients]
        return state.Control(socket=self._sock.fileno(), file=self._file, clients=clients)

    def restore(self, saved: state.Client) -> Client:
        """Go on with a client."""
        sock = socket.socket(fileno=saved.socket)
        client = self._add(sock, saved.read, saved.unsent)
        self.watch(client, sock, write=bool(saved.unsent))
        return client

    def close(self) -> None:
        for client in tuple(self._clients):
            client.close()
        self._selector.unregister(self._sock)
        self._sock.close()
        os.close(self._spare)
        if self._kept is not None:
            os.close(self._kept)
        self._file.unlink()

    def watch(self, client: Client, sock: socket.socket, *, write: bool) -> None:
        # Who does not read its answers is not read from: they would pile up here.
        mask = selectors.EVENT_WRITE if write else selectors.EVENT_READ
        if client in self._clients:
            self._selector.modify(sock, mask, client.on_event)

    def forget(self, client: Client, sock: socket.socket) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self._selector.unregister(sock)

    def keep_one(self) -> None:
        """Take a descriptor for the next client, if there is one again."""
        if self._kept is None:
            with contextlib.suppress(OSError):
                self._kept = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _take(self) -> socket.socket:
        try:
            return self._sock.accept()[0]
        except OSError as error:
            if error.errno not in _NONE_LEFT or self._kept is None:
                raise
        os.close(self._kept)
        self._kept = None
        return self._sock.accept()[0]

    def _accept(self, _mask: int) -> None:
        try:
            sock = self._take()
        except OSError as error:
            self._turn_away(error)
            return
        _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid not in (0, os.geteuid()) or len(self._clients) >= _CLIENTS:
            sock.close()
            return
        self._add(sock)

    def _add(self, sock: socket.socket, read: bytes = b"", unsent: bytes = b"") -> Client:
        sock.setblocking(False)
        client = Client(sock, self, read, unsent)
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, client.on_event)
        return client

    def _turn_away(self, error: OSError) -> None:
        """Refuse a client for want of a descriptor: left in the queue, it would wake the master for ever."""
        if error.errno not in _NONE_LEFT:
            _logger.warning("cannot accept on the control socket: %s", error.strerror)
            return
        os.close(self._spare)
        try:
            self._sock.accept()[0].close()
        except OSError:
            pass  # it has left already
        finally:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        if not self._short:
            _logger.warning("no descriptor is left for the control socket: its clients are turned away")
        self._short = True


def listen(path: str) -> tuple[socket.socket, unix.File]:
    """Return a socket for operators, and its file.

    Raises:
        errors.UnavailableError: another instance runs.
        OSError: the place cannot be used.
    """
    return unix.listen(path, mode=_MODE, backlog=_BACKLOG)


def ask(path: str, request: Request, timeout: float | None = None) -> Answer:
    """Ask a running daemon and wait for its answer.

    Args:
        path: of the control socket.
        request: what is asked.
        timeout: seconds to wait; ``None`` waits until the daemon answers or ends.

    Raises:
        errors.RefusedError: no daemon is there, or it ended before it answered.
        errors.NoPermissionError: this user may not ask.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(path)
            sock.sendall(msgspec.json.encode(request) + b"\n")
            with sock.makefile("rb") as answers:
                line = answers.readline()
        except (FileNotFoundError, ConnectionRefusedError):
            raise errors.RefusedError(f"no hourd runs with control socket {path}") from None
        except PermissionError:
            raise errors.NoPermissionError(f"only root and hourd's user may use the control socket {path}") from None
        except (BrokenPipeError, ConnectionResetError):
            line = b""  # it has closed before it read the request
        except TimeoutError:
            raise errors.RefusedError(f"hourd at {path} did not answer within {timeout:g}s") from None
        except OSError as error:
            raise errors.RefusedError(f"cannot ask hourd at {path}: {error.strerror or error}") from None
    if not line:
        raise errors.RefusedError(f"hourd at {path} ended, or does not talk to this user")
    try:
        return _decode_answer(line)
    except msgspec.MsgspecError:
        raise errors.RefusedError(f"who listens at {path} is no hourd") from None


def watch(path: str) -> int:
    """Return a descriptor that becomes readable when the daemon that listens at a path ends: its pidfd.

    In a PID namespace that does not see the daemon, its pid is 0 (pid_namespaces(7)). Then it is a connection, which
    the daemon closes once its workers have ended, a moment before it ends itself.

    Raises:
        errors.HourdError: no daemon is there, or it cannot be watched.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
            pid, _, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            return os.pidfd_open(pid) if pid else sock.detach()
        except OSError as error:
            raise errors.from_os(error, f"watch the daemon at {path}") from None

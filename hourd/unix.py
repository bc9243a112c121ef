"""Unix sockets as files: created with their mode and owner, replaced when stale, removed by their maker only."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from dataclasses import dataclass

from . import errors


@dataclass(frozen=True, slots=True)
class File:
    """A socket's file, known again by its inode."""

    path: str
    inode: tuple[int, int]

    def unlink(self) -> None:
        """Remove the file, unless somebody else has put another in its place."""
        try:
            if _inode(self.path) == self.inode:
                os.unlink(self.path)
        except OSError:
            pass  # gone already, or in a folder that is gone or not ours any more


def listen(path: str, *, mode: int, backlog: int, uid: int = -1, gid: int = -1) -> tuple[socket.socket, File]:
    """Bind and listen at a path; a file that nobody listens on any more is replaced.

    Args:
        path: absolute; its folder must exist.
        mode: permission bits.
        backlog: as for ``listen(2)``.
        uid: owner of the file, -1 for this user.
        gid: group of the file, -1 for this user's.

    Raises:
        errors.UnavailableError: somebody listens there, or something else than a socket is there.
        OSError: the system refused.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Two instances that start together must not both take the file for stale.
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            _remove_stale(path)
            before = os.umask(0o177)
            try:
                sock.bind(path)
            finally:
                os.umask(before)
            file = File(path, _inode(path))
            os.chown(path, uid, gid, follow_symlinks=False)
            os.chmod(path, mode)
            sock.listen(backlog)
        finally:
            os.close(folder)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock, file


def _remove_stale(path: str) -> None:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with probe:
        result = probe.connect_ex(path)
    if result == errno.ENOENT:
        return
    if result != errno.ECONNREFUSED:
        # Connected, or EAGAIN for a full queue: somebody is there.
        raise errors.UnavailableError(f"cannot listen at unix:{path}: another process listens there")
    if not _is_socket(path):
        raise errors.UnavailableError(f"cannot listen at unix:{path}: there is a file that is no socket")
    os.unlink(path)


def _is_socket(path: str) -> bool:
    return stat.S_ISSOCK(os.lstat(path).st_mode)


def _inode(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino

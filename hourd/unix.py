"""Unix sockets as files: created with their mode and owner, replaced when stale, removed by their maker only.

Their folder may belong to somebody else, who may put other files in their place at any moment. So
nothing is done to a path that would follow a link, and nothing to a file that is not known again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass

from . import errors
from .locks import HeldError, Lock


@dataclass(frozen=True, slots=True)
class File:
    """A socket's file, known again by its inode."""

    path: str
    inode: tuple[int, int]

    def is_there(self) -> bool:
        """Tell whether the file is at its path. While its socket is open, no other can have its inode."""
        try:
            return _inode(os.lstat(self.path)) == self.inode
        except OSError:  # gone, or in a folder that is not ours any more
            return False

    def unlink(self) -> None:
        """Remove the file, unless somebody else has put another in its place."""
        with contextlib.suppress(OSError):
            if self.is_there():
                os.unlink(self.path)

    def set_access(self, mode: int, uid: int, gid: int) -> None:
        """Change mode and owner; -1 leaves the owner or the group."""
        fd = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if _inode(os.fstat(fd)) != self.inode:
                raise errors.UnavailableError(f"unix:{self.path} was replaced by another file")
            # Through its descriptor, it is this file and no other.
            os.chown(f"/proc/self/fd/{fd}", uid, gid)
            os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)


def listen(path: str, *, mode: int, backlog: int | None, uid: int = -1, gid: int = -1) -> tuple[socket.socket, File]:
    """Bind and listen at a path; a file that nobody listens on any more is replaced.

    Args:
        path: absolute; its folder must exist.
        mode: permission bits.
        backlog: as for ``listen(2)``; without one, it is for datagrams.
        uid: owner of the file, -1 for this user.
        gid: group of the file, -1 for this user's.

    Raises:
        errors.UnavailableError: somebody listens there, or something else than a socket is there.
        OSError: the system refused.
    """
    sort = socket.SOCK_DGRAM if backlog is None else socket.SOCK_STREAM
    sock = socket.socket(socket.AF_UNIX, sort | socket.SOCK_NONBLOCK)
    file = None
    try:
        # Two instances that start together must not both take the file for stale.
        lock = Lock(f"{path}.lock")
        try:
            _remove_stale(path, sort)
            file = _bind(sock, path)
        finally:
            lock.release()
        file.set_access(mode, uid, gid)
        if backlog is not None:
            sock.listen(backlog)
    except HeldError:
        sock.close()
        raise errors.UnavailableError(f"cannot listen at unix:{path}: another process is about to") from None
    except BaseException:
        if file:
            file.unlink()
        sock.close()
        raise
    return sock, file


def _bind(sock: socket.socket, path: str) -> File:
    before = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(before)
    there = os.lstat(path)
    if not stat.S_ISSOCK(there.st_mode) or there.st_uid != os.geteuid() or there.st_nlink != 1:
        raise errors.UnavailableError(f"cannot listen at unix:{path}: somebody put another file in its place")
    return File(path, _inode(there))


def _remove_stale(path: str, sort: int) -> None:
    with socket.socket(socket.AF_UNIX, sort | socket.SOCK_NONBLOCK) as probe:
        result = probe.connect_ex(path)
    match result:
        case errno.ENOENT:
            return
        case 0 | errno.EAGAIN:  # the latter is a full queue
            raise errors.UnavailableError(f"cannot listen at unix:{path}: another process listens there")
        case errno.ECONNREFUSED if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
        case errno.ECONNREFUSED:
            raise errors.UnavailableError(f"cannot listen at unix:{path}: there is a file that is no socket")
        case errno.EPROTOTYPE:
            raise errors.UnavailableError(f"cannot listen at unix:{path}: there is a socket of another sort")
        case _:
            raise OSError(result, os.strerror(result))


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino

"""What a daemon under test has around it: a service manager, clients, an application, and who looks at its traces."""

from __future__ import annotations

import array
import contextlib
import os
import re
import select
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

PATIENCE = 60.0
"""Seconds after which whatever is waited for counts as never happening."""
ENDED = "(ended)"
"""In place of the title of a process that has ended and was not reaped yet."""
_ACCESS = re.compile(r'^\S+ - - \[[^]]+\] "[^"\n]*" \d{3} .*\n', re.MULTILINE)
_RECORD = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info|warning|error|critical) ", re.MULTILINE)

ECHO = """
import os

IMPORTED = os.getpid()

async def serve(reader, writer):
    # Says who it is, then repeats what it gets.
    writer.write(f"{os.getpid()} {IMPORTED}\\n".encode())
    while data := await reader.read(1000):
        writer.write(data)
"""
"""An application that tells the pid of its worker and of the process that imported it."""


def pool(name: str = "web", *, server: Mapping[str, Any] = {}, **settings: Any) -> dict[str, Any]:
    """Return a configuration of one pool with one server ``main``: two workers of ``ECHO`` at a free port.

    Args:
        name: of the pool.
        server: settings of the server besides those.
        settings: of the pool besides those.
    """
    main = {"kind": "stream", "app": "app:serve", "bind": "127.0.0.1:0", "grace": "5s", **server}
    return {"pools": {name: {"workers": 2, "servers": {"main": main}, **settings}}}


class Manager:
    """The service manager's end of sd_notify(3), which keeps descriptors too."""

    def __init__(self, path: str) -> None:
        self._messages: list[str] = []
        self.everything: list[str] = []
        """Every message so far, those that were passed over too."""
        self.kept: dict[str, list[socket.socket]] = {}
        """What it keeps, by name."""
        self._lock = threading.Lock()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(path)
        # A queue of datagrams is short, and the daemon must not find it full.
        self._thread = threading.Thread(target=self._read_on, daemon=True)
        self._thread.start()

    def take(self, line: str) -> str:
        """Drop messages up to the first that has the line, and return that; nothing if none has."""
        self.read()
        for index, message in enumerate(self._messages):
            if _has(message, line):
                del self._messages[: index + 1]
                return message
        return ""

    def has(self, line: str) -> bool:
        self.read()
        return any(_has(message, line) for message in self._messages)

    def close(self) -> None:
        self._sock.sendto(b"", self._sock.getsockname())
        self._thread.join()
        self._sock.close()
        self.forget()

    @contextlib.contextmanager
    def deaf(self) -> Iterator[None]:
        """Read nothing for a while."""
        with self._lock:
            yield

    def forget(self) -> None:
        """Keep nothing any more."""
        for sockets in self.kept.values():
            for sock in sockets:
                sock.close()
        self.kept.clear()

    def _read_on(self) -> None:
        while select.select([self._sock], [], [])[0] and self.read():
            pass

    def read(self) -> bool:
        """Read what has come; returns whether more may come: an empty message is the last."""
        with self._lock, contextlib.suppress(BlockingIOError):
            while True:
                # Not recv_fds(), which forgets its flags.
                data, ancillary, *_ = self._sock.recvmsg(4096, socket.CMSG_SPACE(253 * 4), socket.MSG_DONTWAIT)
                if not data:
                    return False
                self._messages.append(data.decode())
                self.everything.append(data.decode())
                self._keep(data.decode().splitlines(), array.array("i", b"".join(each[2] for each in ancillary)))
        return True

    def _keep(self, lines: list[str], fds: Iterable[int]) -> None:
        name = next((line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=")), "stored")
        if "FDSTORE=1" in lines:
            self.kept.setdefault(name, []).extend(socket.socket(fileno=fd) for fd in fds)
        if "FDSTOREREMOVE=1" in lines:
            for sock in self.kept.pop(name, []):
                sock.close()


def _has(message: str, line: str) -> bool:
    return any(each.startswith(line) for each in message.splitlines())


def talk(address: str, data: bytes = b"", *, timeout: float = PATIENCE) -> bytes:
    """Connect, send, say that this was all, and return everything that comes back."""
    with connect(address, timeout=timeout) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def connect(address: str, *, timeout: float = PATIENCE) -> socket.socket:
    """Connect to ``HOST:PORT``, ``unix:PATH`` or ``unix:@NAME`` as status shows it."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        path = address.removeprefix("unix:")
        sock.connect(path.replace("@", "\0", 1) if path.startswith("@") else path)
        return sock
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)


def find_processes(session: int, mark: str, folder: str) -> Iterator[tuple[int, str]]:
    """Find a daemon's processes: by session, by a variable (titles overwrite it), or by their directory."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        place = Path("/proc", entry)
        with contextlib.suppress(OSError):
            name, _, fields = (place / "stat").read_text(errors="replace").rpartition(")")
            title = (place / "cmdline").read_text(errors="replace").replace("\0", " ").strip() or f"{ENDED} {name}"
            if (
                int(fields.split()[3]) == session
                or mark in (place / "environ").read_text(errors="replace").split("\0")
                or (place / "cwd").readlink().is_relative_to(folder)
            ):
                yield int(entry), title


def unclean_records(log: str, allowed: list[re.Pattern[str]]) -> list[str]:
    """Return every warning, error and stray line of a log, unless one of the patterns is found in it.

    Lines of access logs are clean.

    That a pool is degraded only sums up deaths, which have records of their own.
    """
    log = _ACCESS.sub("", log)
    starts = [match.start() for match in _RECORD.finditer(log)]
    records = [log[start:end] for start, end in zip([0, *starts], [*starts, len(log)], strict=True)]
    allowed = [*allowed, re.compile(r"pool \S+ is degraded: ")]
    return [each for each in records if each and not _is_clean(each) and not any(one.search(each) for one in allowed)]


def _is_clean(record: str) -> bool:
    match = _RECORD.match(record)
    return match is not None and match[1] in ("debug", "info") and record.count("\n") == 1 and "Traceback" not in record


class Gate:
    """Holds up whoever comes to it, until the test lets it pass.

    An application meets it with ``wait_at_gate()`` or ``await at_gate()`` of ``GATE``. While there is
    no gate, or after it was closed, everybody passes.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "kept-gate.sock"
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(PATIENCE)
        self._sock.bind(str(self._path))
        self._path.chmod(0o666)
        self._sock.listen(100)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def next(self) -> tuple[int, socket.socket]:
        """Wait for the next one; returns its pid, and a socket to be closed to let it pass."""
        sock, _ = self._sock.accept()
        sock.settimeout(PATIENCE)
        return int(sock.recv(100)), sock

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self._sock.close()


GATE = """
import asyncio, contextlib, os, socket

PATH = os.path.join(os.getcwd(), "kept-gate.sock")

def wait_at_gate():
    if os.path.exists(PATH):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(PATH)
            sock.sendall(str(os.getpid()).encode())
            sock.recv(1)

async def at_gate():
    if os.path.exists(PATH):
        reader, writer = await asyncio.open_unix_connection(PATH)
        writer.write(str(os.getpid()).encode())
        await reader.read()
        writer.close()

@contextlib.asynccontextmanager
async def lifespan():
    await at_gate()
    yield
"""
"""The module ``gate`` of an application."""

AT_GATE = f"import gate\ngate.wait_at_gate()\n{ECHO}"
"""An application whose import waits at the gate."""

BROKEN = {
    "raises": ("1 / 0\n", r"server main: .*app\.py.*1 / 0.*ZeroDivisionError"),
    "has no such attribute": ("other = 1\n", "server main: .*has no attribute 'serve'"),
    "misses a module": ("import not_installed_here\n", r"server main: .*app\.py.*No module named 'not_installed_here'"),
    "ends its process": ("import sys\nsys.exit(3)\n", r"server main: .*app\.py.*SystemExit: 3"),
    "is no Python": ("def serve(:\n", r"server main: .*app\.py.*SyntaxError"),
    "is no application": ("serve = 3\n", "server main .*app is 3, expected a coroutine function"),
    "kills its process": ("import os\nos._exit(9)\n", "web.* exited with code 9"),
}
"""Applications that cannot boot, and what the operator is to be told."""

"""A running hourd that is shot at, and started again when it was stopped; this program is its service manager."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess  # noqa: TID251, the product is run as its users do
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
from chaos_scene import Scene, command

_ASK_LIMIT = 10.0
_LOOK = 0.02


def _dump_no_core() -> None:
    """Let SIGSEGV leave no file behind."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


class EndedError(Exception):
    """The daemon is not there, although it should be."""


class Daemon:
    """The processes of one scene."""

    def __init__(self, scene: Scene) -> None:
        self.log = scene.place / "log"
        """Standard error of every start."""
        _dump_no_core()
        self._scene = scene
        self._process: subprocess.Popen[str] | None = None
        self._sessions: list[int] = []
        self._said: list[str] = []
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(scene.place / "notify.sock"))
        # A queue of datagrams is short, and the daemon must not find it full.
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    # --- life -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            EndedError: it is not ready in time, or ends.
        """
        name, _, value = self._scene.mark.partition("=")
        # Without bytecode: a file that is changed twice in a second would be taken for unchanged.
        more = {name: value, "NOTIFY_SOCKET": str(self._scene.place / "notify.sock"), "PYTHONDONTWRITEBYTECODE": "1"}
        self._said.clear()
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                command("start", "-c", str(self._scene.file)),
                env=measure.environment(**more),
                stdin=subprocess.DEVNULL,
                stderr=log,
                text=True,
                start_new_session=True,  # so that Ctrl-C comes to this program only
            )
        self._sessions.append(self._process.pid)
        end = measure.clock() + self._scene.patience
        while "READY=1" not in self._said:
            if self.ended is not None or measure.clock() > end:
                raise EndedError(f"hourd was not ready within {self._scene.patience:g}s (exit code {self.ended})")
            self.rest(_LOOK)

    @property
    def pid(self) -> int:
        """Of the master."""
        assert self._process is not None
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """The exit code, if it has ended."""
        return self._process.poll() if self._process else None

    def wait_end(self, limit: float) -> int | None:
        """Wait for its end, so many seconds at most, and return its exit code."""
        end = measure.clock() + limit
        while self.ended is None and measure.clock() < end:
            self.rest(_LOOK)
        return self.ended

    def signal(self, number: signal.Signals) -> None:
        """Signal the master."""
        assert self._process is not None
        self._process.send_signal(number)

    def close(self, *, gently: bool) -> bool:
        """End it and whatever is left of it; returns whether nothing had to be killed.

        Args:
            gently: let connections finish.
        """
        if self._manager.fileno() < 0:
            return True  # it was closed already
        for pid in self.family():
            send(pid, signal.SIGCONT)
        if self._process is not None and self.ended is None:
            self.signal(signal.SIGTERM if gently else signal.SIGQUIT)
            self.wait_end(self._scene.patience if gently else 10.0)
        left = self.family()
        clean = not left
        while left:
            for pid in left:
                send(pid, signal.SIGKILL)
            self.rest(_LOOK)
            _ = self.ended  # reaps the master
            left = self.family()
        self._manager.sendto(b"", self._manager.getsockname())
        self._listener.join()
        self._manager.close()
        return clean

    def family(self) -> list[int]:
        """Return every process of it that there is and has not ended, reparented ones included."""
        return [pid for pid in _processes() if self._is_mine(pid)]

    def _is_mine(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            fields = stat(pid)
            if fields[0] in "ZX":
                return False
            # setproctitle writes over the environment; the session is the master's.
            variables = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
            return int(fields[3]) in self._sessions or self._scene.mark in variables
        return False

    # --- talking ----------------------------------------------------------------------------------

    def rest(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)  # noqa: TID251, a fault has to last

    def _listen(self) -> None:
        while message := self._manager.recv(65536):
            self._said += message.decode().splitlines()

    def status(self) -> dict[str, Any]:
        """Return what ``hourd status --json`` shows.

        Raises:
            EndedError: nobody answers.
        """
        found: dict[str, Any] = self.ask("status", limit=_ASK_LIMIT)["status"]
        return found

    def ask(self, what: str, *, limit: float, **more: Any) -> dict[str, Any]:
        """Send a command and return the answer, which comes within so many seconds.

        Raises:
            EndedError: nobody answers.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(limit)
            try:
                sock.connect(str(self._scene.place / "control.sock"))
                sock.sendall(json.dumps({"command": what, **more}).encode() + b"\n")
                with sock.makefile("rb") as answers:
                    line = answers.readline()
            except OSError as error:
                raise EndedError(f"no answer to {what}: {error} (exit code {self.ended})") from None
        if not line:
            raise EndedError(f"no answer to {what} (exit code {self.ended})")
        answer: dict[str, Any] = json.loads(line)
        return answer


# --- processes ------------------------------------------------------------------------------------


def stat(pid: int) -> list[str]:
    """Return the fields of a process from its state on (stat, proc(5)).

    Raises:
        OSError: there is none.
    """
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def send(pid: int, number: signal.Signals) -> bool:
    """Signal a process, if it is there still."""
    try:
        os.kill(pid, number)  # noqa: TID251, faults are injected
    except ProcessLookupError:
        return False
    return True


def stand_still(pid: int, limit: float) -> bool:
    """Wait until all threads of a process are stopped; returns whether they are."""
    end = measure.clock() + limit
    while measure.clock() < end:
        try:
            states = {stat(int(task))[0] for task in os.listdir(f"/proc/{pid}/task")}
        except OSError:
            return False
        if states <= {"T", "t"}:
            return True
        time.sleep(0.0005)  # noqa: TID251, nothing tells a process that is no parent
    return False


def _processes() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())

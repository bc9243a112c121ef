"""A real daemon under test: real processes, sockets and signals, and the test as its service manager.

    with Daemon(pool(workers=2), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses("web", "main")
        assert talk(address) == ...

Leaving the block stops the daemon with SIGTERM and asserts that it exits with 0, unless the test has
waited for its end already. Then no process of it may be left, its log has to be clean, and no socket
file may stay. When anything fails, its log is printed and what is left is killed.

Nothing sleeps to be safe. ``expect`` waits for what the daemon says itself; ``until`` looks again
until something has become true, and each wait has a bound that only a defect reaches.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

import hourd
from hourd import control

from .around import ECHO, ENDED, PATIENCE, Manager, connect, find_processes, pool, talk, unclean_records

__all__ = ["ECHO", "PATIENCE", "Daemon", "connect", "pool", "talk"]

_LOOK = 0.02
PROGRAM = (sys.executable, "-P", "-c", "from hourd.cli import main; main()")
"""What executes hourd's command line."""
_TREE = Path(hourd.__file__).parents[1]
_NOT_INHERITED = ("NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID")
T = TypeVar("T")


class Daemon:
    """A daemon in a folder of its own."""

    def __init__(
        self,
        config: Mapping[str, Any] | str,
        files: Mapping[str, str] = {},
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] = {},
        command: Sequence[str] = PROGRAM,
        arguments: Sequence[str] | None = None,
        fds: Sequence[int] = (),
    ) -> None:
        """Take what is to run; entering the block starts it.

        Args:
            config: the configuration, as text or as what it is to hold; ``name``, ``directory`` and
                ``control`` are filled in where a mapping has none.
            files: names and texts of further files in its folder: the application.
            folder: where it lives; default: a new one that goes with it. Give one to start a second daemon there.
            environment: variables besides those of the test; an empty one is taken away.
            command: what executes hourd's command line.
            arguments: of the command line; default: ``start -c FILE``.
            fds: descriptors that it is to have open, under the same numbers.
        """
        self._own_folder = folder is None
        # Not pytest's: its paths are too long for a unix socket, and other users may not enter them.
        self.folder = folder or Path(tempfile.mkdtemp(prefix="hourd-"))
        self.folder.chmod(0o755)
        self.file = self.folder / "hourd.yaml"
        self.control = str(self.folder / "control.sock")
        self.configure(config)
        for name, text in files.items():
            self.write(name, text)
        self._mark = f"HOURD_TEST={secrets.token_hex(8)}"
        self._notify = self.folder / f"notify-{secrets.token_hex(4)}.sock"
        self._environment = self._make_environment(environment)
        self._command = [*command, *(arguments if arguments is not None else ("start", "-c", str(self.file)))]
        self._log = self.folder / f"stderr-{secrets.token_hex(4)}"
        self._fds = tuple(fds)
        self._allowed: list[re.Pattern[str]] = []
        self._waited = False

    def __enter__(self) -> Self:
        self.manager = Manager(str(self._notify))
        self._log.touch()
        self._log.chmod(0o666)  # for a worker of another user that opens /dev/stderr
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, pass_fds=self._fds,
            )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if error is None:
                self._end()
        except BaseException:
            self._print()
            raise
        else:
            if error is not None:
                self._print()
        finally:
            self._clean_up()

    # --- files ------------------------------------------------------------------------------------

    def configure(self, config: Mapping[str, Any] | str) -> None:
        """Write the configuration; a running daemon reads it when it reloads."""
        if not isinstance(config, str):
            filled = {"name": "test", "directory": str(self.folder), "control": self.control, **config}
            config = yaml.safe_dump(filled, sort_keys=False)
        self.file.write_text(config)

    def write(self, name: str, text: str) -> Path:
        """Write a file of the application, whole or not at all."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".draft")
        draft.write_text(text)
        draft.rename(path)
        return path

    @property
    def log(self) -> str:
        """What it has written to standard error and output so far."""
        return self._log.read_text(errors="replace")

    # --- talking ----------------------------------------------------------------------------------

    def expect(self, *lines: str) -> str:
        """Wait until it tells the service manager each line, in this order; returns the last one's message.

        A line counts when it begins with what is given: ``READY=1``, ``STATUS=degraded``. Messages
        that were passed over do not count again.
        """
        message = ""
        for line in lines:
            message = self.until(lambda line=line: self.manager.take(line), f"notification {line}")  # type: ignore[misc]
        return message

    def heard(self, line: str) -> bool:
        """Tell whether it has told the service manager a line that was not passed over yet."""
        return self.manager.has(line)

    def ask(self, command: str, *, now: bool = False) -> control.Answer:
        """Ask over the control socket; ``reload`` answers when it is over."""
        return control.ask(self.control, control.Request(command, now=now), timeout=PATIENCE)  # type: ignore[arg-type]

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.ask("status").status
        return status

    def pool(self, name: str = "web") -> dict[str, Any]:
        """Return the status of a pool."""
        found: dict[str, Any] = self.status()["pools"][name]
        return found

    def workers(self, name: str = "web") -> list[int]:
        """Return the pids of the serving workers of a pool, by slot."""
        serving = [worker for worker in self.pool(name)["workers"] if worker["state"] == "serving"]
        return [worker["pid"] for worker in sorted(serving, key=lambda worker: worker["slot"])]

    def addresses(self, pool: str = "web", server: str = "main") -> list[str]:
        """Return the addresses that a server really has, such as ``127.0.0.1:41234``."""
        return list(self.pool(pool)["addresses"][server])

    def reload(self) -> control.Answer:
        """Reload and return the answer."""
        return self.ask("reload")

    def wait_for_the_old(self) -> None:
        """Wait until only the newest workers are there: who drains may have accepted a moment ago, and answers."""
        self.wait_until(
            lambda status: (
                {each["generation"] for pool in status["pools"].values() for each in pool["workers"]}
                == {status["generation"]}
            ),
            "the old ones have ended",
        )

    def signal(self, number: signal.Signals) -> None:
        """Signal the master."""
        self.process.send_signal(number)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of hourd in the daemon's folder and environment."""
        return subprocess.run(
            [*PROGRAM, *arguments],
            cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip

    # --- waiting ----------------------------------------------------------------------------------

    def until(self, condition: Callable[[], T | None], what: str = "") -> T:
        """Look until a condition is true and return its value; fails early when the daemon has ended."""
        end = time.monotonic() + PATIENCE
        while True:
            ended = self.process.poll() is not None
            if value := condition():
                return value
            assert not ended, f"the daemon exited with {self.process.returncode} before: {what or condition}"
            assert time.monotonic() < end, f"it never came: {what or condition}"
            time.sleep(_LOOK)

    def wait_until(self, predicate: Callable[[dict[str, Any]], Any], what: str = "") -> dict[str, Any]:
        """Wait until the status is as it should be, and return it."""
        return self.until(lambda: status if predicate(status := self.status()) else None, what or "status") or {}

    def wait_log(self, pattern: str) -> re.Match[str]:
        """Wait until a pattern is in the log."""
        return self.until(lambda: re.search(pattern, self.log), f"log {pattern!r}")

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the master's end and return its exit code; minus the signal, if it died of one."""
        self._waited = True
        return self.process.wait(timeout)

    def wait_gone(self) -> None:
        """Wait until no process of it is left, after the master has died without seeing to that."""
        end = time.monotonic() + PATIENCE
        while left := self.processes():
            assert time.monotonic() < end, f"still there: {left}"
            time.sleep(_LOOK)

    def processes(self) -> dict[int, str]:
        """Return every process of it that there is, reparented ones and zombies included, with its title."""
        return dict(find_processes(self.process.pid, self._mark, str(self.folder)))

    # --- the end ----------------------------------------------------------------------------------

    def allow(self, *patterns: str) -> None:
        """Take warnings and errors that a pattern is found in for a part of the test."""
        self._allowed += [re.compile(pattern, re.DOTALL) for pattern in patterns]

    def _end(self) -> None:
        if not self._waited:
            assert self.process.poll() is None, f"it exited with {self.process.returncode}, which nobody expected"
            self.signal(signal.SIGTERM)
            assert self.wait() == 0
        # The master hears of a process before it was reaped, and may end in between: init reaps it then.
        left = {pid: title for pid, title in self.processes().items() if not title.startswith(ENDED)}
        assert not left, f"processes were left behind: {left}"
        assert not (unclean := unclean_records(self.log, self._allowed)), "the log is not clean:\n" + "".join(unclean)
        if self.process.returncode != -signal.SIGKILL:
            sockets = [path for path in self.folder.iterdir() if stat.S_ISSOCK(path.lstat().st_mode)]
            assert not [path.name for path in sockets if not path.name.startswith(("notify-", "kept-"))]

    def _print(self) -> None:
        print(f"--- log of the daemon (exit code {self.process.poll()}) ---\n{self.log}---", file=sys.stderr)

    def _clean_up(self) -> None:
        while left := self.processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
            time.sleep(_LOOK)
        self.manager.close()
        if self._own_folder:
            shutil.rmtree(self.folder)

    def _make_environment(self, given: Mapping[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HOURD_", "PYTHONWARN"))}
        for name in _NOT_INHERITED:
            inherited.pop(name, None)
        if _TREE.name != "site-packages":
            inherited["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_TREE), inherited.get("PYTHONPATH"))))
        name, _, value = self._mark.partition("=")
        result = {
            **inherited,
            name: value,
            "NOTIFY_SOCKET": str(self._notify),
            "PYTHONWARNINGS": "error",
            # A file that is changed twice in a second would be taken for unchanged.
            "PYTHONDONTWRITEBYTECODE": "1",
            **given,
        }
        return {name: value for name, value in result.items() if value}

"""A Debian root that is booted: a system with real systemd, in namespaces of its own, of which nothing stays.

    with Machine(root) as machine:
        machine.run("systemctl", "start", "hourd.service")

`systemd-nspawn --boot` does it, also where this machine's PID 1 is no systemd and its cgroups are those of version 1.
What it needs there, and why:

    a cgroup of its own           --keep-unit makes "supervisor" and "payload" beneath the cgroup it is started in, which
                                  must not be the root of the machine's
    a mount namespace, with       nspawn looks there to decide for version 1 or 2, and systemd since 256 refuses 1; a
    cgroup2 at /sys/fs/cgroup     hybrid layout has tmpfs there. With a cgroup namespace, its root is that own cgroup
    a PID namespace, with /proc   nspawn takes /proc/1/cgroup for the root of all cgroups, and this machine's PID 1 is
                                  outside of the cgroup namespace. And when its first process ends, so does everything
    tmpfs at /run/systemd         nspawn clears a folder there, and refuses to on a disk, in case it is not its own
    an overlay in memory          the root below is never changed; mounted in that mount namespace, it ends with it

--register=no and --keep-unit: there is no systemd here that would know of it. --private-network: the network is the
loopback interface, which systemd brings up. Controllers of version 1 are not in version 2, so MemoryMax= and the like have
no effect inside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

PATIENCE = 60.0
"""Seconds after which whatever is waited for counts as never happening."""
_PROGRAMS = ("systemd-nspawn", "unshare", "setpriv", "nsenter", "mount")
_MARK = "hourd-booted-"
_ENTER = """
echo $$ >"$1/cgroup.procs"
shift
exec "$@"
"""
_BOOT = """
place=$1 lower=$2 name=$3
mount -t tmpfs tmpfs /run/systemd
mount -t tmpfs tmpfs "$place"
mkdir "$place/changes" "$place/work" "$place/root"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$place/changes,workdir=$place/work" "$place/root"
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec systemd-nspawn --boot --quiet --register=no --keep-unit --private-network --link-journal=no \\
    --console=read-only --machine="$name" --directory="$place/root" \\
    systemd.mask=console-getty.service systemd.mask=apt-daily.timer systemd.mask=apt-daily-upgrade.timer
"""
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "SYSTEMD_COLORS": "0",
    "SYSTEMD_PAGER": "",
}
_LOOK = 0.05
T = TypeVar("T")


class CannotBootError(Exception):
    """This machine does not permit it, and why."""


def missing() -> str:
    """Return why nothing can be booted here, or an empty text."""
    if os.geteuid() != 0:
        return "only root can boot a root"
    if lacking := [name for name in _PROGRAMS if not shutil.which(name)]:
        return f"there is no {', no '.join(lacking)}"
    if not os.path.isdir("/sys/fs/cgroup") or not _hierarchy():
        return "no hierarchy of cgroups version 2 is mounted"
    return "" if os.access(_hierarchy(), os.W_OK) else f"{_hierarchy()} is read-only"


def until(condition: Callable[[], T | None], what: str) -> T:
    """Look until a condition is true, and return its value."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, f"it never came: {what}"
        time.sleep(_LOOK)
    return value


class Machine:
    """A booted system."""

    program = "systemd-nspawn --boot"

    def __init__(self, *lower: Path, name: str = "hourd") -> None:
        """Take the root, and its name in messages.

        Args:
            lower: of what it consists, the topmost first; never changed.
            name: of the machine.
        """
        self.pid = 0
        """Of its PID 1, as seen from here."""
        self._lower = lower
        self._name = name

    def __enter__(self) -> Self:
        sweep()
        try:
            self._start()
            self._await_boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            self._tell()
        self._end()

    # --- what is done in it ---------------------------------------------------------------------------

    def enter(self, *command: str) -> list[str]:
        """Return what executes a command in it, as root."""
        return ["nsenter", f"--target={self.pid}", "--all", "--root", "--wd", "--", *command]

    def enter_network(self, *command: str) -> list[str]:
        """Return what executes a command of this machine in its network."""
        return ["nsenter", f"--target={self.pid}", "--net", "--", *command]

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in it, and return all that it says; raises ``AssertionError`` when it fails."""
        result = self.attempt(*command)
        assert not check or result.returncode == 0, f"{' '.join(command)}: {result.returncode}\n{result.stdout}"
        return result.stdout

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it that may fail."""
        try:
            return subprocess.run(
                self.enter(*command), env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", check=False, timeout=PATIENCE,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"{' '.join(command)} did not end within {PATIENCE:g}s: {late.stdout!r}") from None

    def write(self, path: str, text: str) -> None:
        """Write a file that everybody there may read, whole or not at all; no part of its path may be a link."""
        target = self.outside(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(target.name + ".draft")
        draft.write_text(text)
        draft.chmod(0o644)
        draft.rename(target)

    def copy(self, file: Path, folder: str) -> str:
        """Copy a file of this machine to a folder of it, and return its path there."""
        shutil.copy(file, self.outside(folder))
        return f"{folder}/{file.name}"

    def outside(self, path: str) -> Path:
        """Return where a path of it is found from here."""
        return Path(f"/proc/{self.pid}/root{path}")

    def pids(self, unit: str) -> list[int]:
        """Return the processes of a service, with their ids here."""
        with contextlib.suppress(FileNotFoundError):  # it has no cgroup when it has no process
            text = (self._cgroup / "payload/system.slice" / unit / "cgroup.procs").read_text()
            return [int(pid) for pid in text.split()]
        return []

    def show(self, unit: str, *properties: str) -> list[str]:
        """Return properties of a unit, in the order in which they were asked for."""
        said = self.run("systemctl", "show", unit, *(f"--property={name}" for name in properties))
        values = dict(line.partition("=")[::2] for line in said.splitlines())
        return [values[name] for name in properties]

    # --- beginning and end ----------------------------------------------------------------------------

    def _start(self) -> None:
        mark = f"{_MARK}{os.getpid()}-{self._name}"
        self._place = Path(tempfile.mkdtemp(prefix=f"{mark}-"))
        self._cgroup = Path(_hierarchy(), mark)
        self._process: subprocess.Popen[bytes] | None = None
        (self._place / "mount").mkdir()
        try:
            self._cgroup.mkdir()
        except OSError as error:
            raise CannotBootError(f"no cgroup can be made: {error}") from None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("sh", "-ec", _ENTER, "sh", self._cgroup),
                    # Whoever kills these tests kills it too, and all that is in it.
                    *("setpriv", "--pdeathsig=KILL"),
                    *("unshare", "--mount", "--cgroup", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"),
                    *("sh", "-ec", _BOOT, "sh", self._place / "mount", ":".join(map(str, self._lower)), self._name),
                ],
                env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _await_boot(self) -> None:
        self.pid = until(self._find, "PID 1")
        # Its bus may not be there yet, or not answer yet.
        state = until(self._state, "a system that has booted")
        assert state == "running", f"it is {state}:\n{self.run('systemctl', 'list-units', '--failed', check=False)}"

    def _find(self) -> int:
        if self._process and self._process.poll() is not None:
            raise CannotBootError(f"{self.program} fails: {self.log.strip() or 'without a word'}")
        with contextlib.suppress(OSError, ValueError):
            return int((self._cgroup / "payload/init.scope/cgroup.procs").read_text().split("\n")[0])
        return 0

    def _state(self) -> str:
        said = self.attempt("systemctl", "is-system-running", "--wait").stdout.strip()
        return said if said in ("running", "degraded") else ""

    @property
    def _log(self) -> Path:
        return self._place / "console.log"

    @property
    def log(self) -> str:
        """What it has said on its console."""
        return self._log.read_text(errors="replace")

    def _tell(self) -> None:
        with contextlib.suppress(AssertionError, OSError, subprocess.SubprocessError):
            print(f"--- console ---\n{self.log}\n--- journal ---", file=sys.stderr)
            print(self.run("journalctl", "--no-pager", "--lines=300", check=False), file=sys.stderr)

    def _end(self) -> None:
        """End everything in it; a second interruption must not stop that half-way."""
        with _uninterrupted():
            if self._process and self._process.poll() is None:
                # unshare waits for the first process of the PID namespace, with which all others end.
                for pid in _children(self._process.pid) or [self._process.pid]:
                    os.kill(pid, signal.SIGKILL)
                self._process.wait()
            _remove_cgroup(self._cgroup)
            shutil.rmtree(self._place)


def sweep() -> None:
    """Remove what runs of these tests that were killed have left: cgroups and mount points, all empty by now."""
    for place in (_hierarchy(), tempfile.gettempdir()):
        for left in Path(place).glob(f"{_MARK}*"):
            if Path("/proc", left.name.removeprefix(_MARK).split("-")[0]).exists():
                continue
            if place == _hierarchy():
                _remove_cgroup(left)
            else:
                shutil.rmtree(left)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _remove_cgroup(cgroup: Path) -> None:
    """Wait until a cgroup and those beneath have no process, and remove them."""
    if not cgroup.is_dir():
        return
    until(lambda: "populated 0" in (cgroup / "cgroup.events").read_text(), f"the end of all processes of {cgroup}")
    for folder, _, _ in os.walk(cgroup, topdown=False):
        os.rmdir(folder)


def _hierarchy() -> str:
    """Return where cgroups of version 2 are mounted."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return next((line.split()[1] for line in lines if line.split()[2] == "cgroup2"), "")


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Have an interruption wait until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

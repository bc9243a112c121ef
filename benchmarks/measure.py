"""What the benchmarks share: running a daemon, reading /proc, comparing two things fairly.

Two things are compared in pairs: A B, B A, A B, ... Both halves of a pair see nearly the same
machine, so that a machine that slows down or is busy moves both, and the ratio within a pair stays.
The median of those ratios is the result; its interval says how far it can be trusted.

Only this file executes programs and reads the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import select
import shutil
import signal
import socket
import statistics
import subprocess  # noqa: TID251, a benchmark runs the product as its users do
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

MET, MISSED, CANNOT_RUN = 0, 1, 2
"""Exit codes."""
ROOT = Path(__file__).resolve().parents[1]
"""Of the checkout: its hourd is measured, installed or not."""
_TICK = os.sysconf("SC_CLK_TCK")
_PROGRAM = "from hourd.cli import main; main()"
_DEPENDENCIES = {
    "aiohttp": "aiohttp", "click": "click", "msgspec": "msgspec", "setproctitle": "setproctitle",
    "ujson": "ujson", "uvloop": "uvloop", "yaml": "PyYAML",
}  # fmt: skip
"""Of hourd itself: the module, and the package that has it."""
_PATIENCE = 120.0
_TAIL = 20_000
"""Characters of a daemon's log that are shown when it fails."""
_RESAMPLES = 10_000


class CannotRunError(Exception):
    """Something is missing, or the daemon does not do its work; no figure would mean anything."""


def clock() -> float:
    """Return monotonic seconds."""
    return time.monotonic()  # noqa: TID251, benchmarks measure time


# --- programs -------------------------------------------------------------------------------------


def need(*modules: str, programs: Iterable[str] = ()) -> None:
    """Raise ``CannotRunError`` that names what to install, if hourd or its benchmark lacks something."""
    if sys.platform != "linux":
        raise CannotRunError("hourd and its benchmarks need Linux")
    wanted = {**_DEPENDENCIES, **{name: name for name in modules}}
    packages = [package for module, package in wanted.items() if importlib.util.find_spec(module) is None]
    tools = [name for name in programs if shutil.which(name) is None]
    hints = [f"pip install {' '.join(packages)}"] if packages else []
    hints += [f"install the package {' '.join(tools)} of your system"] if tools else []
    if hints:
        raise CannotRunError("; ".join(hints))


def environment(**more: str) -> dict[str, str]:
    """Return the environment of what is measured: this checkout first, no settings from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOURD_", "PYTHON"))}
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])
    return {**kept, "PYTHONPATH": path, **more}


@contextlib.contextmanager
def executed(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program; at the end ask it to stop, and kill it if it does not."""
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def output(command: Sequence[str], limit: float) -> str:
    """Run a program to its end, at most ``limit`` seconds, and return what it said."""
    try:
        done = subprocess.run(command, text=True, capture_output=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise CannotRunError(f"{command[0]} did not end within {limit:g}s") from None
    return done.stdout + done.stderr


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Make a directory that is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="hourd-benchmark-") as name:
        yield Path(name)


# --- the daemon -----------------------------------------------------------------------------------


class Daemon:
    """A running hourd; this program plays its service manager."""

    def __init__(
        self,
        process: subprocess.Popen[str],
        executed_at: float,
        *,
        control: Path,
        log: Path,
        notifications: socket.socket,
    ) -> None:
        self._process = process
        self._control = control
        self._log = log
        self._notifications = notifications
        self._pidfd = os.pidfd_open(process.pid)
        self._executed_at = executed_at
        self.boot = 0.0
        """Seconds from its execution to ``READY=1``."""

    @classmethod
    @contextlib.contextmanager
    def running(cls, place: Path, settings: dict[str, Any], stdout: int | None = None) -> Iterator[Self]:
        """Start a daemon with these settings and wait until it is ready; it ends with the block.

        Args:
            place: a directory for its files.
            settings: what stands in its configuration (YAML holds JSON).
            stdout: its standard output; default: this program's.
        """
        control, log, file = place / "control.sock", place / "log", place / "hourd.yaml"
        file.write_text(json.dumps({"name": "benchmark", "control": str(control), "directory": str(place), **settings}))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications, log.open("w") as stderr:
            notifications.bind(str(place / "notify.sock"))
            command = [sys.executable, "-c", _PROGRAM, "start", "-c", str(file)]
            env = environment(NOTIFY_SOCKET=str(place / "notify.sock"))
            executed_at = clock()
            with executed(command, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr) as process:
                daemon = cls(process, executed_at, control=control, log=log, notifications=notifications)
                try:
                    daemon._wait_until_ready()
                    yield daemon
                finally:
                    os.close(daemon._pidfd)
        (place / "notify.sock").unlink()

    @property
    def pid(self) -> int:
        """Of the master."""
        return self._process.pid

    def ask(self, command: str) -> dict[str, Any]:
        """Return the answer to a command of the control protocol; that of ``reload`` comes at its end."""
        received = b""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.connect(str(self._control))
                sock.sendall(json.dumps({"command": command}).encode() + b"\n")
                while not received.endswith(b"\n"):
                    if not self.wait_for(sock, _PATIENCE) or not (data := sock.recv(65536)):
                        raise self._died(f"did not answer {command!r}")
                    received += data
            except OSError as error:
                raise self._died(f"did not answer {command!r} ({error.strerror})") from None
        answer: dict[str, Any] = json.loads(received)
        return answer

    def status(self) -> dict[str, Any]:
        """Return what ``hourd status --json`` shows."""
        found: dict[str, Any] = self.ask("status")["status"]
        return found

    def pool(self) -> dict[str, Any]:
        """Return the status of the only pool."""
        (pool,) = self.status()["pools"].values()
        return dict(pool)

    def port(self) -> int:
        """Return the port of the only server."""
        ((address,),) = self.pool()["addresses"].values()
        return int(address.rpartition(":")[2])

    def workers(self) -> list[int]:
        """Return the process ids of the workers, which must all serve."""
        found = self.pool()["workers"]
        if any(worker["state"] != "serving" for worker in found):
            raise CannotRunError(f"not every worker serves: {found}")
        return [worker["pid"] for worker in found]

    def molds(self) -> list[int]:
        """Return the process ids of the molds."""
        return list(self.pool()["molds"])

    def run_for(self, seconds: float) -> None:
        """Leave the daemon alone; it must not end meanwhile."""
        if self.wait_for(self._pidfd, seconds):
            raise self._died()

    def wait_for(self, what: socket.socket | int, seconds: float) -> bool:
        """Wait until something can be read, and take the daemon's notifications: its queue holds only some."""
        poll = select.poll()
        poll.register(what, select.POLLIN)
        poll.register(self._notifications, select.POLLIN)
        end = clock() + seconds
        while (left := end - clock()) > 0:
            ready = [fd for fd, _ in poll.poll(left * 1000)]
            if self._notifications.fileno() in ready:
                self._notifications.recv(65536)
            elif ready:
                return True
        return False

    def _wait_until_ready(self) -> None:
        poll = select.poll()
        poll.register(self._notifications, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        end = clock() + _PATIENCE
        while (left := end - clock()) > 0:
            ready = [fd for fd, _ in poll.poll(left * 1000)]
            if self._notifications.fileno() in ready:
                if b"READY=1" in self._notifications.recv(65536).splitlines():
                    self.boot = clock() - self._executed_at
                    return
            elif ready:
                raise self._died()
        raise CannotRunError(f"hourd was not ready within {_PATIENCE:g}s:\n{self._log.read_text()}")

    def _died(self, how: str = "ended") -> CannotRunError:
        return CannotRunError(f"hourd {how}:\n{self._log.read_text()[-_TAIL:]}")


# --- /proc ----------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """Read the CPU time of a process, its own only (utime and stime of stat, proc(5))."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def cpu_seconds_of_all(pids: Iterable[int]) -> float:
    """Read the CPU time of processes and of all children that they have seen off."""
    stats = [_read(f"/proc/{pid}/stat").rpartition(")")[2].split() for pid in pids]
    return sum(sum(map(int, fields[11:15])) for fields in stats) / _TICK


def busy_seconds() -> float:
    """Read the CPU time that everything on this machine used (stat, proc(5))."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, _read("/proc/stat").split(None, 9)[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICK


def descriptors(pid: int) -> int:
    """Count the open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    """Count the threads of a process."""
    return _field(f"/proc/{pid}/status", "Threads:")


def tcp_counters(*names: str) -> dict[str, int]:
    """Read counters of the kernel, which are everybody's on this machine (TcpExt of netstat, proc_pid_net(5))."""
    head, values, *_ = (line.split() for line in _read("/proc/net/netstat").splitlines() if line.startswith("TcpExt:"))
    found = dict(zip(head[1:], map(int, values[1:]), strict=True))
    return {name: found[name] for name in names}


def voluntary_switches(pid: int) -> int:
    """Read how often a process went to sleep, in all its threads; each is one wake-up (status, proc(5))."""
    return sum(_field(f"{task}/status", "voluntary_ctxt_switches:") for task in Path(f"/proc/{pid}/task").iterdir())


def rss_mib(pid: int) -> float:
    """Read the resident set of a process."""
    return _field(f"/proc/{pid}/status", "VmRSS:") / 1024


def pss_mib(pid: int) -> float:
    """Read the proportional set: a page that n processes share counts 1/n (smaps_rollup, proc(5))."""
    return _field(f"/proc/{pid}/smaps_rollup", "Pss:") / 1024


def _field(file: str, name: str) -> int:
    return next(int(line.split()[1]) for line in _read(file).splitlines() if line.startswith(name))


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError as error:
        raise CannotRunError(f"cannot read {file} (has the process ended?): {error.strerror}") from None


# --- statistics -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """A sample, as the table shows it."""

    least: float
    lower: float
    median: float
    upper: float
    most: float

    @classmethod
    def of(cls, sample: Sequence[float]) -> Self:
        """Take at least two values."""
        lower, median, upper = statistics.quantiles(sample, n=4, method="inclusive")
        return cls(min(sample), lower, median, upper, max(sample))


def interval(sample: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median by the bootstrap (percentiles of resampled medians)."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(sample, k=len(sample))) for _ in range(_RESAMPLES))
    return medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES) - 1]


def interleaved(rounds: int) -> Iterator[tuple[int, int]]:
    """Yield (0, 1), (1, 0), (0, 1), ...: who comes first in each round, so that order favours nobody."""
    for number in range(rounds):
        yield (0, 1) if number % 2 == 0 else (1, 0)


# --- reports --------------------------------------------------------------------------------------


def print_head(title: str, *packages: str) -> None:
    """Say what is measured, where, and with which versions."""
    print(title)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"Python {platform.python_version()}{', ' if versions else ''}{versions}; {platform.platform()}")
    print(f"{len(os.sched_getaffinity(0))} CPUs; load average {load}\n")


def print_table(head: Sequence[str], rows: Iterable[Sequence[str | float]]) -> None:
    """Print columns, numbers to the right."""
    lines = [list(head), *([_show(cell) for cell in row] for row in rows)]
    first, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *cells in lines:
        print(name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True)), sep="  ")


def _show(cell: str | float) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.1f}" if abs(cell) >= 10 else f"{cell:.3f}"


def print_spreads(samples: dict[str, Sequence[float]]) -> None:
    """Print one line for each sample."""
    rows: list[Sequence[str | float]] = []
    for name, sample in samples.items():
        spread = Spread.of(sample)
        rows.append([name, spread.least, spread.lower, spread.median, spread.upper, spread.most])
    print_table(["", "min", "q1", "median", "q3", "max"], rows)


def verdict(
    what: str,
    value: float,
    target: float,
    *,
    at_least: bool,
    sample: Sequence[float] = (),
    bounds: tuple[float, float] | None = None,
) -> bool:
    """Print whether a target was met, and return it.

    Args:
        what: was measured.
        value: that was found.
        target: for it.
        at_least: whether more is better.
        sample: whose median the value is; its interval is printed.
        bounds: an interval of the value that is known already.
    """
    met = value >= target if at_least else value <= target
    low, high = bounds or (interval(sample) if sample else (value, value))
    trust = f" (95 % interval {low:.3f} to {high:.3f})" if sample or bounds else ""
    bound = "at least" if at_least else "at most"
    unsure = "; the interval holds the target: measure longer" if low < target < high else ""
    print(f"{what}: {value:.3f}{trust}, target {bound} {target:g}: {'met' if met else 'MISSED'}{unsure}")
    return met


def within(low: int, high: int) -> Callable[[str], int]:
    """Return an argparse type: a whole number in a range, so that every run is bounded."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not within {low} and {high}")
        return value

    return parse


def run(benchmark: Callable[[], bool]) -> int:
    """Run a benchmark to its exit code; when it is told to end, what it started ends too."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        return MET if benchmark() else MISSED
    except (CannotRunError, OSError) as error:
        print(f"cannot run: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    return CANNOT_RUN


def _leave(_signal: int, _frame: FrameType | None) -> None:
    print("told to end (SIGTERM)", file=sys.stderr)
    sys.exit(CANNOT_RUN)

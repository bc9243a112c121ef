"""What does an idle daemon cost? The wake-ups, CPU time and memory of a master with 4 workers.

A wake-up is a voluntary context switch: the process had gone to sleep and was woken (proc(5)). The
kernel counts them itself, so that looking does not disturb. Where strace is installed and permitted,
it then lists for a shorter while which system calls the master makes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import measure

WAKEUPS, RSS = 2.0, 25.0
"""Targets for the master: wake-ups a second, MiB."""
_SETTLE = 2.0
_TRACE = 10


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of a process at one moment."""

    at: float
    switches: int
    cpu: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """Read them."""
        return cls(measure.clock(), measure.voluntary_switches(pid), measure.cpu_seconds(pid))


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took in between."""

    wakeups: float
    """Each second."""
    cpu_ms: float
    """Each second."""
    rss: float
    """MiB, at the end."""

    @classmethod
    def since(cls, before: Reading, pid: int) -> Self:
        """Compare with now."""
        now = Reading.of(pid)
        seconds = now.at - before.at
        wakeups, cpu = now.switches - before.switches, now.cpu - before.cpu
        return cls(wakeups / seconds, cpu / seconds * 1000, measure.rss_mib(pid))


def benchmark(workers: int, seconds: int) -> bool:
    """Measure and report; returns whether both targets were met."""
    measure.need()
    measure.print_head(f"An idle daemon with {workers} workers, for {seconds} s", "aiohttp", "uvloop")
    with measure.folder() as place:
        (place / "application.py").write_text("from aiohttp import web\n\napp = web.Application\n")
        server = {"kind": "aiohttp", "app": "application:app", "bind": "127.0.0.1:0"}
        settings = {"pools": {"web": {"workers": workers, "servers": {"web": server}}}}
        with measure.Daemon.running(place, settings) as daemon:
            costs = _observe(daemon, seconds)
            _report(costs)
            _trace(daemon)
    master = costs["master"]
    wakeups = measure.verdict("wake-ups of the master each second", master.wakeups, WAKEUPS, at_least=False)
    memory = measure.verdict("RSS of the master, MiB", master.rss, RSS, at_least=False)
    return wakeups and memory


def _observe(daemon: measure.Daemon, seconds: float) -> dict[str, Cost]:
    """Watch every process of the daemon while nobody talks to it."""
    family = {"master": daemon.pid}
    family |= {f"mold {number}": pid for number, pid in enumerate(daemon.molds())}
    family |= {f"worker {number}": pid for number, pid in enumerate(daemon.workers())}
    daemon.run_for(_SETTLE)
    before = {name: Reading.of(pid) for name, pid in family.items()}
    daemon.run_for(seconds)
    return {name: Cost.since(before[name], pid) for name, pid in family.items()}


def _report(costs: Mapping[str, Cost]) -> None:
    rows: list[Sequence[str | float]] = [[name, cost.wakeups, cost.cpu_ms, cost.rss] for name, cost in costs.items()]
    measure.print_table(["", "wake-ups/s", "CPU ms/s", "RSS MiB"], rows)
    print()


def _trace(daemon: measure.Daemon) -> None:
    """Print the master's system calls, if they can be had."""
    if not shutil.which("strace") or not shutil.which("timeout"):
        print("(strace is not installed: no list of system calls)\n")
        return
    command = ["timeout", "-s", "INT", str(_TRACE), "strace", "-f", "-c", "-p", str(daemon.pid)]
    print(f"System calls of the master in {_TRACE} s (no table: there was none):")
    print(measure.output(command, limit=_TRACE + 30))


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=measure.within(1, 64), default=4, help="default 4")
    parser.add_argument("--seconds", type=measure.within(5, 600), default=30, help="default 30")
    options = parser.parse_args()
    return measure.run(lambda: benchmark(options.workers, options.seconds))


if __name__ == "__main__":
    sys.exit(main())

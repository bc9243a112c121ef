"""What does the access log cost? The same worker with and without, for each kind, format and destination.

All servers run in one worker: one without an access log, and one for each variant, each with an address of its
own. So both halves of a comparison share process, memory and luck. wrk drives one at a time, in short turns: one
without, two with, one without, ... and each turn is compared with the mean of those without beside it.

A pipe is read by ``cat``. In the end that is stopped: the pipe is full, and nobody waits for it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import statistics
import subprocess  # noqa: TID251, for its constants
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import contest
import measure
import throughput

if TYPE_CHECKING:
    from aiohttp import web

TARGET = 0.9
_BODY = b"Hello, world"
_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
_REFERER = "https://www.example.com/some/page?with=a&query=string"
_NONE = "without"


# --- the applications -----------------------------------------------------------------------------


def create_app() -> web.Application:
    """Return an aiohttp application that does next to nothing."""
    return throughput.create_app()


async def asgi_app(_scope: dict[str, Any], _receive: Callable[[], Any], send: Callable[..., Awaitable[None]]) -> None:
    """Do next to nothing, as an ASGI application."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"12")]})
    await send({"type": "http.response.body", "body": _BODY})


_APPS = {"aiohttp": "access_log:create_app", "asgi": "access_log:asgi_app"}


# --- what is compared -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to log."""

    form: str
    where: str
    """``file``, ``pipe``, or ``stopped``: a pipe that is not read."""

    @property
    def name(self) -> str:
        return f"{self.form}-{'file' if self.where == 'file' else 'pipe'}"


_READ = [Variant(form, where) for where in ("file", "pipe") for form in ("common", "combined", "json")]
_STOPPED = [Variant("combined", "stopped"), Variant("json", "stopped")]


@dataclass(frozen=True, slots=True)
class Server:
    """The worker that has all servers."""

    worker: int
    ports: dict[str, int]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one run of wrk found."""

    rate: float
    """Requests a second."""
    cpu: float
    """CPU microseconds of the worker for each request."""
    count: int


@contextlib.contextmanager
def running(kind: str, place: Path, stdout: int) -> Iterator[Server]:
    """Run a worker with all variants."""
    servers: dict[str, dict[str, Any]] = {_NONE: {}}
    for variant in _READ:
        file = str(place / variant.name) if variant.where == "file" else "/dev/stdout"
        servers[variant.name] = {"options": {"access_log": variant.form, "access_log_file": file}}
    common = {"kind": kind, "app": _APPS[kind], "bind": "127.0.0.1:0"}
    settings = {
        "directory": str(Path(__file__).parent),
        "pools": {"web": {"workers": 1, "servers": {name: {**common, **more} for name, more in servers.items()}}},
    }
    with measure.Daemon.running(place, settings, stdout) as daemon:
        addresses: dict[str, list[str]] = daemon.pool()["addresses"]
        ports = {name: int(each[0].rpartition(":")[2]) for name, each in addresses.items()}
        yield Server(daemon.workers()[0], ports)


def drive(server: Server, name: str, options: argparse.Namespace) -> Turn:
    """Run wrk once; every request must succeed."""
    before = measure.cpu_seconds(server.worker)
    said = measure.output(
        [
            "wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}s", "-H", f"User-Agent: {_AGENT}",
            "-H", f"Referer: {_REFERER}", f"http://127.0.0.1:{server.ports[name]}/?a=path&of=usual&length=1",
        ],
        limit=options.seconds + 30,
    )  # fmt: skip
    used = measure.cpu_seconds(server.worker) - before
    count, rate = re.search(r"(\d+) requests in", said), re.search(r"Requests/sec:\s*([\d.]+)", said)
    if not count or not rate or not int(count[1]) or "Socket errors" in said or "Non-2xx" in said:
        raise measure.CannotRunError(f"requests failed:\n{said}")
    if not used:
        raise measure.CannotRunError("the worker was given no CPU time in a whole turn: the machine is too busy")
    return Turn(float(rate[1]), used / int(count[1]) * 1e6, int(count[1]))


# --- the measurement ------------------------------------------------------------------------------


@dataclass(slots=True)
class Found:
    """What was found of a variant, one of each for each round."""

    rates: list[float] = field(default_factory=list)
    """Ratios of throughput: with / without."""
    cpu: list[float] = field(default_factory=list)
    """Ratios of CPU time for each request: without / with."""
    count: int = 0


def compare(variants: Sequence[Variant], server: Server, options: argparse.Namespace) -> dict[Variant, Found]:
    """Compare variants with no log."""
    found = {variant: Found() for variant in variants}
    for number in range(options.rounds):
        order = variants[:: 1 if number % 2 == 0 else -1]
        before = drive(server, _NONE, options)
        for start in range(0, len(order), 2):
            turns = {variant: drive(server, variant.name, options) for variant in order[start : start + 2]}
            after = drive(server, _NONE, options)
            for variant, turn in turns.items():
                found[variant].rates.append(turn.rate / statistics.mean((before.rate, after.rate)))
                found[variant].cpu.append(statistics.mean((before.cpu, after.cpu)) / turn.cpu)
                found[variant].count += turn.count
            before = after
    return found


def measure_kind(kind: str, options: argparse.Namespace) -> bool:
    """Compare all variants of a kind, report, and return whether each met the target."""
    every = os.sched_getaffinity(0)
    try:
        with measure.folder() as place, contextlib.ExitStack() as stack:
            reader = stack.enter_context(
                measure.executed(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL),
            )
            assert reader.stdin
            with contest.on_cpus(1):
                server = stack.enter_context(running(kind, place, reader.stdin.fileno()))
            drive(server, _NONE, options)  # warms up
            found = compare(_READ, server, options)
            reader.send_signal(signal.SIGSTOP)
            try:
                drive(server, _STOPPED[0].name, options)  # fills the pipe, and what may wait in memory
                found |= compare(_STOPPED, server, options)
            finally:
                reader.send_signal(signal.SIGCONT)
            _check(place, found)
    finally:
        os.sched_setaffinity(0, every)
    return _report(kind, found)


def _check(place: Path, found: dict[Variant, Found]) -> None:
    """See that files have a line for each request; a daemon that runs at full speed drops none."""
    for variant in _READ:
        if variant.where == "file":
            lines = (place / variant.name).read_bytes().count(b"\n")
            if lines < found[variant].count:
                raise measure.CannotRunError(f"{found[variant].count} requests, and {lines} lines in {variant.name}")


def _report(kind: str, found: dict[Variant, Found]) -> bool:
    names = {variant: f"{kind}, {variant.form}, {variant.where}" for variant in found}
    measure.print_spreads({names[variant]: each.rates for variant, each in found.items()})
    print()
    measure.print_spreads({f"{names[variant]}, CPU": each.cpu for variant, each in found.items()})
    met = [
        measure.verdict(names[variant], statistics.median(each.rates), TARGET, at_least=True, sample=each.rates)
        for variant, each in found.items()
    ]
    print()
    return all(met)


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(_APPS), default=list(_APPS), help="default: all")
    parser.add_argument("--rounds", type=measure.within(2, 200), default=3, help="default 3")
    parser.add_argument("--seconds", type=measure.within(1, 60), default=1, help="of each turn, default 1")
    parser.add_argument("--connections", type=measure.within(1, 256), default=32, help="default 32")
    options = parser.parse_args()

    def benchmark() -> bool:
        measure.need(*(["uvicorn", "httptools"] if "asgi" in options.kinds else []), programs=["wrk", "cat"])
        measure.print_head("Access log: with / without", "aiohttp", "uvloop")
        met = [measure_kind(kind, options) for kind in options.kinds]
        return all(met)

    return measure.run(benchmark)


if __name__ == "__main__":
    sys.exit(main())

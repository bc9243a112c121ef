"""Servers that take turns under wrk: what the comparisons of throughput share.

Each round starts every contestant anew. Two processes of the very same program differ in speed by a few
percent for as long as they live (where the kernel put their memory, how it spread the connections), so that
measuring one pair for long measures that luck. One contestant is driven on keep-alive connections while the
others idle, in short turns whose order changes.

Where there are CPUs to spare, the servers share as many as they have workers, and wrk has the others.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Self

import measure

_TURNS = 3
"""Of each contestant, in each round."""


@dataclass(frozen=True, slots=True)
class Server:
    """One that is measured."""

    port: int
    workers: list[int]
    """The processes whose CPU time counts."""

    def cpu_seconds(self) -> float:
        """Return what its workers have used so far."""
        return sum(measure.cpu_seconds(pid) for pid in self.workers)


Contestant = Callable[[], AbstractContextManager[Server]]
"""Starts a server, which ends with the block."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one run of wrk found."""

    rate: float
    """Requests a second."""
    cpu: float
    """CPU microseconds of the workers for each request."""

    @classmethod
    def median(cls, turns: Sequence[Turn]) -> Self:
        return cls(statistics.median(turn.rate for turn in turns), statistics.median(turn.cpu for turn in turns))


def add_options(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    """Add what every contest lets one choose."""
    parser.add_argument("--workers", type=measure.within(1, 64), nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--rounds", type=measure.within(2, 200), default=rounds, help=f"fresh starts, default {rounds}")
    parser.add_argument("--seconds", type=measure.within(1, 60), default=1, help="of each turn, default 1")
    parser.add_argument("--connections", type=measure.within(1, 256), default=32, help="for each worker, default 32")


def hold(contestants: Sequence[Contestant], workers: int, options: argparse.Namespace) -> list[tuple[Turn, ...]]:
    """Hold a contest; returns each round, with the median turn of each contestant."""
    every = os.sched_getaffinity(0)
    try:
        return [_one_round(contestants, workers, number, options) for number in range(options.rounds)]
    finally:
        os.sched_setaffinity(0, every)


def _one_round(
    contestants: Sequence[Contestant], workers: int, number: int, options: argparse.Namespace
) -> tuple[Turn, ...]:
    turns: list[list[Turn]] = [[] for _ in contestants]
    connections = options.connections * workers
    with contextlib.ExitStack() as stack:
        with on_cpus(workers):
            servers = {each: stack.enter_context(contestants[each]()) for each in _order(len(contestants), number)}
        for server in servers.values():
            drive(server, connections, options.seconds)  # warms up, and is not counted
        for turn in range(_TURNS):
            for each in _order(len(contestants), number + turn):
                turns[each].append(drive(servers[each], connections, options.seconds))
    return tuple(map(Turn.median, turns))


def _order(many: int, number: int) -> list[int]:
    """Return who comes when: forwards and backwards in turn, each time with another one first."""
    first = number // 2 % many
    forwards = [(first + each) % many for each in range(many)]
    return forwards[::-1] if number % 2 else forwards


def drive(server: Server, connections: int, seconds: int, path: str = "/") -> Turn:
    """Run wrk once against a server; every request must succeed."""
    before = server.cpu_seconds()
    url = f"http://127.0.0.1:{server.port}{path}"
    said = measure.output(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", url], limit=seconds + 30)
    used = server.cpu_seconds() - before
    count, rate = re.search(r"(\d+) requests in", said), re.search(r"Requests/sec:\s*([\d.]+)", said)
    if not count or not rate or not int(count[1]) or "Socket errors" in said or "Non-2xx" in said:
        raise measure.CannotRunError(f"requests failed:\n{said}")
    return Turn(float(rate[1]), used / int(count[1]) * 1e6)


@contextlib.contextmanager
def on_cpus(workers: int) -> Iterator[None]:
    """Give what starts in the block the first CPUs, and the rest of the program the others, if any remain."""
    every = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, every[:workers])
    try:
        yield
    finally:
        os.sched_setaffinity(0, every[workers:] or every)

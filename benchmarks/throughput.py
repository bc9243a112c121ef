"""Does supervision cost throughput? hourd with aiohttp against the same application forked by hand.

By hand means what a careful engineer writes: a SO_REUSEPORT socket for each process, uvloop,
``AppRunner`` and ``SockSite`` without an access log. One idles while wrk drives the other on keep-alive
connections, in short turns in alternating order.

Each round starts both anew. Two processes of the very same program differ in speed by a few percent for
as long as they live (where the kernel put their memory, how the kernel spread the connections), so that
measuring one pair for long measures that luck.

Where there are CPUs to spare, the servers share as many as they have workers, and wrk has the others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess  # noqa: TID251, for its constants
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET, SO_REUSEADDR, SO_REUSEPORT, SOCK_STREAM, SOL_SOCKET, socket
from typing import TYPE_CHECKING, Self

import measure

if TYPE_CHECKING:
    from aiohttp import web

TARGET = 0.97
_TURNS = 3
"""Of each contestant, in each round."""
_BACKLOG = 2048
_KEEPALIVE = 75.0
_BY_HAND = "import sys, throughput; throughput.serve_by_hand(int(sys.argv[1]))"


# --- the application ------------------------------------------------------------------------------


def create_app() -> web.Application:
    """Return an application that does next to nothing, so that what surrounds it shows most."""
    from aiohttp import web  # noqa: PLC0415, need() is to say when it is missing

    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="Hello, world")

    app = web.Application()
    app.router.add_get("/", hello)
    return app


# --- by hand --------------------------------------------------------------------------------------


def serve_by_hand(workers: int) -> None:
    """Fork workers, print the port and their ids, and end them when standard input ends."""
    sockets = [_bind(0)]
    port = sockets[0].getsockname()[1]
    sockets += [_bind(port) for _ in range(1, workers)]
    pids = [_fork(sockets, sock) for sock in sockets]
    for sock in sockets:
        sock.close()
    print(json.dumps({"port": port, "workers": pids}), flush=True)
    sys.stdin.read()
    for pid in pids:
        os.kill(pid, 15)  # noqa: TID251, its own children
        os.waitpid(pid, 0)


def _bind(port: int) -> socket:
    sock = socket(AF_INET, SOCK_STREAM)
    sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    sock.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(_BACKLOG)
    return sock


def _fork(sockets: Sequence[socket], mine: socket) -> int:
    import uvloop  # noqa: PLC0415, as create_app

    pid = os.fork()  # noqa: TID251, this is what hourd is compared with
    if pid:
        return pid
    for sock in sockets:
        if sock is not mine:
            sock.close()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(mine))
    os._exit(0)


async def _serve(sock: socket) -> None:
    from aiohttp import web  # noqa: PLC0415, as create_app

    runner = web.AppRunner(create_app(), access_log=None, keepalive_timeout=_KEEPALIVE)
    await runner.setup()
    await web.SockSite(runner, sock, backlog=_BACKLOG).start()
    await asyncio.Event().wait()


# --- the contestants ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """One that is measured."""

    port: int
    workers: list[int]

    def cpu_seconds(self) -> float:
        """Return what its workers have used so far."""
        return sum(measure.cpu_seconds(pid) for pid in self.workers)


@contextlib.contextmanager
def by_hand(workers: int) -> Iterator[Server]:
    """Run the processes that were forked by hand."""
    env = measure.environment()
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), env["PYTHONPATH"]])
    command = [sys.executable, "-c", _BY_HAND, str(workers)]
    with measure.executed(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise measure.CannotRunError("the processes forked by hand did not start")
        try:
            yield Server(**json.loads(line))
        finally:
            process.stdin.close()
            process.wait(30)


@contextlib.contextmanager
def by_hourd(place: Path, workers: int) -> Iterator[Server]:
    """Run hourd with its defaults."""
    server = {"kind": "aiohttp", "app": "throughput:create_app", "bind": "127.0.0.1:0"}
    settings = {
        "directory": str(Path(__file__).parent),
        "pools": {"web": {"workers": workers, "servers": {"http": server}}},
    }
    with measure.Daemon.running(place, settings) as daemon:
        yield Server(daemon.port(), daemon.workers())


# --- the measurement ------------------------------------------------------------------------------


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


def drive(server: Server, options: argparse.Namespace) -> Turn:
    """Run wrk once against a server; every request must succeed."""
    connections = options.connections * len(server.workers)
    before = server.cpu_seconds()
    said = measure.output(
        ["wrk", "-t1", f"-c{connections}", f"-d{options.seconds}s", f"http://127.0.0.1:{server.port}/"],
        limit=options.seconds + 30,
    )
    used = server.cpu_seconds() - before
    count, rate = re.search(r"(\d+) requests in", said), re.search(r"Requests/sec:\s*([\d.]+)", said)
    if not count or not rate or not int(count[1]) or "Socket errors" in said or "Non-2xx" in said:
        raise measure.CannotRunError(f"requests failed:\n{said}")
    return Turn(float(rate[1]), used / int(count[1]) * 1e6)


@contextlib.contextmanager
def on_cpus(workers: int) -> Iterator[None]:
    """Give what starts in the block the first CPUs, and the rest of the program the others, if any remain."""
    every = sorted(os.sched_getaffinity(0))
    own = every[:workers]
    os.sched_setaffinity(0, own)
    try:
        yield
    finally:
        os.sched_setaffinity(0, every[workers:] or every)


def compare(workers: int, options: argparse.Namespace) -> bool:
    """Measure with so many workers, report, and return whether the target was met."""
    every = os.sched_getaffinity(0)
    try:
        rounds = [_one_round(workers, order, options) for order in measure.interleaved(options.rounds)]
    finally:
        os.sched_setaffinity(0, every)
    return _report(workers, rounds)


def _one_round(workers: int, order: tuple[int, int], options: argparse.Namespace) -> tuple[Turn, Turn]:
    """Start both, let them take turns, and return for each the median of its turns."""
    turns: tuple[list[Turn], list[Turn]] = ([], [])
    with measure.folder() as place, contextlib.ExitStack() as stack:
        contestants = [lambda: by_hand(workers) if options.null else by_hourd(place, workers), lambda: by_hand(workers)]
        with on_cpus(workers):
            servers = {number: stack.enter_context(contestants[number]()) for number in order}
        for number in order:
            drive(servers[number], options)  # warms up, and is not counted
        for one, other in measure.interleaved(_TURNS):
            for number in (order[one], order[other]):
                turns[number].append(drive(servers[number], options))
    ours, theirs = (Turn.median(each) for each in turns)
    return ours, theirs


def _report(workers: int, rounds: list[tuple[Turn, Turn]]) -> bool:
    ratios = [hourd.rate / hand.rate for hourd, hand in rounds]
    print(f"{workers} worker{'s' if workers > 1 else ''}")
    measure.print_spreads(
        {
            "hourd, requests/s": [hourd.rate for hourd, _ in rounds],
            "by hand, requests/s": [hand.rate for _, hand in rounds],
            "ratio": ratios,
            "hourd, CPU us/request": [hourd.cpu for hourd, _ in rounds],
            "by hand, CPU us/request": [hand.cpu for _, hand in rounds],
            "by hand/hourd, CPU": [hand.cpu / hourd.cpu for hourd, hand in rounds],
        }
    )
    met = measure.verdict("hourd / by hand", statistics.median(ratios), TARGET, at_least=True, sample=ratios)
    print()
    return met


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=measure.within(1, 64), nargs="+", default=[1, 2], help="default: 1 2")
    parser.add_argument("--rounds", type=measure.within(2, 200), default=20, help="fresh starts of both, default 20")
    parser.add_argument("--seconds", type=measure.within(1, 60), default=1, help="of each turn, default 1")
    parser.add_argument("--connections", type=measure.within(1, 256), default=32, help="for each worker, default 32")
    parser.add_argument("--null", action="store_true", help="by hand against itself: what a ratio of 1 looks like here")
    options = parser.parse_args()

    def benchmark() -> bool:
        measure.need(programs=["wrk"])
        measure.print_head("Throughput: hourd / forked by hand", "aiohttp", "uvloop")
        met = [compare(workers, options) for workers in options.workers]
        return all(met)

    return measure.run(benchmark)


if __name__ == "__main__":
    sys.exit(main())

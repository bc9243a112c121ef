"""Does supervision cost throughput? hourd with aiohttp against the same application forked by hand.

By hand means what a careful engineer writes: a SO_REUSEPORT socket for each process, uvloop,
``AppRunner`` and ``SockSite`` without an access log. How they are compared stands in ``contest.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess  # noqa: TID251, for its constants
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from socket import AF_INET, SO_REUSEADDR, SO_REUSEPORT, SOCK_STREAM, SOL_SOCKET, socket
from typing import TYPE_CHECKING

import contest
import measure

if TYPE_CHECKING:
    from aiohttp import web

TARGET = 0.97
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


@contextlib.contextmanager
def by_hand(workers: int) -> Iterator[contest.Server]:
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
            yield contest.Server(**json.loads(line))
        finally:
            process.stdin.close()
            process.wait(30)


@contextlib.contextmanager
def by_hourd(place: Path, workers: int) -> Iterator[contest.Server]:
    """Run hourd with its defaults."""
    server = {"kind": "aiohttp", "app": "throughput:create_app", "bind": "127.0.0.1:0"}
    settings = {
        "directory": str(Path(__file__).parent),
        "pools": {"web": {"workers": workers, "servers": {"http": server}}},
    }
    with measure.Daemon.running(place, settings) as daemon:
        yield contest.Server(daemon.port(), daemon.workers())


# --- the measurement ------------------------------------------------------------------------------


def compare(workers: int, options: argparse.Namespace) -> bool:
    """Measure with so many workers, report, and return whether the target was met."""

    @contextlib.contextmanager
    def ours() -> Iterator[contest.Server]:
        with measure.folder() as place, by_hand(workers) if options.null else by_hourd(place, workers) as server:
            yield server

    return _report(workers, contest.hold([ours, lambda: by_hand(workers)], workers, options))


def _report(workers: int, rounds: list[tuple[contest.Turn, ...]]) -> bool:
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
    contest.add_options(parser, rounds=20)
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

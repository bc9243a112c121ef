"""What does preloading save? 16 workers of an application that imports aiohttp, asyncssh and cryptography.

Measured with ``preload: true`` and ``preload: false``, in alternating order: the time from the
execution of ``hourd start`` to ``READY=1``, and the memory of the whole daemon then (the sum of the
proportional set sizes of master, mold and workers). The memory once each worker has served requests
is printed too: running code writes to the pages it shares.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import measure

TARGET = 4.0
_APPLICATION = '''
"""Answers with the id of the worker's process."""

import os

import asyncssh
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519


async def whoami(request):
    return web.Response(text=str(os.getpid()))


def create_app():
    app = web.Application()
    app.router.add_get("/", whoami)
    return app
'''
_TRIES = 200
"""Connections for each worker, at most, until every worker has had one."""
Pair = tuple["Boot", "Boot"]


@dataclass(frozen=True, slots=True)
class Boot:
    """What one start took."""

    seconds: float
    mib: float
    """When it was ready."""
    served_mib: float
    """Once every worker had served."""


def boot(place: Path, *, workers: int, preload: bool) -> Boot:
    """Start a daemon, measure, stop it."""
    server = {"kind": "aiohttp", "app": "application:create_app", "bind": "127.0.0.1:0"}
    pool = {"workers": workers, "preload": preload, "servers": {"web": server}}
    with measure.Daemon.running(place, {"pools": {"web": pool}}) as daemon:
        pids = daemon.workers()
        if len(pids) != workers:
            raise measure.CannotRunError(f"READY=1 came with {len(pids)} workers of {workers}")
        family = [daemon.pid, *daemon.molds(), *pids]
        ready = sum(map(measure.pss_mib, family))
        _ask_each(daemon.port(), set(pids))
        return Boot(daemon.boot, ready, sum(map(measure.pss_mib, family)))


def _ask_each(port: int, unasked: set[int]) -> None:
    """Send requests, each on a connection of its own, until each worker has answered one."""
    for _ in range(_TRIES * len(unasked)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/")
        unasked.discard(int(connection.getresponse().read()))
        connection.close()
        if not unasked:
            return
    raise measure.CannotRunError(f"no connection came to workers {unasked}")


def benchmark(workers: int, rounds: int) -> bool:
    """Measure and report; returns whether both targets were met."""
    measure.need("asyncssh", "cryptography")
    title = f"Boot of {workers} workers: preload: false / preload: true"
    measure.print_head(title, "aiohttp", "asyncssh", "cryptography")
    with measure.folder() as place:
        (place / "application.py").write_text(_APPLICATION)
        for preload in (True, False):
            boot(place, workers=workers, preload=preload)  # compiles, and fills the page cache
        return _report([_pair(place, workers, order) for order in measure.interleaved(rounds)])


def _pair(place: Path, workers: int, order: tuple[int, int]) -> Pair:
    """Boot without (0) and with (1) preloading, in this order."""
    found = {number: boot(place, workers=workers, preload=bool(number)) for number in order}
    return found[0], found[1]


def _report(pairs: Sequence[Pair]) -> bool:
    sooner = [each.seconds / preloaded.seconds for each, preloaded in pairs]
    smaller = [each.mib / preloaded.mib for each, preloaded in pairs]
    measure.print_spreads(
        {
            "preload: false, s": [each.seconds for each, _ in pairs],
            "preload: true, s": [preloaded.seconds for _, preloaded in pairs],
            "ratio of times": sooner,
            "preload: false, PSS MiB": [each.mib for each, _ in pairs],
            "preload: true, PSS MiB": [preloaded.mib for _, preloaded in pairs],
            "ratio of memory": smaller,
            "after serving, preload: false, PSS MiB": [each.served_mib for each, _ in pairs],
            "after serving, preload: true, PSS MiB": [preloaded.served_mib for _, preloaded in pairs],
            "after serving, ratio": [each.served_mib / preloaded.served_mib for each, preloaded in pairs],
        }
    )
    times = measure.verdict("times sooner", statistics.median(sooner), TARGET, at_least=True, sample=sooner)
    memory = measure.verdict("times less memory", statistics.median(smaller), TARGET, at_least=True, sample=smaller)
    return times and memory


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=measure.within(1, 64), default=16, help="default 16")
    parser.add_argument("--rounds", type=measure.within(2, 50), default=7, help="pairs, default 7")
    options = parser.parse_args()
    return measure.run(lambda: benchmark(options.workers, options.rounds))


if __name__ == "__main__":
    sys.exit(main())

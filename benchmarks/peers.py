"""Is hourd as fast as the servers that people use today? The same application, side by side.

ASGI: hourd, ``uvicorn --workers``, granian. WSGI that never blocks: hourd with ``inline: true`` and with threads,
Gunicorn with gthread, granian. All without access logs, each otherwise with its own defaults and uvloop
where it has the choice. How they are compared stands in ``contest.py``.

What they give for it differs: none of the others keeps a queue alive when a worker dies.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess  # noqa: TID251, for its constants
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import contest
import measure

AS_UVICORN, AS_GTHREAD = 1.0, 3.0
_HERE = str(Path(__file__).parent)
_PATIENCE = 30.0
_THREADS = 4
_PACKAGES = ("uvicorn", "httptools", "gunicorn", "granian", "uvloop")


# --- the contestants ------------------------------------------------------------------------------


def hourd(workers: int, kind: str, app: str, **options: object) -> contest.Contestant:
    """Return what starts hourd with an application."""

    @contextlib.contextmanager
    def started() -> Iterator[contest.Server]:
        server = {"kind": kind, "app": f"peers_app:{app}", "bind": "127.0.0.1:0", "options": options}
        settings = {"directory": _HERE, "pools": {"web": {"workers": workers, "servers": {"http": server}}}}
        with measure.folder() as place, measure.Daemon.running(place, settings) as daemon:
            yield contest.Server(daemon.port(), daemon.workers())

    return started


def program(*command: str) -> contest.Contestant:
    """Return what starts a server by its own command; ``{port}`` in it stands for the port."""

    @contextlib.contextmanager
    def started() -> Iterator[contest.Server]:
        port = _free_port()
        words = [sys.executable, "-m", *(word.format(port=port) for word in command)]
        with measure.executed(words, env=measure.environment(), cwd=_HERE, stderr=subprocess.DEVNULL) as process:
            _wait_until_it_listens(port, process, command[0])
            yield contest.Server(port, [process.pid, *_descendants(process.pid)])

    return started


def asgi(workers: int) -> dict[str, contest.Contestant]:
    """Return who serves ASGI."""
    many = str(workers)
    return {
        "hourd": hourd(workers, "asgi", "asgi"),
        "uvicorn": program("uvicorn", "peers_app:asgi", "--port={port}", f"--workers={many}", "--no-access-log"),
        "granian": program(
            "granian", "--interface=asgi", "--port={port}", f"--workers={many}", "--no-access-log", "peers_app:asgi"
        ),
    }


def wsgi(workers: int) -> dict[str, contest.Contestant]:
    """Return who serves WSGI."""
    many = str(workers)
    return {
        "hourd, inline": hourd(workers, "wsgi", "wsgi", inline=True),
        "hourd, threads": hourd(workers, "wsgi", "wsgi", threads=_THREADS),
        "gunicorn gthread": program(
            "gunicorn", "--worker-class=gthread", f"--threads={_THREADS}", f"--workers={many}",
            "--bind=127.0.0.1:{port}", "peers_app:wsgi",
        ),
        "granian": program(
            "granian", "--interface=wsgi", "--port={port}", f"--workers={many}", "--no-access-log", "peers_app:wsgi"
        ),
    }  # fmt: skip


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _wait_until_it_listens(port: int, process: subprocess.Popen[str], name: str) -> None:
    end = measure.clock() + _PATIENCE
    while measure.clock() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as sock:
            # An answer: some bind before their workers serve.
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if sock.recv(1):
                return
    raise measure.CannotRunError(f"{name} does not serve within {_PATIENCE:g}s")


def _descendants(pid: int) -> list[int]:
    """Return the processes below one: all of them work for it, and which are workers only it knows."""
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


# --- the measurement ------------------------------------------------------------------------------


def compare(
    what: str, contestants: dict[str, contest.Contestant], workers: int, target: tuple[str, float],
    options: argparse.Namespace,
) -> bool:  # fmt: skip
    """Measure, report, and return whether the first contestant is so many times as fast as the target's."""
    rounds = contest.hold(list(contestants.values()), workers, options)
    rates = {name: [turns[number].rate for turns in rounds] for number, name in enumerate(contestants)}
    us = next(iter(contestants))
    ratios = {name: _ratios(rates[us], rates[name]) for name in contestants if name != us}
    print(f"{what}, {workers} worker{'s' if workers > 1 else ''}")
    measure.print_spreads(
        {
            **{f"{name}, requests/s": sample for name, sample in rates.items()},
            **{f"{us} / {name}": sample for name, sample in ratios.items()},
            **{
                f"{name}, CPU us/request": [turns[number].cpu for turns in rounds]
                for number, name in enumerate(contestants)
            },
        }
    )
    peer, least = target
    sample = ratios[peer]
    met = measure.verdict(f"{us} / {peer}", statistics.median(sample), least, at_least=True, sample=sample)
    print()
    return met


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [our / their for our, their in zip(ours, theirs, strict=True)]


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    contest.add_options(parser, rounds=10)
    options = parser.parse_args()
    contests: dict[str, tuple[Callable[[int], dict[str, contest.Contestant]], tuple[str, float]]] = {
        "ASGI": (asgi, ("uvicorn", AS_UVICORN)),
        "WSGI": (wsgi, ("gunicorn gthread", AS_GTHREAD)),
    }

    def benchmark() -> bool:
        measure.need(*_PACKAGES, programs=["wrk"])
        measure.print_head("Throughput: hourd / other servers", *_PACKAGES)
        met = [
            compare(what, make(workers), workers, target, options)
            for what, (make, target) in contests.items()
            for workers in options.workers
        ]
        return all(met)

    return measure.run(benchmark)


if __name__ == "__main__":
    sys.exit(main())

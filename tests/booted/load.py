"""The load under which everything happens: the strict client of the benchmarks, in the network of a machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from .machine import Machine, until

_BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, _BENCHMARKS)  # its programs import each other by plain names
try:
    import measure
    import openloop
finally:
    sys.path.pop(0)

__all__ = ["PORT", "Load", "load", "measure", "openloop"]

PORT = 8080
CONNECTIONS = 64
"""That are kept alive, at most."""
_RATE = 150
"""Requests a second: two workers are to have some under way at any moment, and this machine is to have time for others."""
_FRESH = 0.3
"""The share of them that open a connection of their own."""
_MORE = 40
"""Answers on each sort of connection that are waited for, before and after whatever happens."""
_RECORD = 16
"""Bytes that the client writes for each answer."""
_CLIENT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import openloop
openloop.PATIENCE = 30.0
openloop.main()
"""
"""What executes it, with time enough for a machine on which a start takes long: how long it took is told anyway."""


class Load:
    """Requests that are being sent until it is stopped."""

    def __init__(self, driver: openloop.Driver, process: subprocess.Popen[str], records: list[BinaryIO]) -> None:
        self._driver = driver
        self._process = process
        self._records = records

    def wait_for_more(self) -> None:
        """Wait until more answers have come, on both sorts of connections."""
        aims = [self._count(file) + _MORE for file in self._records]
        until(
            lambda: all(self._count(file) >= aim for file, aim in zip(self._records, aims, strict=True)),
            "more answers",
        )

    def send_no_more(self) -> None:
        """Only wait for answers from now on."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.stdin = None  # for Popen.communicate

    def stop(self) -> openloop.Driver:
        """Wait for the last answers, and return the account."""
        self._driver.stop()
        return self._driver

    @staticmethod
    def _count(file: BinaryIO) -> int:
        return os.fstat(file.fileno()).st_size // _RECORD


@contextlib.contextmanager
def load(machine: Machine) -> Iterator[Load]:
    """Send requests to ``PORT`` of a machine."""
    what = openloop.Load(port=PORT, rate=_RATE, fresh=_FRESH, connections=CONNECTIONS)
    with _memory("keep-alive") as kept, _memory("fresh") as fresh:
        fds = kept.fileno(), fresh.fileno()
        command = [sys.executable, "-c", _CLIENT, _BENCHMARKS, json.dumps(asdict(what)), *map(str, fds)]
        with measure.executed(
            machine.enter_network(*command), env=measure.environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=fds,
        ) as process:  # fmt: skip
            yield Load(openloop.Driver(process, (kept, fresh)), process, [kept, fresh])


def _memory(name: str) -> BinaryIO:
    return open(os.memfd_create(name), "w+b", buffering=0)

"""Who looks on while something happens to a daemon: at its status, and as clients that forgive nothing.

    with Witness(daemon, at_least(2)) as witness, KeepAlive(address, 20) as clients:
        ...
    assert clients.answered > 100

``Witness`` asks for the status again and again. Each answer has to agree with its laws, and no slot may be
left unattended. ``KeepAlive``
and ``Fresh`` are clients on raw sockets, in a thread of their own: whatever they ask for is to be answered,
whole and in order. Leaving the block ends them and tells of every breach.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self, TypeAlias

from .around import PATIENCE
from .daemon import Daemon

Law: TypeAlias = Callable[[dict[str, Any]], str]
"""Takes the status of a pool; returns what is wrong with it, or nothing."""

_LOOK = 0.02
_ALIVE = ("serving", "slow")
_PAUSE = 0.02
"""Seconds that a client takes for itself between two requests, at most."""
_QUIET = 0.8
"""Seconds after which an idle connection may be closed while its next request is on its way (RFC 9112, 9.3.1)."""


class Witness:
    """Looks at a pool's status again and again."""

    def __init__(self, daemon: Daemon, *laws: Law, pool: str = "web") -> None:
        self.looks = 0
        self.states: set[str] = set()
        """Of its workers, whenever they were seen."""
        self.breaches: list[str] = []
        self._attended: set[int] = set()
        self._daemon = daemon
        self._laws = laws
        self._pool = pool
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end.set()
        self._thread.join()
        if kind is None:
            assert not self.breaches, self.breaches
            assert self.looks

    def _look_on(self) -> None:
        try:
            while not self._end.wait(_LOOK) and len(self.breaches) < 10:
                pool = self._daemon.pool(self._pool)
                self.looks += 1
                self.states |= {worker["state"] for worker in pool["workers"]}
                self.breaches += [
                    f"{wrong}: {pool}" for law in (self._check_slots, *self._laws) if (wrong := law(pool))
                ]
        except BaseException as error:  # noqa: BLE001, told where it is waited for
            self.breaches.append(repr(error))

    def _check_slots(self, pool: dict[str, Any]) -> str:
        """See that a slot that once had somebody has one still; what is new waits for its first."""
        now = {slot["slot"] for slot in pool["slots"] if slot["attended_by"]}
        left, self._attended = self._attended - now, self._attended | now
        return f"nobody attends slots {left}" if left else ""


def alive(daemon: Daemon, name: str = "web") -> list[int]:
    """Return the pids of the serving workers of a pool, by slot; on a busy machine some count as slow for a while."""
    there = [worker for worker in daemon.pool(name)["workers"] if worker["state"] in _ALIVE]
    return [worker["pid"] for worker in sorted(there, key=lambda worker: worker["slot"])]


def at_least(number: int) -> Law:
    """So many workers serve."""
    return lambda pool: "" if number <= _count(pool, *_ALIVE) else f"fewer than {number} serve"


def one_by_one(number: int) -> Law:
    """No more than one worker more is there or on its way; those that drain do not count."""
    return lambda pool: "" if _count(pool, "booting", *_ALIVE) <= number + 1 else f"more than {number + 1} workers"


def never_restarted(pool: dict[str, Any]) -> str:
    """Nobody has crashed, or was killed for what it did not do."""
    return "somebody was restarted" if pool["restarts"] else ""


def _count(pool: dict[str, Any], *states: str) -> int:
    return sum(worker["state"] in states for worker in pool["workers"])


class Clients:
    """Clients in a thread with an event loop of its own."""

    def __init__(self, address: str, number: int) -> None:
        """Take where to and how many at a time."""
        self.answered = 0
        self.by: Counter[int] = Counter()
        """Answers of each process, where its pid is in the answer."""
        self.failures: list[str] = []
        host, _, port = address.rpartition(":")
        self._place = host, int(port)
        self._number = number
        self._ended = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended = True
        self._thread.join()
        if kind is None:
            assert not self.failures, (len(self.failures), self.answered, self.failures[:5])

    def wait_for(self, more: int) -> None:
        """Wait until so many more requests were answered."""
        aim = self.answered + more
        while self.answered < aim and not self.failures:
            assert self._thread.is_alive()
            threading.Event().wait(_LOOK)

    async def _run(self) -> None:
        await asyncio.gather(*(self._live() for _ in range(self._number)))

    async def _live(self) -> None:
        while not self._ended and len(self.failures) < 10:
            try:
                async with asyncio.timeout(PATIENCE):
                    reader, writer = await asyncio.open_connection(*self._place)
            except (OSError, TimeoutError) as error:
                self.failures.append(f"not connected: {error!r}")
                continue
            try:
                await self._talk(reader, writer)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                self.failures.append(repr(error))
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class Fresh(Clients):
    """A new connection for each request: ``ECHO`` has to repeat what it gets."""

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = os.urandom(8).hex().encode()
        async with asyncio.timeout(PATIENCE):
            writer.write(data)
            writer.write_eof()
            who, _, said = (await reader.read()).partition(b"\n")
        if said != data:
            raise EOFError(f"asked for {data!r}, got {who!r} {said!r}")
        self.by[int(who.split()[0])] += 1
        self.answered += 1


class KeepAlive(Clients):
    """HTTP/1.1 on connections that are kept until an answer says close."""

    def __init__(self, address: str, number: int, *, batch: int = 1, once: bool = False) -> None:
        """Take where to, how many at a time, how many requests each sends at a time, and whether only once."""
        super().__init__(address, number)
        self.closed = 0
        """Connections that an answer closed."""
        self._batch = batch
        self._request = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"Connection: close\r\n" * once + b"\r\n"

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        kept, last = True, 0.0
        while kept and not self._ended:
            since = loop.time()
            async with asyncio.timeout(PATIENCE):
                writer.write(self._request * self._batch)
                for number in range(self._batch):
                    head = await self._read_head(reader)
                    if not head and last and not number and since - last > _QUIET:
                        return  # this client was not given any time to run
                    kept = await self._read_answer(reader, head)
                    if not kept and number + 1 < self._batch:
                        raise EOFError(f"{self._batch - number - 1} pipelined requests will not be answered")
            last = loop.time()
            await asyncio.sleep(random.random() * _PAUSE)
        self.closed += not kept

    async def _read_head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return b""

    async def _read_answer(self, reader: asyncio.StreamReader, head: bytes) -> bool:
        """Read the rest of an answer; returns whether the connection is kept."""
        if not head.startswith(b"HTTP/1.1 200 OK\r\n"):
            raise EOFError(f"no answer: {head!r}")
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        if b"content-length" in headers:
            body = await reader.readexactly(int(headers[b"content-length"]))
        else:
            body = b""
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        self.by[int(body)] += 1
        self.answered += 1
        return headers.get(b"connection") != b"close"


WEB = """
import os

from aiohttp import web

async def answer(request):
    return web.Response(text=str(os.getpid()))

def create():
    app = web.Application()
    app.router.add_get("/", answer)
    return app
"""
"""An HTTP application that tells the pid of its worker, for ``KeepAlive``."""


def web(**settings: Any) -> dict[str, Any]:
    """Return what the server ``main`` needs for ``WEB``."""
    return {"kind": "aiohttp", "app": "app:create", **settings}


def impatient(module: str, **constants: float) -> tuple[str, ...]:
    """Return what executes hourd with constants of a module that a test has no time for."""
    changes = "".join(f"module.{name}; module.{name} = {value}\n" for name, value in constants.items())
    return sys.executable, "-P", "-c", f"import hourd.{module} as module\n{changes}from hourd.cli import main; main()"


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes, and let them go on at the end if they are there still."""
    stop(pids)
    try:
        yield
    finally:
        resume(*pids)


def resume(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def stop(pids: Iterable[int]) -> None:
    """Stop processes, and wait until all of their threads stand still."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        while any(_state(task) not in "TZX" for task in Path(f"/proc/{pid}/task").iterdir()):
            pass


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"

"""A process of clients: what they share, and where every request gets its one verdict.

Clients run apart from whoever injects the faults, so that neither delays the other. A record for each request goes
to a file; who was to blame is decided later, by ``chaos_verdict.py``, when it is known who was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from collections.abc import AsyncIterator
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import IO, Any

import asyncssh
import measure
from chaos_wire import Connection, GoodbyeError, WrongError

ANSWERED, REFUSED, GOODBYE, WRONG, TIMEOUT, ENDED = "answered", "refused", "goodbye", "wrong", "timeout", "ended"
"""What a client may see become of a request."""
FAILURES = (OSError, EOFError, asyncssh.Error, GoodbyeError, WrongError)
"""How a request may fail; anything else is a mistake of the tool."""
_LOOK = 0.05
_REFUSED_PAUSE = 0.3
"""Seconds for which a client leaves a server alone that is not there."""


class LostError(Exception):
    """The request was not answered, which is recorded; the connection is of no more use."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(repr(cause))
        self.cause = cause


@dataclass(slots=True)
class Target:
    """A server at one of its addresses."""

    server: str
    kind: str
    number: int
    """Of the address among those of the server."""
    address: str
    known: bool
    """Whether it is the tool's own application, with all that the clients may ask of it."""
    path: str = "/"
    status: int = 200
    """That answers must have; of HTTP."""


@dataclass(slots=True)
class Spec:
    """What a process of clients is told at its start."""

    clients: list[tuple[str, Target]]
    """The name of a sort of client for each, and whom it talks to."""
    seed: int
    part: int
    """Which of the processes this is."""
    patience: float
    """Seconds after which a request counts as lost."""
    rate: float
    """How many times as fast as usual."""

    def dump(self, path: Path) -> None:
        """Write it down."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: str) -> Spec:
        """Read it."""
        found = json.loads(Path(path).read_text())
        clients = [(sort, Target(**target)) for sort, target in found.pop("clients")]
        return cls(clients=clients, **found)


@dataclass(slots=True)
class Record:
    """What became of a request. Times are monotonic seconds."""

    sort: str
    server: str
    address: str
    outcome: str
    started: float
    ended: float
    latency: float
    connection: str
    opened: float
    connected: float
    worker: int
    detail: str = ""

    def line(self) -> str:
        """Return it as a line of a file."""
        return json.dumps(astuple(self)) + "\n"

    @classmethod
    def read(cls, line: str) -> Record:
        """Read such a line."""
        return cls(*json.loads(line))


@dataclass(slots=True)
class Request:
    """A request under way."""

    started: float
    counted_from: float
    answered: float = 0.0

    def count_from_now(self) -> None:
        """Begin to count the latency: until now it was the client that took its time."""
        self.counted_from = measure.clock()

    def count_until_now(self) -> None:
        """End counting the latency: the answer is here, though not all that is to be checked."""
        self.answered = measure.clock()


@dataclass(slots=True)
class World:
    """What the clients of a process share."""

    spec: Spec
    file: IO[str]
    ending: bool = False
    lag: float = 0.0
    """The longest time, in seconds, by which this process itself was late."""
    _unread: bytearray = field(default_factory=bytearray)

    @contextlib.asynccontextmanager
    async def request(
        self, sort: str, target: Target, connection: Connection, started: float = 0.0
    ) -> AsyncIterator[Request]:
        """Let the block send a request and read its answer; records what becomes of it.

        Args:
            sort: the name of the sort of client.
            target: to whom.
            connection: opened before, or in the block.
            started: monotonic seconds, when the request was sent before the block.

        Raises:
            LostError: it was not answered.
        """
        request = Request(started or measure.clock(), started or measure.clock())
        outcome, detail = ENDED, ""
        try:
            async with asyncio.timeout(self.spec.patience):
                yield request
            outcome = ANSWERED
        except asyncio.CancelledError:
            outcome = TIMEOUT
            raise
        except FAILURES as error:
            outcome, detail = _outcome(error), repr(error)
            raise LostError(error) from None
        finally:
            self._write(sort, target, connection, request, outcome, detail)

    def _write(self, sort: str, target: Target, at: Connection, request: Request, outcome: str, detail: str) -> None:
        now = measure.clock()
        record = Record(
            sort=sort,
            server=target.server,
            address=at.address,
            outcome=outcome,
            started=request.started,
            ended=now,
            latency=(request.answered or now) - request.counted_from,
            connection=at.name,
            opened=at.opened,
            connected=at.connected,
            worker=at.worker,
            detail=detail[:300],
        )
        self.file.write(record.line())

    # --- orders of the tool -----------------------------------------------------------------------

    def listen(self) -> None:
        """Hear on standard input that servers have other addresses, and that it is over."""
        os.set_blocking(0, False)
        asyncio.get_running_loop().add_reader(0, self._hear)

    def _hear(self) -> None:
        data = os.read(0, 65536)
        if not data:
            asyncio.get_running_loop().remove_reader(0)
            self.ending = True
        self._unread += data
        *lines, rest = bytes(self._unread).split(b"\n")
        self._unread[:] = rest
        for line in lines:
            self._move(json.loads(line))

    def _move(self, addresses: dict[str, list[str]]) -> None:
        for _, target in self.spec.clients:
            target.address = addresses[target.server][target.number]

    async def watch(self) -> None:
        """Note how late this process is, and write down what there is, until it is over."""
        while not self.ending:
            due = measure.clock() + _LOOK
            await asyncio.sleep(_LOOK)
            self.lag = max(self.lag, measure.clock() - due)
            self.file.flush()


@dataclass(slots=True)
class Client:
    """One client: turns, and a pause after each. Every sort of client is a subclass."""

    world: World
    target: Target
    chance: random.Random

    async def turn(self) -> None:
        """Send one request, or some on one connection."""
        raise NotImplementedError

    @property
    def sort(self) -> str:
        """The name that the tables show."""
        return _name(type(self))

    async def run(self, pause: float) -> None:
        """Take turns until it is over.

        Args:
            pause: seconds between two turns, on average.
        """
        await asyncio.sleep(self.chance.random() * pause)
        while not self.world.ending:
            try:
                await self.turn()
            except LostError as error:
                if _outcome(error.cause) == REFUSED:
                    await asyncio.sleep(_REFUSED_PAUSE)
            await self.pause(pause)

    async def pause(self, seconds: float) -> None:
        """Wait for so many seconds on average."""
        await asyncio.sleep(self.spell(seconds))

    def spell(self, seconds: float) -> float:
        """Return how long to wait this time, where it is so many seconds on average."""
        return self.chance.uniform(0.5, 1.5) * seconds / self.world.spec.rate

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Provide a connection that is closed in the end. It is opened by the first request, whose fault it is."""
        connection = Connection()
        try:
            yield connection
        finally:
            connection.close()

    def request(self, at: Connection, started: float = 0.0) -> contextlib.AbstractAsyncContextManager[Request]:
        """Begin a request; see ``World.request``."""
        return self.world.request(self.sort, self.target, at, started)


def _outcome(error: Exception) -> str:
    match error:
        case TimeoutError():
            return TIMEOUT
        case ConnectionRefusedError() | FileNotFoundError():
            return REFUSED
        case GoodbyeError():
            return GOODBYE
        case WrongError():
            return WRONG
    return ENDED


def _name(sort: type[Any]) -> str:
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in sort.__name__).strip()

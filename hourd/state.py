"""What a master knows, as it is handed to the program that takes its place: the same process, executed anew.

It travels in a memfd, next to the descriptors that it names, which stay open. The next program may be newer or
older. So a field may be added, with a default, and is unknown to others, who pass over it; anything else is another
``FORMAT``, which says in ``needs`` what a reader has to be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from . import __version__, channel, errors
from .addresses import Address
from .children import Mold, Worker
from .events import Plan
from .settings import Settings
from .unix import File

FORMAT = 1
OLDEST = 1
"""The oldest format that can be read."""
_NAME = "hourd-state"


class Head(Struct, frozen=True, kw_only=True):
    """What is the same in every format."""

    format: int = FORMAT
    needs: int = 1
    """The format that a reader has to know at least."""
    version: str = __version__
    protocol: int = channel.PROTOCOL
    """What molds and workers speak."""


class Child(Struct, frozen=True, kw_only=True):
    """A process, as the system knows it (``processes.Child``); descriptors by their numbers."""

    id: int
    is_mold: bool
    pool: str
    slot: int
    generation: int
    pid: int | None
    since: float
    channel: int | None
    board: int | None
    dumped: bool = False
    killed: bool = False


class Bound(Struct, frozen=True, kw_only=True):
    """An address (``binding.Bound``)."""

    address: Address
    key: tuple[str, ...]
    sockets: list[int]
    file: File | None = None
    shared: bool = False
    inherited: bool = False
    given_up: list[int] = []
    resting: list[int] = []
    lent: list[int] = []
    """Ids of children."""
    leaving: bool = False


class Place(Struct, frozen=True, kw_only=True):
    """A server's share in an address (``listeners.Place``)."""

    generation: int
    pool: str
    server: str
    bound: int
    configured: bool = True


class Pool(Struct, frozen=True, kw_only=True):
    """A pool (``pool.Pool``)."""

    name: str
    stable: Plan | None
    molds: list[Mold]
    workers: list[Worker]
    slots: int
    restarts: int = 0
    cut: int = 0


class Client(Struct, frozen=True, kw_only=True):
    """An operator's connection."""

    socket: int
    read: bytes = b""
    unsent: bytes = b""
    waits_for: int | None = None
    """The generation whose result it waits for."""


class Control(Struct, frozen=True, kw_only=True):
    """The control socket."""

    socket: int
    file: File
    clients: list[Client] = []


class LastReload(Struct, frozen=True, kw_only=True):
    """How the last reload ended."""

    ok: bool
    generation: int
    reason: str
    seconds: float
    at: float
    """Wall-clock seconds."""


class State(Head, frozen=True, kw_only=True):
    """Everything."""

    started: float
    """Wall-clock seconds."""
    forgiven: float
    """Seconds of the system's monotonic clock for which nobody is judged."""
    generation: int
    attempts: int
    next_id: int
    settings: dict[int, Settings]
    """By generation."""
    committed: int
    obsolete: list[int] = []
    pools: list[Pool]
    children: list[Child]
    bound: list[Bound]
    places: list[Place]
    handed: list[tuple[int, str]] = []
    """Sockets that were open at the very beginning, with their names."""
    control: Control | None = None
    lock: int | None = None
    """Of the process id's file."""
    descriptors: int | None = None
    """How many molds and workers may have."""
    last_reload: LastReload | None = None


def descriptors(state: State) -> Iterator[int]:
    """Yield the number of every descriptor that has to stay open."""
    for child in state.children:
        yield from (fd for fd in (child.channel, child.board) if fd is not None)
    for bound in state.bound:
        yield from bound.sockets
    yield from (fd for fd, _ in state.handed)
    if state.control:
        yield state.control.socket
        yield from (client.socket for client in state.control.clients)
    if state.lock is not None:
        yield state.lock


def is_one(fd: str) -> bool:
    """Tell whether a number, as text, is that of a descriptor that ``write`` has returned."""
    try:
        return fd.isdecimal() and os.readlink(f"/proc/self/fd/{fd}").startswith(f"/memfd:{_NAME}")
    except OSError:
        return False


def write(state: State) -> int:
    """Return a descriptor that holds the state."""
    fd = os.memfd_create(_NAME, os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(msgspec.msgpack.encode(state))
    return fd


def read(fd: int) -> State:
    """Read a state.

    Raises:
        errors.RefusedError: this version cannot go on from it.
    """
    data = os.pread(fd, os.fstat(fd).st_size, 0)  # whoever wrote it has the position too
    try:
        head = msgspec.msgpack.decode(data, type=Head)
        if head.needs > FORMAT or head.format < OLDEST or head.protocol != channel.PROTOCOL:
            raise errors.RefusedError(
                f"hourd {__version__} cannot go on in place from hourd {head.version}; change to it by a restart"
            )
        return msgspec.msgpack.decode(data, type=State)
    except msgspec.MsgspecError as error:
        raise errors.RefusedError(f"hourd {__version__} does not understand the state of the daemon: {error}") from None

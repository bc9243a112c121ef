"""What a mold is told once, when it begins."""

from __future__ import annotations

import os

import msgspec
from msgspec import Struct

from .channel import PROTOCOL
from .settings import Log, Pool, Settings


class Orders(Struct, frozen=True, kw_only=True):
    """Everything that a mold and its workers need to know. Travels in a memfd: it may be long and secret."""

    protocol: int = PROTOCOL
    name: str
    pool: str
    generation: int
    preload: bool
    directory: str
    user: str | None
    group: str | None
    log: Log
    descriptors: int | None
    """How many they may have (RLIMIT_NOFILE, soft): what the master had before it raised its own."""
    settings: Pool

    @property
    def title(self) -> str:
        return f"[{self.name}/{self.pool} gen {self.generation}]"


def make(settings: Settings, pool: str, *, generation: int, preload: bool, descriptors: int | None = None) -> Orders:
    """Return the orders for a mold of a pool."""
    return Orders(
        name=settings.name,
        pool=pool,
        generation=generation,
        preload=preload,
        directory=settings.directory,
        user=settings.user,
        group=settings.group,
        log=settings.log,
        descriptors=descriptors,
        settings=settings.pools[pool],
    )


def write(orders: Orders) -> int:
    """Return a descriptor that holds the orders."""
    fd = os.memfd_create("hourd-orders", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(msgspec.msgpack.encode(orders))
    return fd


def read(fd: int) -> Orders:
    """Read the orders and close the descriptor.

    Raises:
        msgspec.MsgspecError: the master's orders are not of this version.
    """
    with open(fd, "rb") as file:
        file.seek(0)
        return msgspec.msgpack.decode(file.read(), type=Orders)

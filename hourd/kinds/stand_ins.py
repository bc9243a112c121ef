"""Sockets for code that makes its servers on all addresses at once, before any socket is there.

Nobody connects to them: what is made on one is closed at once, and what handles its connections is noted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..addresses import Address, parse


class Socket(socket.socket):
    """A socket that has itself as ``sock``, as Gunicorn's sockets do."""

    __slots__ = ()

    @property
    def sock(self) -> Socket:
        return self


@dataclass(frozen=True, slots=True)
class Served:
    """A server that was made on a socket that stands in."""

    entry: int
    """Which of the sockets it is."""
    server: asyncio.AbstractServer
    factory: Callable[[], asyncio.BaseProtocol]


@contextlib.contextmanager
def stand_ins(bind: Sequence[str]) -> Iterator[tuple[list[Socket], list[Served]]]:
    """Have a socket stand in for each entry of ``bind:``; yields them, and a list of the servers that are made on them.

    ``asyncio.start_server``, asyncssh and others all come to the loop's ``create_server``. Neither asyncio
    nor uvloop tells what a server was made with, so that the loop of this thread is listened to meanwhile.
    """
    loop: Any = asyncio.get_running_loop()
    served: list[Served] = []
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(_stand_in(text)) for text in bind]
        for name in ("create_server", "create_unix_server"):
            setattr(loop, name, functools.partial(_create, getattr(loop, name), sockets, served))
            stack.callback(delattr, loop, name)
        try:
            yield sockets, served
        finally:
            for each in served:
                each.server.close()


async def _create(
    create: Callable[..., Awaitable[asyncio.AbstractServer]],
    sockets: list[Socket],
    served: list[Served],
    factory: Callable[[], asyncio.BaseProtocol],
    *arguments: Any,
    **options: Any,
) -> asyncio.AbstractServer:
    sock = options.get("sock")
    entry = next((number for number, each in enumerate(sockets) if each is sock), None)
    if entry is None:
        return await create(factory, *arguments, **options)
    if options.get("ssl"):
        raise errors.BootError(
            "make_servers gives a server ssl; leave that to tls: of the server in hourd's configuration"
        )
    server = await create(factory, *arguments, **{**options, "start_serving": False})
    served.append(Served(entry, server, factory))
    return server


def _stand_in(text: str) -> Socket:
    family = parse(text)[0].family
    if family == "unix":
        sock = Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind("")  # an abstract name that the kernel chooses (unix(7))
    elif family == "inet6":
        sock = Socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.bind(("::1", 0))
    else:
        sock = Socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def entry_of(sock: socket.socket, bind: Sequence[str]) -> int:
    """Return which entry of ``bind:`` a socket belongs to.

    Raises:
        errors.ConfigError: that cannot be told.
    """
    actual = _address_of(sock)
    tests: tuple[Callable[[Address], bool], ...] = (
        lambda address: address == actual,
        lambda address: address.family == actual.family and address.host == actual.host and address.port == 0,
        lambda address: address.covers(actual),
        lambda address: address.inherited,
    )
    for fits in tests:
        found = {number for number, text in enumerate(bind) if any(map(fits, parse(text)))}
        if len(found) == 1:
            return found.pop()
    raise errors.ConfigError(
        f"cannot tell which of {', '.join(bind)} {actual} is, and so which server of the container it has; "
        "write HOST:PORT or unix:/path"
    )


def _address_of(sock: socket.socket) -> Address:
    there = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        path = os.fsdecode(there)
        return Address("unix", path=path.removeprefix("\0"), abstract=path.startswith("\0"))
    return Address("inet6" if sock.family == socket.AF_INET6 else "inet", there[0], there[1])

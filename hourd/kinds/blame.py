"""Whose code it was: what runs on behalf of a server's connections carries the server with it.

An event loop runs each callback and each task in the ``contextvars`` context of what has begun it.
So a server that began to listen in a context of its own is known in everything that comes of it: its
protocols, their callbacks, and tasks that were started and forgotten.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from . import Kind, Listening

_kind: contextvars.ContextVar[Kind | None] = contextvars.ContextVar("hourd.kind", default=None)
T = TypeVar("T")
MARK = "_hourd_kind"
"""The attribute of a tracked protocol's class that names its kind."""


async def create_server(
    kind: Kind, factory: Callable[[], asyncio.BaseProtocol], sock: socket.socket, backlog: int
) -> Listening:
    """Accept connections for a kind, behind TLS and the PROXY protocol where they are configured."""
    if arrivals := kind.context.arrivals:
        return await run(kind, lambda: arrivals.listen(kind, factory, sock, backlog))
    # Without its backlog, create_server() would listen again with one of 100.
    return await run(kind, lambda: asyncio.get_running_loop().create_server(factory, sock=sock, backlog=backlog))


async def run(kind: Kind, begin: Callable[[], Awaitable[T]]) -> T:
    """Begin something such that whatever comes of it is known to be the kind's."""

    async def begun() -> T:
        _kind.set(kind)
        return await begin()

    return await asyncio.get_running_loop().create_task(begun())


def find(about: Mapping[str, Any]) -> Kind | None:
    """Return the kind that an error in the event loop belongs to, if it is one's.

    Args:
        about: what ``loop.call_exception_handler`` was given.
    """
    # uvloop reports what a protocol raises from outside of its context.
    if kind := getattr(about.get("protocol"), MARK, None):
        return kind  # type: ignore[no-any-return]
    culprit = about.get("future") or about.get("task") or about.get("handle")
    own = context_of(culprit)
    # Without one of its own, the error is reported from within its callback.
    return own.get(_kind) if own is not None else _kind.get()


def context_of(culprit: object) -> contextvars.Context | None:
    if hasattr(culprit, "get_context"):  # Python 3.12 and later
        context: contextvars.Context = culprit.get_context()
        return context
    # Earlier, a task keeps its context to itself; what it refers to can still be seen.
    return next((each for each in gc.get_referents(culprit) if isinstance(each, contextvars.Context)), None)

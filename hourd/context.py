"""What user code may know of the worker it runs in."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How an engine is (``hourd.engines``)."""

    ok: bool = True
    reason: str = ""
    """Why it is not."""
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(kw_only=True)
class Worker:
    """The worker that this code runs in.

    A lifespan, a factory or a handler that has a parameter named ``worker`` receives it;
    everything else asks ``Worker.current()``.
    """

    name: str
    """The daemon's name."""
    pool: str
    slot: int
    """The worker's seat in its pool, from 0; a successor takes the same seat."""
    generation: int
    """Counts reloads, from 1."""
    log: logging.Logger
    state: Any = None
    """What the pool's lifespan yielded."""
    health: dict[str, Health] = field(default_factory=dict)
    """How the engines of the lifespan are, by name."""
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the worker is to finish: no new connection comes, open ones have their server's grace."""

    _current: ClassVar[Worker | None] = None

    @classmethod
    def current(cls) -> Worker:
        """Return the worker of this process.

        Raises:
            RuntimeError: this process is no worker of hourd.
        """
        if cls._current is None:
            raise RuntimeError("no hourd worker runs in this process")
        return cls._current

    def make_current(self) -> None:
        Worker._current = self


def takes_worker(function: Callable[..., Any], arguments: int = 0) -> bool:
    """Tell whether a callable wants the worker besides its own positional arguments.

    It does when a parameter is named ``worker`` or when it cannot be called with ``arguments``
    arguments but can with one more. A class or callable without a readable signature does not.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return False
    if "worker" in signature.parameters:
        return True
    required = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) == arguments + 1


def give_worker(function: Callable[..., Any], worker: Worker, arguments: int = 0) -> Callable[..., Any]:
    """Return the callable as it is, or with the worker given to it where it wants it."""
    if not takes_worker(function, arguments):
        return function
    named = inspect.signature(function).parameters.get("worker")
    if named is not None and named.kind is not named.POSITIONAL_ONLY:
        return functools.partial(function, worker=worker)
    return lambda *given: function(*given, worker)

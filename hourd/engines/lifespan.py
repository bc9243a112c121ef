"""Engines as a pool's lifespan: opened, watched, closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import SimpleNamespace

from .. import errors
from ..context import Health, Worker
from .engine import BusyError, Engine

_OPEN_WITHIN = 10.0
"""Seconds for each engine; a worker that boots has 60 for everything, unless its pool says otherwise."""
_CHECK_EVERY = 2.0
_CHECK_WITHIN = 3.0
_CLOSE_WITHIN = 3.0
"""Seconds for all engines: five seconds after its grace, a worker that drains is killed."""
_REASON_MOST = 300


class State(SimpleNamespace):
    """What ``compose`` yields: each engine's object under the engine's name."""


def compose(**engines: Engine) -> Callable[[Worker], AbstractAsyncContextManager[State]]:
    """Return a lifespan that opens engines in this order and closes them after draining.

    Args:
        engines: by name; ``worker.state`` has what each opens under that name, and ``worker.health`` how it is.
    """
    for name, engine in engines.items():
        if not isinstance(engine, Engine):
            raise TypeError(f"{name} is {engine!r}, expected an engine, such as engines.postgresql(...)")

    @contextlib.asynccontextmanager
    async def lifespan(worker: Worker) -> AsyncIterator[State]:
        opened: dict[str, Engine] = {}
        state = State()
        try:
            for name, engine in engines.items():
                setattr(state, name, await _open(name, engine))
                opened[name] = engine
                worker.health[name] = Health()
            watch = asyncio.create_task(_watch([_Watched(worker, *each) for each in opened.items()]))
            try:
                yield state
            finally:
                watch.cancel()
        finally:
            await asyncio.gather(*(_close(worker, name, engine) for name, engine in opened.items()))

    return lifespan


async def _open(name: str, engine: Engine) -> object:
    """Open an engine, once: whoever starts workers tries again, with its own patience."""
    try:
        async with asyncio.timeout(_OPEN_WITHIN):
            return await engine.open()
    except errors.HourdError as error:
        raise type(error)(f"engine {name}: {error}") from None
    except TimeoutError:
        raise errors.BootError(f"engine {name}: no answer from {engine.where} within {_OPEN_WITHIN:g}s") from None
    except Exception as error:
        if not isinstance(error, (OSError, *engine.failures)):
            raise
        raise errors.BootError(f"engine {name}: cannot open {engine.where}: {_reason(error)}") from None


@dataclass
class _Watched:
    """An engine that is open, and whether it was told to be busy."""

    worker: Worker
    name: str
    engine: Engine
    busy: bool = False

    async def look(self) -> None:
        """Ask how it is, and tell of a change, once."""
        before = self.worker.health[self.name]
        reason = busy = ""
        try:
            async with asyncio.timeout(_CHECK_WITHIN):
                await self.engine.check()
        except TimeoutError:
            reason = f"no answer within {_CHECK_WITHIN:g}s"
        except BusyError as error:
            reason, busy = before.reason, _reason(error)
        except Exception as error:  # noqa: BLE001, whatever it is, it cannot be used
            reason = _reason(error)
        if not reason:
            self._tell_busy(busy)
        if before.ok == bool(reason):
            self._tell_health(before, reason)

    def _tell_busy(self, reason: str) -> None:
        if reason and not self.busy:
            self.worker.log.warning("engine %s: %s is busy: %s", self.name, self.engine.where, reason)
        elif self.busy and not reason:
            self.worker.log.info("engine %s: %s is busy no more", self.name, self.engine.where)
        self.busy = bool(reason)

    def _tell_health(self, before: Health, reason: str) -> None:
        self.busy = False
        self.worker.health[self.name] = now = Health(ok=not reason, reason=reason)
        if reason:
            self.worker.log.error("engine %s: %s is down: %s", self.name, self.engine.where, reason)
        else:
            seconds = (now.since - before.since).total_seconds()
            self.worker.log.info("engine %s: %s is up again after %.1fs", self.name, self.engine.where, seconds)


async def _watch(engines: list[_Watched]) -> None:
    while True:
        await asyncio.sleep(_CHECK_EVERY)
        await asyncio.gather(*(each.look() for each in engines))


async def _close(worker: Worker, name: str, engine: Engine) -> None:
    try:
        async with asyncio.timeout(_CLOSE_WITHIN):
            await engine.close()
    except TimeoutError:
        worker.log.warning("engine %s: was not closed within %gs, so it is cut", name, _CLOSE_WITHIN)
    except Exception:
        worker.log.exception("engine %s: failed to close", name)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:_REASON_MOST]
    return text or type(error).__name__

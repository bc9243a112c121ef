"""``kind: callable``: whatever brings a server object of its own, as ``async def serve(worker, sockets)``.

A worker attends its slot once it is ready, and those of others for a while, so ``serve`` is called
once for each: with all sockets that its server has in that slot, and with a view of the worker whose
``draining`` is set when these sockets are to be given up.

    given ─> serving ──> draining was set ──> returned
                 └── raised or returned before ──> the server gives up: nobody else would attend the slot
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import socket
from typing import Any, ClassVar

from msgspec import Struct

from .. import errors
from ..context import Worker
from . import Context, Kind, Listening, blame
from .callables import is_coroutine_function
from .options import CallableOptions

_FIRST_MOMENT = 0.1
"""Seconds after which a call that has not failed counts as serving. There is no other sign of it."""
_RARELY = 60.0
"""Seconds between two looks after the backlog, in the end."""


class Callable(Kind):
    """Call ``app(worker, sockets)`` for each slot; it returns when it has let go of the sockets and its connections."""

    Options: ClassVar[type[Struct]] = CallableOptions
    tls: ClassVar[bool] = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._given: _Call | None = None
        """The next call: of a slot whose sockets are being handed over."""
        self._calls: dict[_Call, asyncio.Task[None]] = {}
        self._proven = False
        self._cut = False

    async def open(self) -> None:
        app = self.context.app
        if not _is_callable_so(app):
            raise errors.BootError(f"app is {app!r}, expected a coroutine function of (worker, sockets)")
        self._serve = app
        self._given_too: dict[str, Any] = {}
        if _takes_tls(app):
            self._given_too["tls"] = self.context.tls
        elif self.context.tls:
            raise errors.ConfigError(
                "tls is configured, and app does not take it: async def serve(worker, sockets, tls)"
            )

    async def listen(self, sock: socket.socket, backlog: int) -> Listening:
        if self._given is None or self._given.draining.is_set():
            self._given = _Call(self.context.worker)
        self._given.add(sock, backlog)
        return self._given

    async def attend(self) -> None:
        call, self._given = self._given, None
        assert call is not None
        call.begun = True
        task = asyncio.get_running_loop().create_task(self._run(call))
        self._calls[call] = task
        if not self._proven:
            # Code that cannot serve mostly fails at once: the start or the reload to it is to be refused then.
            await asyncio.wait([task], timeout=_FIRST_MOMENT)
            self._proven = True

    @property
    def connections(self) -> int:
        """How many calls are to end: what connections they have is theirs."""
        return sum(call.draining.is_set() for call in self._calls)

    async def close(self) -> None:
        self._cut = True
        tasks = tuple(self._calls.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, call: _Call) -> None:
        keeping = asyncio.get_running_loop().create_task(call.keep_backlog())
        try:
            await blame.run(self, functools.partial(self._serve, call.worker, call.sockets, **self._given_too))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001, user code may raise anything
            if not self._cut:
                self._ended(call, error)
        else:
            self._ended(call, None)
        finally:
            keeping.cancel()
            call.close_sockets()
            del self._calls[call]

    def _ended(self, call: _Call, error: BaseException | None) -> None:
        if call.draining.is_set():
            if error is not None:
                self.failed("app failed while it drained", error)
        elif error is not None:
            self.give_up("app failed", error)
        else:
            self.give_up("app returned before worker.draining was set")


class _Call:
    """One call of ``app``, and what it is given; it stands for each of its sockets as ``Listening``."""

    def __init__(self, worker: Worker) -> None:
        self.draining = asyncio.Event()
        self.worker = dataclasses.replace(worker, draining=self.draining)
        self.sockets: list[socket.socket] = []
        self.begun = False
        self._backlog = 0
        self._left = 0

    def add(self, sock: socket.socket, backlog: int) -> None:
        self.sockets.append(sock)
        self._backlog = backlog
        self._left += 1

    def close(self) -> None:
        """Give up one of the sockets. Only with the last one the call is told: until then others may have a queue."""
        self._left -= 1
        if not self._left:
            self.draining.set()
            if not self.begun:  # the slot could not be had whole
                self.close_sockets()

    async def keep_backlog(self) -> None:
        """Listen again with the configured backlog: servers do so with theirs, mostly 100, and event loops too."""
        wait = _FIRST_MOMENT / 2
        while not self.draining.is_set():
            await asyncio.sleep(wait)
            wait = min(2 * wait, _RARELY)
            for sock in self.sockets:
                with contextlib.suppress(OSError):  # the call may have closed it
                    sock.listen(self._backlog)

    def close_sockets(self) -> None:
        for sock in self.sockets:
            sock.close()


def _is_callable_so(app: Any) -> bool:
    try:
        inspect.signature(app).bind("worker", "sockets", **({"tls": None} if _takes_tls(app) else {}))
    except (TypeError, ValueError):
        return False
    return is_coroutine_function(app)


def _takes_tls(app: Any) -> bool:
    try:
        return "tls" in inspect.signature(app).parameters
    except (TypeError, ValueError):
        return False

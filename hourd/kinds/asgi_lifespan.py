"""The lifespan of an ASGI application: told to start, and to shut down (asgiref, specs/lifespan.rst)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, MutableMapping
from typing import Any

from .. import errors

_PREFIX = "lifespan."
_ADVICE = 'an application that has no lifespan is served with options: {lifespan: "off"}'


class Lifespan:
    """One application's lifespan, which is a task of its own for as long as it serves."""

    def __init__(
        self, app: Callable[..., Any], state: MutableMapping[str, Any], log: logging.Logger, *, required: bool
    ) -> None:
        """Take an application.

        Args:
            app: ASGI 3.
            state: given to it as ``scope["state"]``, to be filled.
            log: of its server.
            required: whether an application that knows no lifespan is an error.
        """
        self._app = app
        self._scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
        self._log = log
        self._required = required
        self._events: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._said: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._heard_of_startup = False
        self._speaks_of_others = False
        """It has taken this for a request."""

    async def start(self) -> None:
        """Let it start up, and wait until it has.

        Raises:
            errors.BootError: it says that it has failed.
            Exception: whatever it raised, if it was in the middle of its startup, or is required to have one.
        """
        self._task = asyncio.get_running_loop().create_task(self._run())
        said = await self._tell("startup")
        if said is None:
            self._explain_absence()
        elif said["type"] == "lifespan.startup.failed":
            await asyncio.wait([self._task], timeout=1)
            message = said.get("message", "")
            if not message and (error := self._error()):
                raise error
            raise errors.BootError(f"the application's lifespan failed to start:\n{message}".rstrip(":\n"))
        else:
            self._task.add_done_callback(self._tell_of_its_end)

    async def stop(self) -> None:
        """Let it shut down, and wait until it has. Whatever it raises is logged."""
        self._task.remove_done_callback(self._tell_of_its_end)
        if self._task.done():
            return
        said = await self._tell("shutdown")
        if said is not None and said["type"] == "lifespan.shutdown.failed":
            await asyncio.wait([self._task], timeout=1)
            self._log.error("the application's lifespan failed to shut down:\n%s", said.get("message", ""))
        elif error := self._error():
            self._log.error("the application's lifespan failed to shut down", exc_info=error)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    def _explain_absence(self) -> None:
        error = self._error()
        if self._required:
            raise error or errors.BootError("the application has no ASGI lifespan, and options.lifespan is on")
        if self._heard_of_startup and error is not None and not self._speaks_of_others:
            # The specification has the server go on. But who knows of no lifespan raises before it asks what to do:
            # somebody wrote a startup, and without the database that it was to open nothing can be served.
            error.add_note(_ADVICE)
            raise error
        self._log.debug("the application has no ASGI lifespan: %r", error)

    def _tell_of_its_end(self, task: asyncio.Task[None]) -> None:
        """Tell what ended it while it is served, not only when it is asked to shut down."""
        if error := self._error():
            what = "the application's lifespan failed while it is served"
            # In this way, it is counted as the server's too.
            asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error, "task": task})

    def _error(self) -> BaseException | None:
        if not self._task.done():
            return None
        # To raise a CancelledError would look as if somebody had cancelled the boot.
        cancelled = self._task.cancelled()
        return errors.BootError("the application's lifespan was cancelled") if cancelled else self._task.exception()

    async def _tell(self, event: str) -> dict[str, Any] | None:
        """Send an event; returns what it says to that, nothing if it ends without a word."""
        said = self._said[event] = asyncio.get_running_loop().create_future()
        self._events.put_nowait({"type": _PREFIX + event})
        await asyncio.wait([said, self._task], return_when=asyncio.FIRST_COMPLETED)
        return said.result() if said.done() else None

    async def _receive(self) -> dict[str, str]:
        event = await self._events.get()
        self._heard_of_startup = True
        return event

    async def _send(self, message: dict[str, Any]) -> None:
        self._speaks_of_others |= not message["type"].startswith(_PREFIX)
        event, _, outcome = message["type"].removeprefix(_PREFIX).partition(".")
        said = self._said.get(event)
        if outcome not in ("complete", "failed") or said is None or said.done():
            raise RuntimeError(f"unexpected ASGI message {message['type']!r} in the lifespan")
        said.set_result(message)

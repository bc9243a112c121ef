"""One call of a WSGI application in a thread, and who learns of it in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, BinaryIO, Self

from .wsgi_environ import Environ
from .wsgi_files import ClientGone, comes_of_the_end
from .wsgi_response import Application, Message, Response
from .wsgi_threads import tell

Failed = Callable[[str, BaseException | None], None]
_AHEAD = 256 * 1024
"""Bytes of a response that a thread may be ahead of its client."""
AFTERWARDS = "the application failed after its response"


class Call:
    """A call of the application, and the messages that it makes.

    The thread puts messages, the event loop takes them. It is told when there are some, and at the end unless the last
    message was one's own end; who puts waits when too much was not sent yet.
    """

    def __init__(self, app: Application, environ: Environ, body: BinaryIO, failed: Failed) -> None:
        """Take what is to be called; ``body`` is closed at the end."""
        self._app = app
        self._environ = environ
        self._body = body
        self._errors = environ["wsgi.errors"]
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._changed = threading.Condition(threading.Lock())
        self._messages: list[Message] = []
        self._ahead = 0
        self._ended = False
        self._gone = False
        self._waiter: asyncio.Future[None] | None = None
        self.response = Response(environ["REQUEST_METHOD"], self._put)
        self.begun = False
        self.error: BaseException | None = None
        """Why it ended before its response did."""
        self.is_file = False
        """Whether the response goes on with a file, which is left to the event loop."""

    # --- the thread -------------------------------------------------------------------------------

    def run(self) -> None:
        """Call the application."""
        self._context.run(self._run)

    def close_file(self) -> None:
        """Have a file closed that was sent."""
        self._context.run(self._close_file)

    def _run(self) -> None:
        self.begun = True
        error: BaseException | None = None
        try:
            if not self._gone:
                with contextlib.closing(self.response.produce(self._app, self._environ)) as batches:
                    for batch in batches:
                        self._put(batch)
        except BaseException as raised:  # noqa: BLE001, an application may raise anything
            error = raised
        self._body.close()
        self._errors.flush()
        self._end(error)

    def _put(self, batch: Sequence[Message]) -> None:
        size = sum(len(message.get("body", b"")) for message in batch)
        with self._changed:
            while self._ahead > _AHEAD and not self._gone:
                self._changed.wait()
            if self._gone:
                raise ClientGone("the client is gone")
            tell_it = not self._messages
            self._messages.extend(batch)
            self._ahead += size
        if tell_it:
            tell(self._loop, self._wake)

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            unheard = self._gone or self.response.complete
            self.error = error
            self.is_file = self.response.file is not None and not unheard
        if not unheard:
            tell(self._loop, self._finish)
            return
        if error is not None and not comes_of_the_end(error):
            tell(self._loop, self._failed, AFTERWARDS, error)
        self._close_file()

    def _close_file(self) -> None:
        try:
            self.response.close_file()
        except BaseException as error:  # noqa: BLE001, as above
            tell(self._loop, self._failed, AFTERWARDS, error)
        self._errors.flush()

    # --- the event loop ---------------------------------------------------------------------------

    async def take(self) -> list[Message]:
        """Wait for messages and return them; none when it has ended, or nobody waits for them any more."""
        while True:
            with self._changed:
                messages, self._messages = self._messages, []
            if messages or self._ended:
                return messages
            self._waiter = self._loop.create_future()
            await self._waiter

    def sent(self, size: int) -> None:
        """Note that so many bytes were sent."""
        with self._changed:
            self._ahead -= size
            self._changed.notify()

    def leave(self) -> None:
        """Take nothing more: the application is stopped where it gives the next part."""
        with self._changed:
            self._gone = True
            self._changed.notify()
        self._finish()

    def _finish(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Watch:
    """Waits for a client's end, once it was begun."""

    def __init__(self, receive: Callable[[], Awaitable[Any]], left: Callable[[], None] | None = None) -> None:
        """Take ASGI's ``receive``, and whom to tell."""
        self._receive = receive
        self._left = left
        self._task: asyncio.Task[None] | None = None

    @property
    def gone(self) -> bool:
        return self._task is not None and self._task.done()

    def begin(self) -> Self:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._wait())
        return self

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._left is not None:
            self._left()

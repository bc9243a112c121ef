"""WSGI applications as ASGI ones.

A request's body is read before the application is called, so that no slow client holds a thread, and what an
application reads in the event loop is there. Responses go out as they come; where a client takes them slowly, the
application is not asked for more. A file is sent by the event loop, so that no thread waits for a client that reads it.

What does not work: to learn of a client's end from ``send``, which takes messages for nobody in silence. So while a
response takes more than one message, somebody waits in ``receive``.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, BinaryIO

from .wsgi_calls import AFTERWARDS, Call, Failed, Watch
from .wsgi_environ import Environ
from .wsgi_files import BLOCK, ClientGone, comes_of_the_end, read_body
from .wsgi_response import Application, Message, Response
from .wsgi_threads import Threads

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Message], Awaitable[None]]
_TURN = 64 * 1024
"""Bytes after which an application in the event loop lets others have a turn."""
_PART = 1024
"""Bytes that a part counts for besides its own."""
_SOON = 0.1
"""Seconds that a request waits for a thread before it is looked whether its client does."""
_LONG = 1.0
"""Seconds that a request may wait for a thread without a word."""
_SAY_AGAIN = 60.0
"""Seconds after which the same is said again."""


class Adapter:
    """An ASGI application around a WSGI one: what both ways to call it have in common."""

    def __init__(
        self,
        app: Application,
        make_environ: Callable[[Any], Environ],
        *,
        failed: Failed,
        log: logging.Logger,
        helpers: Threads,
    ) -> None:
        """Take what is to be adapted.

        Args:
            app: the WSGI application.
            make_environ: makes the environ of an ASGI scope.
            failed: is told what the application raises when its response is complete.
            log: of the server.
            helpers: threads that read and write files.
        """
        self._app = app
        self._make_environ = make_environ
        self._failed = failed
        self._log = log
        self._helpers = helpers

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        environ = self._make_environ(scope)
        length = environ.get("CONTENT_LENGTH", "0")
        if length == "0" and "HTTP_TRANSFER_ENCODING" not in environ:
            body: BinaryIO = io.BytesIO()
        else:
            try:
                body, size = await read_body(receive, self._helpers)
            except ClientGone:
                return
            environ["CONTENT_LENGTH"] = str(size)
            environ.pop("HTTP_TRANSFER_ENCODING", None)  # it was taken off
        environ["wsgi.input"] = body
        await self._answer(environ, body, receive, send)

    async def _answer(self, environ: Environ, body: BinaryIO, receive: Receive, send: Send) -> None:
        """Call the application and send its response; closes the body."""
        raise NotImplementedError

    async def _send_file(self, response: Response, send: Send, watch: Watch) -> None:
        assert response.file is not None
        read = response.file.filelike.read
        for message in response.begin(response.file.size()):
            await send(message)
        while response.lacks_body() and not watch.gone and (data := await self._helpers.call(read, BLOCK)):
            for message in response.feed(data):
                await send(message)
        if not watch.gone:
            for message in response.finish():
                await send(message)


class Inline(Adapter):
    """Calls the application in the event loop."""

    async def _answer(self, environ: Environ, body: BinaryIO, receive: Receive, send: Send) -> None:
        response, errors = Response(environ["REQUEST_METHOD"]), environ["wsgi.errors"]
        batches = response.produce(self._app, environ)
        watch = Watch(receive)
        turn = 0
        try:
            for batch in batches:
                for message in batch:
                    await send(message)
                if response.complete:
                    continue
                watch.begin()
                turn += _size(batch) + _PART
                if turn > _TURN:
                    turn = 0
                    await asyncio.sleep(0)
                if watch.gone:
                    break
            if response.file is not None:
                await self._send_file(response, send, watch.begin())
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if response.complete:
                self._failed(AFTERWARDS, error)
            elif not comes_of_the_end(error):
                raise  # the connection answers, or is cut
        finally:
            watch.end()
            self._close(batches, response)
            body.close()
            errors.flush()

    def _close(self, batches: Generator[Any, None, None], response: Response) -> None:
        try:
            batches.close()
            response.close_file()
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001, an application may raise anything
            self._failed(AFTERWARDS, error)


class Threaded(Adapter):
    """Calls the application in threads."""

    def __init__(
        self, app: Application, make_environ: Callable[[Any], Environ], *, threads: Threads, **more: Any
    ) -> None:
        """Take the threads to call it in, besides what every adapter takes."""
        super().__init__(app, make_environ, **more)
        self._threads = threads
        self._calls: set[Call] = set()
        self._looked_at: Call | None = None
        self._said_at = -_SAY_AGAIN

    def leave(self) -> None:
        """Let the threads end where they have something to send."""
        for call in self._calls:
            call.leave()

    async def _answer(self, environ: Environ, body: BinaryIO, receive: Receive, send: Send) -> None:
        call = Call(self._app, environ, body, self._failed)
        watch = Watch(receive, call.leave)
        later: asyncio.TimerHandle | None = None
        try:
            self._threads.submit(call.run)
        except RuntimeError:
            body.close()
            raise
        self._calls.add(call)
        try:
            if self._threads.waiting:
                later = asyncio.get_running_loop().call_later(_SOON, watch.begin)
                self._look_later(call)
            while messages := await call.take():
                for message in messages:
                    await send(message)
                if not messages[-1].get("more_body", True):
                    return
                call.sent(_size(messages))
                watch.begin()
            if call.is_file:
                await self._send_file(call.response, send, watch.begin())
            elif call.error is not None and not comes_of_the_end(call.error):
                raise call.error  # the connection answers, or is cut
        finally:
            if later is not None:
                later.cancel()
            watch.end()
            call.leave()
            self._calls.discard(call)
            if call.is_file:
                self._threads.submit(call.close_file)

    def _look_later(self, call: Call) -> None:
        if self._looked_at is None:
            self._looked_at = call
            asyncio.get_running_loop().call_later(_LONG, self._look, call)

    def _look(self, call: Call) -> None:
        """Say so when requests wait for threads: nothing else shows it, since the event loop is idle."""
        self._looked_at = None
        now = asyncio.get_running_loop().time()
        if not call.begun and call in self._calls and now - self._said_at >= _SAY_AGAIN:
            self._said_at = now
            self._log.warning(
                "%d requests wait for one of %d threads, this one for %g s: options.threads, or more workers",
                self._threads.waiting, self._threads.most, _LONG,
            )  # fmt: skip


def _size(messages: Sequence[Message]) -> int:
    return sum(len(message.get("body", b"")) for message in messages)

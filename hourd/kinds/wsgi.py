"""``kind: wsgi``: HTTP by a WSGI application (PEP 3333), in threads or in the event loop.

The connections are those of ``kind: asgi``; ``wsgi_adapter.py`` is what stands between.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from msgspec import Struct

from .. import errors
from ..context import takes_worker
from . import Context, factories, wsgi_environ
from .asgi import Asgi
from .callables import is_coroutine_function
from .options import WsgiOptions
from .wsgi_adapter import Inline, Threaded
from .wsgi_files import Errors
from .wsgi_threads import Threads

_THREADS = 4
"""By default. Threads of Python share one CPU: more of them wait for each other, and workers are what scales."""
_HELPERS = 2
_LAST_MOMENT = 0.5
"""Seconds that threads have to close their responses, when their connections were cut."""
_LOOK = 0.02
_WSGI = 2
"""A WSGI application takes ``environ`` and ``start_response``."""


class Wsgi(Asgi):
    """Serve an application, or what a factory makes in the worker."""

    Options: ClassVar[type[Struct]] = WsgiOptions
    lifespan = False
    websockets = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        name = f"hourd-{context.server}"
        self._helpers = Threads(_HELPERS, f"{name}-files")
        self._threads = Threads(1 if context.options.inline else context.options.threads or _THREADS, name)
        self._threaded: Threaded | None = None

    async def application(self) -> Callable[..., Any]:
        app, log = await self._find(), self.context.log
        make_environ = wsgi_environ.make_factory(errors=lambda: Errors(log), multithread=self._threads.most > 1)
        common: dict[str, Any] = {
            "failed": self.failed,
            "log": log,
            "helpers": self._helpers,
        }
        if self.context.options.inline:
            return Inline(app, make_environ, **common)
        self._threaded = Threaded(app, make_environ, threads=self._threads, **common)
        return self._threaded

    @property
    def connections(self) -> int:
        # A thread may have something to finish after its client is gone.
        return max(super().connections, self._threads.busy)

    async def close(self) -> None:
        if self._threaded is not None:
            self._threaded.leave()
        await super().close()
        try:
            async with asyncio.timeout(_LAST_MOMENT):
                while self._threads.unfinished:  # noqa: ASYNC110, a thread tells nobody
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            busy = self._threads.unfinished
            self.context.log.warning("%d calls of the application did not end; they end with this process", busy)

    async def _find(self) -> Any:
        """Return the application, or what the factory makes."""
        app = given = self.context.app
        if _is_factory(app):
            app = await factories.make(app, self.context.worker)
        if not callable(app) or inspect.iscoroutinefunction(app) or (app is not given and _is_factory(app)):
            raise factories.refused(app, given, "a WSGI application")
        if is_coroutine_function(app):
            raise errors.BootError(f"app is {app!r}, which is asynchronous; an ASGI application needs kind: asgi")
        return app


def _is_factory(app: object) -> bool:
    """Tell whether a callable makes an application: it needs no arguments, or only the worker."""
    if not callable(app):
        return False
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return False  # written in C; it shows when it is asked
    if any(each.kind is each.VAR_POSITIONAL for each in parameters):
        return False
    required = [each for each in parameters if each.default is each.empty]
    return not required or (len(required) < _WSGI and takes_worker(app))

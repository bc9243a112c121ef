"""``kind: container``: code that was written for API-Hour.

A container makes its servers once, on sockets that it is given. A worker of hourd attends slots that come and go
once it is ready, those of siblings too. So ``make_servers`` is called while the worker boots, with
sockets that stand in for the addresses, and all that is taken from it is what handles connections where. hourd serves
that itself, as it does with other kinds, on each slot that the worker attends.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import socket
from typing import Any, ClassVar

from aiohttp import web
from msgspec import Struct

from .. import container, errors
from . import Kind, Listening, api_hour, blame
from .aiohttp import Aiohttp, ServerRunner
from .options import ContainerOptions, StreamOptions
from .protocol import Protocol
from .stand_ins import entry_of, stand_ins
from .stream import Stream

_LAST_WORD = 1.0
"""Seconds that ``cleanup`` has in any case, after connections were cut at the end of their grace."""


class Container(Kind):
    """Run a container: a class that is called with ``config``, ``worker`` and ``loop``."""

    Options: ClassVar[type[Struct]] = ContainerOptions
    tls: ClassVar[bool] = True
    proxy_protocol: ClassVar[bool] = True
    alpn: ClassVar[tuple[str, ...]] = Aiohttp.alpn

    _failures = 0
    _shutdown: asyncio.Task[None] | None = None
    _deadline: float | None = None

    async def open(self) -> None:
        self._kinds: list[Kind] = []
        await blame.run(self, self._boot)

    async def _boot(self) -> None:
        self._container = self._make_container()
        await self._call("pre_start")
        try:
            await self._start()
        except BaseException:
            await self._clean_up()
            raise

    async def _start(self) -> None:
        handlers = await self._make_handlers()
        await self._call("start")
        kinds = {id(handler): self._kind_of(handler) for handler in handlers}
        self._entries = [kinds[id(handler)] for handler in handlers]
        for kind in kinds.values():
            await kind.open()
            self._kinds.append(kind)

    async def listen(self, sock: socket.socket, backlog: int) -> Listening:
        kind = self._kinds[0] if len(self._kinds) == 1 else self._entries[entry_of(sock, self.context.bind)]
        return await kind.listen(sock, backlog)

    @property
    def connections(self) -> int:
        # What shuts down has the same grace.
        return sum(kind.connections for kind in self._kinds) + self._is_shutting_down()

    @property
    def accepted(self) -> int:  # type: ignore[override]
        return sum(kind.accepted for kind in self._kinds)

    @property
    def requests(self) -> int:  # type: ignore[override]
        return sum(kind.requests for kind in self._kinds)

    @property
    def errors(self) -> int:  # type: ignore[override]
        return self._failures + sum(kind.errors for kind in self._kinds)

    def failed(self, what: str, error: BaseException | None) -> None:
        self._failures += 1
        self.context.log.error("%s", what, exc_info=error)

    def reopen(self) -> None:
        for kind in self._kinds:
            kind.reopen()

    def drain(self) -> None:
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + self.context.grace
        self._shutdown = loop.create_task(blame.run(self, lambda: self._attempt("shutdown")))
        for kind in self._kinds:
            kind.drain()

    async def close(self) -> None:
        if self._shutdown is None:
            await self._attempt("shutdown")
        elif self._is_shutting_down():
            self.context.log.warning("shutdown did not end within the grace")
            self._shutdown.cancel()
            await asyncio.wait([self._shutdown])
        await blame.run(self, self._clean_up)

    async def _clean_up(self) -> None:
        """Close what was opened; one that fails keeps nobody else from it."""
        for kind in self._kinds:
            try:
                await kind.close()
            except Exception as error:  # noqa: BLE001, user code may raise anything
                self.failed("a server failed to close", error)
        await self._attempt("stop" if self._is_legacy() else "cleanup")

    def _is_shutting_down(self) -> bool:
        return self._shutdown is not None and not self._shutdown.done()

    # --- the container ----------------------------------------------------------------------------

    def _make_container(self) -> Any:
        make, context = self.context.app, self.context
        if not callable(make):
            raise errors.BootError(f"app is {make!r}, expected a subclass of hourd.Container")
        cfg = {"graceful_timeout": context.grace, **context.options.cfg}
        worker = api_hour.Worker(context.worker, context.log, cfg)
        config = api_hour.read_config(context.options.config)
        made = make(config=config, worker=worker, loop=asyncio.get_running_loop())
        if not callable(getattr(made, "make_servers", None)):
            raise errors.BootError(f"app made {made!r}, which has no make_servers; expected a hourd.Container")
        self._container = made
        if hasattr(made, "make_event_loop"):
            self._warn("make_event_loop is not called: the pool's loop: says which one")
        if self._is_legacy():
            self._warn("stop is called as cleanup, its name since API-Hour 0.8.2: rename it")
        return made

    def _warn(self, what: str) -> None:
        if self.context.worker.slot == 0:  # all workers have the same, and once is enough
            self.context.log.warning("container %s: %s", type(self._container).__name__, what)

    def _is_legacy(self) -> bool:
        def defines(name: str) -> bool:
            own = getattr(type(self._container), name, None)
            return own is not None and own is not getattr(container.Container, name)

        return defines("stop") and not defines("cleanup")

    async def _call(self, name: str, *arguments: Any) -> Any:
        """Call a method of the container, if it has it, and wait for what it returns."""
        method = getattr(self._container, name, None)
        if method is None:
            return None
        result = method(*arguments)
        if inspect.isgenerator(result) and not inspect.isawaitable(result):
            raise errors.BootError(
                f"{type(self._container).__name__}.{name} is a generator function, which was a coroutine with "
                "@asyncio.coroutine (gone since Python 3.11): write async def and await, or @types.coroutine"
            )
        return await result if inspect.isawaitable(result) else result

    async def _attempt(self, name: str) -> None:
        """Call a method at the end, within what is left of the grace."""
        now = asyncio.get_running_loop().time()
        end = self._deadline if self._deadline is not None else now + self.context.grace
        try:
            async with asyncio.timeout_at(max(end, now + _LAST_WORD)):
                await self._call(name)
        except TimeoutError:
            self.context.log.warning("%s did not end within the grace", name)
        except Exception as error:  # noqa: BLE001, user code may raise anything
            self.failed(f"{name} failed", error)

    # --- its servers ------------------------------------------------------------------------------

    async def _make_handlers(self) -> list[Any]:
        """Return what handles connections, for each entry of ``bind:``."""
        bind = self.context.bind
        takes_sockets = api_hour.takes_sockets(self._container.make_servers)
        with stand_ins(bind) as (sockets, served):
            result = await self._call("make_servers", *([sockets] if takes_sockets else []))
        return api_hour.handlers(result, served, bind)

    def _kind_of(self, handler: Any) -> Kind:
        """Return what serves a handler as hourd does."""
        context = dataclasses.replace(self.context, app=handler)
        if isinstance(handler, web.Application):
            return Aiohttp(context)
        if isinstance(handler, web.Server):
            return _Made(context)
        if inspect.iscoroutinefunction(handler):
            return Stream(dataclasses.replace(context, options=StreamOptions()))
        return Protocol(context)


class _Made(Aiohttp):
    """Serves what ``make_handler`` of an application has made."""

    async def open(self) -> None:
        server = self.context.app
        if not isinstance(getattr(server.request_handler, "__self__", None), web.Application):
            raise errors.BootError(f"make_servers returned {server!r}, which is of no aiohttp.web.Application")
        arguments = server._kwargs  # noqa: SLF001, aiohttp would drop all of them because of one that it had in its youth
        if "keep_alive" in arguments:
            arguments["keepalive_timeout"] = arguments.pop("keep_alive")
        await self._set_up(ServerRunner(server, shutdown_timeout=0.1))

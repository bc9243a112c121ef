"""What a worker opens before it is ready: the lifespan of its pool, and its servers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from . import channel, context, errors, kinds
from .application import Application, Part, explain, make
from .kinds import arrivals
from .orders import Orders
from .rotation import Certificates

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """What a newly forked worker has."""

    orders: Orders
    application: Application | None
    certificates: dict[str, Certificates]
    slot: int
    channel: channel.ChildEnd
    board_fd: int


async def enter_lifespan(stack: contextlib.AsyncExitStack, application: Application, worker: context.Worker) -> None:
    """Enter the lifespan, if there is one; what it yields is the worker's state.

    Raises:
        errors.HourdError: it fails.
    """
    if application.lifespan is not None:
        lifespan = context.give_worker(application.lifespan, worker)
        worker.state = await _attempt("lifespan", lambda: stack.enter_async_context(lifespan()))


async def open_server(
    birth: Birth, worker: context.Worker, name: str, part: Part, give_up: Callable[[str, BaseException | None], None]
) -> kinds.Kind:
    """Return a server of the pool, open.

    Args:
        birth: what the worker has.
        worker: as user code sees it.
        name: the server's.
        part: what was imported for it.
        give_up: called when the server cannot go on.

    Raises:
        errors.HourdError: it cannot be opened.
    """
    return await _attempt(f"server {name} (kind {part.name})", lambda: _open(birth, worker, name, part, give_up))


async def _attempt(what: str, begin: Callable[[], Awaitable[T]]) -> T:
    try:
        return await begin()
    except errors.HourdError as error:
        raise type(error)(f"{what}: {error}") from error
    except (Exception, SystemExit) as error:
        raise errors.BootError(explain(error, f"{what} failed to open")) from error


async def _open(
    birth: Birth, worker: context.Worker, name: str, part: Part, give_up: Callable[[str, BaseException | None], None]
) -> kinds.Kind:
    configured, log = birth.orders.settings.servers[name], logging.getLogger(f"hourd.server.{worker.pool}.{name}")
    part = await make(name, configured, part, worker)
    certificates = birth.certificates.get(name)
    kind: kinds.Kind = part.kind(
        kinds.Context(
            server=name,
            app=part.app,
            options=part.options,
            worker=worker,
            log=log,
            give_up=give_up,
            bind=configured.bind,
            grace=configured.grace,
            log_format=birth.orders.log.format,
            arrivals=arrivals.make(configured, certificates, log, part.kind.alpn, tell=birth.slot == 0),
        )
    )
    await kind.open()
    return kind

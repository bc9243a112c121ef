"""``kind: protocol``: any stream server written as an ``asyncio.Protocol``."""

from __future__ import annotations

import asyncio
import inspect
from typing import ClassVar

from msgspec import Struct

from .. import errors
from ..context import give_worker
from .connections import StreamKind
from .options import ProtocolOptions


class Protocol(StreamKind):
    """Call ``app`` for each connection; it returns the protocol. Protocols may watch ``worker.draining``."""

    Options: ClassVar[type[Struct]] = ProtocolOptions

    async def open(self) -> None:
        app = self.context.app
        if not callable(app) or inspect.iscoroutinefunction(app) or _is_other_class(app):
            raise errors.BootError(f"app is {app!r}, expected an asyncio.Protocol class or a factory of protocols")
        self._factory = give_worker(app, self.context.worker)

    def protocol(self) -> asyncio.BaseProtocol:
        made = self._factory()
        if not isinstance(made, asyncio.BaseProtocol):
            raise TypeError(f"app of server {self.context.server} returned {made!r}, expected an asyncio.Protocol")
        return made


def _is_other_class(app: object) -> bool:
    return isinstance(app, type) and not issubclass(app, asyncio.BaseProtocol)

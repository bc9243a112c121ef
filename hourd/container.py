"""The base class of API-Hour's applications, for code that was written for API-Hour.

``kind: container`` runs it. What is written anew has no use for it: lifespans and pools do as much.
"""

from __future__ import annotations

import asyncio
from typing import Any


class Container:
    """An application with all it needs: engines, services and servers.

    ``pre_start``, ``make_servers`` and ``start`` are called in this order before the worker is ready,
    ``shutdown`` when it drains, and ``cleanup`` when no connection is left.
    """

    def __init__(self, config: Any, worker: Any, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Take what hourd gives.

        Args:
            config: what ``options: {config: ...}`` holds, as mappings with attributes; ``None`` without it.
            worker: a ``hourd.Worker`` that has ``cfg`` and ``log.access_log`` besides.
            loop: the running event loop.
        """
        super().__init__()
        self.loop = loop if loop is not None else asyncio.get_running_loop()
        self.config = config
        self.worker = worker
        self.engines: dict[str, Any] = {}
        self.services: dict[str, Any] = {}
        self.servers: dict[str, Any] = {}

    async def make_servers(self, sockets: Any) -> Any:
        """Return what serves: handlers, or servers that listen on the sockets; docs/migration.md says how."""
        raise NotImplementedError(f"{type(self).__name__} has no make_servers")

    async def pre_start(self) -> None:
        """Get ready for ``make_servers``."""

    async def start(self) -> None:
        """Start the engines. What it raises keeps the worker from serving."""

    async def shutdown(self) -> None:
        """Ask what is open to finish: no connection will be accepted any more."""

    async def cleanup(self) -> None:
        """Stop the engines: no connection is left."""

    async def stop(self) -> None:
        """Do what ``cleanup`` does, in code for API-Hour before 0.8.2."""

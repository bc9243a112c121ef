"""A client of HTTP: a session of aiohttp."""

from __future__ import annotations

from typing import Any

import aiohttp

from .engine import Engine


def client_session(**options: Any) -> Engine:
    """Return an engine that opens an ``aiohttp.ClientSession``.

    Unlike aiohttp's own it keeps no cookies unless it is given a ``cookie_jar``: what one client's request made
    a server set would go out with the next client's.

    Args:
        options: what ``aiohttp.ClientSession`` takes, such as ``base_url`` and ``timeout``.
    """
    return _ClientSession(options)


class _ClientSession(Engine):
    where = "an HTTP client"

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(**{"cookie_jar": aiohttp.DummyCookieJar(), **self._options})
        return self._session

    async def check(self) -> None:
        assert self._session is not None
        if self._session.closed:
            raise RuntimeError("the application has closed the session")

    async def close(self) -> None:
        assert self._session is not None
        await self._session.close()

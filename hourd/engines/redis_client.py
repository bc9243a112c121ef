"""The engine that opens a client of redis-py."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio

from . import urls
from .engine import Engine

_SCHEMES = ("redis", "rediss", "unix")


class RedisClient(Engine):
    where = "Redis"
    failures = (redis.RedisError,)

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._url = url
        self._options = options
        self._client: Any = None

    async def open(self) -> Any:
        url = urls.read(self._url)
        self.where = f"Redis at {urls.place(url, _SCHEMES)}"
        self._client = redis.asyncio.Redis.from_url(url, **self._options)
        try:
            await self._client.ping()
        except BaseException:
            await self._client.aclose()
            raise
        return self._client

    async def check(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        await self._client.aclose()

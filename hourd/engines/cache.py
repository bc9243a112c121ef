"""Redis, and what speaks its protocol: a client of redis-py."""

from __future__ import annotations

from typing import Any

from .engine import Engine


def redis(url: str, **options: Any) -> Engine:
    """Return an engine that opens a ``redis.asyncio.Redis``, which has a pool of connections.

    Args:
        url: ``redis://USER:PASSWORD@HOST:PORT/NUMBER``, ``rediss://`` for TLS, or ``unix://``; ``$NAME`` is read from
            the environment, in the worker.
        options: anything else that ``redis.asyncio.Redis.from_url`` takes, such as ``decode_responses=True``.
    """
    try:
        # Here, so that it is imported once, before workers are forked.
        from .redis_client import RedisClient  # noqa: PLC0415, an optional extra
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise ModuleNotFoundError("engines.redis needs redis: pip install 'hourd[redis]'") from None
    return RedisClient(url, options)

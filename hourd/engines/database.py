"""PostgreSQL: a pool of asyncpg."""

from __future__ import annotations

from typing import Any

from .engine import Engine


def postgresql(url: str, *, min_size: int = 1, max_size: int = 10, **options: Any) -> Engine:
    """Return an engine that opens an ``asyncpg.Pool``.

    The server sees up to ``max_size`` connections of each worker, and twice as many during a reload.

    Args:
        url: ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE`` or what else libpq takes; ``$NAME`` is read
            from the environment, in the worker.
        min_size: connections that are open from the start.
        max_size: connections at most.
        options: anything else that ``asyncpg.create_pool`` takes.
    """
    try:
        # Here, so that it is imported once, before workers are forked.
        from .asyncpg_pool import AsyncpgPool  # noqa: PLC0415, an optional extra
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise ModuleNotFoundError("engines.postgresql needs asyncpg: pip install 'hourd[postgresql]'") from None
    return AsyncpgPool(url, {"min_size": min_size, "max_size": max_size, **options})

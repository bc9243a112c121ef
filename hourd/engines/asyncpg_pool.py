"""The engine that opens a pool of asyncpg."""

from __future__ import annotations

import logging
from typing import Any

import asyncpg

from . import urls
from .engine import BusyError, Engine

_SCHEMES = ("postgresql", "postgres")
_FREE_WITHIN = 1.0
"""Seconds that a check waits for a connection that nobody uses."""


class Connection(asyncpg.Connection):  # type: ignore[misc]
    """Tells when a commit was none.

    PostgreSQL answers COMMIT with ROLLBACK when a statement of the transaction has failed, even if the application
    has caught that error, and asyncpg passes over the difference.
    """

    __slots__ = ()

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109, asyncpg's
        """Do as asyncpg's, but raise ``asyncpg.InFailedSQLTransactionError`` then."""
        status: str = await super().execute(query, *args, timeout=timeout)
        if status == "ROLLBACK" and query.strip("; ").upper() == "COMMIT":
            raise asyncpg.InFailedSQLTransactionError("rolled back instead of committed: a statement had failed")
        return status


class AsyncpgPool(Engine):
    where = "PostgreSQL"
    failures = (asyncpg.PostgresError, asyncpg.InterfaceError)

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._url = url
        self._options = {"connection_class": Connection, **options}
        self._pool: Any = None

    async def open(self) -> Any:
        url = urls.read(self._url)
        self.where = f"PostgreSQL at {urls.place(url, _SCHEMES)}"
        _quieten_asyncpg()
        pool = asyncpg.create_pool(url, **self._options)
        try:
            self._pool = await pool
        except BaseException:
            pool.terminate()
            raise
        return pool

    async def check(self) -> None:
        pool = self._pool
        try:
            # This also bounds how long giving it back may take when the server is silent.
            connection = await pool.acquire(timeout=_FREE_WITHIN)
        except TimeoutError:
            if pool.get_size() < pool.get_max_size():
                raise  # it was to be opened
            raise BusyError(f"all {pool.get_max_size()} connections are in use") from None
        try:
            await connection.execute("SELECT 1")
        finally:
            await pool.release(connection)

    async def close(self) -> None:
        await self._pool.close()  # cuts what is left when it is cancelled


def _quieten_asyncpg() -> None:
    """Have asyncpg not log each attempt to reconnect, with its traceback: that the server is down was told."""
    logger = logging.getLogger("asyncpg.pool")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)

"""Notes in PostgreSQL, with Redis in front of it: what hourd.aiohttp and hourd.engines are for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import redis
from aiohttp import web

from hourd import Worker, engines
from hourd.aiohttp import JSON, Environment, JSONError, add_request_id, environment

TABLE = (
    "CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY, text text NOT NULL, written timestamptz DEFAULT now())"
)
CACHED_FOR = 60  # seconds

opened = engines.compose(
    db=engines.postgresql("$NOTES_DB", max_size=5),
    cache=engines.redis("$NOTES_REDIS", decode_responses=True),
)


@contextlib.asynccontextmanager
async def lifespan(worker: Worker) -> AsyncIterator[engines.State]:
    """What the engines open is there before the first request and until after the last."""
    async with opened(worker) as state:
        async with state.db.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(1)")  # workers begin at the same time
            await connection.execute(TABLE)
        yield state


class Note(msgspec.Struct, forbid_unknown_fields=True):
    text: str


@environment(json=Note, transaction="db")
async def write(request: web.Request, env: Environment[Note]) -> web.Response:
    note = await env.connection.fetchrow("INSERT INTO notes (text) VALUES ($1) RETURNING id, written", env.json.text)
    return JSON(note, status=201)


async def read(request: web.Request) -> web.Response:
    number = int(request.match_info["id"])
    if text := await Worker.current().state.cache.get(f"note:{number}"):
        return JSON({"text": text, "cached": True})
    return await read_stored(request)


@environment(transaction="db")
async def read_stored(request: web.Request, env: Environment[None]) -> web.Response:
    number = int(request.match_info["id"])
    text = await env.connection.fetchval("SELECT text FROM notes WHERE id = $1", number)
    if text is None:
        raise JSONError(404, {"error": "there is no such note"})
    await Worker.current().state.cache.set(f"note:{number}", text, ex=CACHED_FOR)
    return JSON({"text": text, "cached": False})


async def health(request: web.Request) -> web.Response:
    found = Worker.current().health
    return JSON(found, status=200 if all(each.ok for each in found.values()) else 503)


@web.middleware
async def without_cache(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer with 503 what needs Redis while it is down; ``transaction`` does so for PostgreSQL."""
    try:
        return await handler(request)
    except (redis.ConnectionError, redis.TimeoutError):
        raise JSONError(503, {"error": "the cache cannot be reached"}) from None


def create_app() -> web.Application:
    app = web.Application(middlewares=[without_cache])
    add_request_id(app)
    app.add_routes([web.post("/", write), web.get(r"/{id:\d{1,9}}", read), web.get("/health", health)])
    return app

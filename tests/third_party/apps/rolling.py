"""Roll: ``kind: protocol``, since its application makes an ``asyncio.Protocol`` for each connection."""

import asyncio
import contextlib

from hourd import Worker
from roll import Roll

app = Roll()


@app.route("/hello/{name}")
async def hello(request, response, name):
    response.body = f"hello {name}"


@app.listen("response")
async def leave(request, response):
    if Worker.current().draining.is_set():
        response.headers["Connection"] = "close"


@contextlib.asynccontextmanager
async def lifespan():
    app.loop = asyncio.get_running_loop()
    await app.startup()
    yield
    await app.shutdown()


connect = app.factory

"""Starlette: what every application here answers.

/               the pid of the worker
/json           {"hello": "world"}
/items/NAME     {"name": NAME}
/started        {"started": true}, once its own hook for the start has run
/stream         five lines, one after the other
/upload         POST: {"size": how many bytes came}
/ws             a websocket that repeats what it gets
"""

import asyncio
import contextlib
import os

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute


async def pid(request):
    return PlainTextResponse(str(os.getpid()))


async def hello(request):
    return JSONResponse({"hello": "world"})


async def item(request):
    return JSONResponse({"name": request.path_params["name"]})


async def started(request):
    return JSONResponse({"started": request.state.started})


async def stream(request):
    async def lines():
        for number in range(5):
            yield f"line {number}\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(lines(), media_type="text/plain")


async def upload(request):
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return JSONResponse({"size": size})


async def echo(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@contextlib.asynccontextmanager
async def lifespan(app):
    yield {"started": True}
    print("ended", flush=True)


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/", pid),
        Route("/json", hello),
        Route("/items/{name}", item),
        Route("/started", started),
        Route("/stream", stream),
        Route("/upload", upload, methods=["POST"]),
        WebSocketRoute("/ws", echo),
    ],
)

"""Sanic as an ASGI application; see ``starlette_app.py`` for what it answers."""

import asyncio
import os

from sanic import Sanic, json, text

app = Sanic("hourd_test", configure_logging=False)
app.config.MOTD = False


@app.before_server_start
async def start(app):
    app.ctx.started = True


@app.after_server_stop
async def end(app):
    print("ended", flush=True)


@app.get("/")
async def pid(request):
    return text(str(os.getpid()))


@app.get("/json")
async def hello(request):
    return json({"hello": "world"})


@app.get("/items/<name>", unquote=True)
async def item(request, name):
    return json({"name": name})


@app.get("/started")
async def started(request):
    return json({"started": app.ctx.started})


@app.get("/stream")
async def stream(request):
    response = await request.respond(content_type="text/plain")
    for number in range(5):
        await response.send(f"line {number}\n")
        await asyncio.sleep(0.01)
    await response.eof()


@app.post("/upload", stream=True)
async def upload(request):
    size = 0
    async for piece in request.stream:
        size += len(piece)
    return json({"size": size})


@app.websocket("/ws")
async def echo(request, websocket):
    while (message := await websocket.recv()) is not None:
        await websocket.send(message)

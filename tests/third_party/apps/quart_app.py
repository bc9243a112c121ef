"""Quart; see ``starlette_app.py`` for what it answers."""

import asyncio
import os

from quart import Quart, request, websocket

app = Quart(__name__)
state = {"started": False}


@app.before_serving
async def start():
    state["started"] = True


@app.after_serving
async def end():
    print("ended", flush=True)


@app.get("/")
async def pid():
    return str(os.getpid())


@app.get("/json")
async def hello():
    return {"hello": "world"}


@app.get("/items/<name>")
async def item(name):
    return {"name": name}


@app.get("/started")
async def started():
    return state


@app.get("/stream")
async def stream():
    async def lines():
        for number in range(5):
            yield f"line {number}\n".encode()
            await asyncio.sleep(0.01)

    return lines(), {"Content-Type": "text/plain"}


@app.post("/upload")
async def upload():
    return {"size": len(await request.get_data())}


@app.websocket("/ws")
async def echo():
    while True:
        await websocket.send(await websocket.receive())

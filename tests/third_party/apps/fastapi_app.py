"""FastAPI; see ``starlette_app.py`` for what it answers."""

import asyncio
import contextlib
import os

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse, StreamingResponse


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.started = True
    yield
    print("ended", flush=True)


app = FastAPI(lifespan=lifespan)


@app.get("/", response_class=PlainTextResponse)
async def pid():
    return str(os.getpid())


@app.get("/json")
def hello():  # in a thread
    return {"hello": "world"}


@app.get("/items/{name}")
async def item(name: str):
    return {"name": name}


@app.get("/started")
async def started():
    return {"started": app.state.started}


@app.get("/stream")
async def stream():
    async def lines():
        for number in range(5):
            yield f"line {number}\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(lines(), media_type="text/plain")


@app.post("/upload")
async def upload(request: Request):
    return {"size": len(await request.body())}


@app.websocket("/ws")
async def echo(websocket: WebSocket):
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass

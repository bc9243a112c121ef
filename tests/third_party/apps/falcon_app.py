"""Falcon in its ASGI flavour; see ``starlette_app.py`` for what it answers."""

import asyncio
import os

import falcon
import falcon.asgi


class Lifespan:
    started = False

    async def process_startup(self, scope, event):
        self.started = True

    async def process_shutdown(self, scope, event):
        print("ended", flush=True)


class Pid:
    async def on_get(self, request, response):
        response.text = str(os.getpid())
        response.content_type = falcon.MEDIA_TEXT


class Hello:
    async def on_get(self, request, response):
        response.media = {"hello": "world"}


class Item:
    async def on_get(self, request, response, name):
        response.media = {"name": name}


class Started:
    async def on_get(self, request, response):
        response.media = {"started": lifespan.started}


class Stream:
    async def on_get(self, request, response):
        async def lines():
            for number in range(5):
                yield f"line {number}\n".encode()
                await asyncio.sleep(0.01)

        response.content_type = falcon.MEDIA_TEXT
        response.stream = lines()


class Upload:
    async def on_post(self, request, response):
        size = 0
        async for piece in request.stream:
            size += len(piece)
        response.media = {"size": size}


class Echo:
    async def on_websocket(self, request, websocket):
        await websocket.accept()
        try:
            while True:
                await websocket.send_text(await websocket.receive_text())
        except falcon.WebSocketDisconnected:
            pass


lifespan = Lifespan()
app = falcon.asgi.App(middleware=[lifespan])
app.add_route("/", Pid())
app.add_route("/json", Hello())
app.add_route("/items/{name}", Item())
app.add_route("/started", Started())
app.add_route("/stream", Stream())
app.add_route("/upload", Upload())
app.add_route("/ws", Echo())

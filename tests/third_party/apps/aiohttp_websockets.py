"""aiohttp with websockets: ``kind: aiohttp``."""

from aiohttp import web


async def echo(request):
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    async for message in websocket:
        await websocket.send_str(message.data)
    return websocket


app = web.Application()
app.router.add_get("/", echo)

"""A server of ``websockets`` on hourd's sockets: ``kind: callable``."""

import asyncio

from websockets.asyncio.server import serve as start


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


async def serve(worker, sockets):
    servers = [await start(echo, sock=sock) for sock in sockets]
    await worker.draining.wait()
    for server in servers:
        server.close(close_connections=True, code=1001)
    await asyncio.gather(*(server.wait_closed() for server in servers))

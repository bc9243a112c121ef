"""The page that a fresh installation serves; see /etc/hourd.yaml."""

from __future__ import annotations

import os

from aiohttp import web

from hourd import Worker


def create_app(worker: Worker) -> web.Application:
    """Make the application; hourd calls this in each worker."""

    async def page(_request: web.Request) -> web.Response:
        who = f"worker {worker.slot} of {worker.name}, generation {worker.generation}, pid {os.getpid()}"
        return web.Response(text=f"hourd works: this is {who}.\nWhat it serves stands in /etc/hourd.yaml.\n")

    app = web.Application()
    app.router.add_get("/", page)
    return app

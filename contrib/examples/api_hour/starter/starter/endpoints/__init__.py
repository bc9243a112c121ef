"""What is asked over HTTP."""

import asyncio

import aiohttp.web

import hourd

from ..services import visits

CONTAINER = aiohttp.web.AppKey("container", hourd.Container)


async def index(request):
    container = request.app[CONTAINER]
    number = await visits.count(container, request.query.get("who", "somebody"))
    return aiohttp.web.json_response({"greeting": container.config.main.greeting, "visits": number})


async def slow(request):
    """Notes the visit when the worker is about to go: the engines must be there still."""
    container = request.app[CONTAINER]
    await container.worker.draining.wait()
    await asyncio.sleep(0.2)
    await visits.count(container, "slow")
    return aiohttp.web.json_response({"slow": True})

"""Visits are counted in a file: a container with one HTTP server, one engine and one service."""

import logging

import aiohttp.web

import hourd

from . import endpoints
from .services.visits import Journal

LOG = logging.getLogger(__name__)


class Container(hourd.Container):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.config is None:
            raise ValueError("config is missing: give options: {config: etc/starter/main/main.yaml}")
        http = self.servers["http"] = aiohttp.web.Application()
        http[endpoints.CONTAINER] = self
        http.router.add_route("GET", "/", endpoints.index)
        http.router.add_route("GET", "/slow", endpoints.slow)

    def make_servers(self):
        return [self.servers["http"]]

    async def start(self):
        await super().start()
        self.engines["journal"] = Journal(self.config["engines"]["journal"]["path"])
        LOG.info("worker %d: the journal is open", self.worker.slot)

    async def cleanup(self):
        self.engines["journal"].close()
        LOG.info("worker %d: the journal is closed", self.worker.slot)
        await super().cleanup()

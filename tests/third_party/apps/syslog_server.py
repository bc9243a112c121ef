"""aiosyslogd's own server, begun and ended as its main() does."""

import contextlib
import os

from aiosyslogd.server import SyslogUDPServer
from loguru import logger

logger.remove()


@contextlib.asynccontextmanager
async def lifespan():
    server = await SyslogUDPServer.create("", 0)
    # Its database is for one process: two that come to an empty one at once both make its table.
    server.db.db_path_template = f"{server.db.db_path_template}-{os.getpid()}.sqlite3"
    yield server
    await server.shutdown()


def make(worker):
    return worker.state

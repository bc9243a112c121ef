"""The connections of ``kind: asgi``: uvicorn's protocols, with what a server of hourd has to know of them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from .blame import MARK

if TYPE_CHECKING:
    from .asgi import Asgi


class Log(logging.LoggerAdapter[logging.Logger]):
    """What uvicorn's protocols log to: errors of the application are counted, and carry the server's name.

    What a client does wrong, or merely does (uvicorn tells of each websocket), is of no interest but for debugging.
    """

    level = logging.INFO
    """Asked for by uvicorn, which has levels of its own below debug."""

    def __init__(self, kind: Asgi) -> None:
        super().__init__(kind.context.log)
        self._kind = kind

    def info(self, msg: object, *args: Any, **more: Any) -> None:
        self.debug(msg, *args, **more)

    def warning(self, msg: object, *args: Any, **more: Any) -> None:
        self.debug(msg, *args, **more)

    def error(self, msg: object, *args: Any, exc_info: Any = None, **_more: Any) -> None:
        self._kind.failed(str(msg).strip() % args if args else str(msg).strip(), exc_info)

    def exception(self, msg: object, *args: Any, exc_info: Any = True, **more: Any) -> None:
        self.error(msg, *args, exc_info=exc_info, **more)


class Connection(HttpToolsProtocol):
    """An HTTP connection."""

    def __init__(self, kind: Asgi) -> None:
        super().__init__(kind.config, kind.server_state, kind.app_state, _loop=asyncio.get_running_loop())
        self.logger = kind.log  # type: ignore[assignment]
        setattr(self, MARK, kind)


class Websocket(WebSocketsSansIOProtocol):
    """A connection that has become a websocket."""

    def __init__(self, kind: Asgi, **given: Any) -> None:
        super().__init__(**given)
        self.logger = kind.log  # type: ignore[assignment]
        setattr(self, MARK, kind)

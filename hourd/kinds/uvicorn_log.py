"""What uvicorn's protocols log to."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asgi import Asgi

_GONE = ("ClientDisconnected", "ClientDisconnect")
"""What uvicorn, and Starlette, call it that the client is gone."""
_CLIENTS_FAULT = "Invalid UTF-8"
"""How uvicorn's only error begins that the application has no part in."""


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
        text = str(msg).strip() % args if args else str(msg).strip()
        error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
        if isinstance(error, asyncio.CancelledError) or _comes_of_the_end(error) or text.startswith(_CLIENTS_FAULT):
            self.debug(text, exc_info=error)
        else:
            self._kind.failed(text, error)

    def exception(self, msg: object, *args: Any, exc_info: Any = True, **more: Any) -> None:
        self.error(msg, *args, exc_info=exc_info, **more)


def _comes_of_the_end(error: BaseException | None) -> bool:
    """Tell whether an exception is what became of having sent to a client that is gone, or was told to go."""
    while error is not None and type(error).__name__ not in _GONE:
        error = error.__cause__ or error.__context__
    return error is not None

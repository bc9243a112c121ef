"""The application that every server of ``peers.py`` serves: as little as possible, so that the server shows most."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

_BODY = b"Hello, world"
_HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(_BODY)))]
_ASGI_HEADERS = [(name.lower().encode(), value.encode()) for name, value in _HEADERS]

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def asgi(scope: dict[str, Any], _receive: object, send: Send) -> None:
    """Answer one request; without an answer to its lifespan, servers take it for an application without one."""
    if scope["type"] != "http":
        raise RuntimeError("this application answers HTTP only")
    await send({"type": "http.response.start", "status": 200, "headers": _ASGI_HEADERS})
    await send({"type": "http.response.body", "body": _BODY})


def wsgi(_environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer one request."""
    start_response("200 OK", _HEADERS)
    return [_BODY]

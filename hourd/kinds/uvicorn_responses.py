"""uvicorn's responses, for clients that it knows nothing of."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class ToTheEnd(RequestResponseCycle):
    """A response to HTTP/1.0, which knows no chunks: without a length it ends with its connection (RFC 9112, 6.3)."""

    _without_length = False

    async def send(self, message: Any) -> None:
        if not self.response_started and message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))  # any iterable, and this may be the only time that it is one
            message = {**message, "headers": headers}
            names = {name.lower() for name, _ in headers}
            self._without_length = b"content-length" not in names
            if self._without_length:
                self.chunked_encoding = False
        elif self._without_length and message["type"] == "http.response.body":
            # As if this had been told of: what uvicorn compares it with is what has been sent.
            self.expected_content_length = len(message.get("body", b"")) + bool(message.get("more_body"))
        await super().send(message)

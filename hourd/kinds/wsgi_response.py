"""What a WSGI application answers, as ASGI messages, without I/O.

waiting ── start_response() ──> started ── the first bytes, or the end ──> begun ── all of the length ──> complete
                 ^                 │                                         │
                 └── exc_info ─────┘                           exc_info: raised again

"""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

from .wsgi_environ import Environ
from .wsgi_files import IN_MEMORY, FileWrapper

Message = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]
_JOINED = 64 * 1024
"""Bytes of a list that are sent as one; of more, a copy is worth avoiding."""
_STATUS = re.compile(r"[2-5]\d\d( [\t\x20-\x7e\x80-\xff]*)?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HOP_BY_HOP = frozenset(
    {
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)
_OF_THE_CONNECTION = frozenset({b"connection", b"keep-alive"})
"""Hop-by-hop too, but frameworks and code for other servers say them, which take no notice."""
_WITHOUT_BODY = (204, 304)


class Response:
    """The response to one request."""

    __slots__ = ("_declared", "_head", "_headers", "_kept", "_left", "_put", "_status", "begun", "complete", "file")

    def __init__(self, method: str, put: Callable[[Sequence[Message]], None] | None = None) -> None:
        """Take where ``write()`` sends its messages; by default they wait until the application has returned."""
        self._head = method == "HEAD"
        self._put = put
        self._kept: tempfile.SpooledTemporaryFile[bytes] | None = None
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._declared: int | None = None
        self._left: int | None = None
        """Bytes that are still to come, where it is known."""
        self.begun = False
        """Whether the client may have seen the status."""
        self.complete = False
        self.file: FileWrapper | None = None
        """What is left to be sent and closed, when it is a file."""

    def start_response(
        self, status: str, headers: Iterable[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """Take status and headers, as PEP 3333 has it.

        Raises:
            RuntimeError: it was called before.
            TypeError, ValueError: status or headers cannot be sent.
        """
        if exc_info is not None:
            try:
                if self.begun or self._kept is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # a reference cycle
        elif self._status:
            raise RuntimeError("start_response() was called again without exc_info")
        code = _code(status)
        self._headers, self._declared = _encode(headers)
        self._status = code
        return self.write

    def write(self, data: bytes) -> None:
        """Send a part of the body before what the application returns."""
        if self._put is not None:
            if messages := self.feed(data, written=True):
                self._put(messages)
            return
        if self._kept is None:
            self._kept = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115, closed when it was sent
        self._kept.write(data)

    def produce(self, application: Application, environ: Environ) -> Generator[Sequence[Message], None, None]:
        """Call the application and yield messages as they come; in the end, ``close()`` is called.

        A file is left in ``file`` instead.
        """
        iterable: Iterable[bytes] = ()
        try:
            iterable = application(environ, self.start_response)
            if self._kept is not None:
                yield from self._written()
            if type(iterable) is FileWrapper and iterable.size() is not None:
                self.file = iterable
                return
            yield from self._body(iterable)
        finally:
            if self._kept is not None:
                self._kept.close()
            if self.file is None and hasattr(iterable, "close"):
                iterable.close()

    def close_file(self) -> None:
        """Close the file that was left, if one was."""
        if self.file is not None and hasattr(self.file, "close"):
            self.file.close()

    def feed(self, data: bytes, size: int | None = None, *, written: bool = False) -> Sequence[Message]:
        """Return the messages for a part of the body; nothing for no bytes.

        Args:
            data: the part.
            size: of the whole body in bytes, where it is known.
            written: whether it comes by ``write()``, which is not to send more than the length.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"the application returned {type(data).__name__}, expected bytes")
        if not data:
            return ()
        messages = [] if self.begun else [self._start(size)]
        if self._left is not None:
            if written and len(data) > self._left and self._has_body():
                raise ValueError("write() was given more than Content-Length says")
            data = data[: self._left]
            self._left -= len(data)
            if self.complete:
                return ()
            self.complete = not self._left
        messages.append({"type": "http.response.body", "body": data, "more_body": not self.complete})
        return messages

    def finish(self) -> Sequence[Message]:
        """Return the messages at the end of the body.

        Raises:
            ValueError: bytes are missing.
        """
        if self.complete:
            return ()
        if not self.begun and self._declared and self._has_body():
            self._left = self._declared
        messages = [] if self.begun or self._left else [self._start(0)]
        if self._left:
            raise ValueError(f"the application returned {self._left} bytes less than Content-Length says")
        self.complete = True
        messages.append({"type": "http.response.body", "body": b"", "more_body": False})
        return messages

    def begin(self, size: int | None) -> Sequence[Message]:
        """Return the messages in front of a body of a size, unless it has begun."""
        return () if self.begun else (self._start(size),)

    def lacks_body(self) -> bool:
        """Tell whether anything of the body is yet to be sent."""
        return self._has_body() and not self.complete

    def _has_body(self) -> bool:
        return not self._head and self._status not in _WITHOUT_BODY

    def _written(self) -> Iterator[Sequence[Message]]:
        assert self._kept is not None
        self._kept.seek(0)
        while data := self._kept.read(_JOINED):
            yield self.feed(data, written=True)

    def _body(self, iterable: Iterable[bytes]) -> Iterator[Sequence[Message]]:
        size = None
        if type(iterable) in (list, tuple):
            parts: Sequence[bytes] = iterable  # type: ignore[assignment]
            if len(parts) == 1:
                size = len(parts[0])
            elif (size := sum(map(len, parts))) <= _JOINED:
                iterable = (b"".join(parts),)
        for data in iterable:
            if self.complete:  # it is asked once more, for what it does after its last part
                break
            if messages := self.feed(data, size):
                yield messages
        if messages := self.finish():
            yield messages

    def _start(self, size: int | None) -> Message:
        if not self._status:
            raise RuntimeError("the application did not call start_response() before it returned its first bytes")
        self.begun = True
        headers = self._headers
        if self._status in _WITHOUT_BODY:
            headers = [each for each in headers if each[0] != b"content-length"]
        elif self._declared is None and size is not None and (size or not self._head):
            headers.append((b"content-length", b"%d" % size))
        if not self._has_body():
            self._left = 0
        else:
            self._left = size if self._declared is None else self._declared
        return {"type": "http.response.start", "status": self._status, "headers": headers}


@functools.lru_cache(maxsize=256)
def _code(status: str) -> int:
    if not isinstance(status, str):
        raise TypeError(f"status is {status!r}, expected str")
    if not _STATUS.fullmatch(status):
        raise ValueError(f"status is {status!r}, expected a number from 200 to 599, a space and a reason")
    return int(status[:3])


def _encode(headers: Iterable[tuple[str, str]]) -> tuple[list[tuple[bytes, bytes]], int | None]:
    """Return the headers as bytes, and the length that they declare.

    Of what they say of the connection, that it is to be closed is heard, and the rest is the server's.
    """
    encoded, declared = [], None
    for name, value in headers:
        lower = _encode_name(name)
        if not isinstance(value, str):
            raise TypeError(f"header {name} is {value!r}, expected str")
        # The first two questions are answered without a look at each character.
        if not (value.isascii() and value.isprintable()) and _CONTROL.search(value):
            raise ValueError(f"header {name} has a control character: {value!r}")
        if lower in _OF_THE_CONNECTION:
            if "close" in [token.strip().lower() for token in value.split(",")]:
                encoded.append((lower, b"close"))
            continue
        encoded.append((lower, value.encode("latin-1")))
        if lower == b"content-length":
            if declared is not None or not (value.isascii() and value.isdigit()):
                raise ValueError(f"Content-Length is {value!r}, expected one number")
            declared = int(value)
    return encoded, declared


@functools.lru_cache(maxsize=1024)
def _encode_name(name: str) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"a header's name is {name!r}, expected str")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"a header's name is {name!r}")
    if name.lower() in _HOP_BY_HOP:
        raise ValueError(f"header {name} is the server's, not the application's (PEP 3333)")
    return name.lower().encode("ascii")

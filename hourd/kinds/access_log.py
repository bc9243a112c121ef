"""The access log of a server that speaks HTTP: one line for each request, when it is over.

    common      CLIENT - - [TIME] "REQUEST" STATUS BYTES
    combined    the same, and "REFERER" "USER AGENT"
    json        an object, with what hourd knows of the worker

Times are UTC. Bytes are those of the response's body, as they were sent; ``-`` or 0 for none, and for
websockets, which have their line at the end of the connection. What comes from clients is shown such
that no line can be forged, no terminal be told anything, and no line be longer than a pipe takes whole.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, Final

from .. import errors, request_id
from ..line_writer import LineWriter
from . import Context

CLIENT_GONE: Final = 499
"""In place of a status, where the connection ended before the response did (nginx's number)."""

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PLAIN_MAX: Final = 2000
"""Characters of what came from the client, up to which nothing of it need be cut."""
# Bytes of each part, at most: all of them, and what is around them, are less than a pipe takes.
_CLIENT_MAX, _METHOD_MAX, _TARGET_MAX, _REFERER_MAX, _AGENT_MAX = 100, 40, 1600, 800, 500
_ELLIPSIS: Final = "..."

Said = tuple[str | None, str | None]
"""Referer and user agent."""
Write = Callable[[str, str, str, str, int, int, float, Said], None]
"""Client, method, target, protocol, status, bytes, duration in seconds, and what the client says of itself."""


class AccessLog:
    """One server's."""

    def __init__(self, context: Context) -> None:
        """Open it.

        Raises:
            errors.HourdError: its file cannot be opened.
        """
        options, worker = context.options, context.worker
        what = f"access log of server {context.server}"
        try:
            self._writer = LineWriter(options.access_log_file, what, context.log)
        except OSError as error:
            raise errors.from_os(error, f"open {options.access_log_file} for the {what}") from None
        form = options.access_log
        if form is True:
            form = "json" if context.log_format == "json" else "combined"
        self._add = self._writer.add
        self.write: Write = {"common": self._common, "combined": self._combined, "json": self._json}[form]
        """Write a line. Must be called in the context of the request, which has its id."""
        fixed = {"pool": worker.pool, "server": context.server, "worker": worker.slot}
        self._tail = json.dumps({**fixed, "generation": worker.generation, "pid": os.getpid()})[1:] + "\n"
        self._second = 0
        self._stamp = ""
        self._apache = form != "json"

    def reopen(self) -> None:
        """Open the file anew, after a rotation."""
        self._writer.reopen()

    async def close(self) -> None:
        """Write what is left, within a second."""
        await self._writer.close()

    def _common(
        self, client: str, method: str, target: str, protocol: str, status: int, size: int, _: float, _said: Said
    ) -> None:
        request = f"{method} {target} {protocol}"
        if not _is_plain(client + request):
            client, request = _shown(client, _CLIENT_MAX), _shown_request(method, target, protocol)
        line = f'{client} - - [{self._now()}] "{request}" {status} {size or "-"}\n'
        self._add(line.encode())

    def _combined(
        self, client: str, method: str, target: str, protocol: str, status: int, size: int, _: float, said: Said
    ) -> None:
        request = f"{method} {target} {protocol}"
        referer, agent = said[0] or "-", said[1] or "-"
        if not _is_plain(f"{client}{request}{referer}{agent}"):
            client, request = _shown(client, _CLIENT_MAX), _shown_request(method, target, protocol)
            referer, agent = _shown(referer, _REFERER_MAX), _shown(agent, _AGENT_MAX)
        line = f'{client} - - [{self._now()}] "{request}" {status} {size or "-"} "{referer}" "{agent}"\n'
        self._add(line.encode())

    def _json(
        self, client: str, method: str, target: str, protocol: str, status: int, size: int, duration: float, said: Said
    ) -> None:
        referer, agent = said
        if not _is_plain(f"{client}{method}{target}{protocol}{referer}{agent}"):
            client, method = _escaped(client, _CLIENT_MAX), _escaped(method, _METHOD_MAX)
            target, protocol = _escaped(target, _TARGET_MAX), _escaped(protocol, _METHOD_MAX)
            referer, agent = referer and _escaped(referer, _REFERER_MAX), agent and _escaped(agent, _AGENT_MAX)
        line = (
            f'{{"time":"{self._now()}","client":"{client}","method":"{method}","target":"{target}",'
            f'"protocol":"{protocol}","status":{status},"bytes":{size},"duration":{duration:.6f},'
            f'"referer":{_quoted(referer)},"user_agent":{_quoted(agent)},'
            f'"request_id":"{request_id.current()}",{self._tail}'
        )
        self._add(line.encode())

    def _now(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            day = time.gmtime(second)
            if self._apache:
                self._stamp = time.strftime(f"%d/{_MONTHS[day.tm_mon - 1]}/%Y:%H:%M:%S +0000", day)
            else:
                self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S.", day)
        return self._stamp if self._apache else f"{self._stamp}{int((now - second) * 1000):03d}Z"


def opened(context: Context) -> AccessLog | None:
    """Return a server's access log, if its options ask for one.

    Raises:
        errors.HourdError: its file cannot be opened.
    """
    return AccessLog(context) if context.options.access_log else None


clock: Final = time.perf_counter
"""The time by which durations are measured. uvloop's own stands still for as long as a handler keeps the loop."""


def _is_plain(text: str) -> bool:
    """Tell whether a text may stand in a line as it is: nearly all do, and this is the quickest way to see it."""
    return len(text) <= _PLAIN_MAX and text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def _quoted(text: str | None) -> str:
    return "null" if text is None else f'"{text}"'


def _shown_request(method: str, target: str, protocol: str) -> str:
    return f"{_shown(method, _METHOD_MAX)} {_shown(target, _TARGET_MAX)} {_shown(protocol, _METHOD_MAX)}"


def _shown(text: str, most: int) -> str:
    r"""Return a text with quotes, backslashes and all but printable ASCII as ``\xHH``: no parser meets a quote."""
    data = text[:most].encode("utf-8", "surrogateescape")
    return _cut((chr(byte) if _is_plain(chr(byte)) else f"\\x{byte:02X}" for byte in data), most, len(text) > most)


def _escaped(text: str, most: int) -> str:
    r"""Return a text as it stands in a JSON string. Bytes that are no UTF-8 become the characters ``\xHH``."""
    whole = text[:most].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    parts = (char if _is_plain(char) else "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1] for char in whole)
    return _cut(parts, most, len(text) > most)


def _cut(parts: Any, most: int, longer: bool) -> str:  # noqa: FBT001
    """Join parts up to a length; what was left out is shown as an ellipsis."""
    kept: list[str] = []
    size = 0
    for part in parts:
        size += len(part)
        if size > most:
            return "".join(kept) + _ELLIPSIS
        kept.append(part)
    return "".join(kept) + (_ELLIPSIS if longer else "")

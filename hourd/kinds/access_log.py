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
from collections.abc import Callable, Iterable
from typing import Any, Final

from .. import errors, request_id
from ..line_writer import LINE_MAX, LineWriter
from . import Context

CLIENT_GONE: Final = 499
"""In place of a status, where the connection ended before the response did (nginx's number)."""

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SAFE: Final = bytes(byte for byte in range(32, 127) if byte not in b'"\\')
"""What needs no escape, in any format."""
_KNOWN_MAX: Final = 1024
"""Who asks again says the same of itself: so many of these are kept as they are shown."""
# Characters of each part, as shown, at most: all of them, and what is around them, are less than a pipe takes.
_TARGET_MAX: Final = 1600
_MOST: Final = (100, 40, 20, 800, 500)
"""Those of what many have in common."""
_ELLIPSIS: Final = "..."

Text = str | bytes | None
"""As it came; bytes that are no UTF-8 are surrogates (PEP 383) in text."""
Common = tuple[str, str, str, Text, Text]
"""What many requests have in common: client, method, protocol, referer, user agent."""
Described = tuple[str, Common]
"""A request's target, and the rest."""
_Noted = tuple[Any, int, int, float, float, request_id.Box | None]
"""What is to be described, status, bytes, duration, time, and what holds the request's id."""
_Parts = tuple[str, str, str, str]
"""What is in a line up to the time, between that and the target, up to the status, and from the duration on."""

clock: Final = time.perf_counter
"""The time by which durations are measured. uvloop's own stands still for as long as a handler keeps the loop."""


def opened(context: Context, describe: Callable[[Any], Described]) -> AccessLog | None:
    """Return a server's access log, if its options ask for one.

    Args:
        context: of the server.
        describe: says what is to be shown of what ``AccessLog.note`` is given. It is called later, and never fails.

    Raises:
        errors.HourdError: its file cannot be opened.
    """
    return AccessLog(context, describe) if context.options.access_log else None


class AccessLog:
    """One server's."""

    def __init__(self, context: Context, describe: Callable[[Any], Described]) -> None:
        """Open it, as ``opened`` says."""
        options, worker = context.options, context.worker
        what = f"access log of server {context.server}"
        try:
            self._writer = LineWriter(options.access_log_file, self._shaped, what, context.log)
        except OSError as error:
            raise errors.from_os(error, f"open {options.access_log_file} for the {what}") from None
        self._add = self._writer.add
        self._describe = describe
        fixed = {"pool": worker.pool, "server": context.server, "worker": worker.slot}
        tail = json.dumps({**fixed, "generation": worker.generation, "pid": os.getpid()}, separators=(",", ":"))
        self._tail = f'",{tail[1:]}\n'
        self._tick = 0
        self._stamp = ""
        self._known: dict[Common, _Parts] = {}
        self._form = options.access_log
        if self._form is True:
            self._form = "json" if context.log_format == "json" else "combined"
        self.has_ids = self._form == "json"
        """Whether it shows the id of each request."""
        self._line, self._show = (self._json, _escaped) if self.has_ids else (self._apache, _shown)

    def note(self, subject: Any, status: int, size: int, duration: float, box: request_id.Box | None) -> None:
        """Note a request that is over.

        Args:
            subject: what is to be described.
            status: of the response.
            size: bytes of the response's body.
            duration: seconds.
            box: holds the request's id; may be ``None`` unless ids are shown.
        """
        self._add((subject, status, size, duration, time.time(), box))

    def _shaped(self, noted: _Noted) -> str:
        target, common = self._describe(noted[0])
        # Most is as it was before, or need not be changed, and this is the quickest way to see it.
        parts = self._known.get(common) or self._learn(common)
        if not target.isascii() or len(target) > _TARGET_MAX or target.encode().translate(None, _SAFE):
            target = self._show(target, _TARGET_MAX)
        return self._line(parts, target, noted)

    def _learn(self, common: Common) -> _Parts:
        texts = [_text(each) for each in common]
        client, method, protocol, referer, agent = map(self._show, texts, _MOST)
        if self.has_ids:
            between = f'","client":"{client}","method":"{method}","target":"'
            said = f',"referer":"{referer}","user_agent":"{agent}","request_id":"'
            parts = ('{"time":"', between, f'","protocol":"{protocol}","status":', said)
        else:
            said = f' "{referer or "-"}" "{agent or "-"}"\n' if self._form == "combined" else "\n"
            parts = (f"{client} - - [", f'] "{method} ', f' {protocol}" ', said)
        if sum(map(len, texts)) < LINE_MAX:  # clients choose what is kept
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[common] = parts
        return parts

    def reopen(self) -> None:
        """Open the file anew, after a rotation."""
        self._writer.reopen()

    async def close(self) -> None:
        """Write what is left, within a second."""
        await self._writer.close()

    def _apache(self, parts: _Parts, target: str, noted: _Noted) -> str:
        _, status, size, _, now, _ = noted
        if int(now) != self._tick:
            self._new_second(int(now))
        start, between, after, end = parts
        return f"{start}{self._stamp}{between}{target}{after}{status} {size or '-'}{end}"

    def _json(self, parts: _Parts, target: str, noted: _Noted) -> str:
        _, status, size, duration, now, box = noted
        assert box is not None
        millisecond = int(now * 1000)
        if millisecond != self._tick:
            self._new_millisecond(millisecond)
        start, between, after, end = parts
        return (
            f"{start}{self._stamp}{between}{target}{after}{status},"
            f'"bytes":{size},"duration":{duration:.6f}{end}{request_id.unboxed(box)}{self._tail}'
        )

    def _new_second(self, second: int) -> None:
        self._tick = second
        day = time.gmtime(second)
        # %b would be the locale's.
        self._stamp = time.strftime(f"%d/{_MONTHS[day.tm_mon - 1]}/%Y:%H:%M:%S +0000", day)

    def _new_millisecond(self, millisecond: int) -> None:
        self._tick = millisecond
        second, rest = divmod(millisecond, 1000)
        self._stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{rest:03d}Z"


def _text(given: Text) -> str:
    return given.decode("utf-8", "surrogateescape") if isinstance(given, bytes) else given or ""


def _shown(text: str, most: int) -> str:
    r"""Return a text with quotes, backslashes and all but printable ASCII as ``\xHH``: no parser meets a quote."""
    data = text[:most].encode("utf-8", "surrogateescape")
    return _cut((chr(byte) if byte in _SAFE else f"\\x{byte:02X}" for byte in data), most, len(text))


def _escaped(text: str, most: int) -> str:
    r"""Return a text as it stands in a JSON string. Bytes that are no UTF-8 become the characters ``\xHH``."""
    whole = text[:most].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    parts = ("\\u007f" if char == "\x7f" else json.dumps(char)[1:-1] for char in whole)
    return _cut(parts, most, len(text))


def _cut(parts: Iterable[str], most: int, length: int) -> str:
    """Join parts up to a number of characters; what was left out is shown as an ellipsis."""
    kept: list[str] = []
    size = 0
    for part in parts:
        size += len(part)
        if size > most:
            return "".join(kept) + _ELLIPSIS
        kept.append(part)
    return "".join(kept) + (_ELLIPSIS if length > most else "")

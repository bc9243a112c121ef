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
from ..line_writer import LineWriter
from . import Context

CLIENT_GONE: Final = 499
"""In place of a status, where the connection ended before the response did (nginx's number)."""

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SAFE: Final = bytes(byte for byte in range(32, 127) if byte not in b'"\\')
"""What needs no escape, in any format."""
_KNOWN_MAX: Final = 1024
"""Who asks again says the same of itself: so many of these are kept as they are shown."""
# Characters of each part, as shown, at most: all of them, and what is around them, are less than a pipe takes.
_CLIENT_MAX, _METHOD_MAX, _TARGET_MAX, _REFERER_MAX, _AGENT_MAX = 100, 40, 1600, 800, 500
_ELLIPSIS: Final = "..."

Text = str | bytes | None
"""As it came; bytes that are no UTF-8 are surrogates (PEP 383) in text."""
Described = tuple[str, str, str, str, tuple[Text, Text]]
"""Client, method, target and protocol of a request, and what the client says of itself: referer and user agent."""
_Noted = tuple[Any, int, int, float, float, request_id.Box | None]
"""What is to be described, status, bytes, duration, time, and what holds the request's id."""
_Line = Callable[[str, str, str, str, str, _Noted], str]

clock: Final = time.perf_counter
"""The time by which durations are measured. uvloop's own stands still for as long as a handler keeps the loop."""


def opened(context: Context, describe: Callable[[Any], Described]) -> AccessLog | None:
    """Return a server's access log, if its options ask for one.

    Args:
        context: of the server.
        describe: says what is to be shown of what ``AccessLog.note`` is given. It is called later.

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
        self._tail = json.dumps({**fixed, "generation": worker.generation, "pid": os.getpid()}, separators=(",", ":"))[
            1:
        ]
        self._tick = 0
        self._stamp = ""
        self._known: dict[Any, str] = {}
        form = options.access_log
        if form is True:
            form = "json" if context.log_format == "json" else "combined"
        self.has_ids = form == "json"
        """Whether it shows the id of each request."""
        self._line: _Line = {"common": self._common, "combined": self._combined, "json": self._json}[form]
        self._show = _escaped if self.has_ids else _shown

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

    def _shaped(self, noted: _Noted) -> bytes:
        client, method, target, protocol, said = self._describe(noted[0])
        known = self._known
        # Most is as it was before, or need not be changed, and this is the quickest way to see it.
        shown_client = known.get(client) or self._learn(client, self._show(client, _CLIENT_MAX))
        shown_method = known.get(method) or self._learn(method, self._show(method, _METHOD_MAX))
        shown_said = known.get(said) or self._learn(said, self._show_said(said))
        if not target.isascii() or len(target) > _TARGET_MAX or target.encode().translate(None, _SAFE):
            target = self._show(target, _TARGET_MAX)
        return self._line(shown_client, shown_method, target, protocol, shown_said, noted).encode()

    def _learn(self, text: Any, shown: str) -> str:
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[text] = shown
        return shown

    def _show_said(self, said: tuple[Any, Any]) -> str:
        referer, agent = (
            each.decode("utf-8", "surrogateescape") if isinstance(each, bytes) else each or "" for each in said
        )
        referer, agent = self._show(referer, _REFERER_MAX), self._show(agent, _AGENT_MAX)
        if self.has_ids:
            return f'"referer":"{referer}","user_agent":"{agent}"'
        return f'"{referer or "-"}" "{agent or "-"}"'

    def reopen(self) -> None:
        """Open the file anew, after a rotation."""
        self._writer.reopen()

    async def close(self) -> None:
        """Write what is left, within a second."""
        await self._writer.close()

    def _common(self, client: str, method: str, target: str, protocol: str, _said: str, noted: _Noted) -> str:
        _, status, size, _, now, _ = noted
        if int(now) != self._tick:
            self._new_second(int(now))
        return f'{client} - - [{self._stamp}] "{method} {target} {protocol}" {status} {size or "-"}\n'

    def _combined(self, client: str, method: str, target: str, protocol: str, said: str, noted: _Noted) -> str:
        _, status, size, _, now, _ = noted
        if int(now) != self._tick:
            self._new_second(int(now))
        return f'{client} - - [{self._stamp}] "{method} {target} {protocol}" {status} {size or "-"} {said}\n'

    def _json(self, client: str, method: str, target: str, protocol: str, said: str, noted: _Noted) -> str:
        _, status, size, duration, now, box = noted
        assert box is not None
        millisecond = int(now * 1000)
        if millisecond != self._tick:
            self._new_millisecond(millisecond)
        return (
            f'{{"time":"{self._stamp}","client":"{client}","method":"{method}","target":"{target}",'
            f'"protocol":"{protocol}","status":{status},"bytes":{size},"duration":{duration:.6f},'
            f'{said},"request_id":"{request_id.unboxed(box)}",{self._tail}\n'
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

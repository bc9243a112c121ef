"""What tells one request from all others, in logs of several programs: its id.

It is in the context (``contextvars``) of the request, and so in everything that is begun on its behalf. It is made
when somebody asks for it first: who wants none pays nothing. The box is shared by copies of the context, so
that a thread which asks first and the access log find the same.
"""

from __future__ import annotations

import contextvars
import itertools
import os
import re
from typing import Final

HEADER: Final = "X-Request-ID"
_VALID: Final = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")

Box = list[str | None]
"""Has one place, and a second once it was entered: to make a list is quicker than to make any other."""
_ENTERED: Final = ""
_current: contextvars.ContextVar[Box | None] = contextvars.ContextVar("hourd.request_id", default=None)
_numbers = itertools.count()
_prefix = ""


def begin(given: str | None = None) -> Box:
    """Note that a request begins in this context, and return what holds its id.

    Args:
        given: the id that somebody trusted gave it. What is not 1 to 128 letters, digits and ``._~+/=:@-`` is
            passed over.
    """
    it = [given if given is not None and _VALID.fullmatch(given) else None]
    _current.set(it)
    return it


def forget() -> None:
    """Note that this context belongs to no request."""
    _current.set(None)


def take(given: str) -> None:
    """Have the request that has begun carry the id that somebody trusted gave it, if that is a proper one."""
    if _VALID.fullmatch(given):
        box()[0] = given


def enter() -> None:
    """Note that an application was given a request, which begins here unless its server has noted that already.

    Requests of one connection may share a context, so the one before is told from the one that has just begun.
    """
    it = _current.get()
    if it is None or it[1:]:
        it = begin()
    it.append(_ENTERED)


def known() -> str | None:
    """Return the id of the request that this context belongs to, or ``None`` outside of requests."""
    return None if _current.get() is None else current()


def current() -> str:
    """Return the id of the request that this context belongs to; made now if there was none."""
    return unboxed(box())


def box() -> Box:
    """Return what holds the id of the request that this context belongs to, for who wants it only later."""
    it = _current.get()
    if it is None:
        it = [None]
        _current.set(it)
    return it


def unboxed(it: Box) -> str:
    """Return the id; made now if there was none."""
    return it[0] or _fill(it)


def _fill(it: Box) -> str:
    made = it[0] = make()
    return made


def make() -> str:
    """Return a new id, which is no secret: 16 hexadecimal digits that are this process's own, and 12 that count."""
    return f"{_prefix}{next(_numbers):012x}"


def _choose_prefix() -> None:
    global _prefix  # noqa: PLW0603, one for each process
    _prefix = os.urandom(8).hex()


_choose_prefix()
os.register_at_fork(after_in_child=_choose_prefix)

"""What tells one request from all others, in logs of several programs: its id.

It is in the context (``contextvars``) of the request, and so in everything that is begun on its behalf. It is made
when somebody asks for it first: who wants none pays nothing. The box is shared by copies of the context, so
that a thread which asks first and the access log find the same.
"""

from __future__ import annotations

import contextvars
import random
import re
from typing import Final

HEADER: Final = "X-Request-ID"
_VALID: Final = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")
_BITS: Final = 128


class _Id:
    __slots__ = ("text",)

    def __init__(self, text: str | None) -> None:
        self.text = text


_current: contextvars.ContextVar[_Id | None] = contextvars.ContextVar("hourd.request_id", default=None)


def begin(given: str | None = None) -> None:
    """Note that a request begins in this context.

    Args:
        given: the id that somebody trusted gave it. What is not 1 to 128 letters, digits and ``._~+/=:@-`` is
            passed over.
    """
    _current.set(_Id(given if given is not None and _VALID.fullmatch(given) else None))


def current() -> str:
    """Return the id of the request that this context belongs to; made now if there was none."""
    it = _current.get()
    if it is None:
        it = _Id(None)
        _current.set(it)
    if it.text is None:
        it.text = make()
    return it.text


def make() -> str:
    """Return a new id: 32 hexadecimal digits. It is no secret, and workers do not share their chance (``os.fork``)."""
    return f"{random.getrandbits(_BITS):032x}"

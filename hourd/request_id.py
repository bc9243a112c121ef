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

_current: contextvars.ContextVar[list[str | None] | None] = contextvars.ContextVar("hourd.request_id", default=None)
"""A box with one place: to make a list is quicker than to make any other."""
_numbers = itertools.count()
_prefix = ""


def begin(given: str | None = None) -> None:
    """Note that a request begins in this context.

    Args:
        given: the id that somebody trusted gave it. What is not 1 to 128 letters, digits and ``._~+/=:@-`` is
            passed over.
    """
    _current.set([given if given is not None and _VALID.fullmatch(given) else None])


def current() -> str:
    """Return the id of the request that this context belongs to; made now if there was none."""
    box = _current.get()
    if box is None:
        box = [None]
        _current.set(box)
    it = box[0]
    if it is None:
        it = box[0] = make()
    return it


def make() -> str:
    """Return a new id: 16 hexadecimal digits that are this process's own by chance, and 12 that count. It is no secret."""
    return f"{_prefix}{next(_numbers):012x}"


def _choose_prefix() -> None:
    global _prefix  # noqa: PLW0603, one for each process
    _prefix = os.urandom(8).hex()


_choose_prefix()
os.register_at_fork(after_in_child=_choose_prefix)

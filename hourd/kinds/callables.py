"""What a callable is, and what to ASGI, as far as it can be told by its signature: nothing is called."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from typing import Any

from .. import errors
from ..context import Worker, takes_worker
from . import factories

_ASGI3 = 3
"""An ASGI 3 application takes ``scope``, ``receive`` and ``send``."""


def is_coroutine_function(app: object) -> bool:
    """Tell whether a coroutine comes of calling an object: a function, or one with such a ``__call__``."""
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004


class Form(enum.Enum):
    """What a callable is, seen from ASGI."""

    APPLICATION = "an ASGI 3 application"
    FACTORY = "a factory of one"
    ASGI2 = "an ASGI 2 application"
    OTHER = "neither"


def form(app: object) -> Form:
    """Tell what an object is to ASGI.

    An application takes ``(scope, receive, send)``, be it a coroutine function, an object with such a method, or a
    class whose instances are awaited. A factory can be called without arguments, or with the worker.
    """
    if not callable(app):
        return Form.OTHER
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return Form.APPLICATION  # written in C; it shows when it is asked
    required = [
        each
        for each in signature.parameters.values()
        if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    if "worker" not in signature.parameters and _can_take(signature, _ASGI3):
        # A factory may have three parameters with defaults; an application is a coroutine function then.
        application = required or inspect.iscoroutinefunction(app) or _takes_any(signature)
        return Form.APPLICATION if application else Form.FACTORY
    if [each.name for each in required] == ["scope"]:
        return Form.ASGI2
    return Form.FACTORY if takes_worker(app) or _can_take(signature, 0) else Form.OTHER


async def make(app: Any, worker: Worker) -> Callable[..., Any]:
    """Return the ASGI 3 application that ``app`` is, or that it makes.

    Raises:
        errors.BootError: it is none.
    """
    given = app
    if form(app) is Form.FACTORY:
        app = await factories.make(app, worker)
    match form(app):
        case Form.APPLICATION:
            return app  # type: ignore[no-any-return]
        case Form.ASGI2:
            raise errors.BootError(
                f"app is {app!r}, an ASGI 2 application, which takes (scope) alone; "
                "wrap it: asgiref.compatibility.guarantee_single_callable(app)"
            )
        case _:
            raise factories.refused(app, given, "an ASGI 3 application")


def _can_take(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _takes_any(signature: inspect.Signature) -> bool:
    return any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values())

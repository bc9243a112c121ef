"""Applications that a factory makes in the worker, be it plain or async, and given the worker or not."""

from __future__ import annotations

import inspect
from typing import Any

from .. import errors
from ..context import Worker, give_worker


async def make(factory: Any, worker: Worker) -> Any:
    """Return what a factory makes."""
    made = give_worker(factory, worker)()
    return await made if inspect.isawaitable(made) else made


def refused(app: object, given: object, expected: str) -> errors.BootError:
    """Return the error that an application is not what was expected.

    Args:
        app: it.
        given: what the configuration names: the application, or the factory that has made it.
        expected: what it has to be.
    """
    what = f"app is {app!r}" if app is given else f"app {given!r} made {app!r}"
    return errors.BootError(f"{what}, expected {expected}, or a factory of one")

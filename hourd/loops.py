"""The event loops that a worker may run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the configured loop; a mold calls it too, to have imported it."""
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop  # noqa: PLC0415, only where it is wanted

    return uvloop.new_event_loop

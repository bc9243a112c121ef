"""hourd, a pre-fork supervisor daemon for asyncio servers.

What user code may import: ``Worker``, ``Kind`` and what a kind needs. The names are resolved on
first use, so that the master, which imports this package too, stays small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .context import Worker
    from .kinds import Context, Kind, register
    from .kinds.connections import StreamKind

__all__ = ["Context", "Kind", "StreamKind", "Worker", "__version__", "register"]

__version__ = "0.1.0"

_HOMES = {"Worker": "context", "Context": "kinds", "Kind": "kinds", "register": "kinds"}


def __getattr__(name: str) -> Any:
    if name == "StreamKind":
        from .kinds.connections import StreamKind  # noqa: PLC0415, as below

        return StreamKind
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import context, kinds  # noqa: PLC0415, only those who ask pay for them

    return getattr({"context": context, "kinds": kinds}[_HOMES[name]], name)

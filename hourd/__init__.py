"""hourd, a pre-fork supervisor daemon for asyncio servers.

What user code may import: ``Worker``, ``Container``, ``Kind`` and what a kind needs. The names are resolved on
first use, so that the master, which imports this package too, stays small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .container import Container
    from .context import Worker
    from .kinds import Context, Kind, register

__all__ = ["Container", "Context", "Kind", "Worker", "__version__", "register"]

__version__ = "0.1.0"

_HOMES = {"Container": "container", "Worker": "context", "Context": "kinds", "Kind": "kinds", "register": "kinds"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import container, context, kinds  # noqa: PLC0415, only those who ask pay for them

    return getattr({"container": container, "context": context, "kinds": kinds}[_HOMES[name]], name)

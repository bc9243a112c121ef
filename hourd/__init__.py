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
    from .kinds.connections import StreamKind

__all__ = ["Container", "Context", "Kind", "StreamKind", "Worker", "__version__", "register"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Only those who ask pay for them.
    from . import container, context, kinds  # noqa: PLC0415
    from .kinds import connections  # noqa: PLC0415

    homes = {"Container": container, "StreamKind": connections, "Worker": context}
    return getattr(homes.get(name, kinds), name)

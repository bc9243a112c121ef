"""A transport that stands in for a connection's own, where one has to behave or to answer otherwise.

There is no better way: of the loops' own transports, nothing can be replaced. Nothing is on the data path: methods are
the transport's own. A limit of it: uvloop's ``start_tls`` does not take it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    _Transport = object
else:
    # Over TLS, loop.sendfile of asyncio (3.11 to 3.13) takes nothing else. It asks for what this class has, though
    # nothing of it is used: each of its slots is empty, so that the transport's own is found.
    _Transport = asyncio.transports._FlowControlMixin  # noqa: SLF001


class StandIn(_Transport):
    """Has what the transport has; a subclass replaces some of its methods."""

    _theirs: ClassVar[tuple[str, ...]] = ()
    """Names of the methods that are the transport's."""

    def __init_subclass__(cls) -> None:
        """Note which of a transport's methods the subclass leaves as they are."""
        every = (name for name in dir(asyncio.Transport) if not name.startswith("_"))
        cls._theirs = tuple(name for name in every if getattr(cls, name) is getattr(_Transport, name))

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        # The methods themselves, so that a call costs what it did.
        self.__dict__.update({name: getattr(transport, name) for name in self._theirs if hasattr(transport, name)})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._transport!r}>"

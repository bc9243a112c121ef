"""How an HTTP connection ends once its worker drains, whichever library serves it.

Nothing is taken from a client that may count on it:

    a response is about to begin     it says ``Connection: close``, unless the client's next request is
                                     here already: then that one's response says so
    nothing was asked for a second   closed; at a random moment of a second, so that not all clients come
                                     back at once. Sooner, a busy client's next request would cross it
    nothing was ever asked           the request may be on its way, and clients repeat only what fails on
                                     a connection that has served before: closed after two seconds
    a request has come in part       the rest is waited for, five seconds from one piece to the next. Where
                                     nobody can tell what has come before, it has these five seconds
    a response is on its way that    finished, then closed as above: its headers have promised to keep
    began before                     the connection
    a websocket                      told with a close frame, at a random moment of a second

The libraries offer nothing for this, so their adapters (``aiohttp_leaving.py``, ``uvicorn_leaving.py``) read private
attributes, once the worker drains: until then, a request costs nothing more than without hourd.
"""

from __future__ import annotations

import abc
import asyncio
import random
import socket
from collections.abc import Callable, Iterable

from . import kernel
from .lingering import Lingering

_LOOK = 0.1
"""Seconds between two looks at which connections are idle."""
_SPREAD = 1.0
"""Seconds over which connections are closed."""
_QUIET = 1.0
"""Seconds without a request after which a connection counts as idle."""
_PATIENCE = 2.0
"""Seconds that a connection has for its first request."""
_NEXT_PIECE = 5.0
"""Seconds that a request that has come in part has for the next part."""


class Leaving(abc.ABC):
    """A connection whose worker drains, as the rules see it; what is abstract is its library's to tell."""

    def __init__(self, transport: asyncio.Transport, since: float) -> None:
        """Take a connection.

        Args:
            transport: its own, which ``self.transport`` is to take the place of.
            since: when its worker began to drain, by the event loop's clock.
        """
        self.transport = Lingering(transport, drop=self.drop, has_said_so=self.has_said_so)
        self.since = since
        self.sock: socket.socket = transport.get_extra_info("socket")

    @property
    @abc.abstractmethod
    def is_gone(self) -> bool:
        """Whether it has ended."""

    @property
    @abc.abstractmethod
    def is_waiting(self) -> bool:
        """Whether it waits for a request: nothing is being answered, or waits for that."""

    @property
    @abc.abstractmethod
    def has_asked(self) -> bool:
        """Whether it has had a request."""

    @property
    @abc.abstractmethod
    def served_at(self) -> float:
        """When its last response ended, by the event loop's clock."""

    @abc.abstractmethod
    def has_begun(self) -> bool | None:
        """Tell whether a request has come in part; ``None`` where nobody knows."""

    @abc.abstractmethod
    def drop(self) -> None:
        """Have what comes from now on dropped."""

    @abc.abstractmethod
    def has_said_so(self) -> bool:
        """Tell whether the client learns of the end from a close frame."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close it while it waits."""

    @property
    def is_answering(self) -> bool:
        """Whether it is in the middle of its last response, as far as is known, or has had that."""
        return self.transport.left or not self.is_waiting

    def has_unread(self) -> bool:
        """Tell whether something has come that nobody has read yet."""
        return kernel.has_unread(self.sock)

    def close_if_idle(self, now: float) -> None:
        """Close it between two requests, when it is due."""
        if self._is_idle(now) and self._is_due(now):
            self.close()

    def _is_idle(self, now: float) -> bool:
        if not self.is_waiting or self.transport.left or self.transport.get_write_buffer_size():
            return False
        return not (self.has_unread() or self._is_asking(now))

    def _is_asking(self, now: float) -> bool:
        """Tell whether the rest of a request that has come in part is to be waited for."""
        return self.has_begun() is not False and now - self._heard_at(now) < _NEXT_PIECE

    def _heard_at(self, now: float) -> float:
        if self.transport.heard is not None:
            return self.transport.heard
        traffic = kernel.traffic(self.sock)
        return self.since if traffic is None else now - traffic.heard

    def _is_due(self, now: float) -> bool:
        """Tell whether it is to be closed now, being idle; each moment of the spread is as likely as another."""
        since = self.since
        if self.has_begun() is None:
            since += _NEXT_PIECE
        if not self.has_asked:
            return now - since >= _PATIENCE
        return now - self.served_at >= _QUIET and random.random() * max(_LOOK, since + _SPREAD - now) < _LOOK  # noqa: S311, no secret


class Departure:
    """The connections of a server that drains, until none is left."""

    def __init__(self, leaving: Iterable[Leaving], on_look: Callable[[list[Leaving]], None] | None = None) -> None:
        """Take all there are, since no more will come, and what to do after each look."""
        self.leaving = list(leaving)
        self._on_look = on_look
        self._told: set[object] = set()
        """Whose failures were told: each once."""
        self._look()

    def cut(self) -> None:
        """End what is left, at the end of its grace."""
        for each in self.leaving:
            each.transport.cut()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.leaving = [each for each in self.leaving if not self._has_left(each, now)]
        if self._on_look:
            try:
                self._on_look(self.leaving)
            except Exception as error:  # noqa: BLE001, there are further looks
                self._tell(self, error)
        if self.leaving:
            loop.call_later(_LOOK, self._look)

    def _has_left(self, each: Leaving, now: float) -> bool:
        """Look at a connection, and close it if it is due. One that cannot be looked at keeps no other from its end."""
        try:
            if each.is_gone:
                return True
            each.close_if_idle(now)
        except Exception as error:  # noqa: BLE001, as above
            self._tell(each, error)
        return False

    def _tell(self, whose: object, error: Exception) -> None:
        if whose not in self._told:
            self._told.add(whose)
            about = {"message": "cannot tell whether a connection is to end", "exception": error}
            asyncio.get_running_loop().call_exception_handler(about)


def soon(tell: Callable[..., None], *given: object) -> None:
    """Tell somebody of the end at a random moment: not all clients are to come back at once."""
    asyncio.get_running_loop().call_later(random.random() * _SPREAD, tell, *given)  # noqa: S311, no secret

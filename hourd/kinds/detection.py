"""``kind: auto``: which kind an application is of, told from the object.

Nothing is imported for it, and nothing is called: what is asked are the names of the object's classes and the
parameters that it takes. A factory without an annotation tells nothing before it is called. That is done in
the worker, where factories are called anyway, once, and what it makes is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from msgspec import Struct

from . import Kind
from .callables import is_coroutine_function
from .options import AutoOptions

_SPOKEN = (
    ("asgi", ("scope", "receive", "send")),
    ("wsgi", ("*env*", "*start*")),
    ("stream", ("*reader*", "*writer*")),
    ("callable", ("worker", "sockets")),
    ("ssh", ("process",)),
)
"""Names of parameters that leave no doubt, as patterns of ``fnmatch``. Any two might be a request and a response."""


class Auto(Kind):
    """Stands for the kind that the application turns out to be of."""

    Options: ClassVar[type[Struct]] = AutoOptions


class UnclearError(Exception):
    """The kind cannot be told; the text goes on after the application's name."""


@dataclass(frozen=True, slots=True)
class Found:
    """The kind that an application is of."""

    kind: str
    why: str
    """Goes on after the application's name: ``is a coroutine function of (reader, writer)``."""


def detect(app: Any) -> Found | None:
    """Return the kind of an application, or ``None`` for a factory that has to be called first.

    Raises:
        UnclearError: it may be of several kinds, or is of none.
    """
    what = _What.of(app)
    found = [Found(kind, why) for kind, tell in _KINDS if (why := tell(what))]
    if len(found) == 1:
        return found[0]
    if found:
        kinds = " or ".join(each.kind for each in found)
        raise UnclearError(f"could be of kind {kinds}: it {found[0].why}; say which with --kind")
    _refuse_others(what)
    if what.is_factory:
        return None
    raise UnclearError(f"is {_shown(app)}, which is of no kind that could be told from it; say which with --kind")


def detect_made(made: Any) -> Found:
    """Return the kind of what a factory has made.

    Raises:
        UnclearError: as ``detect``; or it is another factory.
    """
    if isinstance(made, asyncio.BaseProtocol):
        _refuse_datagrams(type(made))
        return Found("protocol", f"makes {_shown(type(made))}, an asyncio.Protocol")
    try:
        found = detect(made)
    except UnclearError as error:
        raise UnclearError(_of_made(str(error))) from None
    if found is None:
        raise UnclearError(f"makes {_shown(made)}, which is of no kind that could be told from it; say it with --kind")
    return Found(found.kind, _of_made(found.why))


def _of_made(text: str) -> str:
    """Return what is said of an object as said of the factory that made it."""
    return f"makes {text.removeprefix('is ')}" if text.startswith("is ") else f"makes what {text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _What:
    """What can be asked of an object."""

    app: Any
    made: type
    """What it is an instance of, or what it makes: the class itself, or what a factory is annotated to return."""
    is_class: bool
    names: tuple[str, ...] | None
    """Of its positional parameters but ``worker``; ``None`` when it cannot be called, or does not tell."""
    least: int
    most: float
    asynchronous: bool

    @classmethod
    def of(cls, app: Any) -> _What:
        signature = _signature(app)
        positional = [
            each
            for each in (signature.parameters.values() if signature else ())
            if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        ]
        more = signature is not None and any(each.kind is each.VAR_POSITIONAL for each in signature.parameters.values())
        names = tuple(each.name for each in positional)
        if "sockets" not in names:  # there, the worker is no extra
            positional = [each for each in positional if each.name != "worker"]
        is_class = isinstance(app, type)
        returned = signature.return_annotation if signature and not is_class else None
        return cls(
            app=app,
            made=app if is_class else returned if isinstance(returned, type) else type(app),
            is_class=is_class,
            names=tuple(each.name for each in positional) if signature else None,
            least=sum(each.default is each.empty for each in positional),
            most=math.inf if more else len(positional),
            asynchronous=is_coroutine_function(app),
        )

    @property
    def spoken(self) -> str | None:
        """The kind that the names of its parameters speak of."""
        names = self.names or ()
        return next((kind for kind, known in _SPOKEN if _match(names, known)), None)

    @property
    def is_vague(self) -> bool:
        """Whether its parameters say nothing: there may be any number of them, without names."""
        return self.spoken is None and self.most == math.inf

    @property
    def is_factory(self) -> bool:
        """Whether it can be called with nothing, or with the worker, and is not made to be called with more."""
        return self.names is not None and self.least == 0 and self.most < math.inf

    def takes(self, count: int) -> bool:
        return self.names is not None and self.least <= count <= self.most and not self.is_factory

    def descends(self, *names: str) -> bool:
        """Tell whether a class of this name is among those that it, or what it makes, descends from."""
        return any(f"{each.__module__}.{each.__qualname__}" in names for each in self.made.__mro__)

    def __str__(self) -> str:
        form = "a coroutine function" if self.asynchronous else "a function"
        if self.is_class or not inspect.isroutine(self.app):
            form = f"{_shown(self.app if self.is_class else type(self.app))}, called with"
        else:
            form += " of"
        names = [*(self.names or ()), *(["*"] if self.most == math.inf else [])]
        return f"is {form} ({', '.join(names)})"


# --- one for each kind: why an object is of it, or nothing ------------------------------------------


def _aiohttp(what: _What) -> str | None:
    if what.is_class or not what.descends("aiohttp.web_app.Application"):
        return None
    return _is_or_makes(what, "an aiohttp.web.Application")


def _protocol(what: _What) -> str | None:
    if not issubclass(what.made, asyncio.BaseProtocol) or issubclass(what.made, asyncio.DatagramProtocol):
        return None
    return None if isinstance(what.app, asyncio.BaseProtocol) else _is_or_makes(what, "an asyncio.Protocol")


def _ssh(what: _What) -> str | None:
    if what.descends("asyncssh.server.SSHServer", "asyncssh.session.SSHServerSession"):
        return _is_or_makes(what, "a class of asyncssh")
    return str(what) if what.spoken == "ssh" and what.asynchronous else None


def _container(what: _What) -> str | None:
    return "is a subclass of hourd.Container" if what.is_class and what.descends("hourd.container.Container") else None


def _callable(what: _What) -> str | None:
    return str(what) if what.spoken == "callable" and what.asynchronous else None


def _stream(what: _What) -> str | None:
    if what.is_class or not what.asynchronous or not what.takes(2):
        return None
    # Frameworks of the other kinds have objects with such a method.
    vague = what.is_vague and inspect.iscoroutinefunction(what.app)
    return str(what) if vague or what.spoken == "stream" else None


def _asgi(what: _What) -> str | None:
    if what.spoken not in (None, "asgi") or not what.takes(3):
        return None
    if what.is_class:
        return str(what) if hasattr(what.app, "__await__") else None
    # A function that is none may return what can be awaited, which nobody sees.
    return str(what) if what.asynchronous or what.is_vague or what.spoken else None


def _wsgi(what: _What) -> str | None:
    if what.asynchronous or not what.takes(2):
        return None
    if what.is_class and not hasattr(what.app, "__iter__"):
        return None
    return str(what) if what.is_vague or what.spoken == "wsgi" else None


_KINDS: tuple[tuple[str, Callable[[_What], str | None]], ...] = (
    ("aiohttp", _aiohttp),
    ("protocol", _protocol),
    ("ssh", _ssh),
    ("container", _container),
    ("callable", _callable),
    ("stream", _stream),
    ("asgi", _asgi),
    ("wsgi", _wsgi),
)


def _refuse_others(what: _What) -> None:
    """Say more of what is known to be of no kind that could be taken without asking."""
    if not isinstance(what.app, asyncio.BaseProtocol):
        _refuse_datagrams(what.made)
    if what.names == ("scope",):
        raise UnclearError("takes (scope) alone, as ASGI 2 had it; kind asgi needs (scope, receive, send)")


def _refuse_datagrams(made: type) -> None:
    if issubclass(made, asyncio.DatagramProtocol):
        # The master binds sockets before anybody has seen the application, and those of UDP are others.
        raise UnclearError("serves datagrams (asyncio.DatagramProtocol): say so with --kind datagram")


def _is_or_makes(what: _What, this: str) -> str:
    """Tell an application from a factory of one; a class of asyncio or asyncssh is its own factory."""
    if what.is_class:
        return f"is {_shown(what.app)}, {this}"
    return f"is {this}" if isinstance(what.app, what.made) else f"makes {_shown(what.made)}, {this}"


def _match(names: tuple[str, ...], known: tuple[str, ...]) -> bool:
    return len(names) >= len(known) and all(map(fnmatch.fnmatchcase, names, known))


def _signature(app: Any) -> inspect.Signature | None:
    if not callable(app):
        return None
    try:
        return inspect.signature(app, eval_str=True)
    except Exception:  # noqa: BLE001, annotations are expressions and may raise anything
        with contextlib.suppress(Exception):
            return inspect.signature(app)
        return None


def _shown(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}" if isinstance(thing, type) else repr(thing)[:200]

"""The kinds of server that hourd runs: their interface and their registry.

A kind adapts a server library to four moments of a worker: open, listen, drain, close. It lives in
the worker; the master knows it only by its registry entry and must not import its module.

The registry holds the built-in kinds, those that installed packages offer in the entry-point group
``hourd.kinds``, and those that code registers. ``kind: module:Class`` needs no registry.
"""

from __future__ import annotations

import abc
import importlib
import importlib.util
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from msgspec import Struct
from msgspec.structs import replace

from ..addresses import Address, Transport, parse
from . import options

if TYPE_CHECKING:
    import ssl

    from ..context import Worker
    from .arrivals import Arrivals

GROUP = "hourd.kinds"


class NoOptions(Struct, frozen=True):
    """The options of a kind that takes none."""


class Listening(Protocol):
    """What ``Kind.listen`` returns."""

    def close(self) -> Any:
        """Accept no more on this socket; connections go on."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a kind is given to make one server of one worker."""

    server: str
    """The server's name in its pool."""
    app: Any
    """The object that ``app:`` names, imported; ``None`` when there is none."""
    options: Any
    """An instance of the kind's ``Options``, checked."""
    worker: Worker
    log: logging.Logger
    """Its records name the server."""
    give_up: Callable[[str, BaseException | None], None]
    """Ends the worker as a failure: see ``Kind.give_up``."""
    bind: tuple[str, ...]
    """Where it listens, as the configuration says it."""
    grace: float
    """Seconds that open connections have once the worker drains."""
    log_format: str
    """What the lines of the log look like, as ``log.format`` says: ``text``, ``json`` or ``journal``."""
    arrivals: Arrivals | None = None
    """What new connections pass first: the PROXY protocol's header, and TLS. ``create_server`` knows of it."""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """For a kind that accepts by itself: always the newest certificate. With ``create_server``, not needed."""
        return self.arrivals.front if self.arrivals else None


class Kind(abc.ABC):
    """One server of one worker."""

    Options: ClassVar[type[Struct]] = NoOptions
    """What stands under ``options:`` in the configuration: a msgspec Struct."""

    tls: ClassVar[bool] = False
    """Whether it serves with TLS where that is configured, by ``create_server`` or with ``context.tls``."""
    proxy_protocol: ClassVar[bool] = False
    """Whether the PROXY protocol may come before its connections: if it accepts with ``create_server``."""
    alpn: ClassVar[tuple[str, ...]] = ()
    """The protocols it speaks over TLS (ALPN, RFC 7301), the preferred one first."""

    accepted = 0
    """Connections accepted so far."""
    requests = 0
    """Requests received so far, where the protocol has requests."""
    errors = 0
    """Exceptions of user code so far."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def open(self) -> None:  # noqa: B027, not every kind has something to open
        """Get ready to serve. Whatever can fail fails here: the worker is not ready before it returns."""

    @abc.abstractmethod
    async def listen(self, sock: socket.socket, backlog: int) -> Listening:
        """Accept on a bound socket until the result is closed. The socket belongs to the kind from now on.

        Where ``bind:`` says so it is a datagram socket (``sock.type``). Others read it too by then, or after the
        result was closed: so nothing may be read from it any more, but what was read can still be answered.
        """

    async def attend(self) -> None:  # noqa: B027, most kinds accept on each socket by itself
        """Begin to accept, at the latest: ``listen`` was called for every socket of a slot."""

    @property
    @abc.abstractmethod
    def connections(self) -> int:
        """How many connections are open."""

    @property
    def arriving(self) -> int:
        """How many connections are accepted and not yet the kind's: their TLS handshake is under way, say."""
        return self.context.arrivals.count if self.context.arrivals else 0

    def failed(self, what: str, error: BaseException | None) -> None:
        """Count and log an exception of user code."""
        self.errors += 1
        self.context.log.error("%s", what, exc_info=error)

    def give_up(self, why: str, error: BaseException | None = None) -> None:
        """Say that this server cannot go on. What ``open`` itself finds wrong, it raises.

        Siblings take the worker's slots at once. What is open in it may finish for a moment, then it ends
        and is replaced, with the delays of any failure; in a start or a reload that is the end of the trial.

        Args:
            why: for the operator.
            error: its traceback is shown too.
        """
        self.errors += error is not None
        self.context.give_up(why, error)

    def reopen(self) -> None:  # noqa: B027, few kinds have files of their own
        """Reopen log files, after a rotation (SIGUSR1)."""

    def drain(self) -> None:  # noqa: B027, a kind without a protocol of its own has nobody to tell
        """Ask open connections to finish. No socket is listened to any more; ``worker.draining`` is set."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Cut what is still open and let go of everything."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A kind as the registry knows it, without importing it."""

    name: str
    target: str
    """``module:Class``."""
    summary: str
    options: type[Struct] | None = None
    """``None`` for a kind of another package: its options are checked where it is imported, in the mold."""
    needs: tuple[str, ...] = ()
    """Modules that must be importable."""
    extra: str | None = None
    """What to install for it: ``pip install 'hourd[EXTRA]'``."""
    app: bool = True
    """Whether ``app:`` must be given."""
    advice: str = ""
    """What to do when it cannot be imported."""
    transport: Transport = "stream"
    """What its sockets are for; ``any`` where each address says so itself."""


AUTO = "auto"
"""The kind of a server whose application is to tell its kind: without a file, unless ``--kind`` says it."""

_BUILT_IN = (
    Entry(
        name=AUTO,
        target="hourd.kinds.detection:Auto",
        summary="what APP turns out to be: aiohttp, asgi, wsgi, protocol, stream, callable, container or ssh",
        options=options.AutoOptions,
    ),
    Entry(
        name="aiohttp",
        target="hourd.kinds.aiohttp:Aiohttp",
        summary="HTTP: an aiohttp.web.Application, or a factory of one",
        options=options.AiohttpOptions,
    ),
    Entry(
        name="asgi",
        target="hourd.kinds.asgi:Asgi",
        summary="HTTP and websockets: an ASGI 3 application, or a factory of one",
        options=options.AsgiOptions,
        needs=("uvicorn", "httptools", "websockets"),
        extra="asgi",
    ),
    Entry(
        name="protocol",
        target="hourd.kinds.protocol:Protocol",
        summary="any stream: a factory of asyncio.Protocol",
        options=options.ProtocolOptions,
    ),
    Entry(
        name="stream",
        target="hourd.kinds.stream:Stream",
        summary="any stream: a coroutine function of (reader, writer)",
        options=options.StreamOptions,
    ),
    Entry(
        name="wsgi",
        target="hourd.kinds.wsgi:Wsgi",
        summary="HTTP: a WSGI application, or a factory of one",
        options=options.WsgiOptions,
        needs=("uvicorn", "httptools"),
        extra="wsgi",
    ),
    Entry(
        name="callable",
        target="hourd.kinds.callable:Callable",
        summary="what brings its own server: a coroutine function of (worker, sockets)",
        options=options.CallableOptions,
        transport="any",
    ),
    Entry(
        name="datagram",
        target="hourd.kinds.datagram:Datagram",
        summary="UDP: a factory of asyncio.DatagramProtocol",
        options=options.DatagramOptions,
        transport="datagram",
    ),
    Entry(
        name="ssh",
        target="hourd.kinds.ssh:Ssh",
        summary="SSH: an asyncssh.SSHServer, SSHServerSession, or a coroutine function of (process)",
        options=options.SshOptions,
        needs=("asyncssh",),
        extra="ssh",
    ),
    Entry(
        name="container",
        target="hourd.kinds.container:Container",
        summary="code that was written for API-Hour: a subclass of hourd.Container",
        options=options.ContainerOptions,
        advice="what to change in code for API-Hour is listed in docs/migration.md",
    ),
)
LATER = ("console",)
"""Kinds of the contract that this version does not have yet."""

_registered: dict[str, Entry | type[Kind]] = {entry.name: entry for entry in _BUILT_IN}


def register(name: str) -> Callable[[type[Kind]], type[Kind]]:
    """Register a kind under a name, as a class decorator.

    Raises:
        ValueError: the name is taken.
    """

    def add(kind: type[Kind]) -> type[Kind]:
        if name in _registered:
            raise ValueError(f"a kind named {name!r} is registered already")
        _registered[name] = kind
        return kind

    return add


def find(name: str) -> Entry | None:
    """Return what is known of a kind without importing it, or ``None``."""
    if ":" in name:
        return Entry(name=name, target=name, summary="", app=False, transport="any")
    known = _registered.get(name)
    if isinstance(known, Entry):
        return known
    if known is not None:
        summary = (known.__doc__ or "").strip().partition("\n")[0]
        target = f"{known.__module__}:{known.__qualname__}"
        return Entry(name=name, target=target, summary=summary, options=known.Options, app=False, transport="any")
    return _installed().get(name)


def missing(entry: Entry) -> str | None:
    """Say what a kind needs and does not have here, and how to install it; nothing when it has all."""
    lacking = [module for module in entry.needs if not _importable(module)]
    if not lacking:
        return None
    install = f"'hourd[{entry.extra}]'" if entry.extra else " ".join(lacking)
    return f"needs {', '.join(lacking)}: pip install {install}"


def _importable(module: str) -> bool:
    """Tell whether a module is installed. The parent of a dotted name would be imported: only the top is looked for."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def addresses(name: str, text: str) -> tuple[Address, ...]:
    """Return the addresses that a text of ``bind:`` stands for, where it is that of a server of a kind.

    Raises:
        ValueError: it is no address, or none for this kind. The message does not repeat the text.
    """
    entry = find(name)
    transport: Transport = entry.transport if entry else "any"
    return tuple(_for(each, name, transport) for each in parse(text))


def _for(address: Address, name: str, transport: Transport) -> Address:
    if transport == "stream" and address.transport == "datagram":
        raise ValueError(f"is for datagrams, and kind {name} serves connections; leave out udp:")
    if transport == "datagram" or (transport == "any" and address.inherited):
        return replace(address, transport=transport)
    return address


def names() -> list[str]:
    """Return every kind that can be named, sorted."""
    return sorted({*_registered, *_installed()})


def load(name: str) -> type[Kind]:
    """Import a kind. Only molds and workers may: it runs code of other packages.

    Raises:
        LookupError: there is no such kind.
        TypeError: what the name stands for is no kind.
    """
    known = _registered.get(name)
    if isinstance(known, type):
        return known
    entry = find(name)
    if entry is None:
        raise LookupError(f"there is no kind {name!r}; there are {', '.join(names())}")
    module, _, attribute = entry.target.partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    if not (isinstance(kind, type) and issubclass(kind, Kind)):
        raise TypeError(f"kind {name!r}: {entry.target} is {kind!r}, expected a subclass of hourd.Kind")
    return kind


def _installed() -> dict[str, Entry]:
    """Read the entry points that installed packages declare; nothing is imported."""
    import importlib.metadata  # noqa: PLC0415, 3.6 MiB that most masters need not have

    return {
        point.name: Entry(
            name=point.name,
            target=point.value,
            summary=f"from {point.dist.name}" if point.dist else "from an installed package",
            app=False,
            transport="any",
        )
        for point in importlib.metadata.entry_points(group=GROUP)
    }

"""What each built-in kind takes under ``options:``.

The options stand apart from the kinds because the master checks them and must not import the
server libraries. The kind itself gets them already checked.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from ..forwarded import Header
from ..networks import Network
from ..units import Duration, Size

_LINE_LEAST = 256
"""Bytes: with less, no client of today could ask for anything."""
_ROOT_PATH = re.compile(r"(/[!-~]*[!-.0-~])?")


class HttpOptions(Struct, frozen=True, kw_only=True):
    """What every kind that speaks HTTP takes."""

    keepalive_timeout: Annotated[Duration, Meta(description="how long an idle connection is kept")] = 75.0
    head_timeout: Annotated[
        Duration, Meta(description="how long the headers of a request may take, once it has begun; 0 is forever")
    ] = 20.0
    body_timeout: Annotated[
        Duration, Meta(description="how long the next piece of a request's body may take; 0 is forever")
    ] = 30.0
    send_timeout: Annotated[
        Duration, Meta(description="how long a client may take to read on, once a response waits for it; 0 is forever")
    ] = 60.0
    line_max_size: Annotated[Size, Meta(description="longest request line (URL), and longest header")] = 8 * 1024
    max_headers: Annotated[int, Meta(ge=1, description="how many headers a request may have")] = 128
    client_max_size: Annotated[
        Size | None, Meta(description="largest request body; 0 is no limit; default: what the application says")
    ] = None
    access_log: Annotated[
        bool | Literal["common", "combined", "json"],
        Meta(description="one line for each request; true: combined, or json where log.format is json"),
    ] = False
    access_log_file: Annotated[
        Annotated[str, Meta(pattern=r"^[^\x00]+$")] | None,
        Meta(description="where the access log goes, relative to directory; default: standard error"),
    ] = None
    trusted_proxies: Annotated[
        tuple[Network, ...],
        Meta(
            description="addresses and networks of proxies that are believed who the client is; unix: of unix sockets"
        ),
    ] = ()
    forwarded_headers: Annotated[
        Literal["forwarded"] | tuple[Header, ...],
        Meta(description="headers that trusted proxies set, and remove where clients send them; no others are read"),
    ] = ("x-forwarded-for", "x-forwarded-proto")

    def __post_init__(self) -> None:
        if self.line_max_size < _LINE_LEAST:
            raise ValueError(f"line_max_size is {self.line_max_size}B, expected at least {_LINE_LEAST}B")

    @property
    def shortest_timeout(self) -> float:
        """How long the least patient of them waits, in seconds."""
        return min(
            each
            for each in (self.keepalive_timeout, self.head_timeout, self.body_timeout, self.send_timeout, 60.0)
            if each
        )


class AiohttpOptions(HttpOptions, frozen=True, kw_only=True):
    """Options of ``kind: aiohttp``."""


class GatewayOptions(HttpOptions, frozen=True, kw_only=True):
    """What the kinds of the gateway interfaces take, ASGI and WSGI."""

    root_path: Annotated[
        str, Meta(description="path under which a proxy in front serves the application, which it takes away: /shop")
    ] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _ROOT_PATH.fullmatch(self.root_path):
            raise ValueError(f"root_path is {self.root_path!r}, expected a path such as /shop, in ASCII")
        if not self.client_max_size:
            force_setattr(self, "client_max_size", None)  # where no application has a limit of its own, these are one


class AsgiOptions(GatewayOptions, frozen=True, kw_only=True):
    """Options of ``kind: asgi``."""

    lifespan: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="the application's own startup and shutdown; auto: where it has them"),
    ] = "auto"
    websocket_max_size: Annotated[Size, Meta(description="largest message of a websocket")] = 16 * 1024 * 1024
    websocket_ping_interval: Annotated[
        Duration, Meta(description="how often the client of a websocket is asked whether it is there; 0 is never")
    ] = 20.0
    websocket_ping_timeout: Annotated[
        Duration, Meta(description="how long it may take to answer that; 0 is forever")
    ] = 20.0


class WsgiOptions(GatewayOptions, frozen=True, kw_only=True):
    """Options of ``kind: wsgi``."""

    client_max_size: Annotated[
        Size | None,
        Meta(description="largest request body; 0 is no limit; what exceeds 1 MiB is kept in a temporary file"),
    ] = 1024**3

    threads: Annotated[
        Annotated[int, Meta(ge=1, le=1000)] | None,
        Meta(description="threads of a worker that call the application; default: 4"),
    ] = None
    inline: Annotated[
        bool,
        Meta(
            description="call the application in the event loop instead: the fastest, "
            "for one that never blocks (while it does, its worker serves nobody, and counts as slow, then hung)"
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inline and self.threads is not None:
            raise ValueError("inline: true calls the application in no thread; take either inline or threads")


class ProtocolOptions(Struct, frozen=True, kw_only=True):
    """``kind: protocol`` takes no options."""


class DatagramOptions(Struct, frozen=True, kw_only=True):
    """``kind: datagram`` takes no options."""


class StreamOptions(Struct, frozen=True, kw_only=True):
    """Options of ``kind: stream``."""

    limit: Annotated[Size, Meta(description="buffer limit of the StreamReader")] = 64 * 1024


class AutoOptions(Struct, frozen=True, kw_only=True):
    """``kind: auto`` takes no options: they are its defaults, whichever kind it is."""


class CallableOptions(Struct, frozen=True, kw_only=True):
    """``kind: callable`` takes no options."""


class SshOptions(Struct, frozen=True, kw_only=True):
    """Options of ``kind: ssh``."""

    host_keys: Annotated[
        tuple[str, ...],
        Meta(description="private host key files, relative to directory", min_length=1),
    ]
    create_host_keys: Annotated[bool, Meta(description="make an Ed25519 key where a file is missing")] = False
    authorized_keys: Annotated[
        str | None, Meta(description="file of public keys that may log in, in OpenSSH's authorized_keys format")
    ] = None
    login_timeout: Annotated[Duration, Meta(description="how long a client may take to log in")] = 120.0
    keepalive_interval: Annotated[Duration, Meta(description="ask an idle client this often; 0 is never")] = 0.0
    line_editor: Annotated[bool, Meta(description="offer line editing and history on a terminal")] = True
    sftp: Annotated[bool, Meta(description="offer SFTP on the files the worker may read")] = False


class ContainerOptions(AiohttpOptions, frozen=True, kw_only=True):
    """Options of ``kind: container``; besides those, what its HTTP servers take."""

    config: Annotated[
        str | dict[str, Any] | None, Meta(description="the container's config: a YAML file, or what would be in it")
    ] = None
    cfg: Annotated[dict[str, Any], Meta(description="settings of Gunicorn that the code reads as worker.cfg")] = {}

"""What each built-in kind takes under ``options:``.

The options stand apart from the kinds because the master checks them and must not import the
server libraries. The kind itself gets them already checked.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ..units import Duration, Size


class AiohttpOptions(Struct, frozen=True, kw_only=True):
    """Options of ``kind: aiohttp``; the defaults are aiohttp's own."""

    access_log: Annotated[bool, Meta(description="log each request at level info")] = False
    keepalive_timeout: Annotated[Duration, Meta(description="how long an idle connection is kept")] = 75.0
    client_max_size: Annotated[
        Size | None, Meta(description="largest request body; default: what the application says")
    ] = None


class ProtocolOptions(Struct, frozen=True, kw_only=True):
    """``kind: protocol`` takes no options."""


class DatagramOptions(Struct, frozen=True, kw_only=True):
    """``kind: datagram`` takes no options."""


class StreamOptions(Struct, frozen=True, kw_only=True):
    """Options of ``kind: stream``."""

    limit: Annotated[Size, Meta(description="buffer limit of the StreamReader")] = 64 * 1024


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

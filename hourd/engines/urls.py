"""URLs of servers: from the environment if need be, and shown without their secrets."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qs, urlsplit

from .. import errors

_HOSTS = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.%\w]+\])?(:\d{1,5})?")
_MALFORMED = "malformed; special characters in a user's name or password are percent-encoded, such as %2F for /"


def read(url: str) -> str:
    """Return a URL, or what the environment has under ``$NAME``.

    Raises:
        errors.ConfigError: there is no such variable, or it is empty.
    """
    if not url.startswith("$"):
        return url
    if found := os.environ.get(url[1:]):
        return found
    raise errors.ConfigError(f"the environment has no {url[1:]}; set it in the configuration, under environment:")


def place(url: str, schemes: tuple[str, ...]) -> str:
    """Return where a URL leads, for messages: hosts and path, neither user nor password nor query.

    A password that is not encoded as it has to be can end up anywhere in what a parser makes of the URL, and in
    the parser's messages. So what looks like that is refused here, without showing any of it.

    Raises:
        errors.ConfigError: it has another scheme, or is malformed.
    """
    allowed = " or ".join(f"{scheme}://" for scheme in schemes)
    scheme, found, _ = url.partition("://")
    if not found or scheme not in schemes:
        raise errors.ConfigError(f"its URL has to begin with {allowed}")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise errors.ConfigError(f"its URL ({scheme}://...) is {_MALFORMED}") from None
    _, _, hosts = parts.netloc.rpartition("@")
    stray = parts.netloc and "@" in parts.path + parts.query + parts.fragment
    if stray or parts.fragment or not all(map(_HOSTS.fullmatch, hosts.split(","))):
        raise errors.ConfigError(f"its URL ({scheme}://...) is {_MALFORMED}")
    # A query is the place of a unix socket (libpq), and has room for a password too.
    sockets = ",".join(parse_qs(parts.query).get("host", []))
    return f"{hosts or sockets}{parts.path}"

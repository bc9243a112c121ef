"""Who the client is behind proxies: what they tell in headers, as far as it can be believed.

No I/O. Rules:

    a peer that is not trusted    tells nothing: its headers are the application's to read, and nothing else
    the headers that are read     are those that the configuration names, and no others: a proxy sets or removes
                                  those that it knows, and passes on what a client says in others. So which of two kinds
                                  counts cannot be decided by what is there (RFC 7239, 7.4)
    the chain                     is walked from its right end, where the peer has written, leftwards as long
                                  as the address is a trusted one. The first that is not is the client. What is left of
                                  that is the client's own claim
    what cannot be read           ends the walk: the client is who was found until then. So does an empty
                                  element, which may stand for a client that the proxy did not know
    scheme and host               of ``Forwarded``: those of the element that names the client. Of X-Forwarded-*: the
                                  rightmost, written by the nearest proxy that writes them at all; elements of
                                  two of these headers do not belong together
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

from .networks import UNIX, Networks, parse_address

Header = Literal["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-request-id"]
FORWARDED: Final = "forwarded"

_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_PORTS: Final = {"http": 80, "https": 443}
_PORT_MAX: Final = 65535
_COMMAS_MAX: Final = 8
"""In the quoted strings of one element. More of them are not looked for, since that takes time by their square."""

_NAMED: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# A value should be quoted if it has a colon or a bracket. Not all proxies know.
_PAIR: Final = rf'({_NAMED})=([!#$%&\'*+.^_`|~0-9A-Za-z:\[\]-]+|"(?:[^"\\]|\\.)*")'
_pair: Final = re.compile(rf"[ \t]*{_PAIR}[ \t]*(?:;|$)", re.DOTALL)
_NAME: Final = r"unknown|_[A-Za-z0-9._-]{1,63}"
_node: Final = re.compile(
    rf"(?:\[([0-9A-Fa-f:.]{{2,45}})\]|([0-9.]{{7,15}})|({_NAME}))(?::(?:([0-9]{{1,5}})|_[A-Za-z0-9._-]{{1,63}}))?"
    r"|([0-9A-Fa-f:.]{2,45})"
)
_host: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


class Node(NamedTuple):
    """Somebody in the chain."""

    name: str
    """An address in its canonical text; ``unknown``, or a name with an underscore that hides one (RFC 7239, 6.3);
    ``unix``."""
    port: int = 0


class Told(NamedTuple):
    """What is to be believed of a request."""

    client: Node | None = None
    """``None``: nothing was told, and the peer itself is the client."""
    scheme: str | None = None
    """``http`` or ``https``."""
    host: str | None = None
    """As in the header Host."""
    request_id: str | None = None
    """Of any length and characters."""


NOTHING: Final = Told()


class Proxies:
    """Those in front who are believed."""

    def __init__(self, networks: Sequence[str], headers: str | Sequence[str]) -> None:
        """Take what is configured: trusted networks, and ``"forwarded"`` or names of X-Forwarded-* headers."""
        self.networks = Networks(networks)
        self.headers: tuple[str, ...] = (headers,) if isinstance(headers, str) else tuple(headers)
        self._read = self._read_forwarded if FORWARDED in self.headers else self._read_x_forwarded

    def read(self, lines: Callable[[str], Sequence[str]]) -> Told:
        """Return what a request's headers tell. Its peer must be trusted.

        Args:
            lines: returns the values of all headers of a name (in lower case), in their order.
        """
        return self._read(lines)

    def _read_x_forwarded(self, lines: Callable[[str], Sequence[str]]) -> Told:
        names = self.headers
        client = self._walk(lines("x-forwarded-for")) if "x-forwarded-for" in names else None
        scheme = _last(lines("x-forwarded-proto")) if "x-forwarded-proto" in names else None
        scheme = _SCHEMES.get(scheme.lower()) if scheme else None
        host = _valid_host(_last(lines("x-forwarded-host"))) if "x-forwarded-host" in names else None
        port = _last(lines("x-forwarded-port")) if "x-forwarded-port" in names else None
        if port:
            host = _with_port(host or _valid_host(_last(lines("host"))), port, scheme)
        ids = lines("x-request-id") if "x-request-id" in names else ()
        return Told(client, scheme, host, ids[-1] if ids else None)

    def _walk(self, lines: Sequence[str]) -> Node | None:
        found = None
        for text in reversed(",".join(lines).split(",")):
            node = parse_node(text.strip(" \t"))
            if node is None:
                break
            found = node
            if not self._trusts(node):
                break
        return found

    def _read_forwarded(self, lines: Callable[[str], Sequence[str]]) -> Told:
        told = NOTHING
        rest: str | None = ", ".join(lines(FORWARDED))
        while rest is not None:
            element, rest = _split_last(rest)
            node = parse_node(element.get("for", ""))
            if node is None:
                break
            scheme = _SCHEMES.get(element.get("proto", "").lower())
            told = Told(node, scheme, _valid_host(element.get("host")))
            if not self._trusts(node):
                break
        return told

    def _trusts(self, node: Node) -> bool:
        return self.networks.unix if node.name == UNIX else self.networks.has(node.name)


def configured(options: Any) -> Proxies | None:
    """Return what a server's options say of proxies, or ``None`` where none are trusted."""
    return Proxies(options.trusted_proxies, options.forwarded_headers) if options.trusted_proxies else None


def parse_node(text: str) -> Node | None:
    """Return what one element of a chain names, or ``None`` where it is malformed."""
    match = _node.fullmatch(text)
    if match is None:
        return Node(UNIX) if text == "unix:" else None  # what nginx says of clients of a unix socket
    bracketed, ipv4, name, port, bare = match.groups()
    number = int(port or 0)
    if number > _PORT_MAX:
        return None
    if name:
        return Node(name, number)
    address = parse_address(bracketed or ipv4 or bare)
    if address is None or (bracketed and ":" not in bracketed):
        return None
    return Node(str(address), number)


def _split_last(text: str) -> tuple[dict[str, str], str | None]:
    """Return the last element of a ``Forwarded`` header, empty if it is malformed, and what is left of it.

    From the right, since the left end is the client's: a quote there that is never closed must not swallow
    what proxies have added. A part that begins inside of a quoted string has an odd number of quotes, and so
    is none of these elements.
    """
    comma = len(text)
    for _ in range(_COMMAS_MAX + 1):
        comma = text.rfind(",", 0, comma)
        element = _parse_element(text[comma + 1 :])
        if element is not None:
            return element, text[:comma] if comma >= 0 else None
        if comma < 0:
            break
    return {}, None


def _parse_element(text: str) -> dict[str, str] | None:
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _pair.match(text, position)
        if match is None or match[1].lower() in found:
            return None
        value = match[2]
        found[match[1].lower()] = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL) if value[0] == '"' else value
        position = match.end()
    return found or None


def _last(lines: Sequence[str]) -> str | None:
    return lines[-1].rpartition(",")[2].strip(" \t") if lines else None


def _valid_host(text: str | None) -> str | None:
    match = _host.fullmatch(text) if text else None
    return None if match is None or int((match[1] or ":0")[1:]) > _PORT_MAX else text


def _with_port(host: str | None, port: str, scheme: str | None) -> str | None:
    """Add a port to a host that has none, unless it is the scheme's own."""
    match = _host.fullmatch(host) if host else None
    if match is None or match[1] or not (port.isascii() and port.isdigit() and len(port) <= len(str(_PORT_MAX))):
        return host
    number = int(port)
    return host if number == _PORTS.get(scheme or "http") or not 0 < number <= _PORT_MAX else f"{host}:{number}"

"""The rules of one server: its kind, what the kind takes, and that no address is asked for twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct, inspect

from .. import __version__, kinds
from ..addresses import Address, parse
from .mistakes import Place, join, suggestion
from .reader import INVALID, Reader
from .tree import Items, Node, Scalar, Section, has_secret

ADDRESSES_MAX = 200
"""Of one pool. Each is one socket per slot."""


class Listener(Struct, frozen=True):
    """An address that is taken, and by whom."""

    key: str
    place: Place


class Listeners:
    """Every address so far."""

    def __init__(self) -> None:
        self._taken: dict[Address, Listener] = {}

    def check_server(self, reader: Reader, node: Section, values: dict[str, Any], key: str) -> None:
        """Check a server, and take note of its addresses."""
        check_server(reader, node, values, key)
        bind, kind = node.entries.get("bind"), values.get("kind")
        for each, name in _each(bind, join(key, "bind")):
            try:
                found = kinds.addresses(kind if isinstance(kind, str) else "", each.text)
            except ValueError as error:
                if _parses(each.text):  # otherwise that was told when it was read
                    reader.reject(each, name, f"{each.shown} {error}")
                continue
            self._add(reader, each, found, name)

    def _add(self, reader: Reader, node: Scalar, found: tuple[Address, ...], key: str) -> None:
        claims = [claim for address in found if address.unique for claim in address.claims]
        if clash := next((self._taken[each] for each in claims if each in self._taken), None):
            reader.reject(node, key, f"{node.shown} is an address of {clash.key} as well ({clash.place})")
        for claim in claims:
            self._taken.setdefault(claim, Listener(key, node.place))


def _each(bind: Node | None, key: str) -> Iterator[tuple[Scalar, str]]:
    """Yield the texts of ``bind:``, with the key of each."""
    if isinstance(bind, Scalar):
        yield bind, key
    elif isinstance(bind, Items):
        yield from ((each, f"{key}[{at}]") for at, each in enumerate(bind.items) if isinstance(each, Scalar))


def _parses(text: str) -> bool:
    try:
        return bool(parse(text))
    except ValueError:
        return False


def check_pool(reader: Reader, node: Section, values: dict[str, Any], key: str) -> None:
    """Check what the servers of a pool ask for together."""
    servers = values.get("servers")
    each_server = servers.values() if isinstance(servers, dict) else ()
    binds = [server.get("bind") for server in each_server if isinstance(server, dict)]
    count = sum(len(parse(text)) for bind in binds if isinstance(bind, list) for text in bind)
    if count > ADDRESSES_MAX:
        reader.reject(node, key, f"has {count} addresses; allowed are {ADDRESSES_MAX} in one pool")


def read_kind(reader: Reader, node: Node, type_: inspect.Type, key: str) -> Any:
    """Read ``kind:``, which must be known here and have what it needs."""
    name = reader.read(node, type_, key)
    if not isinstance(name, str):
        return INVALID
    why = _unusable(name, secret=isinstance(node, Scalar) and node.reference is not None)
    if why and isinstance(node, Scalar):
        shown = name if node.reference is None and name.isprintable() else node.shown
        return reader.reject(node, key, why.replace("KIND", shown, 1))
    return name


def _unusable(name: str, *, secret: bool) -> str | None:
    entry = kinds.find(name)
    if entry is None and name in kinds.LATER:
        return f"kind KIND is not available yet in hourd {__version__}"
    if entry is None:
        names = kinds.names()
        close = "" if secret else suggestion(name, names)
        return f"there is no kind KIND{close or '; allowed are ' + ', '.join(names) + ', or module:object of your own'}"
    lacks = kinds.missing(entry)
    return f"kind KIND {lacks}" if lacks else None


def defer_options(_reader: Reader, _node: Node, _type: inspect.Type, _key: str) -> dict[str, Any]:
    """Leave ``options:`` to ``check_server``: what they may be depends on the kind."""
    return {}


def check_server(reader: Reader, node: Section, values: dict[str, Any], key: str) -> None:
    """Read the options as the server's kind has them, and check that there is an application."""
    options = node.entries.get("options")
    values["where"] = str(options.place if options else node.place)
    kind = values.get("kind")
    entry = kinds.find(kind) if isinstance(kind, str) else None
    if entry is None:
        return
    if entry.app and values.get("app") is None:
        wanted = f"is missing; kind {entry.name} needs an application, module:object"
        reader.mistakes.add(node.place, join(key, "app"), wanted)
    for name in ("tls", "proxy_protocol"):
        if name in node.entries and entry.transport == "datagram":
            reader.mistakes.add(node.keys[name], join(key, name), f"is for streams; kind {entry.name} has none")
    values["options"] = _options(reader, options or Section(node.place, {}, {}), entry.options, join(key, "options"))


def _options(reader: Reader, node: Node, type_: type[Struct] | None, key: str) -> Any:
    before = len(reader.mistakes)
    if type_ is None:
        wanted: inspect.Type = inspect.DictType(inspect.StrType(), inspect.AnyType())
        return reader.read(node, wanted, key)
    value = reader.read(node, inspect.type_info(type_), key)
    # The mistake of a value that was broken before, such as an unset variable, was noted before too.
    wrong = len(reader.mistakes) > before or _has_invalid(value)
    return value if wrong else _complete(reader, node, value, type_, key)


def _has_invalid(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_invalid, value.values() if isinstance(value, dict) else value))
    return value is INVALID


def _complete(reader: Reader, node: Node, value: Any, type_: type[Struct], key: str) -> Any:
    """Fill in the defaults. Tuples become lists, as they do when settings travel."""
    try:
        return msgspec.json.decode(msgspec.json.encode(msgspec.convert(value, type_)))
    except msgspec.ValidationError as error:
        # Of types that the reader does not know. Their messages may quote a value: no secret gets there.
        why = "a value is not allowed" if has_secret(node) else " ".join(str(error).split())
        return reader.reject(node, key, why)

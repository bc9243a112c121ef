"""The rules of one server: its kind, what the kind takes, and that no address is asked for twice."""

from __future__ import annotations

import importlib.util
from typing import Any

import msgspec
from msgspec import Struct, inspect

from .. import __version__, kinds
from ..addresses import Address, parse
from .mistakes import Place, join, suggestion
from .reader import INVALID, Reader
from .tree import Node, Scalar, Section, has_secret

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

    def add(self, reader: Reader, node: Node, _: inspect.Type, key: str) -> str:
        """Take note of an address that was just read."""
        text = node.text if isinstance(node, Scalar) else ""
        clash = next((self._taken[each] for each in parse(text) if each.unique and each in self._taken), None)
        if clash and isinstance(node, Scalar):
            reader.reject(node, key, f"{node.shown} is an address of {clash.key} as well ({clash.place})")
        for address in parse(text):
            self._taken.setdefault(address, Listener(key, node.place))
        return text


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
    if missing := [module for module in entry.needs if not _importable(module)]:
        install = f"'hourd[{entry.extra}]'" if entry.extra else " ".join(missing)
        return f"kind KIND needs {', '.join(missing)}: pip install {install}"
    return None


def _importable(module: str) -> bool:
    """Tell whether a module is installed. The parent of a dotted name would be imported: only the top is looked for."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


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
    values["options"] = _options(reader, options or Section(node.place, {}, {}), entry.options, join(key, "options"))


def _options(reader: Reader, node: Node, type_: type[Struct] | None, key: str) -> Any:
    before = len(reader.mistakes)
    if type_ is None:
        wanted: inspect.Type = inspect.DictType(inspect.StrType(), inspect.AnyType())
        return reader.read(node, wanted, key)
    value = reader.read(node, inspect.type_info(type_), key)
    return value if len(reader.mistakes) > before else _complete(reader, node, value, type_, key)


def _complete(reader: Reader, node: Node, value: Any, type_: type[Struct], key: str) -> Any:
    """Fill in the defaults. Tuples become lists, as they do when settings travel."""
    try:
        return msgspec.json.decode(msgspec.json.encode(msgspec.convert(value, type_)))
    except msgspec.ValidationError as error:
        # Of types that the reader does not know. Their messages may quote a value: no secret gets there.
        why = "a value is not allowed" if has_secret(node) else " ".join(str(error).split())
        return reader.reject(node, key, why)

"""Settings as YAML that says everything and, read again, means the same.

Secrets are not in it: their references stand in their places.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import yaml
from msgspec import Struct, inspect
from yaml.representer import SafeRepresenter

from .. import kinds
from ..settings import Server, Settings
from . import Loaded
from .notation import unit_of, unwrapped
from .substitution import escape
from .tree import TAG_PREFIX, Scalar

_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_WIDTH: Final = 1_000_000
"""Never fold a line."""

Path = tuple[str | int, ...]


def to_yaml(loaded: Loaded) -> str:
    """Return the effective configuration, defaults included, secrets as references."""
    node = _Printer(loaded.secrets).node(loaded.settings, inspect.type_info(Settings), ())
    text: str = yaml.serialize(node, Dumper=_Dumper, allow_unicode=True, width=_WIDTH)
    return text


class _Printer(Struct, frozen=True):
    """Values to YAML nodes, downwards."""

    secrets: Mapping[Path, Scalar]

    def node(self, value: Any, type_: inspect.Type, path: Path) -> yaml.Node:
        if path in self.secrets:
            return _reference(self.secrets[path])
        bare, extra, _ = unwrapped(type_)
        unit = unit_of(extra)
        if unit and value is not None:
            return _text(escape(unit.format(value)))
        if isinstance(bare, inspect.UnionType):
            return self.node(value, _member(bare, value), path)
        return self._bare(value, bare, path)

    def _bare(self, value: Any, type_: inspect.Type, path: Path) -> yaml.Node:
        match type_:
            case inspect.StructType():
                return self._struct(value, type_, path)
            case inspect.DictType():
                entries = {name: self.node(each, type_.value_type, (*path, name)) for name, each in value.items()}
                return _mapping(entries)
            case inspect.VarTupleType() | inspect.ListType():
                return self._list(value, type_, path)
            case _:
                # Types that YAML has no word for become what they are in JSON.
                return self._plain(msgspec.json.decode(msgspec.json.encode(value)), path)

    def _list(self, values: Any, type_: inspect.VarTupleType | inspect.ListType, path: Path) -> yaml.Node:
        if isinstance(type_, inspect.VarTupleType) and len(values) == 1:
            # Written as one value; a secret may be the only one of a list.
            first = (*path, 0)
            return self.node(values[0], type_.item_type, first if first in self.secrets else path)
        return _sequence([self.node(each, type_.item_type, (*path, number)) for number, each in enumerate(values)])

    def _struct(self, value: Any, type_: inspect.StructType, path: Path) -> yaml.Node:
        entries: dict[str, yaml.Node] = {}
        for field in type_.fields:
            extra = unwrapped(field.type)[1]
            inner = getattr(value, field.name)
            # What has no value by default is not there; nor what users may not write.
            if extra.get("hidden") or (inner is None and field.default is None):
                continue
            where = (*path, field.encode_name)
            options = type_.cls is Server and field.name == "options"
            entries[field.encode_name] = self._options(value, where) if options else self.node(inner, field.type, where)
        return _mapping(entries)

    def _options(self, server: Server, path: Path) -> yaml.Node:
        entry = kinds.find(server.kind)
        if entry is None or entry.options is None:
            return self._plain(server.options, path)
        options = msgspec.convert(server.options, entry.options)
        return self.node(options, inspect.type_info(entry.options), path)

    def _plain(self, value: Any, path: Path) -> yaml.Node:
        if path in self.secrets:
            return _reference(self.secrets[path])
        if isinstance(value, Mapping):
            return _mapping({name: self._plain(each, (*path, name)) for name, each in value.items()})
        if isinstance(value, (list, tuple)):
            return _sequence([self._plain(each, (*path, number)) for number, each in enumerate(value)])
        if isinstance(value, str):
            return _text(escape(value))
        node: yaml.Node = SafeRepresenter().represent_data(value)
        return node


def _member(type_: inspect.UnionType, value: Any) -> inspect.Type:
    """Return the member of a union that a value is of, as far as printing makes a difference."""
    members = [each for each in type_.types if not isinstance(each, inspect.NoneType)]
    if len(members) == 1 and value is not None:
        return members[0]
    structs = (each for each in members if isinstance(each, inspect.StructType) and isinstance(value, each.cls))
    return next(structs, inspect.AnyType())


def _reference(scalar: Scalar) -> yaml.Node:
    """Write a secret's reference, in quotes where its value is text, so that it stays text."""
    style = None if scalar.plain and scalar.tag != "str" else "'"
    return yaml.ScalarNode(f"{TAG_PREFIX}str", scalar.reference or "", style=style)


def _text(text: str) -> yaml.Node:
    return yaml.ScalarNode(f"{TAG_PREFIX}str", text)


def _mapping(entries: Mapping[str, yaml.Node]) -> yaml.Node:
    pairs = [(_text(name), node) for name, node in entries.items()]
    return yaml.MappingNode(f"{TAG_PREFIX}map", pairs, flow_style=not pairs)


def _sequence(nodes: list[yaml.Node]) -> yaml.Node:
    return yaml.SequenceNode(f"{TAG_PREFIX}seq", nodes, flow_style=not nodes)

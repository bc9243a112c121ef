"""A tree read as a type: goes down both together and notes every mistake on the way.

The type is what ``msgspec.inspect`` makes of a Struct. What is read is made of builtins only;
``msgspec.convert`` turns it into the Struct once there are no mistakes. Rules of single keys and of
several keys together are not known here: they are given (``Rules``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from msgspec import Struct, inspect

from .mistakes import Mistakes, join, shown, suggestion
from .notation import Unit, expected, found, unit_of, unwrapped
from .scalars import fits, value_of, within
from .tree import Broken, Items, Node, Scalar, Section, resolve

_WHOLE: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")


class Invalid:
    """The type of ``INVALID``."""

    def __repr__(self) -> str:
        return "INVALID"


INVALID: Final = Invalid()
"""What is read where there was a mistake; it is noted already."""

_List = inspect.VarTupleType | inspect.ListType | inspect.SetType | inspect.FrozenSetType

FieldRule = Callable[["Reader", Node, inspect.Type, str], Any]
"""Reads the value of one key: reader, node, type, key."""
StructRule = Callable[["Reader", Section, dict[str, Any], str], None]
"""Looks at a mapping that was read, and may change it: reader, node, values, key."""


class Rules(Struct, frozen=True):
    """What goes beyond types."""

    fields: Mapping[tuple[type, str], FieldRule] = {}
    structs: Mapping[type, StructRule] = {}
    units: Mapping[str, FieldRule] = {}
    """Called after the unit's own check, with what a mistake would need."""


class Reader:
    """One reading of a tree."""

    def __init__(self, mistakes: Mistakes, rules: Rules) -> None:
        self.mistakes = mistakes
        self._rules = rules

    def read(self, node: Node, type_: inspect.Type, key: str) -> Any:
        """Return what the node says as the type, in builtins, or ``INVALID`` with its mistakes noted."""
        if isinstance(node, Broken):
            return INVALID
        bare, extra, _ = unwrapped(type_)
        unit = unit_of(extra)
        return self._unit(node, unit, key, extra) if unit else self._bare(node, bare, key)

    def reject(self, node: Node, key: str, text: str) -> Invalid:
        """Note a mistake of a value."""
        self.mistakes.add(node.place, key, text)
        return INVALID

    def _bare(self, node: Node, type_: inspect.Type, key: str) -> Any:  # noqa: PLR0911, one for each type
        match type_:
            case inspect.StructType():
                return self._struct(node, type_, key)
            case inspect.DictType():
                return self._dict(node, type_, key)
            case inspect.VarTupleType() | inspect.ListType() | inspect.SetType() | inspect.FrozenSetType():
                return self._list(node, type_, key)
            case inspect.UnionType():
                return self._union(node, type_, key)
            case inspect.LiteralType() | inspect.StrType() | inspect.BoolType():
                return self._scalar(node, type_, key)
            case inspect.IntType() | inspect.FloatType():
                return self._number(node, type_, key)
            case _:
                return self.plain(node, key)

    def plain(self, node: Node, key: str) -> Any:
        """Return what YAML itself makes of it; ``INVALID`` stands in the place of each mistake."""
        match node:
            case Section():
                return {name: self.plain(each, join(key, name)) for name, each in node.entries.items()}
            case Items():
                return [self.plain(each, f"{key}[{number}]") for number, each in enumerate(node.items)]
            case Scalar():
                return self._plain_scalar(node, key)
            case _:
                return INVALID

    def _plain_scalar(self, scalar: Scalar, key: str) -> Any:
        try:
            return value_of(scalar)
        except ValueError as error:
            return self.reject(scalar, key, f"{scalar.shown} {error}")

    def _wrong(self, node: Node, type_: inspect.Type, key: str) -> Invalid:
        return self.reject(node, key, f"expected {expected(type_)}, got {found(node)}{_hint(node, type_)}")

    def _unit(self, node: Node, unit: Unit, key: str, extra: Mapping[str, Any]) -> Any:
        if not isinstance(node, Scalar) or node.tag == "null":
            return self.reject(node, key, f"expected {unit.hint}, got {found(node)}")
        try:
            value = unit.parse(node.text)
        except ValueError as error:
            # What is wrong comes first: either the text does, or it says what was expected.
            why = str(error)
            said = f"{why}, got {found(node)}" if why.startswith("expected") else f"{node.shown} {why}"
            return self.reject(node, key, said)
        if value < extra.get("least", value):
            why = f": {extra['why']}" if "why" in extra else ""
            return self.reject(node, key, f"expected at least {unit.format(extra['least'])}{why}")
        rule = self._rules.units.get(extra["unit"])
        return rule(self, node, inspect.StrType(), key) if rule else value

    def _scalar(self, node: Node, type_: inspect.LiteralType | inspect.StrType | inspect.BoolType, key: str) -> Any:
        value = self.plain(node, key) if isinstance(node, Scalar) else None
        if value is INVALID:
            return value
        match type_:
            case inspect.LiteralType():
                allowed = any(value == each and type(value) is type(each) for each in type_.values)
            case inspect.StrType():
                allowed = isinstance(value, str) and fits(value, type_)
            case _:
                allowed = isinstance(value, bool)
        return value if allowed else self._wrong(node, type_, key)

    def _number(self, node: Node, type_: inspect.IntType | inspect.FloatType, key: str) -> Any:
        if not isinstance(node, Scalar) or node.tag not in {"int", "float"}:
            return self._wrong(node, type_, key)
        if isinstance(type_, inspect.IntType):
            # Only as people count: YAML's 010 is 8, and its 1:30 is 90.
            value: Any = int(node.text) if _WHOLE.fullmatch(node.text) else INVALID
        else:
            value = self.plain(node, key)
        return value if value is not INVALID and within(value, type_) else self._wrong(node, type_, key)

    def _list(self, node: Node, type_: _List, key: str) -> Any:
        if isinstance(type_, inspect.VarTupleType) and isinstance(node, Scalar) and node.tag != "null":
            value = self.read(node, type_.item_type, key)
            return value if value is INVALID else [value]
        if not isinstance(node, Items):
            return self._wrong(node, type_, key)
        values = [self.read(each, type_.item_type, f"{key}[{number}]") for number, each in enumerate(node.items)]
        if len(values) < (type_.min_length or 0):
            return self.reject(node, key, "expected at least one, got an empty list")
        return INVALID if INVALID in values else values

    def _dict(self, node: Node, type_: inspect.DictType, key: str) -> Any:
        if not isinstance(node, Section):
            return self._wrong(node, type_, key)
        if len(node.entries) < (type_.min_length or 0):
            return self.reject(node, key, "expected at least one entry, got an empty mapping")
        for name, place in node.keys.items():
            if isinstance(type_.key_type, inspect.StrType) and not fits(name, type_.key_type):
                why = f"the key {shown(name)} is not allowed; expected {expected(type_.key_type)}"
                self.mistakes.add(place, join(key, name), why)
        return {name: self.read(each, type_.value_type, join(key, name)) for name, each in node.entries.items()}

    def _union(self, node: Node, type_: inspect.UnionType, key: str) -> Any:
        members = [each for each in type_.types if not isinstance(each, inspect.NoneType)]
        if isinstance(node, Scalar) and node.tag == "null" and len(members) < len(type_.types):
            return None
        fitting = [each for each in members if _shape(node, each)]
        if len(fitting) == 1 and (len(members) == 1 or not isinstance(node, Scalar)):
            return self.read(node, fitting[0], key)
        for member in fitting:
            attempt = Reader(Mistakes(), self._rules)
            value = attempt.read(node, member, key)
            if not attempt.mistakes:
                return value
        return self._wrong(node, type_, key)

    def _struct(self, node: Node, type_: inspect.StructType, key: str) -> Any:
        if not isinstance(node, Section):
            return self._wrong(node, type_, key)
        fields = {field.encode_name: field for field in type_.fields if not _is_hidden(field)}
        values: dict[str, Any] = {}
        for name, each in node.entries.items():
            path, field = join(key, name), fields.get(name)
            if field is None:
                self._unknown(node, name, path, fields)
            else:
                values[name] = self._field(each, type_.cls, field, path)
        self._missing(node, fields.values(), key)
        rule = self._rules.structs.get(type_.cls)
        if rule:
            rule(self, node, values, key)
        return values

    def _field(self, node: Node, owner: type, field: inspect.Field, key: str) -> Any:
        rule = self._rules.fields.get((owner, field.name))
        if rule is None or isinstance(node, Broken):
            return self.read(node, field.type, key)
        return rule(self, node, field.type, key)

    def _unknown(self, node: Section, name: str, key: str, fields: Mapping[str, inspect.Field]) -> None:
        usable = sorted(fields)
        allowed = f"; allowed are {', '.join(usable)}" if usable else "; no key is allowed here"
        self.mistakes.add(node.keys[name], key, f"unknown key{suggestion(name, usable) or allowed}")

    def _missing(self, node: Section, fields: Iterable[inspect.Field], key: str) -> None:
        for field in fields:
            if field.required and field.encode_name not in node.entries:
                wanted = f"is missing; expected {expected(field.type)}"
                self.mistakes.add(node.place, join(key, field.encode_name), wanted)


def _is_hidden(field: inspect.Field) -> bool:
    return bool(unwrapped(field.type)[1].get("hidden"))


def _shape(node: Node, type_: inspect.Type) -> bool:
    """Tell whether a node can be of a type at all."""
    bare = unwrapped(type_)[0]
    mapping = isinstance(bare, (inspect.StructType, inspect.DictType))
    return mapping == isinstance(node, Section) or isinstance(bare, (inspect.AnyType, inspect.UnionType))


def _hint(node: Node, type_: inspect.Type) -> str:
    """Say what was probably meant. Never of a secret: what is close to it gives it away."""
    if not isinstance(node, Scalar) or node.reference is not None or node.tag == "null":
        return ""
    if isinstance(type_, inspect.StrType):
        return f"; write it in quotes: {shown(node.text)}" if node.tag != "str" and fits(node.text, type_) else ""
    if not node.plain and resolve(node.text) in {"int", "float", "bool"}:
        return "; leave the quotes out"
    members = type_.types if isinstance(type_, inspect.UnionType) else (type_,)
    words = [str(value) for each in members if isinstance(each, inspect.LiteralType) for value in each.values]
    return suggestion(node.text, words) if words else ""

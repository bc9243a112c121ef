"""The JSON Schema of the configuration, for editors.

It is made of the same types that ``config`` reads, and allows at least what ``config`` does: an
editor must not mark a file that hourd takes. So ``${...}`` may stand for every value.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import NODEFAULT, Struct, inspect

from .. import kinds
from ..settings import Log, Server, Settings
from .notation import Unit, at_least, unit_of, unwrapped

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_SUBSTITUTED: Final = r"\$\{"
_SUBSTITUTION: Final[Schema] = {"type": "string", "pattern": _SUBSTITUTED}
# YAML 1.1 takes these for booleans, and hourd does; editors read YAML 1.2, where they are text.
_BOOLEAN: Final = r"^([Yy]es|YES|[Nn]o|NO|[Oo]n|ON|[Oo]ff|OFF)$"
_COMPUTED: Final = frozenset({(Settings, "name"), (Settings, "directory")})
"""Required in settings; in a file, they have defaults."""


def json_schema() -> Schema:
    """Return the schema, with the options of every kind that is installed."""
    root = _of(inspect.type_info(Settings))
    return {"$schema": DIALECT, "title": "hourd configuration", **root}


def _of(type_: inspect.Type) -> Schema:
    bare, extra, meta = unwrapped(type_)
    unit = unit_of(extra)
    schema = _unit(unit, extra) if unit else _bare(bare)
    said: Schema = {name: meta[name] for name in ("description", "examples") if name in meta}
    if unit and "least" in extra:
        words = (said.get("description"), f"at least {unit.format(extra['least'])}")
        said["description"] = "; ".join(filter(None, words))
    return {**schema, **said}


def _unit(unit: Unit, extra: dict[str, Any]) -> Schema:
    name: str = extra["unit"]
    if "least" in extra:
        return {"type": "string", "pattern": f"{at_least(extra['least'])}|{_SUBSTITUTED}"}
    text: Schema = {"type": "string", "pattern": f"{unit.pattern}|{_SUBSTITUTED}"}
    if name in {"duration", "size"}:
        return {"anyOf": [text, {"const": 0}]}
    # 0660 without quotes is a number, in YAML 1.1 another one than in 1.2.
    return {"anyOf": [text, {"type": "integer"}]} if name == "mode" else text


def _bare(type_: inspect.Type) -> Schema:  # noqa: PLR0911, one for each type
    match type_:
        case inspect.StructType():
            return _struct(type_)
        case inspect.DictType():
            return _dict(type_)
        case inspect.VarTupleType():
            return {"anyOf": [_of(type_.item_type), _array(type_)]}
        case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType():
            return _array(type_)
        case inspect.UnionType():
            return {"anyOf": [_of(each) for each in type_.types]}
        case inspect.StrType():
            return {"type": "string", **({"pattern": f"{type_.pattern}|{_SUBSTITUTED}"} if type_.pattern else {})}
        case inspect.NoneType():
            return {"type": "null"}
        case _:
            return _substitutable(type_)


def _substitutable(type_: inspect.Type) -> Schema:
    match type_:
        case inspect.BoolType():
            text = {"type": "string", "pattern": f"{_BOOLEAN}|{_SUBSTITUTED}"}
            return {"anyOf": [{"type": "boolean"}, text]}
        case inspect.LiteralType():
            return {"anyOf": [{"enum": list(type_.values)}, _SUBSTITUTION]}
        case inspect.IntType():
            return {"anyOf": [{"type": "integer", **_range(type_)}, _SUBSTITUTION]}
        case inspect.FloatType():
            return {"anyOf": [{"type": "number", **_range(type_)}, _SUBSTITUTION]}
        case _:
            return {}


def _range(type_: inspect.IntType | inspect.FloatType) -> Schema:
    limits = {
        "minimum": type_.ge,
        "maximum": type_.le,
        "exclusiveMinimum": type_.gt,
        "exclusiveMaximum": type_.lt,
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def _array(type_: inspect.VarTupleType | inspect.ListType | inspect.SetType | inspect.FrozenSetType) -> Schema:
    return {
        "type": "array",
        "items": _of(type_.item_type),
        **({"minItems": type_.min_length} if type_.min_length else {}),
    }


def _dict(type_: inspect.DictType) -> Schema:
    schema: Schema = {"type": "object", "additionalProperties": _of(type_.value_type)}
    if isinstance(type_.key_type, inspect.StrType) and type_.key_type.pattern:
        schema["propertyNames"] = {"pattern": type_.key_type.pattern}
    return {**schema, **({"minProperties": type_.min_length} if type_.min_length else {})}


def _struct(type_: inspect.StructType) -> Schema:
    fields = [field for field in type_.fields if not _reserved(field)]
    required = [each.encode_name for each in fields if each.required and (type_.cls, each.name) not in _COMPUTED]
    schema: Schema = {
        "type": "object",
        "description": (type_.cls.__doc__ or "").strip().partition("\n")[0],
        "properties": {field.encode_name: _field(type_.cls, field) for field in fields},
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }
    return {**schema, "allOf": _kinds()} if type_.cls is Server else schema


def _reserved(field: inspect.Field) -> bool:
    return bool(unwrapped(field.type)[1].get("hidden"))


def _field(owner: type, field: inspect.Field) -> Schema:
    schema = {**_of(field.type), **_special(owner, field.name)}
    if field.default is NODEFAULT or field.default is None or isinstance(field.default, Struct):
        return schema
    unit = unit_of(unwrapped(field.type)[1])
    return {**schema, "default": unit.format(field.default) if unit else field.default}


def _special(owner: type, name: str) -> Schema:
    """Return what the rules of ``config`` change about a key."""
    match owner, name:
        case _ if (owner, name) == (Settings, "environment"):
            return {
                "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
                "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
            }
        case _ if (owner, name) == (Log, "config"):
            version = {"anyOf": [{"const": 1}, _SUBSTITUTION]}
            mapping = {"type": "object", "properties": {"version": version}, "required": ["version"]}
            return {"anyOf": [mapping, {"type": "null"}]}
        case _ if (owner, name) == (Server, "kind"):
            return {"anyOf": [{"enum": kinds.names()}, {"type": "string", "pattern": f":|{_SUBSTITUTED}"}]}
        case _:
            return {}


def _kinds() -> list[Schema]:
    """Return, for every kind, what it asks of its server."""
    entries = [entry for entry in map(kinds.find, kinds.names()) if entry]
    return [{"if": _is(entry), "then": then} for entry in entries if (then := _asked(entry))]


def _is(entry: kinds.Entry) -> Schema:
    return {"properties": {"kind": {"const": entry.name}}, "required": ["kind"]}


def _asked(entry: kinds.Entry) -> Schema:
    options = _of(inspect.type_info(entry.options)) if entry.options else None
    required = [*(["app"] if entry.app else []), *(["options"] if options and "required" in options else [])]
    asked: Schema = {"required": required} if required else {}
    return {**asked, "properties": {"options": options}} if options else asked

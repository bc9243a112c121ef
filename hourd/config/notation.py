"""How values are written: each unit's text to its value and back, and the words for what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct, inspect

from .. import addresses, networks, units
from .mistakes import alternatives
from .tree import Items, Node, Scalar

SECONDS_MAX: Final = 10 * 365.0 * 86400
SIZE_MAX: Final = 2**63 - 1
_TEXT_MAX: Final = 40
"""Longer numbers overflow a float; nobody writes them."""

_MODE: Final = re.compile(r"(?:0o?)?([0-7]{3,4})")
_REFERENCE: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_PATTERNS: Final = {
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$": "letters, digits and _ . -, at most 64, the first a letter or digit",
    r"^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?$": "a host name in ASCII, or *. and one",
    r"^[!-~]{1,255}$": "a protocol's name such as http/1.1: ASCII without spaces, at most 255",
    r"^[^\x00]+$": "the path of a file",
}


class Unit(Struct, frozen=True):
    """One form of values, as ``Meta.extra["unit"]`` names it."""

    hint: str
    parse: Callable[[str], Any]
    format: Callable[[Any], str]
    pattern: str
    """For editors; may allow more than ``parse``, never less."""


def _duration(text: str) -> float:
    seconds = float(units.parse_duration(text if len(text) <= _TEXT_MAX and text.isascii() else ""))
    if seconds > SECONDS_MAX:
        raise ValueError("expected at most 3650d")
    return seconds


def _duration_text(seconds: float) -> str:
    text = units.format_duration(seconds)
    # The short form rounds: where it does, all digits are written.
    return text if units.parse_duration(text) == seconds else f"{seconds:.30f}".rstrip("0").rstrip(".") + "s"


def _size(text: str) -> int:
    size = units.parse_size(text if len(text) <= _TEXT_MAX and text.isascii() else "")
    if size > SIZE_MAX:
        raise ValueError(f"expected at most {SIZE_MAX}B")
    return size


def _share(text: str) -> float:
    return units.parse_share(text if len(text) <= _TEXT_MAX and text.isascii() else "")


def _mode(text: str) -> int:
    match = _MODE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected {_MODE_HINT}")
    return int(match[1], 8)


def _address(text: str) -> str:
    addresses.parse(text)
    return text


def _reference(text: str) -> str:
    if not _REFERENCE.fullmatch(text):
        raise ValueError(f"expected {_REFERENCE_HINT}")
    return text


def _file(text: str) -> str:
    if not text:
        raise ValueError(f"expected {_FILE_HINT}")
    return text


_FILE_HINT: Final = "the path of a file"
_MODE_HINT: Final = "permission bits in octal such as 0660"
_REFERENCE_HINT: Final = "module:object such as hello.web:create_app"
_ADDRESS_PATTERN: Final = (
    r"^unix:[/@].+$|^systemd:[^:]+$|^fd:[0-9]{1,6}$|^(udp:)?([0-9.]+|localhost|\[[0-9A-Fa-f:.]+\])?:[0-9]{1,5}$"
)

UNITS: Final = {
    "duration": Unit(units.DURATION_HINT, _duration, _duration_text, r"^\d+(\.\d+)?(ms|s|m|h|d)$|^0$"),
    "size": Unit(units.SIZE_HINT, _size, units.format_size, r"^\d+(\.\d+)?(B|KiB|MiB|GiB)$|^0$"),
    "share": Unit(units.SHARE_HINT, _share, units.format_share, r"^\d+(\.\d+)?%$"),
    "mode": Unit(_MODE_HINT, _mode, lambda mode: f"{mode:04o}", r"^(0o?)?[0-7]{3,4}$"),
    "address": Unit(addresses.ADDRESS_HINT, _address, str, _ADDRESS_PATTERN),
    "network": Unit(networks.NETWORK_HINT, networks.parse_network, str, r"^[0-9A-Fa-f:.]+(/[0-9.]+)?$|^unix$"),
    "file": Unit(_FILE_HINT, _file, str, r"^.+$"),
    "reference": Unit(_REFERENCE_HINT, _reference, str, r"^[^\s:]+:[^\s:]+$"),
}


def at_least(seconds: float) -> str:
    """Return the pattern of durations that are no less, for editors: exact up to seconds, above 0 from minutes on.

    Args:
        seconds: a power of ten, from 1 ms to 1 s.
    """
    places = round(-math.log10(seconds))
    parts = [rf"0*[1-9]\d{{{3 - places},}}(\.\d+)?ms", r"0*[1-9]\d*(\.\d+)?s", r"(?=.*[1-9])\d+(\.\d+)?[mhd]"]
    if places:
        parts.append(rf"0+\.0{{0,{places - 1}}}[1-9]\d*s")
    return f"^({'|'.join(parts)})$"


def unwrapped(type_: inspect.Type) -> tuple[inspect.Type, dict[str, Any], dict[str, Any]]:
    """Return a type without its ``Meta``, the markers of all of them, and their JSON Schema."""
    extra: dict[str, Any] = {}
    schema: dict[str, Any] = {}
    while isinstance(type_, inspect.Metadata):
        extra = {**(type_.extra or {}), **extra}
        schema = {**(type_.extra_json_schema or {}), **schema}
        type_ = type_.type
    return type_, extra, schema


def unit_of(extra: dict[str, Any]) -> Unit | None:
    """Return the unit that the markers name, if they do."""
    return UNITS.get(extra.get("unit", ""))


def expected(type_: inspect.Type) -> str:
    """Say what a type allows."""
    type_, extra, _ = unwrapped(type_)
    unit = unit_of(extra)
    return unit.hint if unit else _expected(type_)


def _expected(type_: inspect.Type) -> str:  # noqa: C901, PLR0911, one for each type
    match type_:
        case inspect.StrType():
            return _PATTERNS.get(type_.pattern or "", "text")
        case inspect.IntType():
            return f"a whole number{_range(type_)}"
        case inspect.FloatType():
            return f"a number{_range(type_)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType():
            return alternatives(str(value) for value in type_.values)
        case inspect.UnionType():
            members = (each for each in type_.types if not isinstance(each, inspect.NoneType))
            return " or ".join(expected(each) for each in members)
        case inspect.VarTupleType():
            return f"{expected(type_.item_type)}, or a list of such"
        case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType() | inspect.TupleType():
            return "a list"
        case inspect.StructType() if all(field.required for field in type_.fields):
            return f"a mapping with {' and '.join(field.encode_name for field in type_.fields)}"
        case inspect.DictType() | inspect.StructType() | inspect.TypedDictType() | inspect.DataclassType():
            return "a mapping of keys to values"
        case _:
            return "another value"


def _range(type_: inspect.IntType | inspect.FloatType) -> str:
    words = {" from ": type_.ge, " to ": type_.le, " above ": type_.gt, " below ": type_.lt}
    text = "".join(f"{word}{number}" for word, number in words.items() if number is not None)
    return text.replace(" to ", " up to ") if type_.ge is None else text


def found(node: Node) -> str:
    """Say what stands there instead; of a secret, its reference."""
    if isinstance(node, Scalar):
        return _found(node)
    return "a list" if isinstance(node, Items) else "a mapping"


def _found(scalar: Scalar) -> str:
    if scalar.reference is not None:
        return scalar.shown
    if scalar.tag == "null":
        return "nothing"
    return scalar.text if scalar.plain and scalar.tag in {"int", "float", "bool"} else f"the text {scalar.shown}"

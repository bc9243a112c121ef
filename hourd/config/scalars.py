"""Single values: what YAML itself makes of them, and whether they keep to the limits of a type.

As ``yaml.safe_load`` does, less what cannot travel as JSON: dates stay text, and numbers are finite
and have at most 64 bits.
"""

from __future__ import annotations

import math
import re
from typing import Final

import yaml
from msgspec import inspect
from yaml.constructor import SafeConstructor

from .tree import TAG_PREFIX, Scalar

_INT_MAX: Final = 2**63 - 1
_CONSTRUCTED: Final = frozenset({"int", "float", "bool", "null"})


def value_of(scalar: Scalar) -> str | int | float | bool | None:
    """Return text, a number, a boolean or ``None``.

    Raises:
        ValueError: it has no meaning; the text says why, without the value.
    """
    if scalar.tag not in _CONSTRUCTED:
        return scalar.text
    try:
        value: str | int | float | bool | None = SafeConstructor().construct_object(
            yaml.ScalarNode(TAG_PREFIX + scalar.tag, scalar.text)
        )
    # `!!int x`, `!!bool x`, and odd numbers such as `0b_` that the resolver lets pass.
    except (ValueError, LookupError, ArithmeticError):
        raise ValueError(f"is no valid {scalar.tag}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("is no finite number")
    if isinstance(value, int) and not -_INT_MAX <= value <= _INT_MAX:
        raise ValueError("is too large; a number has at most 64 bits")
    return value


def fits(text: str, type_: inspect.StrType) -> bool:
    """Tell whether a text keeps to the limits of its type."""
    # fullmatch: `$` alone lets a line end pass.
    return (
        (type_.pattern is None or re.fullmatch(type_.pattern, text) is not None)
        and (type_.min_length is None or len(text) >= type_.min_length)
        and (type_.max_length is None or len(text) <= type_.max_length)
    )


def within(value: float, type_: inspect.IntType | inspect.FloatType) -> bool:
    """Tell whether a number keeps to the limits of its type."""
    return (
        (type_.ge is None or value >= type_.ge)
        and (type_.le is None or value <= type_.le)
        and (type_.gt is None or value > type_.gt)
        and (type_.lt is None or value < type_.lt)
    )

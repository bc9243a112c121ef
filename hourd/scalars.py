"""What YAML itself makes of a value, for what no type of hourd describes.

As ``yaml.safe_load`` does, less what cannot travel as JSON: dates stay text, and numbers are finite
and have at most 64 bits.
"""

from __future__ import annotations

import math
from typing import Final

import yaml
from yaml.constructor import SafeConstructor

from .tree import TAG_PREFIX, Scalar

_INT_BITS: Final = 63
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
    if isinstance(value, int) and value.bit_length() > _INT_BITS:
        raise ValueError("is too large; a number has at most 64 bits")
    return value

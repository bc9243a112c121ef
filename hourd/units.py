"""Durations, sizes and shares as people write them, and the types that stand for them in settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_EXACT: Final = 1e-9
_WHOLE: Final = 100.0
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)(B|KiB|MiB|GiB)")
_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)%")

DURATION_HINT: Final = "a duration such as 250ms, 30s, 5m or 12h"
SIZE_HINT: Final = "a size such as 64KiB, 512MiB or 2GiB"
SHARE_HINT: Final = "a share such as 0%, 10% or 100%"

Duration = Annotated[
    float,
    Meta(
        extra={"unit": "duration"},
        extra_json_schema={
            "type": "string",
            "pattern": f"^{_DURATION.pattern}$|^0$",
            "examples": ["250ms", "30s", "5m", "12h"],
        },
    ),
]
"""Seconds, written as ``250ms``, ``30s``, ``5m``, ``12h``."""

Size = Annotated[
    int,
    Meta(
        extra={"unit": "size"},
        extra_json_schema={
            "type": "string",
            "pattern": f"^{_SIZE.pattern}$|^0$",
            "examples": ["64KiB", "512MiB", "2GiB"],
        },
    ),
]
"""Bytes, written as ``64KiB``, ``512MiB``, ``2GiB``."""

Share = Annotated[
    float,
    Meta(
        extra={"unit": "share"},
        extra_json_schema={"type": "string", "pattern": f"^{_SHARE.pattern}$", "examples": ["0%", "10%"]},
    ),
]
"""From 0 to 1, written as ``10%``."""


def parse_duration(text: str) -> float:
    """Return seconds; ``"0"`` is allowed without a unit, everything else needs one.

    Raises:
        ValueError: the text is no duration; its message says what is allowed.
    """
    return _parse(text, _DURATION, _SECONDS, DURATION_HINT)


def parse_size(text: str) -> int:
    """Return bytes; ``"0"`` is allowed without a unit, everything else needs one.

    Raises:
        ValueError: the text is no size; its message says what is allowed.
    """
    return int(_parse(text, _SIZE, _BYTES, SIZE_HINT))


def parse_share(text: str) -> float:
    """Return a share from 0 to 1.

    Raises:
        ValueError: the text is none; its message says what is allowed.
    """
    match = _SHARE.fullmatch(text)
    if match is None or float(match[1]) > _WHOLE:
        raise ValueError(f"expected {SHARE_HINT}")
    return float(match[1]) / _WHOLE


def format_share(share: float) -> str:
    """Return a percentage."""
    return f"{share * _WHOLE:.10g}%"


def format_duration(seconds: float) -> str:
    """Return a short way to write it, to the nearest microsecond: ``90s`` rather than ``1.5m``."""
    if seconds == 0:
        return "0"
    for unit in ("d", "h", "m", "s", "ms"):
        number = seconds / _SECONDS[unit]
        if number >= 1 and abs(number - round(number)) < _EXACT:
            return f"{round(number)}{unit}"
    return f"{seconds * 1000:g}ms"


def format_size(size: int) -> str:
    """Return the shortest exact way to write it."""
    if size == 0:
        return "0"
    for unit in ("GiB", "MiB", "KiB"):
        if size % _BYTES[unit] == 0:
            return f"{size // _BYTES[unit]}{unit}"
    return f"{size}B"


def _parse(text: str, pattern: re.Pattern[str], units: Mapping[str, float], hint: str) -> float:
    if text == "0":
        return 0
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(f"expected {hint}")
    return float(match[1]) * units[match[2]]

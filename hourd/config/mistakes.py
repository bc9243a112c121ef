"""The mistakes in a configuration, collected until all are known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from .. import errors

_SHOWN_MAX: Final = 60


class Place(Struct, frozen=True):
    """Where something stands: a line of a file, or an option of the command line."""

    source: str
    line: int = 0
    """From 1; 0 for what is no file."""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


class Mistakes:
    """What is wrong so far."""

    def __init__(self) -> None:
        # A dict keeps the order and drops what an alias would say twice.
        self._found: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, place: Place, key: str, text: str) -> None:
        """Note one. The key is left out where the place is an option, which names it already."""
        parts = (str(place), key, text) if key and place.line else (str(place), text)
        self._found[": ".join(parts)] = place.line

    def raise_any(self) -> None:
        """Raise what was noted, if anything was: one line each, sorted by line.

        Raises:
            errors.ConfigError: there are mistakes.
        """
        if self._found:
            raise errors.ConfigError("\n".join(sorted(self._found, key=self._found.__getitem__)))


def refusal(place: Place, text: str) -> errors.ConfigError:
    """Return the error for what makes reading on pointless."""
    return errors.ConfigError(f"{place}: {text}")


def join(key: str, name: str) -> str:
    """Return the dotted path of a name under a key; a name that would break the line is quoted."""
    name = name if name.isprintable() and name else shown(name)
    return f"{key}.{name}" if key else name


def shown(text: str) -> str:
    """Quote a text on one line, cut where it is long."""
    return repr(text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}...")


def alternatives(words: Iterable[str]) -> str:
    """Return ``a, b or c``."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def suggestion(word: str, words: Iterable[str]) -> str:
    """Return ``, did you mean 'workers'?``, or nothing when no word is close."""
    # 250 KiB of the master's memory, and only those who mistyped need it.
    import difflib  # noqa: PLC0415

    close = difflib.get_close_matches(word, list(words), n=1)
    return f", did you mean {close[0]!r}?" if close else ""

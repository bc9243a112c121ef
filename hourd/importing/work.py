"""One configuration file of Gunicorn on its way."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..units import format_duration
from .draft import Draft
from .execution import Conf

_FOREVER = 24 * 3600.0
_HTTP = ("aiohttp", "asgi", "wsgi", "container")


@dataclass
class Work:
    """One file on its way."""

    conf: Conf
    draft: Draft
    kind: str
    worker: str
    """The worker class."""
    mistakes: list[str]

    def get(self, name: str, default: Any = None) -> Any:
        value = self.conf.values.get(name)
        return default if value is None else value

    def note(self, name: str, why: str) -> None:
        self.draft.note(self.conf.where(name), why)

    def wrong(self, name: str, expected: str) -> None:
        self.mistakes.append(f"{self.conf.where(name)}: expected {expected}, got {self.conf.values[name]!r}")

    def from_environment(self, name: str, variable: str) -> str | None:
        """Return the variable that Gunicorn has as the default of a setting, unless the file sets that."""
        if self.get(name) is not None or variable not in os.environ:
            return None
        self.note(name, f"comes from {variable} in the environment; ${{{variable}}} in its place is read at each start")
        return os.environ[variable]

    def integer(self, name: str, default: int) -> int:
        """Return a whole number, which may be written as text."""
        value = self.get(name, default)
        try:
            return int(value, 0) if isinstance(value, str) else int(value)
        except (TypeError, ValueError, OverflowError):
            self.wrong(name, "a whole number")
            return default

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, which may be written as one with commas."""
        value = self.get(name, [])
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(isinstance(each, str) for each in parts):
            self.wrong(name, "text or a list of texts")
            return []
        return [each.strip() for each in parts if each.strip()]

    def flag(self, name: str) -> bool:
        value = self.get(name, False)
        return value.strip().lower() == "true" if isinstance(value, str) else bool(value)

    def seconds(self, name: str, default: int) -> str:
        """Return a duration; what is forever is a day."""
        number = self.integer(name, default)
        if number <= 0:
            self.note(name, "0 is forever, which hourd does not know; it is 24h here")
        return format_duration(number if number > 0 else _FOREVER)

    def option(self, name: str, key: str, value: Any, only: tuple[str, ...] = _HTTP) -> None:
        """Set an option that kinds have in common."""
        if self.kind in only:
            self.draft.options[key] = value
        else:
            self.note(name, f"has no counterpart with kind {self.kind}")


Rule = Callable[[Work], None]
"""Does what a setting asks for."""


def nothing(_work: Work) -> None:
    """Do nothing: another setting's rule has it."""

"""A configuration of hourd in the making, with what is to be said about it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from ..config.substitution import escape

_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_WIDTH = 118


class Draft:
    """One pool with one server, filled in bit by bit."""

    def __init__(self, source: str) -> None:
        """Take where it comes from, for its first line."""
        self.settings: dict[str, Any] = {}
        self.pool: dict[str, Any] = {}
        self.server: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.log: dict[str, Any] = {}
        self.notes: list[str] = []
        """What has no counterpart, or is to be looked at: ``FILE:LINE: SETTING: why``."""
        self._source = source

    def note(self, where: str, why: str) -> None:
        self.notes.append(f"{where}: {why}")

    def name(self, text: str) -> None:
        """Name the daemon, with what is allowed in names."""
        self.settings["name"] = _NAME.sub("-", text).strip("-._")[:64] or "imported"

    def to_yaml(self) -> str:
        """Return it as a file, with the notes as comments at its head."""
        server = {**self.server, **({"options": self.options} if self.options else {})}
        pool = {**self.pool, "servers": {"main": server}}
        whole = {**self.settings, **({"log": self.log} if self.log else {}), "pools": {"main": pool}}
        head = [f"# Made by hourd import from {self._source}."]
        if self.notes:
            head += [
                "#",
                "# What has no counterpart here, or is to be looked at:",
                *(f"#   {_line(note)}" for note in self.notes),
            ]
        # The checks of this version are for this file; ``hourd check`` tells what is wrong with it.
        body = yaml.safe_dump(_escaped(whole), sort_keys=False, allow_unicode=True, width=_WIDTH)
        return "\n".join(head) + "\n\n" + body


def _line(text: str) -> str:
    """Keep a comment on its line, whatever is in it."""
    return " ".join(text.split())


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, Mapping):
        return {name: _escaped(each) for name, each in value.items()}
    return [_escaped(each) for each in value] if isinstance(value, (list, tuple)) else value

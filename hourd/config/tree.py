"""The tree of a configuration: values that know where they stand.

The file, the command line and what is substituted all become this tree, so that one reader checks
them all and each mistake names its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import yaml
from msgspec import Struct
from msgspec.structs import replace
from yaml.resolver import Resolver

from .mistakes import Place, shown

if TYPE_CHECKING:
    from typing import TypeAlias

TAG_PREFIX: Final = "tag:yaml.org,2002:"
_RESOLVER: Final[Any] = Resolver()


class Scalar(Struct, frozen=True):
    """One value."""

    place: Place
    text: str
    tag: str = "str"
    """What YAML takes the text for: ``str int float bool null ...``."""
    plain: bool = False
    """Written without quotes."""
    literal: bool = False
    """Nothing is substituted in it: the shell has done so."""
    reference: str | None = None
    """What to show instead when the text holds a secret."""

    def __repr__(self) -> str:
        return f"Scalar({self.shown})"

    @property
    def shown(self) -> str:
        """The text as a mistake may show it."""
        return shown(self.text) if self.reference is None else repr(self.reference)


class Items(Struct, frozen=True):
    """A list."""

    place: Place
    items: tuple[Node, ...]


class Section(Struct, frozen=True):
    """A mapping."""

    place: Place
    entries: dict[str, Node]
    keys: dict[str, Place]
    """Where each key stands."""

    def having(self, name: str, node: Node) -> Section:
        """Return it with one entry more, or another one."""
        keys = self.keys if name in self.keys else {**self.keys, name: node.place}
        return replace(self, entries={**self.entries, name: node}, keys=keys)


class Broken(Struct, frozen=True):
    """Something whose mistake is noted already."""

    place: Place


Node: TypeAlias = "Scalar | Items | Section | Broken"


def resolve(text: str) -> str:
    """Return the tag of a text without quotes."""
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
    return tag.removeprefix(TAG_PREFIX)


def unfit(text: str) -> str | None:
    """Say why a text can be no value: neither the system nor JSON could take it."""
    if "\0" in text:
        return "has a NUL character"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "is not valid Unicode"
    return None


def inner(node: Node) -> Iterable[tuple[str | int, Node]]:
    """Return what a node holds, each with its key, or its number from 0."""
    if isinstance(node, Section):
        return node.entries.items()
    return enumerate(node.items) if isinstance(node, Items) else ()


def measure(node: Node) -> tuple[int, int]:
    """Return how many values a node stands for, and how many levels lie below it."""
    below = [measure(each) for _, each in inner(node)]
    return 1 + sum(nodes for nodes, _ in below), 1 + max((levels for _, levels in below), default=-1)


def secrets(node: Node, path: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], Scalar]:
    """Return the values that hold a secret, each under its path."""
    if isinstance(node, Scalar):
        return {path: node} if node.reference is not None else {}
    found: dict[tuple[str | int, ...], Scalar] = {}
    for name, each in inner(node):
        found |= secrets(each, (*path, name))
    return found


def has_secret(node: Node) -> bool:
    """Tell whether any value in it holds a secret."""
    return bool(secrets(node))

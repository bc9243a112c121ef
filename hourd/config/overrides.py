"""What the command line says, put into the tree of the file as if it stood there.

Its values are checked as those of the file are, and their mistakes name the option.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from .mistakes import Mistakes, Place
from .tree import Items, Node, Scalar, Section, resolve


class Overrides(Struct, frozen=True, kw_only=True):
    """Options of the command line, environment variables included; ``None`` leaves the file's value."""

    name: str | None = None
    directory: str | None = None
    user: str | None = None
    group: str | None = None
    control: str | None = None
    pid_file: str | None = None
    log_level: str | None = None
    log_format: str | None = None
    workers: str | int | None = None
    """Of the first pool."""
    bind: tuple[str, ...] = ()
    """Of the only server."""


NONE: Final = Overrides()
_TOP: Final = ("name", "directory", "user", "group", "control", "pid_file")
_LOG: Final = ("level", "format")


def place(option: str) -> Place:
    """Return where a value of the command line stands."""
    return Place(f"--{option.replace('_', '-')}")


def text(option: str, value: str) -> Scalar:
    """Return a value of the command line as it would stand in quotes."""
    return Scalar(place(option), value, literal=True)


def with_overrides(root: Section, overrides: Overrides, mistakes: Mistakes) -> Section:
    """Return the tree with the overrides in their places."""
    for name in _TOP:
        value = getattr(overrides, name)
        root = root if value is None else root.having(name, text(name, value))
    root = _log(root, overrides)
    if overrides.workers is not None:
        root = _workers(root, str(overrides.workers))
    return _bind(root, overrides.bind, mistakes) if overrides.bind else root


def _log(root: Section, overrides: Overrides) -> Section:
    for name in _LOG:
        option, value = f"log_{name}", getattr(overrides, f"log_{name}")
        log = root.entries.get("log", Section(place(option), {}, {}))
        # What is no mapping is left as it is, for its own mistake to be noted.
        if value is not None and isinstance(log, Section):
            root = root.having("log", log.having(name, text(option, value)))
    return root


def _workers(root: Section, value: str) -> Section:
    pools = root.entries.get("pools")
    if not isinstance(pools, Section) or not pools.entries:
        return root
    first, pool = next(iter(pools.entries.items()))
    if not isinstance(pool, Section):
        return root
    number = Scalar(place("workers"), value, resolve(value), plain=True, literal=True)
    return root.having("pools", pools.having(first, pool.having("workers", number)))


def _bind(root: Section, values: tuple[str, ...], mistakes: Mistakes) -> Section:
    found = _servers(root)
    if len(found) != 1:
        if found:
            names = ", ".join(f"{pool}.{server}" for pool, server in found)
            mistakes.add(place("bind"), "", f"there are several servers ({names}); set bind of each in the file")
        return root
    path = ("pools", found[0][0], "servers", found[0][1], "bind")
    return _put(root, path, Items(place("bind"), tuple(text("bind", value) for value in values)))


def _servers(root: Section) -> list[tuple[str, str]]:
    """Return pool and name of each server that is a mapping."""
    return [
        (pool, server)
        for pool, each in _sections(root.entries.get("pools"))
        for server, _ in _sections(each.entries.get("servers"))
    ]


def _sections(node: Node | None) -> list[tuple[str, Section]]:
    entries = node.entries.items() if isinstance(node, Section) else ()
    return [(name, each) for name, each in entries if isinstance(each, Section)]


def _put(section: Section, path: tuple[str, ...], node: Node) -> Section:
    name, *rest = path
    child = section.entries.get(name)
    return section.having(name, _put(child, tuple(rest), node) if rest and isinstance(child, Section) else node)

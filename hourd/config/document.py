"""A YAML text as a tree that knows where everything stands.

Built from the parser's events rather than by ``yaml.compose``: the C composer recurses without a
bound and takes the process with it (SIGSEGV on 500,000 opening brackets), and it shares the nodes
of aliases, so that a small text ("billion laughs") stands for a tree that no memory holds. Here
depth and size, aliases counted in full, are bounded while reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import yaml
from msgspec.structs import replace
from yaml.reader import Reader

from .mistakes import Mistakes, Place, join, refusal
from .tree import TAG_PREFIX, Broken, Items, Node, Scalar, Section, measure, resolve, unfit

NODES_MAX: Final = 100_000
DEPTH_MAX: Final = 50

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE: Final = Reader.NON_PRINTABLE
_KNOWN_TAGS: Final = frozenset({"str", "int", "float", "bool", "null", "timestamp", "merge", "value"})
_COLLECTION_TAGS: Final = frozenset({None, "!", f"{TAG_PREFIX}seq", f"{TAG_PREFIX}map"})


def parse(content: bytes, source: str, mistakes: Mistakes) -> Section:
    """Return the mapping that a YAML text is.

    Args:
        content: UTF-8, no larger than memory should bear.
        source: the file's name, for places.
        mistakes: duplicate keys and the like are noted here.

    Raises:
        errors.ConfigError: it is no YAML, or no mapping.
    """
    events = _Events(_decoded(content, source), source)
    node = _Builder(events, mistakes).document()
    if isinstance(node, Section):
        return node
    found = "is empty" if node is None else "is no mapping of keys to values"
    raise refusal(Place(source, 1), f"the file {found}; it needs at least the key pools")


def _decoded(content: bytes, source: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # What the error counts in lacks the byte order mark, if there was one.
        byte, line = error.object[error.start], error.object.count(b"\n", 0, error.start) + 1
        raise refusal(Place(source, line), f"the byte 0x{byte:02x} is not UTF-8") from None
    found = _UNPRINTABLE.search(text)
    if found:
        place = Place(source, text.count("\n", 0, found.start()) + 1)
        raise refusal(place, f"the character U+{ord(found[0]):04X} may not stand in a YAML file")
    return text


class _Events:
    """The parser's events, each with its place."""

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        self._events: Iterator[Any] = yaml.parse(text, Loader=_Loader)

    def place(self, event: Any) -> Place:
        return Place(self._source, event.start_mark.line + 1)

    def next(self) -> Any:
        """Return the next event.

        Raises:
            errors.ConfigError: the text is no YAML.
        """
        try:
            return next(self._events)
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error) from None
        # Escapes such as "\UFFFFFFFF" reach chr() in the Python parser, flow sequences its recursion limit.
        except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
            raise refusal(Place(self._source, 1), "is not valid YAML") from None

    def _syntax(self, error: yaml.MarkedYAMLError) -> Exception:
        mark = error.problem_mark or error.context_mark
        number = mark.line if mark else 0
        lines = self._text.split("\n")
        line = lines[number] if number < len(lines) else ""
        indent = line[: len(line) - len(line.lstrip())]
        why = "a tab indents; YAML wants spaces" if "\t" in indent else f"is not valid YAML: {error.problem}"
        return refusal(Place(self._source, number + 1), " ".join(why.split()))


class _Builder:
    """Events to nodes, downwards."""

    def __init__(self, events: _Events, mistakes: Mistakes) -> None:
        self._events = events
        self._mistakes = mistakes
        self._anchors: dict[str, Node] = {}
        self._nodes = 0

    def document(self) -> Node | None:
        """Return the only document's node; ``None`` when there is nothing in it."""
        event = self._events.next()
        while isinstance(event, (yaml.StreamStartEvent, yaml.DocumentStartEvent)):
            event = self._events.next()
        if isinstance(event, yaml.StreamEndEvent):
            return None
        node = self._node(event, "", self._events.place(event), 0)
        self._end()
        return None if isinstance(node, Scalar) and node.tag == "null" else node

    def _end(self) -> None:
        self._events.next()
        event = self._events.next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise refusal(self._events.place(event), "a second document begins; one file holds one")

    def _node(self, event: Any, key: str, place: Place, depth: int) -> Node:
        """Return the node that begins with an event; a list or mapping stands where its key does."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, place, depth)
        self._count(event, 1, depth)
        node = self._collection(event, key, place, depth)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, place: Place, depth: int) -> Node:
        # An anchor counts once its node is complete: what contains itself is refused here too.
        if event.anchor not in self._anchors:
            raise refusal(self._events.place(event), f"the alias *{event.anchor} has no complete anchor before it")
        node = self._anchors[event.anchor]
        nodes, levels = measure(node)
        self._count(event, nodes, depth + levels)
        return node if isinstance(node, Scalar) else replace(node, place=place)

    def _count(self, event: Any, nodes: int, depth: int) -> None:
        self._nodes += nodes
        if self._nodes > NODES_MAX:
            raise refusal(self._events.place(event), f"more than {NODES_MAX} values, aliases counted in full")
        if depth > DEPTH_MAX:
            raise refusal(self._events.place(event), f"nested deeper than {DEPTH_MAX} levels")

    def _collection(self, event: Any, key: str, place: Place, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, key)
        node: Node
        if isinstance(event, yaml.SequenceStartEvent):
            node = Items(place, tuple(self._items(key, depth)))
        else:
            node = self._section(key, place, depth)
        return node if event.tag in _COLLECTION_TAGS else self._unknown(place, key, event.tag)

    def _scalar(self, event: Any, key: str) -> Node:
        place, plain = self._events.place(event), bool(event.implicit[0])
        if event.tag in {None, "!"}:
            tag = resolve(event.value) if plain else "str"
        else:
            tag = event.tag.removeprefix(TAG_PREFIX)
        if tag not in _KNOWN_TAGS:
            return self._unknown(place, key, event.tag or tag)
        why = unfit(event.value)
        return self._broken(place, key, why) if why else Scalar(place, event.value, tag, plain)

    def _items(self, key: str, depth: int) -> Iterator[Node]:
        number = 0
        while not isinstance(event := self._events.next(), yaml.SequenceEndEvent):
            yield self._node(event, f"{key}[{number}]", self._events.place(event), depth + 1)
            number += 1

    def _section(self, key: str, place: Place, depth: int) -> Section:
        own, merged = Section(place, {}, {}), Section(place, {}, {})
        while not isinstance(event := self._events.next(), yaml.MappingEndEvent):
            at = self._events.place(event)
            name = self._node(event, key, at, depth + 1)
            path = join(key, name.text) if isinstance(name, Scalar) else key
            value = self._node(self._events.next(), path, at, depth + 1)
            if isinstance(name, Scalar) and name.tag == "merge":
                self._merge(merged, value, path, at)
            else:
                self._enter(own, name, value, at, path)
        return Section(place, merged.entries | own.entries, merged.keys | own.keys)

    def _enter(self, section: Section, name: Node, value: Node, at: Place, path: str) -> None:
        if not isinstance(name, Scalar):
            if not isinstance(name, Broken):
                self._mistakes.add(at, path, "a key must be text, not a list or mapping")
        elif name.text in section.keys:
            self._mistakes.add(at, path, f"is there twice; the first is in line {section.keys[name.text].line}")
        else:
            section.entries[name.text], section.keys[name.text] = value, at

    def _merge(self, section: Section, value: Node, path: str, at: Place) -> None:
        """Take what ``<<`` names; the first of several wins."""
        for source in value.items if isinstance(value, Items) else (value,):
            if isinstance(source, Section):
                for name, node in source.entries.items():
                    section.entries.setdefault(name, node)
                    section.keys.setdefault(name, source.keys[name])
            elif not isinstance(source, Broken):
                self._mistakes.add(at, path, "expected a mapping or a list of mappings to merge")

    def _unknown(self, place: Place, key: str, tag: str) -> Broken:
        return self._broken(place, key, f"the tag {tag} is unknown; leave it out")

    def _broken(self, place: Place, key: str, why: str) -> Broken:
        self._mistakes.add(place, key, why)
        return Broken(place)

"""Print a manual page: make.py hourd.1 | hourd.yaml.5.

The commands come from the command line, and the keys from the JSON Schema, so that they are written once. What is
between them stands in hourd.1.in and hourd.yaml.5.in. Runs wherever hourd is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from hourd import __version__, cli
from hourd.config.schema import json_schema
from hourd.importing import commands as importing

Schema = dict[str, Any]

_OPTIONS_OF = "pools.NAME.servers.NAME.options"
_SAID_HERE = {
    "group": "and in this group; default: the one that the user has",
    "log.config.version": "of that format: 1",
    "pid_file": "where to write the process id of the master",
    "log.level": "what is logged",
    "log.format": "how it looks",
    "pools": "the pools, by name",
    "pools.NAME.loop": "the event loop",
    "pools.NAME.servers": "the servers, by name",
    "pools.NAME.workers.min": "never fewer",
    "pools.NAME.workers.max": "never more",
    "pools.NAME.restart.backoff_max": "the longest delay",
    "pools.NAME.restart.giving_up.failures": "after more failures than this",
    "pools.NAME.restart.giving_up.within": "in so long; at least 100ms",
    "pools.NAME.recycle.requests": "after so many requests, where the protocol has requests",
    "pools.NAME.recycle.connections": "after so many accepted connections",
    "pools.NAME.recycle.age": "at this age",
    "pools.NAME.recycle.memory": "with so much private memory; what is shared with the mold does not count",
}
"""Of keys whose name says enough in the source."""


def main() -> None:
    """Fill in the page that is asked for."""
    (page,) = sys.argv[1:]
    text = Path(__file__).with_name(f"{page}.in").read_text()
    for name, lines in (("COMMANDS", _commands()), ("ENVIRONMENT", _environment()), ("KEYS", _keys(json_schema()))):
        if f"@{name}@" in text:
            text = text.replace(f"@{name}@", "\n".join(lines))
    sys.stdout.write(text.replace("@VERSION@", __version__))


# --- hourd(1) -------------------------------------------------------------------------------------


def _commands() -> Iterator[str]:
    told: dict[tuple[str | None, ...], str] = {}
    for name, command in _all_commands():
        arguments = [one for one in command.params if isinstance(one, click.Argument)]
        yield f".SS {_bold('hourd ' + name)} {' '.join(map(_metavar, arguments))}".rstrip()
        yield from _paragraphs(command.help or "")
        again: dict[str, list[str]] = {}
        for option in command.params:
            if not isinstance(option, click.Option) or option.hidden:
                continue
            if (same := (*option.opts, option.help)) in told:
                again.setdefault(told[same], []).append(_bold(option.opts[0]))
                continue
            told[same] = name
            yield from (".TP", ", ".join(map(_bold, option.opts)) + _value(option))
            default = f" Default: {option.default}." if option.show_default and option.default else ""
            yield _text((option.help or "") + default)
        for other, options in again.items():
            yield from (".PP", f"{', '.join(options)}: as for {_bold('hourd ' + other)}.")


def _all_commands() -> Iterator[tuple[str, click.Command]]:
    yield from cli.main.commands.items()
    yield from ((f"import {name}", command) for name, command in importing.group.commands.items())


def _value(option: click.Option) -> str:
    return "" if option.is_flag else f" {_italic(option.metavar or option.type.name.upper())}"


def _metavar(argument: click.Argument) -> str:
    name = _italic(argument.metavar or (argument.name or "").upper())
    return name if argument.required else f"[{name}]"


def _environment() -> Iterator[str]:
    told: dict[str, list[str]] = {}
    for _, command in _all_commands():
        for parameter in command.params:
            for variable in [parameter.envvar] if isinstance(parameter.envvar, str) else []:
                told.setdefault(variable, [])
                if parameter.opts[-1] not in told[variable]:
                    told[variable].append(parameter.opts[-1])
    for variable, names in told.items():
        is_option = names[0].startswith("-")
        yield from (".TP", _bold(variable), f"as {', '.join(map(_bold, names)) if is_option else _italic('APP')}")


# --- hourd.yaml(5) --------------------------------------------------------------------------------


def _keys(schema: Schema, path: str = "") -> Iterator[str]:
    """Describe what is below a key, which may be given in several ways."""
    for name, below in schema.get("properties", {}).items():
        key = f"{path}.{name}" if path else name
        yield from _key(key, below, required=name in schema.get("required", ()))
        yield from _keys(below, key)
    for way in schema.get("anyOf", ()):
        yield from _keys(way, path)
    named = schema.get("additionalProperties")
    if isinstance(named, dict) and "properties" in named:
        yield from (".SS", _bold(f"{path}.NAME"), _text(named.get("description", "")))
        yield from _keys(named, f"{path}.NAME")
    for kind in schema.get("allOf", ()):
        yield from _kind(kind)


def _kind(rule: Schema) -> Iterator[str]:
    options = rule["then"]["properties"]["options"]
    if options["properties"]:
        yield from (".SS", f"{_bold(_OPTIONS_OF)} of {_bold('kind: ' + rule['if']['properties']['kind']['const'])}")
        yield from _keys(options)


def _key(key: str, schema: Schema, *, required: bool) -> Iterator[str]:
    said = schema.get("description") or _SAID_HERE.get(key, "")
    values = [value for way in schema.get("anyOf", ()) for value in way.get("enum", ())]
    default = schema.get("default")
    told = [
        said.rstrip("."),
        f"One of {', '.join(map(str, values))}" if values and not said.startswith("a kind") else "",
        f"Default: {str(default).lower() if isinstance(default, bool) else default}" if default is not None else "",
        "Required" if required else "",
    ]
    yield from (".TP", _bold(key), _text("".join(f"{part[:1].upper()}{part[1:]}. " for part in told if part).rstrip()))


# --- roff -----------------------------------------------------------------------------------------


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        yield from ([".PP"] if number else [])
        yield _text(" ".join(paragraph.split()))


def _bold(text: str) -> str:
    return rf"\fB{_escaped(text)}\fR"


def _italic(text: str) -> str:
    return rf"\fI{_escaped(text)}\fR"


def _text(text: str) -> str:
    """Return a line of text, which must not begin as a request does."""
    return (r"\&" if text[:1] in {".", "'"} else "") + _escaped(text)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-").replace("`", r"\(ga").replace("'", r"\(aq")


if __name__ == "__main__":
    main()

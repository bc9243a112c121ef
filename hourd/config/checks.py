"""The rules of a configuration that go beyond types."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct, inspect

from ..addresses import UNIX_PATH_MAX
from ..settings import Certificate, Log, Pool, Range, Recycle, Restart, Server, Settings, Timeouts, Tls, UnixSocket
from . import accounts, serving
from .mistakes import join, shown
from .notation import found
from .reader import INVALID, FieldRule, Invalid, Reader, Rules, StructRule
from .tree import Broken, Node, Scalar, Section

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NEVER: Final = ("/", "/etc")
"""Never on ``sys.path``: anything may lie there, and become importable by accident."""


def rules(folder: str) -> Rules:
    """Return the rules, for one reading.

    Args:
        folder: where relative paths start, absolute.
    """
    listeners = serving.Listeners()
    user, group = _checked(accounts.check_user), _checked(accounts.check_group)
    file_group = _checked(accounts.check_file_group)
    paths = _Paths(folder)
    return Rules(
        fields={
            (Settings, "user"): user,
            (Settings, "group"): group,
            (Settings, "directory"): paths.directory,
            (Settings, "control"): paths.socket,
            (Settings, "pid_file"): paths.file,
            (Settings, "environment"): _environment,
            (Log, "config"): _log_config,
            (Server, "kind"): serving.read_kind,
            (Server, "options"): serving.defer_options,
            (UnixSocket, "owner"): user,
            (UnixSocket, "group"): file_group,
        },
        structs={
            Certificate: _note_places,
            Tls: _check_tls,
            Pool: serving.check_pool,
            Server: listeners.check_server,
            Range: _check_range,
            Recycle: _check_recycle,
            Restart: _check_restart,
            Timeouts: _check_timeouts,
        },
        units={"file": paths.present},
    )


def _checked(check: Callable[[str], None]) -> FieldRule:
    """Return the rule that a text passes a check, whose ``ValueError`` says why it does not."""

    def rule(reader: Reader, node: Node, type_: inspect.Type, key: str) -> Any:
        value = reader.read(node, type_, key)
        if not (isinstance(value, str) and isinstance(node, Scalar)):
            return value
        try:
            check(value)
        except ValueError as error:
            return reader.reject(node, key, f"{node.shown} {error}")
        return value

    return rule


class _Paths(Struct, frozen=True):
    """The rules of paths, which become absolute."""

    folder: str

    def file(self, reader: Reader, node: Node, type_: inspect.Type, key: str) -> Any:
        value = reader.read(node, type_, key)
        if value == "":
            return reader.reject(node, key, "expected a path, got an empty text")
        return os.path.abspath(os.path.join(self.folder, value)) if isinstance(value, str) else value

    def socket(self, reader: Reader, node: Node, type_: inspect.Type, key: str) -> Any:
        path = self.file(reader, node, type_, key)
        if isinstance(path, str) and len(os.fsencode(path)) > UNIX_PATH_MAX:
            return reader.reject(node, key, f"is too long; a socket's absolute path has at most {UNIX_PATH_MAX} bytes")
        return path

    def present(self, reader: Reader, node: Node, type_: inspect.Type, key: str) -> Any:
        path = self.file(reader, node, type_, key)
        why = _no_file(path) if isinstance(path, str) and isinstance(node, Scalar) else None
        return reader.reject(node, key, f"{found(node).removeprefix('the text ')} {why}") if why else path

    def directory(self, reader: Reader, node: Node, type_: inspect.Type, key: str) -> Any:
        path = self.file(reader, node, type_, key)
        why = _no_directory(path) if isinstance(path, str) and isinstance(node, Scalar) else None
        return reader.reject(node, key, f"{found(node).removeprefix('the text ')} {why}") if why else path


def _no_directory(path: str) -> str | None:
    if os.path.realpath(path) in _NEVER:
        return "would stand on sys.path, and / and /etc must not; set directory to the application's own"
    if not os.path.isdir(path):
        return "is no directory" if os.path.exists(path) else "does not exist; expected a directory"
    return None


def _no_file(path: str) -> str | None:
    """Say why a file cannot be read. Root may read all; whether a worker's user may, is found where it is read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "is no regular file"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or 'invalid path'}"
    return None if os.access(path, os.R_OK) else "cannot be read: Permission denied"


def _note_places(_reader: Reader, node: Section, values: dict[str, Any], key: str) -> None:
    values["places"] = {name: f"{place}: {join(key, name)}" for name, place in node.keys.items()}


def _check_tls(reader: Reader, node: Section, values: dict[str, Any], key: str) -> None:
    _note_places(reader, node, values, key)
    if values.get("client_certificates") and "client_ca" not in node.entries:
        wanted = "goes with client_ca, which says whose certificates are taken"
        reader.reject(node.entries["client_certificates"], join(key, "client_certificates"), wanted)


def _environment(reader: Reader, node: Node, type_: inspect.Type, key: str) -> Any:
    """Read values as they are written: to a process, ``8080`` and ``true`` are text."""
    if not isinstance(node, Section):
        return reader.read(node, type_, key)
    for name, place in node.keys.items():
        if not _VARIABLE.fullmatch(name):
            wanted = f"{shown(name)} is no name of an environment variable; expected letters, digits and _"
            reader.mistakes.add(place, join(key, name), wanted)
    return {name: _text(reader, each, join(key, name)) for name, each in node.entries.items()}


def _text(reader: Reader, node: Node, key: str) -> str | Invalid:
    if isinstance(node, Scalar):
        return node.text
    return INVALID if isinstance(node, Broken) else reader.reject(node, key, f"expected text, got {found(node)}")


def _log_config(reader: Reader, node: Node, type_: inspect.Type, key: str) -> Any:
    value = reader.read(node, type_, key)
    if isinstance(value, dict):
        version = value.get("version")
        if version is not INVALID and (version != 1 or version is True):
            wanted = "expected version: 1, which logging.config.dictConfig asks for"
            reader.mistakes.add(node.place, join(key, "version"), wanted)
    return value


def _ordered(less: str, more: str, default: Struct | None, why: str) -> StructRule:
    """Return the rule that one value of a mapping is at most another."""

    def rule(reader: Reader, node: Section, values: dict[str, Any], key: str) -> None:
        first, most = (values.get(name, getattr(default, name, None)) for name in (less, more))
        if isinstance(first, (int, float)) and isinstance(most, (int, float)) and first > most:
            name = less if less in node.keys else more
            reader.reject(node.entries[name], join(key, name), why)

    return rule


_check_restart: Final = _ordered(
    "backoff", "backoff_max", Restart(), "backoff is longer than backoff_max; expected at most as long"
)
_check_range: Final = _ordered("min", "max", None, "min is more than max; expected at most as many")
_check_timeouts: Final = _ordered("slow", "hung", Timeouts(), "slow is longer than hung; expected at most as long")


def _check_recycle(reader: Reader, node: Section, values: dict[str, Any], key: str) -> None:
    for name in ("age", "memory"):
        if values.get(name) == 0:
            reader.reject(node.entries[name], join(key, name), "expected more than 0; leave it out for no limit")

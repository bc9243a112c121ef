"""Import what the user wrote. Nothing else in hourd imports user code.

It happens in the mold (``preload: true``) or in each worker, always after privileges were dropped.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import msgspec

from . import __version__, errors, kinds, settings
from .context import Worker, give_worker
from .kinds import detection

_logger = logging.getLogger("hourd.application")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A server's imported pieces."""

    name: str
    """Of its kind."""
    kind: type[kinds.Kind]
    options: Any
    app: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """Everything of a pool that is imported."""

    servers: dict[str, Part]
    lifespan: Any


def load(pool: settings.Pool) -> Application:
    """Import a pool's kinds, applications and lifespan.

    Raises:
        errors.BootError: user code could not be imported; the text holds its traceback.
        errors.ConfigError: the options of a kind from another package are wrong.
    """
    servers = {name: _load_part(name, server) for name, server in pool.servers.items()}
    lifespan = _resolve(pool.lifespan, "lifespan") if pool.lifespan else None
    return Application(servers=servers, lifespan=lifespan)


def explain(error: BaseException, what: str) -> str:
    """Return a message with the traceback from the user's first line on.

    Args:
        error: what user code raised.
        what: what hourd was doing, with the server's name.
    """
    formatted = traceback.TracebackException(type(error), error, _users_part(error.__traceback__))
    text = "".join(formatted.format(chain=True)).rstrip()
    if isinstance(error, SystemExit):
        text += "\n(the code ended its process)"
    return f"{what}:\n{text}"


def _load_part(name: str, server: settings.Server) -> Part:
    kind = _load_kind(name, server.kind)
    if kind is not detection.Auto:
        _check_support(name, server, server.kind, kind)
    options = _convert_options(name, server, server.kind, kind)
    app = _import_app(name, server)
    part = Part(name=server.kind, kind=kind, options=options, app=app)
    if kind is not detection.Auto:
        return part
    try:
        found = detection.detect(app)
    except detection.UnclearError as error:
        raise errors.ConfigError(f"server {name}: {server.app} {error}") from None
    return part if found is None else _settle(name, server, found, app)


def _import_app(name: str, server: settings.Server) -> Any:
    try:
        return _resolve(server.app, f"server {name}: app") if server.app else None
    except errors.BootError as error:
        entry = kinds.find(server.kind)
        if entry and entry.advice:
            raise errors.BootError(f"{error}\n{entry.advice}") from error
        raise


async def make(name: str, server: settings.Server, part: Part, worker: Worker) -> Part:
    """Return a part whose kind is known: where only what its factory makes can tell, that is called here, once.

    Raises:
        errors.ConfigError: the kind cannot be told, or not be had.
    """
    if part.kind is not detection.Auto:
        return part
    app = give_worker(part.app, worker)()
    if inspect.isawaitable(app):
        app = await app
    try:
        found = detection.detect_made(app)
    except detection.UnclearError as error:
        raise errors.ConfigError(f"{server.app} {error}") from None
    # A protocol is made for each connection: that was one, to look at.
    return _settle(name, server, found, part.app if found.kind == "protocol" else app, quietly=worker.slot > 0)


def _settle(name: str, server: settings.Server, found: detection.Found, app: Any, *, quietly: bool = False) -> Part:
    """Take the kind that an application was found to be of, with the defaults of its options."""
    said = f"server {name}: kind {found.kind}, since {server.app} {found.why}"
    entry = kinds.find(found.kind)
    lacks = kinds.missing(entry) if entry else f"is not available yet in hourd {__version__}"
    if lacks:
        raise errors.ConfigError(f"{said}; kind {found.kind} {lacks}")
    _logger.log(logging.DEBUG if quietly else logging.INFO, "%s", said)
    kind = _load_kind(name, found.kind)
    _check_support(name, server, found.kind, kind)
    try:
        options = _convert_options(name, server, found.kind, kind)
    except errors.ConfigError as error:
        raise errors.ConfigError(f"{said}; it needs options, which a configuration file can give: {error}") from None
    return Part(name=found.kind, kind=kind, options=options, app=app)


def _load_kind(name: str, kind: str) -> type[kinds.Kind]:
    try:
        return kinds.load(kind)
    except LookupError as error:
        raise errors.ConfigError(f"server {name}: {error}") from None
    except BaseException as error:
        raise errors.BootError(explain(error, f"server {name}: cannot import kind {kind}")) from error


def _check_support(name: str, server: settings.Server, kind_name: str, kind: type[kinds.Kind]) -> None:
    """Check that a kind can what its server is to have in front."""
    for key in ("tls", "proxy_protocol"):
        if getattr(server, key) and not getattr(kind, key):
            where = f"{server.where}: " if server.where else ""
            raise errors.ConfigError(f"{where}server {name}: kind {kind_name} does not support {key}")


def _convert_options(name: str, server: settings.Server, kind_name: str, kind: type[kinds.Kind]) -> Any:
    """Check options against the kind's own type; those of built-in kinds were checked before."""
    what = f"options of server {name} (kind {kind_name})"
    if server.where:
        what = f"{server.where}: {what}"
    known = {field.encode_name for field in msgspec.structs.fields(kind.Options)}
    if unknown := sorted(set(server.options) - known):
        allowed = ", ".join(sorted(known)) or "none"
        raise errors.ConfigError(f"{what}: unknown {', '.join(unknown)}; allowed: {allowed}")
    try:
        return msgspec.convert(server.options, kind.Options, strict=True)
    except msgspec.ValidationError as error:
        raise errors.ConfigError(f"{what}: {error}") from None


def _resolve(reference: str, what: str) -> Any:
    """Import ``module:object``."""
    module_name, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for name in path.split("."):
            found = getattr(found, name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise errors.BootError(explain(error, f"{what}: cannot import {reference}")) from error
        where = f"neither in {sys.path[0]} nor installed"
        raise errors.BootError(f"{what}: cannot import {reference}: no module {error.name}, {where}") from None
    except AttributeError as error:
        if not _is_ours(error.__traceback__):
            raise errors.BootError(explain(error, f"{what}: cannot import {reference}")) from error
        raise errors.BootError(f"{what}: cannot import {reference}: {error}") from None
    except BaseException as error:  # a module may well call sys.exit()
        raise errors.BootError(explain(error, f"{what}: cannot import {reference}")) from error
    return found


def _users_part(tb: TracebackType | None) -> TracebackType | None:
    """Skip the frames of hourd and of the import system at the top."""
    while tb is not None and tb.tb_next is not None and not _is_users(tb):
        tb = tb.tb_next
    return tb if tb is not None and _is_users(tb) else None


def _is_users(tb: TracebackType) -> bool:
    name = tb.tb_frame.f_globals.get("__name__", "")
    return not (name.startswith(("importlib", "hourd.")) or name == "hourd")


def _is_ours(tb: TracebackType | None) -> bool:
    """Tell whether the error arose in this module itself, not in what it imported."""
    return tb is not None and tb.tb_next is None

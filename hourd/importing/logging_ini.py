"""``logging.ini``, in the format of ``logging.config.fileConfig``, as a ``dictConfig`` mapping.

Arguments of handlers are Python expressions there. They are read and not executed: literals, ``sys.stderr`` and
the like, and constants of ``logging`` and ``logging.handlers``.
"""

from __future__ import annotations

import ast
import configparser
import inspect
import logging
import logging.handlers
import socket
from typing import Any

from .. import errors
from .draft import Draft

_RENAMED = {"gunicorn": "hourd", "gunicorn.error": "hourd", "api_hour": "hourd"}
"""Loggers that were the supervisor's own."""


def read(path: str, draft: Draft) -> dict[str, Any]:
    """Return what a file says.

    Raises:
        errors.ConfigError: it cannot be read.
    """
    # As fileConfig reads it, but for "%(name)s" in formats, which it does not interpolate either where it matters.
    parser = configparser.RawConfigParser()
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        parser.read_string(text, path)
        return _Ini(path, text, parser, draft).convert()
    except OSError as error:
        raise errors.ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except configparser.MissingSectionHeaderError as error:
        raise errors.ConfigError(f"{path}:{error.lineno}: expected a section") from None
    except configparser.ParsingError as error:
        line, wrong = error.errors[0]
        raise errors.ConfigError(f"{path}:{line}: expected KEY=VALUE, got {wrong}") from None
    except (configparser.Error, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"{path}: {str(error).partition(chr(10))[0]}") from None


class _Ini:
    def __init__(self, path: str, text: str, parser: configparser.RawConfigParser, draft: Draft) -> None:
        self._path, self._lines, self._parser, self._draft = path, text.splitlines(), parser, draft

    def convert(self) -> dict[str, Any]:
        result: dict[str, Any] = {"version": 1, "disable_existing_loggers": False}
        if formatters := self._names("formatters"):
            result["formatters"] = {name: self._formatter(name) for name in formatters}
        result["handlers"] = {
            name: made for name in self._names("handlers") if (made := self._handler(name)) is not None
        }
        loggers = [name for name in self._names("loggers") if name != "root"]
        result["loggers"] = {}
        for name in loggers:
            stated = self._parser.get(f"logger_{name}", "qualname", fallback=name)
            if (renamed := _RENAMED.get(stated, stated)) not in result["loggers"]:
                result["loggers"][renamed] = self._logger(name, result["handlers"])
        result["root"] = self._logger("root", result["handlers"], propagates=False)
        return result

    def _names(self, section: str) -> list[str]:
        stated = self._parser.get(section, "keys", fallback="")
        return [name.strip() for name in stated.split(",") if name.strip()]

    def _where(self, section: str, key: str | None = None) -> str:
        """Return where a section or a key of it stands."""
        here, within = "", False
        for number, line in enumerate(self._lines, 1):
            if line.strip().startswith("["):
                within = line.strip() == f"[{section}]"
                here = f":{number}" if within else here
            elif within and key and line.replace(":", "=").partition("=")[0].strip().lower() == key:
                return f"{self._path}:{number}: {section}.{key}"
        return f"{self._path}{here}: {section}"

    def _formatter(self, name: str) -> dict[str, Any]:
        section = f"formatter_{name}"
        keys = {"format": "format", "datefmt": "datefmt", "style": "style", "class": "class"}
        return {
            key: self._parser.get(section, option)
            for option, key in keys.items()
            if self._parser.has_option(section, option)
        }

    def _logger(self, name: str, handlers: dict[str, Any], *, propagates: bool = True) -> dict[str, Any]:
        section = f"logger_{name}"
        named = [each.strip() for each in self._parser.get(section, "handlers", fallback="").split(",")]
        result: dict[str, Any] = {"handlers": [each for each in named if each in handlers]}
        if level := self._parser.get(section, "level", fallback=""):
            result["level"] = {"WARN": "WARNING", "FATAL": "CRITICAL"}.get(level, level)
        if propagates:
            result["propagate"] = self._parser.getboolean(section, "propagate", fallback=True)
        return result

    def _handler(self, name: str) -> dict[str, Any] | None:
        section = f"handler_{name}"
        stated = self._parser.get(section, "class")
        try:
            class_ = _class(stated)
            arguments = self._arguments(section, "args", "()")
            named = self._arguments(section, "kwargs", "{}")
            positional = inspect.signature(class_).bind_partial(*arguments).arguments
        except (ValueError, TypeError, SyntaxError) as error:
            key = "args" if self._parser.has_option(section, "args") else "class"
            self._draft.note(self._where(section, key), f"this handler has to be written by hand: {error}")
            return None
        result: dict[str, Any] = {"class": f"{class_.__module__}.{class_.__qualname__}"}
        for key in ("level", "formatter"):
            if value := self._parser.get(section, key, fallback=""):
                result[key] = {"WARN": "WARNING"}.get(value, value)
        return {**result, **{key: _plain(value) for key, value in {**positional, **named}.items()}}

    def _arguments(self, section: str, key: str, default: str) -> Any:
        return _evaluate(ast.parse(self._parser.get(section, key, fallback=default).strip(), mode="eval").body)


def _class(name: str) -> type:
    """Find a handler's class as fileConfig does. Only those of the standard library: nothing is to be executed."""
    module, _, attribute = name.rpartition(".")
    known = {"": logging, "logging": logging, "handlers": logging.handlers, "logging.handlers": logging.handlers}
    found = getattr(known.get(module), attribute, None)
    if not isinstance(found, type):
        raise ValueError(f"{name} is no class of logging")  # noqa: TRY004, what is wrong is the text
    return found


def _evaluate(node: ast.expr) -> Any:
    """Return the value of an expression without executing it."""
    if isinstance(node, ast.Attribute):
        return _constant(ast.unparse(node))
    if isinstance(node, ast.Tuple | ast.List):
        return [_evaluate(each) for each in node.elts]
    if isinstance(node, ast.Dict):
        return {_evaluate(key): _evaluate(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {each.arg: _evaluate(each.value) for each in node.keywords if each.arg}
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{ast.unparse(node)} is no plain value") from None


def _constant(name: str) -> Any:
    if name in ("sys.stdout", "sys.stderr"):
        return f"ext://{name}"
    top, *parts = name.split(".")
    found: Any = {"logging": logging, "handlers": logging.handlers, "socket": socket}.get(top)
    for part in parts:
        found = getattr(found, part, None)
    if not isinstance(found, int | str):
        raise ValueError(f"{name} is no constant of logging")  # noqa: TRY004, as above
    return int(found) if isinstance(found, int) else found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

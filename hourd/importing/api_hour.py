"""``hourd import api-hour``: its three configuration files in one.

``gunicorn_conf.py`` is read as ``hourd import gunicorn`` reads it, ``logging.ini`` becomes ``log.config``, and what is
in ``main.yaml`` the container's ``config``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from typing import Any

import yaml

from .. import errors
from ..config.tree import unfit
from . import execution, gunicorn, logging_ini
from .draft import Draft

_FILES = ("gunicorn_conf.py", "logging.ini", "main.yaml")
_DEPTH = 4
_INT_MAX = 2**63 - 1
_APP = re.compile(r"(?<![\w.])([A-Za-z_]\w*(?:\.\w+)*:[A-Za-z_]\w*)")
_SERVED_BY_GUNICORN = ("keepalive", "access_log_format")
"""What code of containers reads as ``worker.cfg``."""


def convert(folder: str, app: str | None) -> Draft:
    """Return a configuration with what the files in a folder say.

    Args:
        folder: the daemon's configuration (``/etc/hello``), or what has it in ``etc``.
        app: ``module:Class``; default: what ``etc/default`` says, or ``Container`` in the module of the folder's name.

    Raises:
        errors.ConfigError: a file is not there, cannot be read, or there are several.
    """
    files = _find(folder)
    draft = Draft(folder)
    conf = execution.read(files["gunicorn_conf.py"], gunicorn.NAMES)
    gunicorn.fill(draft, conf, app or _app(folder, files["gunicorn_conf.py"], draft), kind="container")
    draft.options = {"config": _config(files["main.yaml"], draft), **draft.options}
    if cfg := {name: conf.values[name] for name in _SERVED_BY_GUNICORN if isinstance(conf.values.get(name), int | str)}:
        draft.options["cfg"] = cfg
    if "logging.ini" in files:
        draft.log["config"] = logging_ini.read(files["logging.ini"], draft)
    return draft


def _find(folder: str) -> dict[str, str]:
    """Return where each of the files is; ``logging.ini`` may be missing."""
    if not os.path.isdir(folder):
        raise errors.ConfigError(f"{folder}: is no folder; expected one with {', '.join(_FILES)} in it")
    found: dict[str, list[str]] = {name: [] for name in _FILES}
    for here, below, names in os.walk(folder):
        if here[len(folder) :].count(os.sep) >= _DEPTH:
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in set(names).intersection(_FILES):
            found[name].append(os.path.join(here, name))
    for name, places in found.items():
        if len(places) > 1:
            raise errors.ConfigError(
                f"{folder}: has several {name} ({', '.join(places)}); name the folder of one daemon"
            )
        if not places and name != "logging.ini":
            raise errors.ConfigError(f"{folder}: has no {name}")
    return {name: places[0] for name, places in found.items() if places}


def _app(folder: str, conf: str, draft: Draft) -> str:
    """Return the container's name as the start script has it, or as API-Hour's own examples are named."""
    name = os.path.basename(os.path.dirname(os.path.dirname(os.path.abspath(conf))))
    for place in (os.path.join(folder, "etc/default", name), os.path.join("/etc/default", name)):
        try:
            with open(place, encoding="utf-8") as file:
                stated = [match for line in file if "ARGS" in line for match in _APP.findall(line)]
        except OSError:
            continue
        if stated:
            return str(stated[-1])
    draft.note("app", f"was guessed of the folder's name; is it {name}:Container?")
    return f"{name}:Container"


def _config(path: str, draft: Draft) -> Any:
    """Return what is in a file; its path, if settings cannot hold that."""
    try:
        with open(path, encoding="utf-8") as file:
            config = yaml.safe_load(file)
    except OSError as error:
        raise errors.ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise errors.ConfigError(f"{path}{line}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise errors.ConfigError(f"{path}: expected a mapping, got {type(config).__name__}")
    try:
        foreign = next(_foreign(config), None)
    except RecursionError:
        foreign = "what contains itself"
    if foreign is None:
        return config
    path = os.path.abspath(path)
    draft.note("config", f"{path} has {foreign}, which hourd's settings cannot hold; the container reads that file")
    return path


def _foreign(value: Any) -> Iterator[str]:
    """Yield what hourd would read as something else, or refuse (see ``config.scalars``)."""
    match value:
        case dict():
            yield from (f"the key {name!r}" for name in value if not isinstance(name, str))
            for each in (*value, *value.values()):
                yield from _foreign(each)
        case list():
            for each in value:
                yield from _foreign(each)
        case str() if why := unfit(value):
            yield f"a text that {why}"
        case float() if not math.isfinite(value):
            yield "a number that is not finite"
        case int() if not -_INT_MAX <= value <= _INT_MAX:
            yield "a number of more than 64 bits"
        case None | str() | float() | int():
            pass
        case _:
            yield f"a value of type {type(value).__name__}"

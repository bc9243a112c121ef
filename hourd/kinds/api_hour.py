"""What the containers of API-Hour are given and what they return."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import yaml
from aiohttp.web_log import AccessLogger

from .. import context, errors
from .stand_ins import Served


class Section(dict[str, Any]):
    """A mapping whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Cfg:
    """``worker.cfg``: the few settings of Gunicorn that code used to read, and those that are configured."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        defaults = {"debug": False, "keepalive": 2, "access_log_format": AccessLogger.LOG_FORMAT}
        vars(self).update({**defaults, **given})

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"worker.cfg has no {name}: hourd has no such setting; give it under options: {{cfg: ...}}"
        )


class Worker:
    """A ``hourd.Worker`` as API-Hour's code expects it: with ``cfg``, ``log.access_log`` and ``pid``."""

    def __init__(self, worker: context.Worker, log: logging.Logger, cfg: Mapping[str, Any]) -> None:
        self._worker = worker
        self.log = log
        self.cfg = Cfg(cfg)
        self.pid = os.getpid()
        access = log.getChild("access")
        access.disabled = True  # hourd writes the access log, where options ask for one
        vars(log)["access_log"] = access

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    @property
    def alive(self) -> bool:
        return not self._worker.draining.is_set()


def read_config(config: str | Mapping[str, Any] | None) -> Any:
    """Return a container's configuration.

    Args:
        config: a YAML file, or what would be in it.

    Raises:
        errors.ConfigError: the file cannot be read.
    """
    return _with_attributes(_read(config) if isinstance(config, str) else config)


def _read(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.load(file, yaml.CSafeLoader)
    except OSError as error:
        raise errors.from_os(error, f"read config {os.path.abspath(path)}") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise errors.ConfigError(f"config {path}{line}: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"config {path}: {error}") from None


def _with_attributes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Section({name: _with_attributes(each) for name, each in value.items()})
    return [_with_attributes(each) for each in value] if isinstance(value, list) else value


def takes_sockets(make_servers: Callable[..., Any]) -> bool:
    """Tell which of its two forms a ``make_servers`` has."""
    return bool(inspect.signature(make_servers).parameters)


def handlers(result: Any, served: Sequence[Served], bind: Sequence[str]) -> list[Any]:
    """Return what handles the connections of each entry of ``bind:``.

    Args:
        result: what ``make_servers`` has returned: a mapping of servers to their handlers (or to ``None``);
            handlers, as a list, a mapping of names, or a single one; or nothing that counts.
        served: the servers that it has made.
        bind: the addresses.

    Raises:
        errors.BootError: there is nothing for an entry.
    """
    found = {each.entry: each.factory for each in served}
    places = {id(each.server): each.entry for each in served}
    if isinstance(result, Mapping) and not callable(result):  # an aiohttp application is both
        pairs = list(result.items())
    else:
        alone = callable(result) or not isinstance(result, Iterable)
        pairs = [(None, each) for each in ([result] if alone else result)]
    # What it returns says more than what was given to the loop: which application, or a coroutine function.
    stated = {
        places.get(id(server), place): handler for place, (server, handler) in enumerate(pairs) if callable(handler)
    }
    if not served and len(pairs) == 1 and 0 in stated:
        return [stated[0]] * len(bind)
    found.update(stated)
    if sorted(found) != list(range(len(bind))):
        raise errors.BootError(
            f"make_servers has servers for {len(found)} of {len(bind)} addresses ({', '.join(bind)}), and returned "
            f"{result!r}; expected one handler for all, or one for each (an aiohttp application, a factory of "
            "protocols, a coroutine function of (reader, writer)), or servers that were made on the sockets"
        )
    return [found[entry] for entry in range(len(bind))]

"""What becomes of Gunicorn's settings about workers, logging and the process."""

from __future__ import annotations

import grp
import json
import pwd
from collections.abc import Callable
from typing import Any

from .. import errors
from . import logging_ini
from .execution import MORE_CPUS, Function, Other
from .work import Rule, Work, nothing


def _workers(work: Work) -> None:
    count, source = max(1, work.integer("workers", _concurrency(work))), work.conf.source("workers")
    more = work.conf.with_more_cpus.get("workers")
    work.draft.pool["workers"] = count
    if more is not None and more >= MORE_CPUS:
        work.draft.pool["workers"] = "auto"
        why = "was computed of the CPUs, as auto is: one for each that this process may use"
        work.note("workers", f"{source or count} {why}")
    elif more is not None:
        why = f"is {count} with the CPUs of this machine; auto is one for each"
        work.note("workers", f"{source} {why}" if source else why)


def _concurrency(work: Work) -> int:
    stated = work.from_environment("workers", "WEB_CONCURRENCY")
    try:
        return 1 if stated is None else int(stated)
    except ValueError:
        work.mistakes.append(f"WEB_CONCURRENCY: expected a whole number, got {stated!r}")
        return 1


def _worker_class(work: Work) -> None:
    if "gevent" in str(work.get("worker_class")):
        work.note(
            "worker_class", "hourd patches nothing: what relies on green threads runs in real ones, or becomes asyncio"
        )


def _threads(work: Work) -> None:
    if work.kind == "wsgi":
        work.draft.options["threads"] = max(1, work.integer("threads", 1))
    elif work.integer("threads", 1) > 1:
        work.note("threads", f"kind {work.kind} runs an event loop, without threads")


def _max_requests(work: Work) -> None:
    most, jitter = work.integer("max_requests", 0), work.integer("max_requests_jitter", 0)
    if most > 0:
        # Gunicorn adds up to so many, hourd takes away up to a share.
        share = round(100 * jitter / (most + jitter), 2)
        work.draft.pool["recycle"] = {"requests": most + jitter, "jitter": f"{share:g}%"}


def _timeout(work: Work) -> None:
    hung = work.seconds("timeout", 30)
    slow = {"slow": hung} if work.integer("timeout", 30) == 1 else {}
    work.draft.pool["timeouts"] = {**slow, "hung": hung}
    if work.kind == "wsgi":
        work.note(
            "timeout",
            "is for a worker whose event loop stands still; a request that lasts long in its thread ends nobody",
        )


def _graceful_timeout(work: Work) -> None:
    work.draft.server["grace"] = work.seconds("graceful_timeout", 30)


def _preload_app(work: Work) -> None:
    work.draft.pool["preload"] = work.flag("preload_app")


def _asgi_loop(work: Work) -> None:
    work.draft.pool["loop"] = "asyncio" if work.get("asgi_loop") == "asyncio" else "uvloop"


def _loglevel(work: Work) -> None:
    level = str(work.get("loglevel")).lower()
    if level not in ("debug", "info", "warning", "error"):
        work.note("loglevel", f"{level} is none of hourd's levels; error is the highest")
    work.draft.log["level"] = level if level in ("debug", "info", "warning") else "error"


def _logconfig(work: Work) -> None:
    work.draft.log["config"] = logging_ini.read(str(work.get("logconfig")), work.draft)


def _logconfig_json(work: Work) -> None:
    path = str(work.get("logconfig_json"))
    try:
        with open(path, encoding="utf-8") as file:
            work.draft.log["config"] = {"version": 1, **json.load(file)}
    except OSError as error:
        raise errors.ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise errors.ConfigError(f"{path}: {error}") from None


def _logconfig_dict(work: Work) -> None:
    stated = work.get("logconfig_dict")
    if not stated:
        return
    if _has_objects(stated):
        work.note(
            "logconfig_dict", "holds objects, which YAML cannot; name them (ext://module.object, class: module.Class)"
        )
        return
    if not isinstance(stated, dict):
        work.wrong("logconfig_dict", "a mapping")
        return
    work.draft.log["config"] = {"version": 1, **stated}


def _has_objects(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_objects, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Function | Other)


def _raw_env(work: Work) -> None:
    stated = work.get("raw_env")
    # A text is one variable: commas are a part of its value.
    for each in stated if isinstance(stated, list) else [stated]:
        if not isinstance(each, str):
            work.wrong("raw_env", "a list of texts NAME=VALUE")
            return
        name, _, value = each.partition("=")
        work.draft.settings.setdefault("environment", {})[name] = value


def _pythonpath(work: Work) -> None:
    path = ":".join(work.texts("pythonpath"))
    work.draft.settings.setdefault("environment", {})["PYTHONPATH"] = path


def _user(work: Work) -> None:
    work.draft.settings["user"] = _account(work, "user", lambda number: pwd.getpwuid(number).pw_name)


def _group(work: Work) -> None:
    work.draft.settings["group"] = _account(work, "group", lambda number: grp.getgrgid(number).gr_name)


def _account(work: Work, name: str, find: Callable[[int], str]) -> str:
    stated = str(work.get(name))
    try:
        return find(int(stated))
    except ValueError:
        return stated
    except KeyError:
        work.note(name, f"{stated} has no name on this system, and hourd wants one")
        return stated


RULES: dict[str, Rule] = {
    "workers": _workers,
    "threads": _threads,
    "worker_class": _worker_class,
    "wsgi_app": nothing,
    "proc_name": nothing,
    "max_requests": _max_requests,
    "max_requests_jitter": nothing,
    "timeout": _timeout,
    "graceful_timeout": _graceful_timeout,
    "preload_app": _preload_app,
    "asgi_loop": _asgi_loop,
    "chdir": lambda work: work.draft.settings.update(directory=str(work.get("chdir"))),
    "pythonpath": _pythonpath,
    "raw_env": _raw_env,
    "user": _user,
    "group": _group,
    "pidfile": lambda work: work.draft.settings.update(pid_file=str(work.get("pidfile"))),
    "loglevel": _loglevel,
    "logconfig": _logconfig,
    "logconfig_dict": _logconfig_dict,
    "logconfig_json": _logconfig_json,
}

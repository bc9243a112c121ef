"""``hourd import gunicorn``: what becomes of each of Gunicorn's settings.

Those without a counterpart stand in ``without.py``; each of the others has a rule in ``serving.py`` or ``running.py``.
"""

from __future__ import annotations

from .. import errors
from . import execution, running, serving
from .draft import Draft
from .execution import Conf, Function
from .without import WITHOUT
from .work import Rule, Work

_KINDS = {
    "sync": "wsgi",
    "gthread": "wsgi",
    "gunicorn.workers.sync.SyncWorker": "wsgi",
    "gunicorn.workers.gthread.ThreadWorker": "wsgi",
    "asgi": "asgi",
    "gunicorn.workers.gasgi.ASGIWorker": "asgi",
    "uvicorn.workers.UvicornWorker": "asgi",
    "uvicorn.workers.UvicornH11Worker": "asgi",
    "uvicorn_worker.UvicornWorker": "asgi",
    "uvicorn_worker.UvicornH11Worker": "asgi",
    "aiohttp.GunicornWebWorker": "aiohttp",
    "aiohttp.GunicornUVLoopWebWorker": "aiohttp",
    "aiohttp.worker.GunicornWebWorker": "aiohttp",
    "aiohttp.worker.GunicornUVLoopWebWorker": "aiohttp",
    "api_hour.Worker": "container",
}


RULES: dict[str, Rule] = {**serving.RULES, **running.RULES}
NAMES = frozenset({*RULES, *WITHOUT})
_ALWAYS = ("bind", "workers", "threads")
"""Gunicorn has other defaults."""


def convert(path: str, app: str | None) -> Draft:
    """Return a configuration with what a Gunicorn configuration file says.

    Args:
        path: the file.
        app: ``module:object``, which Gunicorn is given on its command line.

    Raises:
        errors.ConfigError: the file cannot be read, or has values that Gunicorn would refuse.
    """
    draft = Draft(path)
    fill(draft, execution.read(path, NAMES), app)
    return draft


def fill(draft: Draft, conf: Conf, app: str | None, kind: str | None = None) -> None:
    """Fill in what a configuration file says; an application or kind that is given comes before the file's.

    Raises:
        errors.ConfigError: there are values that Gunicorn would refuse.
    """
    work = Work(conf, draft, kind or "", [])
    work.kind = kind or _kind(work)
    draft.server.update(kind=work.kind, app=_app(work, app))
    draft.name(str(work.get("proc_name") or draft.server["app"].partition(":")[0]))
    for name in (*_ALWAYS, *(name for name in RULES if name in conf.values and name not in _ALWAYS)):
        if name in _ALWAYS or conf.values[name] is not None:
            RULES[name](work)
    for name, why in WITHOUT.items():
        if conf.values.get(name) not in (None, False, [], {}, ""):
            work.note(name, why)
    if work.mistakes:
        raise errors.ConfigError("\n".join(work.mistakes))


def _kind(work: Work) -> str:
    stated = work.get("worker_class", "sync")
    name = stated.name if isinstance(stated, Function) else str(stated).removeprefix("egg:gunicorn#")
    if name in _KINDS:
        return _KINDS[name]
    work.note(
        "worker_class",
        f"{name} is none that hourd knows; the application runs in threads (kind wsgi), where it may block",
    )
    return "wsgi"


def _app(work: Work, given: str | None) -> str:
    stated = given or work.get("wsgi_app")
    if not stated:
        work.draft.note(
            "app", "is not in the file; Gunicorn has it on its command line: give it as APP, or put it here"
        )
        stated = "app:app"
    module, _, name = str(stated).partition(":")
    if "(" in name:
        work.draft.note("app", f"{name} is called with arguments, which hourd does not; write a function without any")
        name = name.partition("(")[0]
    default = "application" if work.kind == "wsgi" else "app"
    return f"{module}:{name or default}"

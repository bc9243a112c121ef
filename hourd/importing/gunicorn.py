"""``hourd import gunicorn``: what becomes of each of Gunicorn's settings.

Those without a counterpart stand in ``without.py``; each of the others has a rule in ``serving.py`` or ``running.py``.
"""

from __future__ import annotations

from .. import errors
from . import execution, running, serving
from .draft import Draft
from .execution import Conf, Function
from .without import ON_BY_DEFAULT, WITHOUT
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
_ALWAYS = ("bind", "workers", "threads", "forwarded_allow_ips")
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
    work = Work(conf, draft, kind or "", _worker(conf), [])
    work.kind = kind or _kind(work)
    draft.server.update(kind=work.kind, app=_app(work, app))
    draft.name(str(work.get("proc_name") or draft.server["app"].partition(":")[0]))
    stated = [name for name in RULES if conf.values.get(name) is not None]
    # Some settings have one rule together.
    for rule in dict.fromkeys(RULES[name] for name in (*_ALWAYS, *stated)):
        rule(work)
    for name in stated:
        if name in conf.with_more_cpus and name != "workers":
            work.note(name, f"{conf.values[name]} was computed of the CPUs of this machine")
    for name, why in WITHOUT.items():
        if conf.values.get(name) or (conf.values.get(name) is not None and name in ON_BY_DEFAULT):
            work.note(name, why)
    if work.mistakes:
        raise errors.ConfigError("\n".join(work.mistakes))


def _worker(conf: Conf) -> str:
    stated = conf.values.get("worker_class") or "sync"
    return stated.name if isinstance(stated, Function) else str(stated).removeprefix("egg:gunicorn#")


def _kind(work: Work) -> str:
    if work.worker in _KINDS:
        return _KINDS[work.worker]
    work.note(
        "worker_class",
        f"{work.worker} is none that hourd knows; the application runs in threads (kind wsgi), where it may block",
    )
    return "wsgi"


def _app(work: Work, given: str | None) -> str:
    stated = given or work.get("wsgi_app")
    if not stated:
        work.draft.note(
            "app", "is not in the file; Gunicorn has it on its command line: give it as APP, or put it here"
        )
        stated = "app:app"
    module, _, called = str(stated).partition(":")
    name, _, arguments = called.partition("(")
    if arguments.strip() not in ("", ")"):
        work.draft.note("app", f"{called} is called with arguments, which hourd does not; write a function without any")
    # Without a name, Gunicorn looks for that one, whatever the worker class.
    return f"{module}:{name.strip() or 'application'}"

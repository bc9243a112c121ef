"""``hourd import gunicorn``: what becomes of each of Gunicorn's settings.

Those without a counterpart stand in ``without.py``; each of the others has a function here, named as it is.
"""

from __future__ import annotations

import grp
import json
import pwd
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..units import format_duration, format_size
from . import execution, logging_ini
from .draft import Draft
from .execution import Conf, Function, Other
from .without import WITHOUT

_BACKLOG_MAX = 65535
_OF_CPUS = re.compile(r"[\d\s+*()]*(?:multiprocessing|os)\.cpu_count\(\)[\d\s+*()]*")
"""Such as 2 * cpu_count() + 1; with more in it, it meant something else."""
_FOREVER = 24 * 3600.0
_FORMATS = {
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"': "combined",
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s': "common",
}
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
_HTTP = ("aiohttp", "asgi", "wsgi")


@dataclass
class Import:
    """One file on its way."""

    conf: Conf
    draft: Draft
    kind: str
    mistakes: list[str]

    def get(self, name: str, default: Any = None) -> Any:
        value = self.conf.values.get(name)
        return default if value is None else value

    def note(self, name: str, why: str) -> None:
        self.draft.note(self.conf.where(name), why)

    def wrong(self, name: str, expected: str) -> None:
        self.mistakes.append(f"{self.conf.where(name)}: expected {expected}, got {self.conf.values[name]!r}")

    def integer(self, name: str, default: int) -> int:
        """Return a whole number, which may be written as text."""
        value = self.get(name, default)
        try:
            return int(value, 0) if isinstance(value, str) else int(value)
        except (TypeError, ValueError):
            self.wrong(name, "a whole number")
            return default

    def texts(self, name: str) -> list[str]:
        """Return a list of texts, which may be written as one with commas."""
        value = self.get(name, [])
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(isinstance(each, str) for each in parts):
            self.wrong(name, "text or a list of texts")
            return []
        return [each.strip() for each in parts if each.strip()]

    def flag(self, name: str) -> bool:
        value = self.get(name, False)
        return value.strip().lower() == "true" if isinstance(value, str) else bool(value)

    def seconds(self, name: str, default: int) -> str:
        """Return a duration; what is forever is a day."""
        number = self.integer(name, default)
        if number <= 0:
            self.note(name, "0 is forever, which hourd does not know; it is 24h here")
        return format_duration(number if number > 0 else _FOREVER)


Rule = Callable[[Import], None]


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
    work = Import(conf, draft, kind or "", [])
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


def _kind(work: Import) -> str:
    stated = work.get("worker_class", "sync")
    name = stated.name if isinstance(stated, Function) else str(stated).removeprefix("egg:gunicorn#")
    if name in _KINDS:
        return _KINDS[name]
    work.note(
        "worker_class",
        f"{name} is none that hourd knows; the application runs in threads (kind wsgi), where it may block",
    )
    return "wsgi"


def _app(work: Import, given: str | None) -> str:
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


def _option(work: Import, name: str, key: str, value: Any) -> None:
    if work.kind in (*_HTTP, "container"):
        work.draft.options[key] = value
    else:
        work.note(name, f"has no counterpart with kind {work.kind}")


# --- where it listens -----------------------------------------------------------------------------


def _bind(work: Import) -> None:
    stated = work.texts("bind") or ["127.0.0.1:8000"]
    bind = [_address(work, each) for each in stated]
    work.draft.server["bind"] = bind[0] if len(bind) == 1 else bind
    if any(each.startswith("unix:") for each in bind):
        mode = 0o777 & ~work.integer("umask", 0)
        work.draft.server["unix"] = {"mode": f"{mode:04o}"}


def _address(work: Import, text: str) -> str:
    if text.startswith(("unix:", "fd://")):
        return text.replace("fd://", "fd:").replace("unix://", "unix:")
    text = text.removeprefix("tcp://")
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = ("", text) if text.isdigit() else (text, "8000")
    if host in ("", "0.0.0.0"):
        return f"0.0.0.0:{port}"
    if not host.replace(".", "").isdigit() and not host.startswith("[") and host != "localhost":
        work.note("bind", f"{host} is a name; hourd takes addresses only: write one")
    return f"{host}:{port}"


def _backlog(work: Import) -> None:
    backlog = work.integer("backlog", 2048)
    work.draft.server["backlog"] = min(max(1, backlog), _BACKLOG_MAX)
    if backlog > _BACKLOG_MAX:
        work.note("backlog", f"{backlog} is more than the kernel has; {_BACKLOG_MAX} is the most")


def _umask(work: Import) -> None:
    work.note(
        "umask",
        "is the business of who starts hourd: UMask= of systemd, or umask of a shell; sockets have unix: {mode}",
    )


def _tls(work: Import) -> None:
    if "tls" in work.draft.server:
        return
    paths = {"certificate": "certfile", "key": "keyfile", "client_ca": "ca_certs", "ciphers": "ciphers"}
    tls = {key: work.get(name) for key, name in paths.items() if work.get(name)}
    if "certificate" not in tls:
        stated = next(name for name in paths.values() if work.get(name))
        work.note(stated, "without certfile there is no TLS")
        return
    requirement = work.integer("cert_reqs", 0)
    if "client_ca" in tls and requirement:
        tls["client_certificates"] = "required" if requirement == 2 else "optional"  # noqa: PLR2004, of the ssl module
    elif tls.pop("client_ca", None):
        work.note("ca_certs", "without cert_reqs, Gunicorn asks no client for a certificate")
    work.draft.server["tls"] = tls


def _ssl_version(work: Import) -> None:
    work.note("ssl_version", "hourd speaks TLSv1.2 and TLSv1.3; tls: {minimum: TLSv1.3} leaves the newer one")


def _proxy_protocol(work: Import) -> None:
    stated = work.get("proxy_protocol")
    if stated is False or str(stated).lower() in ("off", "false", "none", ""):
        return
    trusted = _networks(work, "proxy_allow_ips", ["127.0.0.1", "::1"])
    work.draft.server["proxy_protocol"] = {"from": trusted}
    work.note(
        "proxy_protocol", "from those networks, each connection has to begin with it; versions 1 and 2 are understood"
    )


def _networks(work: Import, name: str, default: list[str]) -> list[str]:
    stated = work.texts(name) or default
    return ["0.0.0.0/0", "::/0", "unix"] if "*" in stated else stated


def _forwarded_allow_ips(work: Import) -> None:
    _option(work, "forwarded_allow_ips", "trusted_proxies", _networks(work, "forwarded_allow_ips", []))


# --- workers --------------------------------------------------------------------------------------


def _workers(work: Import) -> None:
    source = work.conf.source("workers")
    if "cpu_count()" in source and _OF_CPUS.fullmatch(source):
        work.draft.pool["workers"] = "auto"
        work.note("workers", f"{source} was computed of the CPUs, as auto is: one for each that this process may use")
    else:
        work.draft.pool["workers"] = max(1, work.integer("workers", 1))


def _worker_class(work: Import) -> None:
    if "gevent" in str(work.get("worker_class")):
        work.note(
            "worker_class", "hourd patches nothing: what relies on green threads runs in real ones, or becomes asyncio"
        )


def _threads(work: Import) -> None:
    if work.kind == "wsgi":
        work.draft.options["threads"] = max(1, work.integer("threads", 1))
    elif work.integer("threads", 1) > 1:
        work.note("threads", f"kind {work.kind} runs an event loop, without threads")


def _max_requests(work: Import) -> None:
    most, jitter = work.integer("max_requests", 0), work.integer("max_requests_jitter", 0)
    if most > 0:
        # Gunicorn adds up to so many, hourd takes away up to a share.
        share = round(100 * jitter / (most + jitter), 2)
        work.draft.pool["recycle"] = {"requests": most + jitter, "jitter": f"{share:g}%"}


def _timeout(work: Import) -> None:
    hung = work.seconds("timeout", 30)
    slow = {"slow": hung} if work.integer("timeout", 30) == 1 else {}
    work.draft.pool["timeouts"] = {**slow, "hung": hung}
    if work.kind == "wsgi":
        work.note(
            "timeout",
            "is for a worker whose event loop stands still; a request that lasts long in its thread ends nobody",
        )


def _graceful_timeout(work: Import) -> None:
    work.draft.server["grace"] = work.seconds("graceful_timeout", 30)


def _preload_app(work: Import) -> None:
    work.draft.pool["preload"] = work.flag("preload_app")


def _asgi_loop(work: Import) -> None:
    work.draft.pool["loop"] = "asyncio" if work.get("asgi_loop") == "asyncio" else "uvloop"


# --- HTTP -----------------------------------------------------------------------------------------


def _keepalive(work: Import) -> None:
    seconds = work.integer("keepalive", 2)
    if seconds <= 0:
        work.note("keepalive", "0 keeps no connection, which hourd does not know; it is 1s here")
    _option(work, "keepalive", "keepalive_timeout", format_duration(max(1, seconds)))


def _limit_size(work: Import) -> None:
    """Set the one limit that hourd has for both of Gunicorn's."""
    for name in ("limit_request_line", "limit_request_field_size"):
        if work.get(name) is not None and work.integer(name, 0) <= 0:
            work.note(name, "0 is without a limit, which hourd does not know")
            return
    least = max(work.integer("limit_request_line", 4094), work.integer("limit_request_field_size", 8190))
    _option(work, "limit_request_line", "line_max_size", format_size(least))


def _limit_request_fields(work: Import) -> None:
    _option(work, "limit_request_fields", "max_headers", max(1, work.integer("limit_request_fields", 100)))


def _root_path(work: Import) -> None:
    _gateway(work, "root_path", "root_path", str(work.get("root_path")))


def _asgi_lifespan(work: Import) -> None:
    _gateway(work, "asgi_lifespan", "lifespan", str(work.get("asgi_lifespan")))


def _websocket_max_message_size(work: Import) -> None:
    size = format_size(work.integer("websocket_max_message_size", 0))
    _gateway(work, "websocket_max_message_size", "websocket_max_size", size)


def _gateway(work: Import, name: str, key: str, value: str) -> None:
    if work.kind == "asgi" or (work.kind == "wsgi" and key == "root_path"):
        work.draft.options.update({key: value} if value else {})
    else:
        work.note(name, f"has no counterpart with kind {work.kind}")


# --- logging --------------------------------------------------------------------------------------


def _accesslog(work: Import) -> None:
    stated = str(work.get("accesslog"))
    pattern = work.get("access_log_format", next(iter(_FORMATS)))
    if pattern not in _FORMATS:
        work.note("access_log_format", "hourd has the formats common, combined and json; combined is nearest")
    _option(work, "accesslog", "access_log", _FORMATS.get(pattern, "combined"))
    if stated != "-":
        _option(work, "accesslog", "access_log_file", stated)


def _access_log_format(work: Import) -> None:
    if not work.get("accesslog"):
        work.note("access_log_format", "without accesslog there is no access log")


def _loglevel(work: Import) -> None:
    level = str(work.get("loglevel")).lower()
    if level not in ("debug", "info", "warning", "error"):
        work.note("loglevel", f"{level} is none of hourd's levels; error is the highest")
    work.draft.log["level"] = level if level in ("debug", "info", "warning") else "error"


def _logconfig(work: Import) -> None:
    work.draft.log["config"] = logging_ini.read(str(work.get("logconfig")), work.draft)


def _logconfig_json(work: Import) -> None:
    path = str(work.get("logconfig_json"))
    try:
        with open(path, encoding="utf-8") as file:
            work.draft.log["config"] = {"version": 1, **json.load(file)}
    except OSError as error:
        raise errors.ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise errors.ConfigError(f"{path}: {error}") from None


def _logconfig_dict(work: Import) -> None:
    stated = work.get("logconfig_dict")
    if not stated:
        return
    if _has_objects(stated):
        work.note(
            "logconfig_dict", "holds objects, which YAML cannot; name them (ext://module.object, class: module.Class)"
        )
        return
    work.draft.log["config"] = {"version": 1, **stated}


def _has_objects(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_objects, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Function | Other)


# --- the process ----------------------------------------------------------------------------------


def _raw_env(work: Import) -> None:
    for each in work.get("raw_env") if isinstance(work.get("raw_env"), list) else work.texts("raw_env"):
        name, _, value = str(each).partition("=")
        work.draft.settings.setdefault("environment", {})[name] = value


def _pythonpath(work: Import) -> None:
    path = ":".join(work.texts("pythonpath"))
    work.draft.settings.setdefault("environment", {})["PYTHONPATH"] = path


def _user(work: Import) -> None:
    work.draft.settings["user"] = _account(work, "user", lambda number: pwd.getpwuid(number).pw_name)


def _group(work: Import) -> None:
    work.draft.settings["group"] = _account(work, "group", lambda number: grp.getgrgid(number).gr_name)


def _account(work: Import, name: str, find: Callable[[int], str]) -> str:
    stated = str(work.get(name))
    try:
        return find(int(stated))
    except ValueError:
        return stated
    except KeyError:
        work.note(name, f"{stated} has no name on this system, and hourd wants one")
        return stated


def _nothing(_work: Import) -> None:
    """Do nothing: another setting's rule has it."""


RULES: dict[str, Rule] = {
    "bind": _bind,
    "workers": _workers,
    "threads": _threads,
    "worker_class": _worker_class,
    "wsgi_app": _nothing,
    "proc_name": _nothing,
    "backlog": _backlog,
    "max_requests": _max_requests,
    "max_requests_jitter": _nothing,
    "timeout": _timeout,
    "graceful_timeout": _graceful_timeout,
    "keepalive": _keepalive,
    "limit_request_line": _limit_size,
    "limit_request_field_size": _limit_size,
    "limit_request_fields": _limit_request_fields,
    "preload_app": _preload_app,
    "asgi_loop": _asgi_loop,
    "asgi_lifespan": _asgi_lifespan,
    "websocket_max_message_size": _websocket_max_message_size,
    "root_path": _root_path,
    "chdir": lambda work: work.draft.settings.update(directory=str(work.get("chdir"))),
    "pythonpath": _pythonpath,
    "raw_env": _raw_env,
    "user": _user,
    "group": _group,
    "umask": _umask,
    "pidfile": lambda work: work.draft.settings.update(pid_file=str(work.get("pidfile"))),
    "forwarded_allow_ips": _forwarded_allow_ips,
    "proxy_protocol": _proxy_protocol,
    "proxy_allow_ips": _nothing,
    "certfile": _tls,
    "keyfile": _tls,
    "ca_certs": _tls,
    "cert_reqs": _nothing,
    "ciphers": _tls,
    "ssl_version": _ssl_version,
    "accesslog": _accesslog,
    "access_log_format": _access_log_format,
    "loglevel": _loglevel,
    "logconfig": _logconfig,
    "logconfig_dict": _logconfig_dict,
    "logconfig_json": _logconfig_json,
}
NAMES = frozenset({*RULES, *WITHOUT})
_ALWAYS = ("bind", "workers", "threads")
"""Gunicorn has other defaults."""

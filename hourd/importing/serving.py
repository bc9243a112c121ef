"""What becomes of Gunicorn's settings about addresses, TLS and HTTP."""

from __future__ import annotations

import os

from ..units import format_duration, format_size
from .work import Rule, Work, nothing

_BACKLOG_MAX = 65535
_LOCAL = ["127.0.0.1", "::1"]
_FORMATS = {
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"': "combined",
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s': "common",
}


def _bind(work: Work) -> None:
    port = work.from_environment("bind", "PORT")
    stated = work.texts("bind") or ["127.0.0.1:8000" if port is None else f"0.0.0.0:{port}"]
    bind = [_address(work, each) for each in stated]
    work.draft.server["bind"] = bind[0] if len(bind) == 1 else bind
    if any(each.startswith("unix:") for each in bind):
        mode = 0o777 & ~work.integer("umask", 0)
        work.draft.server["unix"] = {"mode": f"{mode:04o}"}


def _address(work: Work, text: str) -> str:
    if text.startswith("unix:"):
        return _unix(work, text.removeprefix("unix:").removeprefix("//"))
    if text.startswith("fd://"):
        return text.replace("fd://", "fd:")
    text = text.removeprefix("tcp://")
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = ("", text) if text.isdigit() else (text, "8000")
    if host in ("", "0.0.0.0"):
        return f"0.0.0.0:{port}"
    if not host.replace(".", "").isdigit() and not host.startswith("[") and host != "localhost":
        work.note("bind", f"{host} is a name; hourd takes addresses only: write one")
    return f"{host}:{port}"


def _unix(work: Work, path: str) -> str:
    if not path or path.startswith(("/", "@")):
        return f"unix:{path}"
    whole = os.path.abspath(os.path.join(str(work.get("chdir", "")), path))
    work.note("bind", f"unix:{path} starts at Gunicorn's directory; hourd takes absolute paths only: is it {whole}?")
    return f"unix:{whole}"


def _backlog(work: Work) -> None:
    backlog = work.integer("backlog", 2048)
    work.draft.server["backlog"] = min(max(1, backlog), _BACKLOG_MAX)
    if backlog > _BACKLOG_MAX:
        work.note("backlog", f"{backlog} is more than the kernel has; {_BACKLOG_MAX} is the most")


def _umask(work: Work) -> None:
    work.note(
        "umask",
        "is the business of who starts hourd: UMask= of systemd, or umask of a shell; sockets have unix: {mode}",
    )


def _tls(work: Work) -> None:
    paths = {"certificate": "certfile", "key": "keyfile", "client_ca": "ca_certs", "ciphers": "ciphers"}
    tls = {key: work.get(name) for key, name in paths.items() if work.get(name)}
    if "certificate" not in tls:
        for key in tls:
            work.note(paths[key], "without certfile there is no TLS")
        return
    requirement = work.integer("cert_reqs", 0)
    if "client_ca" in tls and requirement:
        tls["client_certificates"] = "required" if requirement == 2 else "optional"  # noqa: PLR2004, of the ssl module
    elif tls.pop("client_ca", None):
        work.note("ca_certs", "without cert_reqs, Gunicorn asks no client for a certificate")
    work.draft.server["tls"] = tls


def _ssl_version(work: Work) -> None:
    work.note("ssl_version", "hourd speaks TLSv1.2 and TLSv1.3; tls: {minimum: TLSv1.3} leaves the newer one")


def _proxy_protocol(work: Work) -> None:
    stated = work.get("proxy_protocol")
    if stated is False or str(stated).lower() in ("off", "false", "none", ""):
        return
    trusted = _networks(work.texts("proxy_allow_ips") or _LOCAL)
    work.draft.server["proxy_protocol"] = {"from": trusted}
    work.note(
        "proxy_protocol", "from those networks, each connection has to begin with it; versions 1 and 2 are understood"
    )
    if "trusted_proxies" in work.draft.options:
        work.note(
            "proxy_protocol",
            "the address that it tells has to be one of trusted_proxies for X-Forwarded-Proto to count; "
            "for Gunicorn, the proxy's own",
        )


def _networks(stated: list[str]) -> list[str]:
    return ["0.0.0.0/0", "::/0", "unix"] if "*" in stated else stated


def _forwarded_allow_ips(work: Work) -> None:
    """Trust whom Gunicorn trusts, as far as it does: with the scheme. Uvicorn's workers take the client as well."""
    if work.kind not in ("wsgi", "asgi"):
        if work.get("forwarded_allow_ips") is not None:
            work.note("forwarded_allow_ips", "aiohttp's workers do not read it; for hourd, see trusted_proxies")
        return
    variable = work.from_environment("forwarded_allow_ips", "FORWARDED_ALLOW_IPS")
    default = _LOCAL if variable is None else [each.strip() for each in variable.split(",") if each.strip()]
    stated = default if work.get("forwarded_allow_ips") is None else work.texts("forwarded_allow_ips")
    both = work.worker.startswith("uvicorn")
    bind = work.draft.server["bind"] if isinstance(work.draft.server["bind"], list) else [work.draft.server["bind"]]
    if "*" in stated and not all(each.startswith("unix:") for each in bind):
        what = "where a request comes from, and by which scheme" if both else "by which scheme a request came"
        work.note("forwarded_allow_ips", f"* TRUSTS EVERYBODY: whoever connects says {what}; name the proxies instead")
    elif "*" in stated or (not both and any(each.startswith(("unix:", "fd:")) for each in bind)):
        # Gunicorn's own workers believe every peer of a unix socket.
        stated = [*(each for each in stated if each != "*"), "unix"]
    if stated:
        work.draft.options["trusted_proxies"] = _networks(stated)
        if not both:
            work.draft.options["forwarded_headers"] = ["x-forwarded-proto"]


def _keepalive(work: Work) -> None:
    seconds = work.integer("keepalive", 2)
    if seconds <= 0:
        work.note("keepalive", "0 keeps no connection, which hourd does not know; it is 1s here")
    work.option("keepalive", "keepalive_timeout", format_duration(max(1, seconds)))


def _limit_size(work: Work) -> None:
    """Set the one limit that hourd has for both of Gunicorn's."""
    names = ("limit_request_line", "limit_request_field_size")
    endless = [name for name in names if work.get(name) is not None and work.integer(name, 0) <= 0]
    for name in endless:
        work.note(name, "0 is without a limit, which hourd does not know")
    if endless:
        return
    least = max(work.integer("limit_request_line", 4094), work.integer("limit_request_field_size", 8190))
    work.option("limit_request_line", "line_max_size", format_size(least))


def _limit_request_fields(work: Work) -> None:
    work.option("limit_request_fields", "max_headers", max(1, work.integer("limit_request_fields", 100)))


def _root_path(work: Work) -> None:
    work.option("root_path", "root_path", str(work.get("root_path")), only=("asgi", "wsgi"))


def _asgi_lifespan(work: Work) -> None:
    work.option("asgi_lifespan", "lifespan", str(work.get("asgi_lifespan")), only=("asgi",))


def _websocket_max_message_size(work: Work) -> None:
    size = format_size(work.integer("websocket_max_message_size", 0))
    work.option("websocket_max_message_size", "websocket_max_size", size, only=("asgi",))


def _accesslog(work: Work) -> None:
    stated = str(work.get("accesslog"))
    pattern = work.get("access_log_format", next(iter(_FORMATS)))
    if pattern not in _FORMATS:
        work.note("access_log_format", "hourd has the formats common, combined and json; combined is nearest")
    work.option("accesslog", "access_log", _FORMATS.get(pattern, "combined"))
    if stated != "-":
        work.option("accesslog", "access_log_file", stated)


def _access_log_format(work: Work) -> None:
    if not work.get("accesslog"):
        work.note("access_log_format", "without accesslog there is no access log")


RULES: dict[str, Rule] = {
    "bind": _bind,
    "backlog": _backlog,
    "keepalive": _keepalive,
    "limit_request_line": _limit_size,
    "limit_request_field_size": _limit_size,
    "limit_request_fields": _limit_request_fields,
    "asgi_lifespan": _asgi_lifespan,
    "websocket_max_message_size": _websocket_max_message_size,
    "root_path": _root_path,
    "umask": _umask,
    "forwarded_allow_ips": _forwarded_allow_ips,
    "proxy_protocol": _proxy_protocol,
    "proxy_allow_ips": nothing,
    "certfile": _tls,
    "keyfile": _tls,
    "ca_certs": _tls,
    "cert_reqs": nothing,
    "ciphers": _tls,
    "ssl_version": _ssl_version,
    "accesslog": _accesslog,
    "access_log_format": _access_log_format,
}

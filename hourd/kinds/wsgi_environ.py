"""What a WSGI application is told of a request (PEP 3333, RFC 3875)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from .. import __version__
from .wsgi_files import EMPTY, Errors, FileWrapper

Environ = dict[str, Any]
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def make_factory(*, errors: Callable[[], Errors], multithread: bool) -> Callable[[Mapping[str, Any]], Environ]:
    """Return what makes an environ of an ASGI scope; its ``wsgi.input`` is empty.

    Args:
        errors: makes what a request has as ``wsgi.errors``.
        multithread: whether another thread may call the application at the same time.
    """
    always: Environ = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": f"hourd/{__version__}",
        "wsgi.version": (1, 0),
        "wsgi.multithread": multithread,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
    }

    def make(scope: Mapping[str, Any]) -> Environ:
        path, root = _path(scope)
        query = scope["query_string"].decode("latin-1")
        environ = always.copy()
        environ["REQUEST_METHOD"] = scope["method"]
        environ["SCRIPT_NAME"] = root
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
        environ["QUERY_STRING"] = query
        environ["REQUEST_URI"] = environ["RAW_URI"] = f"{path}?{query}" if query else path
        environ["SERVER_PROTOCOL"] = "HTTP/" + scope["http_version"]
        environ["wsgi.url_scheme"] = scope["scheme"]
        environ["wsgi.input"] = EMPTY()
        environ["wsgi.errors"] = errors()
        _add_headers(environ, scope["headers"])
        _add_addresses(environ, scope)
        return environ

    return make


def _path(scope: Mapping[str, Any]) -> tuple[str, str]:
    """Return the path as it was sent, percent-encoded, and what comes before it in the application's URLs."""
    root: str = scope.get("root_path", "").encode().decode("latin-1").rstrip("/")
    raw: bytes = scope["raw_path"]
    # As ASGI has it, the one begins with the other.
    return raw.decode("latin-1").removeprefix(root) if root else raw.decode("latin-1"), root


def _add_headers(environ: Environ, headers: list[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        variable = _variable(name)
        if variable is None:
            continue
        text = value.decode("latin-1")
        if variable in environ:
            # Only cookies have a separator of their own (RFC 9113, section 8.2.3).
            text = environ[variable] + ("; " if variable == "HTTP_COOKIE" else ",") + text
        environ[variable] = text


@functools.lru_cache(maxsize=1024)
def _variable(name: bytes) -> str | None:
    """Return the variable of a header, or none: with ``_`` for ``-``, a client could pass for a trusted proxy."""
    if b"_" in name:
        return None
    text = name.decode("latin-1").upper().replace("-", "_")
    return text if text in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + text


def _add_addresses(environ: Environ, scope: Mapping[str, Any]) -> None:
    if client := scope.get("client"):
        environ["REMOTE_ADDR"] = client[0]
        environ["REMOTE_PORT"] = str(client[1])
    else:
        environ["REMOTE_ADDR"] = ""  # the peer of a unix socket has none
    name, port = scope.get("server") or ("", None)
    if port is None:  # a unix socket: what the client believes to talk to
        name, port = _split_host(environ.get("HTTP_HOST", ""))
    environ["SERVER_NAME"] = name or "localhost"
    environ["SERVER_PORT"] = str(port or _DEFAULT_PORTS.get(scope["scheme"], "80"))


def _split_host(host: str) -> tuple[str, str]:
    """Split ``name:port`` or ``[address]:port``; either may be missing."""
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and port.isdecimal() else (host, "")

"""``kind: ssh``: SSH by asyncssh (``pip install 'hourd[ssh]'``)."""

from __future__ import annotations

import functools
import inspect
import logging
import socket
from collections.abc import Callable
from typing import Any, ClassVar

import asyncssh
from msgspec import Struct

from .. import errors
from ..context import give_worker
from . import Context, Listening, blame, host_keys
from .connections import Connection, Connections, TrackingKind
from .options import SshOptions

_ENDS = (asyncssh.Error, OSError)
"""How connections end that no code of the user's has broken."""


class Ssh(TrackingKind):
    """Serve an ``SSHServer`` (logins and sessions), an ``SSHServerSession``, or ``async def app(process)``."""

    Options: ClassVar[type[Struct]] = SshOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._connections: Connections = _Connections(self)
        self._server_factory: Callable[[], asyncssh.SSHServer] = asyncssh.SSHServer
        self._app: Callable[..., Any] = context.app

    async def open(self) -> None:
        options = self.context.options
        _quieten_asyncssh()
        self._options = asyncssh.SSHServerConnectionOptions(
            server_factory=self._make_server,
            process_factory=self._find_application(),
            server_host_keys=[host_keys.read(path, create=options.create_host_keys) for path in options.host_keys],
            authorized_client_keys=_authorized_keys(options.authorized_keys),
            login_timeout=options.login_timeout,
            keepalive_interval=options.keepalive_interval,
            line_editor=options.line_editor,
            sftp_factory=options.sftp or None,
        )

    async def listen(self, sock: socket.socket, backlog: int) -> Listening:
        if self.context.arrivals is None:
            return await blame.run(self, lambda: asyncssh.listen(sock=sock, backlog=backlog, options=self._options))
        # asyncssh has others accept for it where that happens at the far end of a tunnel.
        tunnel = _Tunnel(self, sock, backlog)
        return await blame.run(self, lambda: asyncssh.listen(tunnel=tunnel, options=self._options))

    def _find_application(self) -> Callable[..., Any] | None:
        """Find out which of asyncssh's callbacks the application is; returns it if it serves processes."""
        app, options = self.context.app, self.context.options
        if inspect.iscoroutinefunction(app):
            self._app = give_worker(app, self.context.worker, arguments=1)
            self._warn_of_locked_doors()
            return self._serve_process
        if not callable(app) or (isinstance(app, type) and not issubclass(app, _CLASSES)):
            raise errors.BootError(
                f"app is {app!r}, expected an asyncssh.SSHServer, an SSHServerSession, "
                "a factory of servers, or a coroutine function of (process)"
            )
        if options.sftp and _has_sessions(app):
            # asyncssh would never ask it for one.
            raise errors.ConfigError(
                f"sftp: true takes the place of the sessions of {app.__name__}; "
                "expected a coroutine function of (process), or an SSHServer without sessions"
            )
        self._app = give_worker(app, self.context.worker)
        self._server_factory = self._app
        if isinstance(app, type) and issubclass(app, asyncssh.SSHServerSession):
            self._server_factory = functools.partial(_SessionsOnly, self._app)
            self._warn_of_locked_doors()
        return None

    def _warn_of_locked_doors(self) -> None:
        if self.context.options.authorized_keys is None:
            self.context.log.warning("nobody can log in: set authorized_keys, or let app be an SSHServer that decides")

    def _make_server(self) -> asyncssh.SSHServer:
        try:
            made = self._server_factory()
            if not isinstance(made, asyncssh.SSHServer):
                raise TypeError(f"app returned {made!r}, expected an asyncssh.SSHServer")  # noqa: TRY301
            return self._connections.track(made)
        except Exception as error:  # noqa: BLE001, user code may raise anything
            self.failed("cannot make a server for a connection", error)
            return self._connections.track(_Refusing())

    async def _serve_process(self, process: asyncssh.SSHServerProcess[Any]) -> None:
        try:
            await self._app(process)
        except _ENDS as error:
            self.context.log.debug("a session ended: %r", error)
            process.close()
        except Exception as error:  # noqa: BLE001, user code may raise anything
            # asyncssh would say nothing, and cut the connection with all its other sessions.
            self.failed("a session failed", error)
            process.exit(1)


class _Tunnel:
    """What asyncssh takes for a tunnel, to have connections accepted behind the PROXY protocol or TLS."""

    def __init__(self, kind: Ssh, sock: socket.socket, backlog: int) -> None:
        self._kind = kind
        self._sock = sock
        self._backlog = backlog

    async def create_server(self, factory: Callable[[str, int], Any], host: str, port: int) -> Listening:
        return await blame.create_server(self._kind, lambda: factory(host, port), self._sock, self._backlog)


class _Connections(Connections):
    """Of asyncssh, which tells what user code has raised as the reason why the connection ends, and else nowhere."""

    def ended(self, protocol: object, error: Exception | None) -> None:
        super().ended(protocol, error)
        if error is not None and not isinstance(error, _ENDS):
            self._kind.failed("a connection was cut by an exception", error)


class _SessionsOnly(asyncssh.SSHServer):
    """Offers sessions; who may log in is decided by ``authorized_keys``."""

    def __init__(self, make_session: Callable[[], asyncssh.SSHServerSession[Any]]) -> None:
        self._make_session = make_session

    def session_requested(self) -> asyncssh.SSHServerSession[Any]:
        return self._make_session()


class _Refusing(asyncssh.SSHServer):
    """Takes the place of a server that could not be made."""

    def connection_made(self, conn: Connection) -> None:
        conn.abort()


_CLASSES = (asyncssh.SSHServer, asyncssh.SSHServerSession)


def _has_sessions(app: Any) -> bool:
    """Tell whether a class asks for sessions of its own; what a factory makes is seen too late."""
    offered = getattr(app, "session_requested", None) if isinstance(app, type) else None
    return isinstance(app, type) and offered is not asyncssh.SSHServer.session_requested


def _authorized_keys(path: str | None) -> asyncssh.SSHAuthorizedKeys | None:
    if path is None:
        return None
    try:
        return asyncssh.read_authorized_keys(path)
    except OSError as error:
        raise host_keys.refused(error, f"read authorized_keys {path}") from None
    except ValueError as error:
        raise errors.ConfigError(f"authorized_keys {path}: {error}") from None


def _quieten_asyncssh() -> None:
    """Have asyncssh tell of each connection, login and session at level debug only, unless its level was set."""
    logger = logging.getLogger("asyncssh")
    if logger.level == logging.NOTSET and logger.getEffectiveLevel() == logging.INFO:
        logger.setLevel(logging.WARNING)

"""``kind: ssh``: SSH by asyncssh (``pip install 'hourd[ssh]'``)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Callable
from typing import Any, ClassVar

import asyncssh
from msgspec import Struct

from .. import errors
from ..context import give_worker, takes_worker
from . import Context, Kind, Listening
from .connections import Connections
from .options import SshOptions


class Ssh(Kind):
    """Serve an ``SSHServer`` (logins and sessions), an ``SSHServerSession``, or ``async def app(process)``."""

    Options: ClassVar[type[Struct]] = SshOptions

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._connections = Connections()

    async def open(self) -> None:
        options = self.context.options
        given = {**self._login(options), **self._application()}
        self._server_factory: Callable[[], asyncssh.SSHServer] = given.pop("server_factory", asyncssh.SSHServer)
        self._options = asyncssh.SSHServerConnectionOptions(
            server_factory=self._make_server,
            server_host_keys=[_host_key(path, options.create_host_keys) for path in options.host_keys],
            login_timeout=options.login_timeout,
            keepalive_interval=options.keepalive_interval,
            line_editor=options.line_editor,
            sftp_factory=options.sftp or None,
            **given,
        )

    async def listen(self, sock: socket.socket, backlog: int) -> Listening:
        return await asyncssh.listen(sock=sock, backlog=backlog, options=self._options)

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def accepted(self) -> int:  # type: ignore[override]
        return self._connections.accepted

    async def close(self) -> None:
        self._connections.abort()

    def _make_server(self) -> asyncssh.SSHServer:
        return self._connections.track(self._server_factory())

    def _login(self, options: SshOptions) -> dict[str, Any]:
        """Read who may log in, unless the application decides that itself."""
        if options.authorized_keys is None:
            return {}
        try:
            return {"authorized_client_keys": asyncssh.read_authorized_keys(options.authorized_keys)}
        except OSError as error:
            raise errors.from_os(error, f"read authorized_keys {options.authorized_keys}") from None
        except ValueError as error:
            raise errors.ConfigError(f"authorized_keys {options.authorized_keys}: {error}") from None

    def _application(self) -> dict[str, Any]:
        """Find out which of asyncssh's callbacks the application is."""
        app, worker = self.context.app, self.context.worker
        if isinstance(app, type) and issubclass(app, asyncssh.SSHServerSession):
            return {"server_factory": functools.partial(_SessionsOnly, give_worker(app, worker))}
        if isinstance(app, type) and issubclass(app, asyncssh.SSHServer):
            return {"server_factory": give_worker(app, worker)}
        if asyncio.iscoroutinefunction(app):
            return {"process_factory": give_worker(app, worker, arguments=1)}
        if callable(app):
            return {"server_factory": give_worker(app, worker) if takes_worker(app) else app}
        raise errors.BootError(
            f"app is {app!r}, expected an asyncssh.SSHServer, an SSHServerSession, "
            "a factory of servers, or a coroutine function of (process)"
        )


class _SessionsOnly(asyncssh.SSHServer):
    """Offers sessions; who may log in is decided by ``authorized_keys``."""

    def __init__(self, make_session: Callable[[], asyncssh.SSHServerSession[Any]]) -> None:
        self._make_session = make_session

    def session_requested(self) -> asyncssh.SSHServerSession[Any]:
        return self._make_session()


def _host_key(path: str, create: bool) -> asyncssh.SSHKey:
    if create and not os.path.exists(path):
        _create_host_key(path)
    try:
        return asyncssh.read_private_key(path)
    except FileNotFoundError:
        raise errors.ConfigError(
            f"host key {os.path.abspath(path)} does not exist; make one (ssh-keygen -t ed25519 -N '' -f {path}) "
            "or set create_host_keys: true"
        ) from None
    except OSError as error:
        raise errors.from_os(error, f"read host key {os.path.abspath(path)}") from None
    except asyncssh.KeyImportError as error:
        raise errors.ConfigError(f"host key {os.path.abspath(path)}: {error}") from None


def _create_host_key(path: str) -> None:
    """Make a key that nobody else reads. Workers boot side by side: the first one wins, and all use its key."""
    draft = f"{path}.{os.getpid()}"
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as file:
            file.write(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        os.unlink(draft)
    except OSError as error:
        raise errors.from_os(error, f"create host key {os.path.abspath(path)}") from None

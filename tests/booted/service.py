"""hourd as a service of a booted machine: what it serves, how it is configured, and what systemd says of it."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .load import PORT
from .machine import Machine, until

SERVICE = "hourd.service"
SOCKET = "hourd.socket"
_CONFIG = "/etc/hourd.yaml"
_WORKERS = 2
_DEFAULTS = {"name": "proof", "workers": _WORKERS, "kind": "aiohttp", "bind": f"127.0.0.1:{PORT}"}
_SETTINGS = """
name: {name}
directory: /srv/proof
pools:
  web:
    workers: {workers}
    servers:
      http: {{kind: {kind}, app: application:create_app, bind: "{bind}", grace: 20s}}
"""
_APPLICATION = '''
"""Answers with the number of the request, after a while, so that some are under way at any moment."""

import asyncio

from aiohttp import web


async def answer(request):
    await asyncio.sleep({delay})
    return web.Response(text=request.headers["Number"])


async def tell_version(request):
    return web.Response(text="{version}")


def create_app():
    app = web.Application()
    app.router.add_get("/", answer)
    app.router.add_get("/version", tell_version)
    return app
'''
_ASK = """
import sys, urllib.request
answers = [urllib.request.urlopen(sys.argv[1], timeout=60).read().decode() for _ in range(int(sys.argv[2]))]
print(*sorted(set(answers)))
"""
_ASKED = 20
"""Connections: each worker has one of them."""
_TOLD = 60
"""Lines of the journal."""


class Service:
    """hourd in a machine, seen through systemctl."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._version = 0
        """Of the application."""

    # --- what it is given ---------------------------------------------------------------------------

    def install(self, package: Path) -> None:
        """Install a package, or one over an older one."""
        inside = self.machine.copy(package, "/root")
        # The administrator has changed the configuration, and keeps it.
        self.machine.run("dpkg", "--force-confold", "--install", inside)

    def configure(self, path: str = _CONFIG, **settings: str) -> None:
        """Write a configuration; an unknown ``kind`` is a mistake in it."""
        self.machine.write(path, _SETTINGS.format(**{**_DEFAULTS, **settings}))

    def deploy(self, *, delay: float = 0.02) -> str:
        """Write a new version of the application, and return which."""
        self._version += 1
        text = _APPLICATION.format(version=self._version, delay=delay)
        # Byte code counts as current while the source's size is the same and its time, in seconds.
        self.machine.write("/srv/proof/application.py", text + "#" * self._version + "\n")
        return str(self._version)

    def drop_in(self, unit: str, text: str) -> None:
        """Override settings of a unit; nothing takes what it overrides back."""
        path = f"/etc/systemd/system/{unit}.d/proof.conf"
        if text:
            self.machine.write(path, text)
        else:
            self.machine.outside(path).unlink()
        self.machine.run("systemctl", "daemon-reload")

    def sample(self, first: str) -> str:
        """Return the paragraph of the drop-in that is a sample which has a line of this beginning, ready for use."""
        text = self.machine.outside("/usr/share/doc/hourd/examples/application.conf").read_text()
        (paragraph,) = [each for each in text.split("\n\n") if f"\n#{first}" in each]
        return "".join(f"{line[1:]}\n" for line in paragraph.split("\n") if line[:1] == "#" and line[:2] != "# ")

    @contextlib.contextmanager
    def broken(self, why: str) -> Iterator[None]:
        """Have a program installed that cannot start."""
        (module,) = self.machine.outside("/usr/lib/hourd/lib").glob("python*/site-packages/hourd/supervisor.py")
        kept = module.with_name("supervisor.kept")
        module.rename(kept)
        module.write_text(f"raise ImportError({why!r})\n")
        try:
            yield
        finally:
            kept.rename(module)

    # --- what it does -------------------------------------------------------------------------------

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl; raises ``AssertionError`` when it fails."""
        return self.machine.run("systemctl", *arguments)

    def serve_anew(self) -> None:
        """Have it run with a good configuration and a new application, and forget what has failed before."""
        self.configure()
        self.deploy()
        self.machine.run("systemctl", "stop", SOCKET, check=False)
        self.systemctl("reset-failed")  # the limit of starts counts from here
        self.systemctl("restart", SERVICE)

    def kill(self, pid: int, signal: str) -> None:
        """Signal a process, by its id inside."""
        self.machine.run("sh", "-c", f"kill -{signal} {pid}")

    # --- how it is ----------------------------------------------------------------------------------

    def show(self, name: str, unit: str = SERVICE) -> str:
        """Return a property of the service."""
        return self.machine.show(unit, name)[0]

    @property
    def main_pid(self) -> int:
        """The master's id inside; 0 when there is none."""
        return int(self.show("MainPID"))

    def is_active(self) -> bool:
        """Tell whether it has said that it is ready, or to reload."""
        return self.show("ActiveState") in ("active", "reloading")

    def status(self) -> dict[str, Any]:
        """Return what hourd says of itself."""
        status: dict[str, Any] = json.loads(self.machine.run("hourd", "status", "--json", "-c", _CONFIG))
        return status

    def workers(self) -> list[int]:
        """Return the ids inside of the workers, by slot, once both serve: on a busy machine one may be slow."""

        def look() -> list[int]:
            workers = self.status()["pools"]["web"]["workers"]
            serving = {each["slot"]: each["pid"] for each in workers if each["state"] == "serving"}
            return [serving[0], serving[1]] if len(serving) == _WORKERS else []

        return until(look, "two workers that serve")

    def versions(self, port: int = PORT) -> str:
        """Return the versions of the application that answer, each to some of many connections."""
        ask = ("-c", _ASK, f"http://127.0.0.1:{port}/version", str(_ASKED))
        return self.machine.run("python3", *ask).strip()

    def journal(self, lines: int | None = None) -> str:
        """Return what was logged of the service, by itself and by systemd."""
        return self.machine.run("journalctl", "--unit", SERVICE, "--output=cat", f"--lines={lines or 'all'}")

    def await_successor(self, master: int) -> int:
        """Wait until another master than that one is ready, and return it."""

        def look() -> int:
            pid, state = self.machine.show(SERVICE, "MainPID", "ActiveState")
            return int(pid) if int(pid) not in (0, master) and state == "active" else 0

        return until(look, "another master that is ready")

    def tell(self) -> None:
        """Show what systemd and hourd have to say, where something failed."""
        print(self.machine.run("systemctl", "status", "--full", "--lines=0", SERVICE, check=False), file=sys.stderr)
        print(self.journal(_TOLD), file=sys.stderr)

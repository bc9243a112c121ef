"""What is run: a configuration, changed so that it stays in a folder and on the loopback interface.

The file of a user is not run itself. It is read by ``hourd check --print``, which fills in defaults and leaves
secrets as references, and written anew with other addresses, log and control socket.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shutil
import socket
import subprocess  # noqa: TID251, hourd is asked what a file means
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
import yaml

_PROGRAM = "from hourd.cli import main; main()"
_MODULE = "chaos_app"
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_GRACE_MIN = 15
"""Seconds: the slowest clients, on a busy machine."""
_HUNG_MAX = 30.0
"""Seconds; longer than that is not waited for a worker to be killed."""


@dataclass(slots=True)
class Scene:
    """A folder with all that a daemon needs."""

    place: Path
    settings: dict[str, Any]
    limit: float = 0.0
    """Seconds of patience, where they were given."""
    changed: list[str] = field(default_factory=list)
    """What is not as it was configured, and who reads the report has to know."""
    mark: str = field(default_factory=lambda: f"HOURD_CHAOS={secrets.token_hex(8)}")
    """A variable by which its processes are known."""

    @classmethod
    def of(cls, file: Path, place: Path) -> Scene:
        """Read a configuration and make it a scene in a folder.

        Raises:
            measure.CannotRunError: it is not right.
        """
        done = run("check", "-c", str(file), "--print")
        if done.returncode:
            raise measure.CannotRunError(f"{file}: {done.stderr.strip() or done.stdout.strip()}")
        settings = yaml.safe_load(done.stdout)
        settings["directory"] = os.path.abspath(os.path.join(file.parent, settings.get("directory", ".")))
        settings |= {"control": str(place / "control.sock"), "log": {"level": "info", "format": "text"}}
        settings.pop("pid_file", None)
        scene = cls(place, settings)
        scene._move_addresses()
        scene._raise_graces()
        if any(map(scene.takes_orders, scene.pools)):
            scene._move_application()
        place.chmod(0o755)  # for workers of another user
        scene.restore()
        return scene

    def _move_addresses(self) -> None:
        count = 0
        for name, pool in self.pools.items():
            for server_name, server in pool["servers"].items():
                bind, known = server["bind"], self.is_known(name, server_name)
                moved = []
                for number, address in enumerate([bind] if isinstance(bind, str) else bind, count):
                    moved.append(_moved(address, self.place, number, keep_port=known))
                count += len(moved)
                server["bind"] = list(dict.fromkeys(moved))  # two ports of one host become one

    def _raise_graces(self) -> None:
        """Let connections outlive a drain for as long as the clients need for one request, or they are cut by right."""
        short = []
        for name, pool in self.pools.items():
            for server, settings in pool["servers"].items():
                if _seconds(settings["grace"]) < _GRACE_MIN:
                    short.append(f"{name}/{server} ({settings['grace']})")
                    settings["grace"] = f"{_GRACE_MIN}s"
        if short:
            self.changed.append(
                f"grace is {_GRACE_MIN}s instead for {', '.join(short)}: a request of these clients takes seconds, "
                "and what outlives its grace is cut by right"
            )

    def _move_application(self) -> None:
        """Give the tool's own application a folder in which it can be told to misbehave."""
        folder = self.place / "application"
        (folder / "orders").mkdir(parents=True)
        shutil.copy(Path(__file__).parent / f"{_MODULE}.py", folder)
        self.settings["directory"] = str(folder)

    # --- files ------------------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        """The configuration that is run."""
        return self.place / "hourd.yaml"

    def write(self, text: str) -> None:
        """Replace the configuration."""
        _replace(self.file, text)

    def restore(self) -> None:
        """Write the configuration as it should be."""
        self.write(yaml.safe_dump(self.settings, sort_keys=False))

    @property
    def application(self) -> Path:
        """The folder of the application."""
        return Path(self.settings["directory"])

    def set_mood(self, mood: str) -> None:
        """Tell the import of the tool's own application what to do; nothing is to succeed."""
        _replace(self.application / "mood", mood)

    def break_application(self) -> None:
        """Write something that is no Python where the tool's own application stands."""
        _replace(self.application / f"{_MODULE}.py", "def create_app(:\n")

    def mend_application(self) -> None:
        """Undo that, and any mood."""
        _replace(self.application / f"{_MODULE}.py", (Path(__file__).parent / f"{_MODULE}.py").read_text())
        self.set_mood("")

    # --- what it says -----------------------------------------------------------------------------

    @property
    def pools(self) -> dict[str, Any]:
        """The pools' settings."""
        pools: dict[str, Any] = self.settings["pools"]
        return pools

    def takes_orders(self, pool: str) -> bool:
        """Tell whether the workers of a pool do harm to themselves when they are told to."""
        return _is_known(self.pools[pool].get("lifespan"))

    def is_known(self, pool: str, server: str) -> bool:
        """Tell whether a server is the tool's own application."""
        return _is_known(self.pools[pool]["servers"][server].get("app"))

    def workers(self, pool: str) -> tuple[int, int] | None:
        """Return how many workers a pool is to have at least and at most; nothing where the machine decides."""
        match self.pools[pool]["workers"]:
            case {"min": int(low), "max": int(high)}:
                return low, high
            case int(number):
                return number, number
        return None

    def hung(self, pool: str) -> float | None:
        """Return the seconds after which a worker counts as hung, if that comes within reasonable time."""
        hung = self._timeout(pool, "hung")
        return hung if hung and hung <= _HUNG_MAX else None

    def slow(self, pool: str) -> float:
        """Return the seconds after which a worker counts as slow."""
        return self._timeout(pool, "slow") or 0.0

    def recycles_memory(self, pool: str) -> bool:
        """Tell whether workers are replaced when they have grown."""
        return bool((self.pools[pool].get("recycle") or {}).get("memory"))

    @property
    def grace(self) -> float:
        """Seconds that a worker may take to drain."""
        return max(_seconds(s.get("grace", "30s")) for pool in self.pools.values() for s in pool["servers"].values())

    @property
    def patience(self) -> float:
        """Seconds after which what did not happen is not going to happen, even on a busy machine."""
        slowest = max((self._timeout(p, "boot") or 60.0) + (self._timeout(p, "hung") or 0.0) for p in self.pools)
        return self.limit or max(60.0, slowest + self.grace + 20.0)

    def _timeout(self, pool: str, name: str) -> float | None:
        value = (self.pools[pool].get("timeouts") or {}).get(name)
        return _seconds(value) if value else None


def command(*arguments: str) -> list[str]:
    """Return what executes hourd's command line."""
    return [sys.executable, "-c", _PROGRAM, *arguments]


def can(subcommand: str) -> bool:
    """Tell whether this hourd has a command."""
    return run(subcommand, "--help").returncode == 0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of hourd to its end."""
    return subprocess.run(
        command(*arguments), env=measure.environment(), capture_output=True, text=True, check=False, timeout=120
    )


def _is_known(reference: str | None) -> bool:
    return bool(reference) and str(reference).partition(":")[0] == _MODULE


def _moved(address: str, place: Path, number: int, *, keep_port: bool) -> str:
    """Return another address; with ``keep_port``, port 0 only instead of port 0."""
    if address.startswith("unix:@"):
        return f"unix:@{place.name}-{number}"
    if address.startswith("unix:"):
        return f"unix:{place}/{number}.sock"
    port = _free_port() if keep_port and not address.endswith(":0") else 0
    udp = "udp:" if address.startswith("udp:") else ""
    return f"{udp}[::1]:{port}" if address.removeprefix(udp).startswith("[") else f"{udp}127.0.0.1:{port}"


def _free_port() -> int:
    """Return a port that is free and stays so: it is none of those that clients are given (ip(7))."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(max(1024, first - 20_000), first)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: a reload may read it at any time."""
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text)
    draft.rename(path)


def _seconds(text: str | float) -> float:
    match = re.fullmatch(r"([\d.]+)(ms|s|m|h|d)", str(text))
    return float(match[1]) * _SECONDS[match[2]] if match else 0.0

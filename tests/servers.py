"""Real PostgreSQL and Redis servers, each in a folder of its own and on a unix socket only.

They are looked for where Debian's packages put them. Without them the tests are skipped, unless ``TEST_SERVERS=required``, as CI says.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import ClassVar, Self

import pytest

from .around import PATIENCE

PASSWORD = "s3cret/of@tests"
ENCODED = "s3cret%2Fof%40tests"


class Server:
    """A server that can be stopped and started again."""

    package: ClassVar[str]

    def __init__(self) -> None:
        self.program = self._find()
        if self.program is None:
            missing = f"{self.package} is not installed"
            pytest.fail(missing) if os.environ.get("TEST_SERVERS") == "required" else pytest.skip(missing)
        self.folder = Path(tempfile.mkdtemp(prefix="hourd-"))
        self._user = self._choose_user()
        if self._user:
            shutil.chown(self.folder, self._user)

    def __enter__(self) -> Self:
        self.prepare()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, user=self._user, extra_groups=[] if self._user else None,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
        end = time.monotonic() + PATIENCE
        while not self.is_there():
            log_text = (self.folder / "log").read_text()
            assert self.process.poll() is None, log_text
            assert time.monotonic() < end, log_text
            time.sleep(0.02)

    def see_to(self) -> None:
        """Start it again if a test has left it dead."""
        if self.process.poll() is not None:
            self.start()

    def kill(self) -> None:
        """End it at once; what it has is on its disk."""
        if self.process.poll() is None:
            self.process.send_signal(self.at_once)
            self.process.wait(PATIENCE)

    def run(self, *command: str, **options: object) -> str:
        done = subprocess.run(
            command, cwd=self.folder, user=self._user, extra_groups=[] if self._user else None, check=False, timeout=PATIENCE,
            capture_output=True, text=True, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "PGPASSWORD": PASSWORD}, **options,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    at_once: ClassVar[signal.Signals] = signal.SIGKILL

    def _choose_user(self) -> str | None:
        """PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return None
        return next(name for name in ("postgres", "nobody") if any(each.pw_name == name for each in pwd.getpwall()))

    def _find(self) -> str | None:
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what it needs, once."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_there(self) -> bool:
        raise NotImplementedError


class PostgreSQL(Server):
    package = "postgresql"
    at_once = signal.SIGQUIT
    """An immediate shutdown: it kills its own children, which SIGKILL would leave behind."""

    def _find(self) -> str | None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
        return str(found[-1]) if found else shutil.which("postgres")

    def tool(self, name: str) -> str:
        return str(Path(self.program).with_name(name))

    def prepare(self) -> None:
        (self.folder / "password").write_text(PASSWORD)
        (self.folder / "password").chmod(0o644)
        self.run(
            self.tool("initdb"), "-D", "data", "-U", "owner", "--pwfile=password", "--auth=scram-sha-256", "-E", "UTF8", "--no-sync",
            "--no-instructions",
        )  # fmt: skip

    def command(self) -> list[str]:
        settings = {
            "fsync": "off", "listen_addresses": "", "unix_socket_directories": str(self.folder), "max_connections": "60",
            "shared_buffers": "16MB", "autovacuum": "off", "jit": "off",
        }  # fmt: skip
        return [self.program, "-D", "data", *(f"--{name}={value}" for name, value in settings.items())]

    def is_there(self) -> bool:
        command = [self.tool("pg_isready"), "-q", "-h", str(self.folder)]
        return subprocess.run(command, check=False, timeout=PATIENCE).returncode == 0

    def url(self, password: str = ENCODED, database: str = "postgres") -> str:
        return f"postgresql://owner:{password}@/{database}?host={self.folder}"

    def sql(self, text: str) -> str:
        """Run statements on a connection of its own; returns what they show."""
        return self.run(self.tool("psql"), "-h", str(self.folder), "-U", "owner", "-qAtX", "-d", "postgres", "-c", text)

    def connections(self) -> int:
        """Return how many clients there are besides this one."""
        count = (
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        return int(self.sql(count))


class Redis(Server):
    package = "redis-server"

    def _find(self) -> str | None:
        return shutil.which("redis-server")

    @property
    def socket(self) -> str:
        return str(self.folder / "redis.sock")

    def command(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": self.socket,
            "unixsocketperm": "777",
            "requirepass": PASSWORD,
            "save": "",
        }
        return [self.program, *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def is_there(self) -> bool:
        command = ["redis-cli", "-s", self.socket, "ping"]
        done = subprocess.run(command, check=False, timeout=PATIENCE, capture_output=True, text=True)
        return "NOAUTH" in done.stdout

    def url(self, password: str = ENCODED) -> str:
        return f"unix://:{password}@{self.socket}"

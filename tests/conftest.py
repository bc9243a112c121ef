"""What several files of tests share."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import hourd

from .servers import PostgreSQL, Redis


@dataclass(frozen=True)
class Nobody:
    """A user without rights, and a Python with hourd that it can run."""

    name: str
    uid: int
    gid: int
    python: str
    path: str
    """For PYTHONPATH."""


@pytest.fixture(scope="session")
def nobody() -> Iterator[Nobody]:
    """Provide the user nobody, when there is one and this is root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        pytest.skip("there is no user nobody")
    folder = Path(tempfile.mkdtemp(prefix="hourd-"))
    try:
        yield Nobody(entry.pw_name, entry.pw_uid, entry.pw_gid, *_python_for(entry, folder))
    finally:
        shutil.rmtree(folder)


def _python_for(entry: pwd.struct_passwd, folder: Path) -> tuple[str, str]:
    """Find a Python of this version; where the packages cannot be read, a copy can."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    tree = str(Path(hourd.__file__).parents[1])
    if _can_run(entry, sys.executable, tree):
        return sys.executable, tree
    folder.chmod(0o755)
    copy = str(folder / "packages")
    shutil.copytree(
        sysconfig.get_path("purelib"), copy, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )
    shutil.copytree(Path(hourd.__file__).parent, Path(copy, "hourd"), dirs_exist_ok=True)
    subprocess.run(["chmod", "-R", "a+rX", copy], check=True)
    for python in (sys.executable, f"/usr/bin/{version}"):
        if _can_run(entry, python, copy):
            return python, copy
    pytest.skip(f"nobody cannot run {sys.executable}, and there is no /usr/bin/{version} that runs hourd")


def _can_run(entry: pwd.struct_passwd, python: str, path: str) -> bool:
    try:
        result = subprocess.run(
            [python, "-P", "-c", "import hourd.worker, hourd.mold, uvloop"],
            user=entry.pw_uid, group=entry.pw_gid, extra_groups=[], cwd="/", env={"PYTHONPATH": path},
            capture_output=True, check=False,
        )  # fmt: skip
    except OSError:
        return False
    return result.returncode == 0


@pytest.fixture(scope="session")
def _postgresql() -> Iterator[PostgreSQL]:
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def _redis() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@pytest.fixture
def postgresql(_postgresql: PostgreSQL) -> PostgreSQL:
    """Provide a PostgreSQL server, which a test may kill."""
    _postgresql.see_to()
    return _postgresql


@pytest.fixture
def redis(_redis: Redis) -> Redis:
    """Provide a Redis server, which a test may kill."""
    _redis.see_to()
    return _redis

"""How much memory a process has, and kills for want of it: a worker that the OOM killer takes is named as such."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hourd import memory

from .daemon import Daemon, connect, pool, talk
from .test_health import SLOW
from .witness import alive, stopped

MIB = 1024**2
PROGRAM = "from hourd.cli import main; main()"
OOM = "was killed by the kernel's OOM killer: it or its cgroup had no memory left"
EATS = """
import os

async def serve(reader, writer):
    # Takes memory without end when it is told, or else says who it is.
    kept = []
    while await reader.read(1000) == b"eat":
        while True:
            kept.append(bytearray(os.urandom(1)) * 2**20)
    writer.write(str(os.getpid()).encode())
"""
FEEDS = """
import asyncio, os, subprocess, sys

EATER = '''
with open("/proc/self/oom_score_adj", "w") as file:
    file.write("1000")
kept = []
while True:
    kept.append(bytearray(b"x") * 2**20)
'''

async def serve(reader, writer):
    # Has a subprocess take memory without end, and says how it ended.
    await reader.read()
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", EATER], check=False)
    writer.write(str(done.returncode).encode())
"""
TAKES = """
import os, sys
inherited = bytearray(b"x") * (30 * 2**20)
if os.fork() == 0:
    mine = bytearray(b"x") * (20 * 2**20)
    print(os.getpid(), flush=True)
sys.stdin.read()
"""


class Cgroup:
    """A memory cgroup of its own, in which no more than so much can be had."""

    def __init__(self, place: Path, limit: int) -> None:
        self._place = place
        place.mkdir()
        try:
            old = place / "memory.limit_in_bytes"
            (old if old.exists() else place / "memory.max").write_text(str(limit))
            with contextlib.suppress(OSError):
                (place / "memory.swap.max").write_text("0")
        except OSError:
            place.rmdir()
            raise

    def command(self, program: str = PROGRAM) -> list[str]:
        """Return what executes hourd in it."""
        return [
            "sh",
            "-c",
            f'echo $$ >{self._place}/cgroup.procs && exec "$@"',
            "sh",
            sys.executable,
            "-P",
            "-c",
            program,
        ]

    def kills(self) -> int:
        files = (self._place / name for name in ("memory.oom_control", "memory.events"))
        text = next(file for file in files if file.exists()).read_text()
        return int(re.search(r"^oom_kill (\d+)", text, re.MULTILINE)[1])

    def remove(self) -> None:
        # What was killed may still be leaving it.
        while (self._place / "cgroup.procs").read_text():
            pass
        self._place.rmdir()


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    if os.geteuid() != 0:
        pytest.skip("only root can make a cgroup")
    found = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    inner = next((path for _, names, path in found if "memory" in names.split(",")), None)
    parent = Path("/sys/fs/cgroup") / ("memory" if inner is not None else "")
    name = f"hourd-test-{secrets.token_hex(4)}"
    try:
        made = Cgroup(parent / name, 150 * MIB)
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made in {parent}: {error}")
    yield made
    made.remove()


def test_a_worker_that_the_oom_killer_takes_is_named_as_such(cgroup):
    with Daemon(pool(), {"app.py": EATS}, command=cgroup.command()) as daemon:
        daemon.allow(SLOW, "SIGKILL", OOM)
        daemon.expect("READY=1")
        (address,), before = daemon.addresses(), alive(daemon)
        with connect(address) as sock:
            sock.sendall(b"eat")
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(100) == b""
        said = daemon.wait_log(
            rf"worker web/\d gen=1 pid=(\d+) {OOM} after serving for \d+\.\ds; starting another at once"
        )
        eater = int(said[1])
        assert eater in before
        daemon.until(lambda: len(set(alive(daemon)) - {eater}) == 2, "a successor")
        assert int(talk(address)) in alive(daemon)
        assert cgroup.kills() == 1
        # Another kill is none of its.
        victim = alive(daemon)[0]
        os.kill(victim, signal.SIGKILL)
        daemon.wait_log(rf"pid={victim} was killed by SIGKILL")
        assert daemon.log.count(OOM) == 1


def test_a_kill_of_another_process_is_not_taken_for_the_reason_of_a_later_death(cgroup):
    program = f"import hourd.memory; hourd.memory._FRESH; hourd.memory._FRESH = 0.05; {PROGRAM}"
    config = pool(timeouts={"slow": "500ms"})
    with Daemon(config, {"app.py": FEEDS}, command=cgroup.command(program)) as daemon:
        daemon.allow(SLOW, "SIGKILL")
        daemon.expect("READY=1")
        assert talk(daemon.addresses()[0]) == b"-9"
        assert cgroup.kills() == 1
        # Two looks of the master, not at once one after the other: it has seen the kill, and it is old.
        victim, other = alive(daemon)
        with stopped(other):
            daemon.wait_log(rf"pid={other} is slow")
        daemon.wait_log(rf"pid={other} is well again")
        os.kill(victim, signal.SIGKILL)
        daemon.wait_log(rf"pid={victim} was killed by SIGKILL")
        assert OOM not in daemon.log


class Kernel:
    """The file of a cgroup."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "memory.events"
        self.kills = 7
        self.kill(0)

    def kill(self, number: int = 1) -> None:
        self.kills += number
        self.file.write_text(f"low 0\noom 9\noom_kill {self.kills}\n")


def test_kills_are_claimed_once_each_and_only_while_they_are_new(tmp_path):
    kernel = Kernel(tmp_path)
    looks, claims = memory.OomKills(kernel.file), memory.OomKills(kernel.file)
    looks.look(100.0)
    assert not claims.claim()
    kernel.kill(2)
    looks.look(101.0)
    assert [claims.claim() for _ in range(3)] == [True, True, False]
    kernel.kill(3)
    looks.look(102.0)
    looks.look(108.0)
    assert claims.claim()
    kernel.kill()
    looks.look(109.0)
    looks.look(113.0)
    assert [claims.claim() for _ in range(3)] == [True, False, False]


def test_where_the_kernel_tells_nothing_nobody_is_an_oom_kill(tmp_path):
    kills = memory.OomKills(tmp_path / "none")
    kills.look(1.0)
    assert not kills.claim()


def test_what_a_process_has_alone_is_told_from_what_it_shares():
    with subprocess.Popen([sys.executable, "-c", TAKES], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        private, resident = memory.private(child), memory.resident(child)
        parent.stdin.close()
    assert 20 * MIB <= private < 40 * MIB
    assert resident >= 50 * MIB


@pytest.mark.parametrize("pid", [None, 2**22 + 1])
def test_of_who_is_gone_nothing_is_known(pid):
    assert memory.private(pid) is None
    assert memory.resident(pid) is None

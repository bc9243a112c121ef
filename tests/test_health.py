"""Workers that give no sign of life: helped when they are slow, shown and replaced when they hang."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hourd import scoreboard
from hourd.children import Worker
from hourd.clock import Clock
from hourd.events import Plan, Sample
from hourd.health import judge
from hourd.pool import Pool
from hourd.settings import Range, Recycle

from .around import GATE, Gate
from .daemon import ECHO, Daemon, connect, pool, talk
from .witness import Fresh, Witness, alive, at_least, never_restarted, resume, stopped

SLOW = "is slow: no sign of life for"
"""Allowed everywhere here: on a busy machine it happens to anybody."""
KILLING = r"killing worker {name} gen=1 pid={pid}: it gave no sign of life for \d+\.\ds \(timeouts\.hung\)"
FACTS = r"worker {name} gen=1 pid={pid}: \d+s old, \d+ MiB private memory, last sign of life [1-9]\d*\.\ds ago"

BLOCKS = """
import asyncio
import ctypes
import os
import pathlib
import re
import time


def sleeps():
    time.sleep(1000)


def calculates():
    re.match("(a|a)*b", "a" * 60)


def calls_c():
    while True:
        ctypes.PyDLL(None).sleep(1000)


async def serve(reader, writer):
    # Blocks as it is told, or else repeats what it gets.
    data = await reader.read(1000)
    if culprit := globals().get(data.decode()):
        pathlib.Path("blocked").write_text(str(os.getpid()))
        culprit()
    writer.write(f"{os.getpid()}\\n".encode() + data)
"""


def line_of(text: str) -> int:
    return BLOCKS.splitlines().index(text) + 1


CULPRITS = {
    "sleeps": line_of("    time.sleep(1000)"),
    "calculates": line_of('    re.match("(a|a)*b", "a" * 60)'),
    "calls_c": line_of("        ctypes.PyDLL(None).sleep(1000)"),
}
"""How a loop is blocked, and in which line. The last two hold the interpreter's lock: no thread would help."""


def block(daemon: Daemon, how: str) -> tuple[int, socket.socket]:
    """Let some worker block its loop; returns its pid, and the connection that it will never answer."""
    sock = connect(daemon.addresses()[0])
    sock.sendall(how.encode())
    marker = daemon.folder / "blocked"
    pid = int(daemon.until(lambda: marker.exists() and marker.read_text(), "a worker blocks"))
    marker.unlink()
    return pid, sock


def name_of(daemon: Daemon, pid: int, name: str = "web") -> str:
    (worker,) = [each for each in daemon.pool(name)["workers"] if each["pid"] == pid]
    return f"{name}/{worker['slot']}"


def is_helped(pool: dict, pid: int) -> bool:
    """Tell whether a worker counts as slow and somebody attends its slot beside it."""
    (worker,) = [each for each in pool["workers"] if each["pid"] == pid]
    return worker["state"] == "slow" and len(pool["slots"][worker["slot"]]["attended_by"]) > 1


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "RSD"


def asked_by(address: str) -> int:
    """Return who answers a fresh connection."""
    return int(talk(address, b"x").split()[0])


# --- slow -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_stopped_worker_is_helped_until_it_goes_on(loop):
    config = pool(workers=3, loop=loop, timeouts={"slow": "500ms", "hung": "1h"})
    with Daemon(config, {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,), workers = daemon.addresses(), alive(daemon)
        alone = [[pid] for pid in workers]
        with Witness(daemon, at_least(3), never_restarted):
            with stopped(workers[0]):
                # Some of these wait at its slot before anybody knows that it is slow.
                with Fresh(address, 20) as early:
                    early.wait_for(100)
                status = daemon.wait_until(lambda status: is_helped(status["pools"]["web"], workers[0]), "it is helped")
                assert workers[0] in status["pools"]["web"]["slots"][0]["attended_by"]
                # 60 connections leave none of 3 slots out.
                assert {asked_by(address) for _ in range(60)} | early.by.keys() <= set(workers[1:])
            daemon.wait_log(f"worker web/0 gen=1 pid={workers[0]} is well again")
            daemon.wait_until(
                lambda status: [slot["attended_by"] for slot in status["pools"]["web"]["slots"]] == alone,
                "each is alone with its slot",
            )
            assert alive(daemon) == workers
            daemon.until(lambda: asked_by(address) == workers[0], "it serves again")
        assert re.search(rf"worker web/0 gen=1 pid={workers[0]} {SLOW} \d+\.\ds; siblings attend its slot", daemon.log)
        assert "killing" not in daemon.log


def test_a_loop_that_is_blocked_for_a_while_is_helped_too():
    """What the worker has accepted before waits for it; nothing else does."""
    code = BLOCKS.replace("time.sleep(1000)", "import gate; gate.wait_at_gate()")
    config = pool(workers=2, timeouts={"slow": "500ms", "hung": "1h"})
    with Daemon(config, {"app.py": code, "gate.py": GATE}) as daemon, Gate(daemon.folder) as gate:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,), workers = daemon.addresses(), alive(daemon)
        pid, asking = block(daemon, "sleeps")
        _, held = gate.next()
        daemon.wait_until(lambda status: is_helped(status["pools"]["web"], pid), "it is helped")
        assert {asked_by(address) for _ in range(40)} == set(workers) - {pid}
        held.close()
        with asking:
            assert int(asking.makefile().readline()) == pid
        daemon.wait_until(lambda status: all(len(each["attended_by"]) == 1 for each in status["pools"]["web"]["slots"]))
        assert alive(daemon) == workers


def test_a_reload_does_not_wait_for_a_stopped_worker():
    with Daemon(pool(timeouts={"slow": "500ms", "hung": "1h"}), {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,), old = daemon.addresses(), alive(daemon)
        with stopped(old[0]):
            daemon.wait_until(lambda status: is_helped(status["pools"]["web"], old[0]), "it is helped")
            assert daemon.reload().ok
            daemon.wait_log(f"pid={old[1]} ended")
            assert not {asked_by(address) for _ in range(40)} & set(old)
        daemon.wait_log(f"worker web/0 gen=1 pid={old[0]} ended")
        assert daemon.pool()["restarts"] == 0


# --- hung -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stopped", *CULPRITS])
def test_a_worker_that_hangs_is_shown_killed_and_replaced(how):
    with Daemon(pool(workers=3, timeouts={"slow": "500ms", "hung": "2s"}), {"app.py": BLOCKS}) as daemon:
        daemon.allow(SLOW, "gave no sign of life", "last sign of life")
        daemon.expect("READY=1")
        (address,), before = daemon.addresses(), alive(daemon)
        with contextlib.ExitStack() as stack:
            if how == "stopped":
                pid = before[0]
                stack.enter_context(stopped(pid))
            else:
                pid, asking = block(daemon, how)
                stack.enter_context(asking)
            name, siblings = name_of(daemon, pid), set(before) - {pid}
            with Witness(daemon, at_least(2)):
                with Fresh(address, 5) as clients:
                    daemon.wait_log(KILLING.format(name=name, pid=pid))
                    clients.wait_for(50)
                daemon.until(lambda: siblings < set(alive(daemon)) and len(alive(daemon)) == 3, "a successor")
            if how != "stopped":
                with contextlib.suppress(ConnectionResetError):
                    assert asking.recv(100) == b""
        (successor,) = set(alive(daemon)) - set(before)
        assert clients.by.keys() <= {successor, *siblings}
        assert daemon.pool()["restarts"] == 1
        assert len([slot for slot in daemon.pool()["slots"] if slot["attended_by"] == [successor]]) == 1
        facts = re.search(rf"{FACTS.format(name=name, pid=pid)}(.*(\n(?!\d{{4}}-).*)*)", daemon.log)
        assert facts, "what is known of it"
        if how == "stopped":
            assert facts[1] == ", it is stopped by a signal; it did not show its stacks"
        else:
            assert facts[1].startswith("; its stacks:\n")
            assert f'app.py", line {CULPRITS[how]} in {how}\n' in facts[1]
            assert "in serve\n" in facts[1]
        assert f"worker {name} gen=1 pid={pid} was killed by SIGKILL after serving for " in daemon.log


def test_a_worker_alone_in_its_pool_comes_back_and_other_pools_are_not_touched():
    config = {"pools": pool(workers=1, timeouts={"slow": "500ms", "hung": "2s"})["pools"] | pool("other")["pools"]}
    with Daemon(config, {"app.py": BLOCKS}) as daemon:
        daemon.allow(SLOW, "gave no sign of life", "last sign of life")
        daemon.expect("READY=1")
        (address,), others = daemon.addresses(), alive(daemon, "other")
        with Witness(daemon, at_least(2), never_restarted, pool="other"):
            pid, asking = block(daemon, "calls_c")
            with asking:
                # It waits at the slot until the successor attends it.
                assert asked_by(address) != pid
            assert re.search(rf"worker web/0 gen=1 pid={pid} {SLOW} \d+\.\ds$", daemon.log, re.MULTILINE)
        assert alive(daemon, "other") == others
        assert daemon.pool()["restarts"] == 1


def test_a_boot_that_holds_the_interpreters_lock_is_no_hang():
    code = """
import contextlib, ctypes, os

@contextlib.asynccontextmanager
async def lifespan():
    if os.path.exists("hold"):
        ctypes.PyDLL(None).sleep(3)
    yield
"""
    config = pool(lifespan="app:lifespan", timeouts={"slow": "500ms", "hung": "2s"})
    with Daemon(config, {"app.py": ECHO + code}) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        daemon.write("hold", "")
        # Others serve meanwhile, so that beats are looked at.
        daemon.signal(signal.SIGTTIN)
        daemon.until(lambda: len(alive(daemon)) == 3, "the third is ready")
        assert daemon.pool()["restarts"] == 0
        assert "killing" not in daemon.log


def test_a_mold_that_is_stopped_is_killed_once_it_is_needed():
    with Daemon(pool(timeouts={"boot": "5s"}), {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW, "SIGKILL", "it does not fork", "it did not show its stacks", "was never born")
        daemon.expect("READY=1")
        (mold,), (victim, sibling) = daemon.pool()["molds"], alive(daemon)
        with stopped(mold):
            os.kill(victim, signal.SIGKILL)
            daemon.wait_log("killing mold web gen=1: it does not fork")
            daemon.until(lambda: len(set(alive(daemon)) - {victim}) == 2, "the next mold forks")
        assert sibling in alive(daemon)


# --- nobody is judged by the time of others -------------------------------------------------------


@contextlib.contextmanager
def kept_busy(daemon: Daemon) -> Iterator[None]:
    """Ask for the status all the time, so that the master hardly ever waits."""
    end = threading.Event()

    def ask_on() -> None:
        with connect(f"unix:{daemon.control}") as sock, sock.makefile() as answers:
            while not end.is_set():
                sock.sendall(b'{"command": "status"}\n')
                answers.readline()

    threads = [threading.Thread(target=ask_on, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(("last", "busy"), [("workers", True), ("master", False)])
def test_a_tree_that_stood_still_for_longer_than_hung_loses_nobody(last, busy):
    with Daemon(pool(workers=3, timeouts={"slow": "500ms", "hung": "2s"}), {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW, "stood still for")
        daemon.expect("READY=1")
        (address,), before, status = daemon.addresses(), alive(daemon), daemon.status()
        master, others = status["pid"], [*status["pools"]["web"]["molds"], *before]
        with kept_busy(daemon) if busy else contextlib.nullcontext(), stopped(*others):
            with stopped(master):
                # This time itself is what is tested.
                threading.Event().wait(3)
                if last == "master":
                    resume(*others)
                    daemon.until(lambda: all(map(is_running, others)), "they run")
            for _ in range(10):
                assert daemon.status()["pid"] == master
        for number in range(3):
            # Each of them is asked at least once, so that each runs again.
            daemon.until(lambda: asked_by(address) == before[number], "it serves")  # noqa: B023, called at once
        daemon.wait_until(lambda status: [w["state"] for w in status["pools"]["web"]["workers"]] == ["serving"] * 3)
        assert alive(daemon) == before
        assert daemon.pool()["restarts"] == 0
        assert "killing" not in daemon.log
        daemon.wait_log("stood still for [2-9].*; nobody is judged by that time")


# --- liars ----------------------------------------------------------------------------------------

LIES = """
import json
import os

from hourd import scoreboard


def find_board():
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "hourd-scoreboard" in os.readlink(f"/proc/self/fd/{fd}"):
                return os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        except FileNotFoundError:
            continue


async def serve(reader, writer):
    # Writes to the scoreboard what it is told, and says nothing true any more.
    if told := await reader.read():
        scoreboard.Board.write = lambda self, record: None
        at, data = json.loads(told)
        os.pwrite(find_board(), bytes.fromhex(data), at)
    writer.write(str(os.getpid()).encode())
"""
LAYOUT = scoreboard._LAYOUT
PLAN = Plan(pool="web", generation=1, workers=1, slots=1, recycle=Recycle(requests=10, connections=10, age=1e5))
MOST = 2**64 - 1
HANGS, WORN, LIVES = "gave no sign of life", "is recycled", "lives on"
COUNTS = scoreboard.Record._fields[3:]
RECORDS = {
    "no numbers": ((math.nan, math.inf, -math.inf), 1, HANGS),
    "worked for ages": ((math.inf, math.nan, -1e308), MOST, WORN),
    "ahead of time": ((1e308, 1e308, 1e308), 0, LIVES),
}
"""What a worker may say of itself: times, how much of everything, and what becomes of it."""


def tell(address: str, data: bytes, at: int = 0) -> int:
    """Have some worker write to its scoreboard; returns its pid."""
    return int(talk(address, json.dumps((at, data.hex())).encode()))


def test_a_worker_that_lies_harms_only_itself():
    web = pool(
        workers={"min": 2, "max": 3},
        recycle={"requests": 1000, "connections": 1000, "memory": "1GiB"},
        timeouts={"slow": "500ms", "hung": "2s"},
    )
    config = {"pools": web["pools"] | pool("other", server={"app": "echo:serve"})["pools"]}
    with Daemon(config, {"app.py": LIES, "echo.py": ECHO}) as daemon:
        daemon.allow(SLOW, HANGS, "its stacks")
        daemon.expect("READY=1")
        (address,), others = daemon.addresses(), alive(daemon, "other")
        with Witness(daemon, at_least(2), never_restarted, pool="other"), Witness(daemon):
            for times, count, outcome in RECORDS.values():
                pid = tell(address, LAYOUT.pack(*times, *(count for _ in COUNTS)))
                shown = daemon.run("status", "-c", str(daemon.file))
                assert (shown.returncode, shown.stderr) == (0, "")
                if outcome != LIVES:
                    daemon.wait_log(rf"worker web/\d gen=1 pid={pid}:? {outcome}|killing .* pid={pid}: it {outcome}")
                    daemon.wait_until(lambda status: pid not in pids(status["pools"]["web"]), "it is replaced")  # noqa: B023, called at once
        assert pid in pids(daemon.pool())
        assert alive(daemon, "other") == others
        assert daemon.status()["state"] == "running"


def pids(pool: dict) -> set[int]:
    return {worker["pid"] for worker in pool["workers"]}


def test_what_a_worker_shows_in_place_of_stacks_is_safe_in_a_log():
    with Daemon(pool(timeouts={"slow": "500ms", "hung": "2s"}), {"app.py": LIES}) as daemon:
        daemon.allow(SLOW, HANGS, "last sign of life")
        daemon.expect("READY=1")
        evil = "\x1b[2J\a\b\r\x9b\u202e\0mine\n".encode() + b"\xff\xfe" + b"x" * 100_000
        pid = tell(daemon.addresses()[0], evil[: 60 * 1024], at=scoreboard.STACKS)
        with stopped(pid):
            daemon.wait_log(rf"pid={pid} was killed by SIGKILL")
        assert "it is stopped by a signal; its stacks:\n[2Jmine\n" in daemon.log
        assert not {char for char in daemon.log if not char.isprintable()} - {"\n"}
        assert len(daemon.log) < 100_000


@settings(deadline=None)  # it is not slow, the machine may be
@given(st.binary(min_size=LAYOUT.size, max_size=LAYOUT.size))
@example(b"\xff" * LAYOUT.size)
def test_whatever_stands_in_a_scoreboard_can_be_calculated_with(data: bytes):
    fd = scoreboard.create()
    os.pwrite(fd, data, 0)
    board = scoreboard.Board(fd, writable=False)
    record = board.read()
    board.close()
    assert all(math.isfinite(value) and value >= 0 for value in record)
    assert 0 <= record.busy <= 1
    worker = Worker(
        id=2, pool="web", generation=1, since=0.0, deadline=None, overdue="", slot=0, mold=1, state="serving", plan=PLAN
    )
    web = Pool("web", Random(0))
    web.stable = replace(PLAN, range=Range(min=1, max=3))
    web.workers[2] = worker
    sample = Sample(
        worker=2,
        beat=Clock().at(record.beat),
        connections=record.connections,
        accepted=record.accepted,
        requests=record.requests,
        busy=record.busy,
        cut=record.cut,
    )
    for now in (10.0, 1000.0, 1e6):
        judge(web, {2: sample}, now)
        assert worker.beat <= now
        assert math.isfinite(worker.look_at)
        assert 1 <= web.stable.workers <= 3

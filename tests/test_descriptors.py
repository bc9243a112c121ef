"""Descriptors run out: of a worker, of a mold, of the master. Whoever serves, serves on."""

from __future__ import annotations

import os
import re
import resource
import signal
from pathlib import Path

import pytest

from hourd import channel, orders
from hourd.errors import EXIT_SYSTEM
from hourd.processes import Child, Processes
from hourd.settings import Pool, Settings

from .daemon import ECHO, PROGRAM, Daemon, connect, pool, talk
from .test_scaling import scale, wait_for

FILLS = f"""
import asyncio, contextlib, os, resource
{ECHO}
@contextlib.asynccontextmanager
async def lifespan(worker):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    task = asyncio.create_task(fill(f"full-{{worker.slot}}"))
    yield
    task.cancel()

async def fill(order):
    # Takes every descriptor there is, from when a file is there until it is not, in one turn of the loop each.
    while True:
        while not os.path.exists(order):
            await asyncio.sleep(0.01)
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(2))
        os.rename(order, "is-" + order)
        while os.path.exists("is-" + order):
            await asyncio.sleep(0.01)
        for fd in taken:
            os.close(fd)
"""
"""Workers that run out of descriptors when a file ``full-SLOT`` appears, until ``is-full-SLOT`` is removed."""
ADVICE = "raise LimitNOFILE= of the service, or ulimit -n"
NONE_LEFT = f"no descriptors left ({ADVICE})"
NO_ACCEPT = "out of system resource|Too many open files"


def fill(daemon: Daemon, slot: int) -> None:
    daemon.write(f"full-{slot}", "")
    daemon.until((daemon.folder / f"is-full-{slot}").exists, "it has no descriptor left")


def filling(workers: int) -> Daemon:
    return Daemon(pool(workers=workers, lifespan="app:lifespan"), {"app.py": FILLS})


def test_a_worker_without_descriptors_keeps_its_connections_and_gets_the_slots_later():
    with filling(3) as daemon:
        daemon.allow(NO_ACCEPT, re.escape(NONE_LEFT))
        daemon.expect("READY=1")
        (address,), workers = daemon.addresses(), daemon.workers()
        sock = connect(address)
        while int(sock.recv(100).split()[0]) != workers[0]:
            sock.close()
            sock = connect(address)
        with sock:
            fill(daemon, 0)
            assert scale(daemon, 1).ok
            daemon.wait_log(f"cannot attend slot [12]: {re.escape(NONE_LEFT)}")
            # The others stay until it can.
            assert daemon.workers() == workers
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
            (daemon.folder / "is-full-0").unlink()
            assert wait_for(daemon, 1) == workers[:1]
            sock.sendall(b"and here")
            assert sock.recv(100) == b"and here"
        assert [slot["attended_by"] for slot in daemon.pool()["slots"]] == [workers[:1]] * 3
        assert {int(talk(address).split()[0]) for _ in range(20)} == {workers[0]}
        assert daemon.log.count(NONE_LEFT) == 1
        assert daemon.pool()["restarts"] == 0


def test_a_sibling_attends_the_slot_that_a_worker_without_descriptors_cannot():
    with filling(3) as daemon:
        daemon.allow(NO_ACCEPT, re.escape(NONE_LEFT))
        daemon.expect("READY=1")
        workers = daemon.workers()
        fill(daemon, 0)  # among equals, the first would get it
        assert scale(daemon, 2).ok
        assert wait_for(daemon, 2) == workers[:2]
        assert [slot["attended_by"] for slot in daemon.pool()["slots"]] == [[workers[0]], [workers[1]], [workers[1]]]
        assert NONE_LEFT in daemon.log
        (daemon.folder / "is-full-0").unlink()


def limited(soft: int, hard: int | None = None) -> tuple[str, ...]:
    """Return a command that has so many descriptors."""
    return ("sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard or soft} && exec "$@"', "sh", *PROGRAM)


def slots(daemon: Daemon) -> int:
    return len(daemon.pool()["slots"])


def test_more_workers_than_the_master_has_descriptors_for_are_refused_and_nothing_changes():
    with Daemon(pool(workers=3), {"app.py": ECHO}, command=limited(56)) as daemon:
        daemon.expect("READY=1")
        (address,), workers = daemon.addresses(), daemon.workers()
        daemon.until(lambda: not has_client(daemon), "nobody is connected")
        before = os.listdir(f"/proc/{daemon.process.pid}/fd")
        result = daemon.run("scale", "web", "40", "-c", str(daemon.file))
        assert result.returncode == 1
        assert f"cannot have 40 workers in pool web: Too many open files; {ADVICE}" in result.stderr
        assert daemon.workers() == workers
        assert slots(daemon) == 3
        daemon.until(lambda: not has_client(daemon), "nobody is connected")
        assert os.listdir(f"/proc/{daemon.process.pid}/fd") == before
        for _ in range(20):
            assert talk(address, b"x").endswith(b"x")
        assert daemon.reload().ok
        assert scale(daemon, 4).ok
        wait_for(daemon, 4)


def test_signals_and_the_load_raise_a_number_only_as_far_as_there_are_descriptors():
    with Daemon(pool(workers=2), {"app.py": ECHO}, command=limited(48)) as daemon:
        daemon.allow("cannot have")
        daemon.expect("READY=1")
        for number in range(3, 50):
            daemon.signal(signal.SIGTTIN)
            daemon.until(lambda: f"pool web: {number} workers wanted" in daemon.log or "cannot have" in daemon.log)  # noqa: B023, called at once
            if "cannot have" in daemon.log:
                break
        assert f"cannot have {number} workers in pool web: Too many open files; {ADVICE}" in daemon.log
        assert number > 3
        wait_for(daemon, number - 1)
        assert slots(daemon) == number - 1
        assert daemon.reload().ok


def test_a_range_is_cut_to_what_there_are_descriptors_for():
    with Daemon(pool(workers={"min": 2, "max": 100}), {"app.py": ECHO}, command=limited(48)) as daemon:
        daemon.allow("descriptors are left")
        daemon.expect("READY=1")
        most = int(daemon.wait_log(r"pool web: descriptors are left for (\d+) workers, not for 100; raise")[1])
        assert 2 <= most < 20
        assert scale(daemon, most + 1).error == f"pool web can have 2 to {most} workers"
        assert slots(daemon) == 2
        assert scale(daemon, most).ok
        wait_for(daemon, most)


def test_a_start_with_more_workers_than_descriptors_is_refused():
    with Daemon(pool(workers=60), {"app.py": ECHO}, command=limited(48)) as daemon:
        daemon.allow("cannot start: cannot have 60 workers in pool web: Too many open files")
        assert daemon.wait() == EXIT_SYSTEM
        assert ADVICE in daemon.log


def test_a_reload_that_needs_more_descriptors_than_there_are_is_refused():
    with Daemon(pool(workers=2), {"app.py": ECHO}, command=limited(48)) as daemon:
        daemon.allow("cannot have 60 workers")
        daemon.expect("READY=1")
        (address,), workers = daemon.addresses(), daemon.workers()
        before = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
        daemon.configure(pool(workers=60, server={"bind": ["127.0.0.1:0", "127.0.0.2:0"]}))
        answer = daemon.reload()
        assert (answer.ok, "cannot have 60 workers in pool web" in answer.error) == (False, True)
        daemon.until(lambda: len(os.listdir(f"/proc/{daemon.process.pid}/fd")) <= before, "what was bound is closed")
        assert daemon.workers() == workers
        assert talk(address, b"x").endswith(b"x")


LIMITS = f"""
import contextlib, os, resource
{ECHO}
@contextlib.asynccontextmanager
async def lifespan():
    # The master has none left from now on.
    master = os.getppid()
    used = set(map(int, os.listdir(f"/proc/{{master}}/fd")))
    _, hard = resource.prlimit(master, resource.RLIMIT_NOFILE)
    resource.prlimit(master, resource.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), hard))
    yield
"""


def test_a_slot_that_cannot_be_bound_costs_nobody_and_comes_later():
    # The slots that an earlier number has left are bound at a new address when they are first attended.
    with Daemon(pool(workers=3), {"app.py": ECHO}) as daemon:
        daemon.allow("cannot bind slot [12] of pool web", "no descriptor is left for the control socket")
        daemon.expect("READY=1")
        assert scale(daemon, 1).ok
        (kept,) = wait_for(daemon, 1)
        daemon.configure(pool(workers=1, server={"bind": "127.0.0.2:0"}, lifespan="app:lifespan"))
        master = daemon.process.pid
        soft, hard = resource.prlimit(master, resource.RLIMIT_NOFILE)
        with connect(daemon.addresses()[0]) as sock:
            assert int(sock.recv(100).split()[0]) == kept
            daemon.write("app.py", LIMITS)
            daemon.signal(signal.SIGHUP)
            daemon.wait_log("cannot bind slot [12] of pool web: Too many open files; trying again")
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
            resource.prlimit(master, resource.RLIMIT_NOFILE, (soft, hard))
        daemon.wait_log("reloaded to generation 2")
        assert daemon.log.count("cannot bind slot") <= 2
        assert [len(slot["attended_by"]) for slot in daemon.pool()["slots"]] == [1] * 3


def test_operators_are_heard_by_a_master_without_a_free_descriptor():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        master = daemon.process.pid
        daemon.status()  # whatever it opens once is open
        daemon.until(lambda: not has_client(daemon), "nobody is connected")
        used = {int(fd) for fd in os.listdir(f"/proc/{master}/fd")}
        _, hard = resource.prlimit(master, resource.RLIMIT_NOFILE)
        resource.prlimit(master, resource.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), hard))
        for _ in range(3):
            assert daemon.status()["state"] == "running"
            daemon.until(lambda: not has_client(daemon), "nobody is connected")
        assert daemon.ask("stop").ok
        assert daemon.wait() == 0


def has_client(daemon: Daemon) -> bool:
    """Tell whether the master has an operator's connection still: it hears of the end a moment later."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    # Flags 0 and state 03: a connected one, at the path that its listener has.
    return any(line.endswith(daemon.control) and line.split()[5] == "03" for line in lines)


def test_children_have_the_limit_that_the_master_was_started_with():
    with Daemon(pool(workers=1), {"app.py": ECHO}, command=limited(64, 512)) as daemon:
        daemon.expect("READY=1")
        (worker,), (mold,) = daemon.workers(), daemon.pool()["molds"]
        limits = [resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in (daemon.process.pid, mold, worker)]
        assert limits == [(512, 512), (64, 512), (64, 512)]
        assert scale(daemon, 40).ok


FAILS = f"""
import contextlib, os, signal
{ECHO}
pidfd_open = os.pidfd_open

def once(pid):
    with contextlib.suppress(FileNotFoundError):
        os.rename("fail", "failed")
        BREAK
    return pidfd_open(pid)

os.pidfd_open = once
"""


@pytest.mark.parametrize("what", ["os.kill(os.getpid(), signal.SIGKILL)", "raise OSError(24, 'Too many open files')"])
def test_a_fork_that_breaks_in_the_middle_is_heard_of_at_once(what):
    with Daemon(pool(workers=1, timeouts={"boot": "100d"}), {"app.py": FAILS.replace("BREAK", what)}) as daemon:
        daemon.allow(
            "lost while it was forked", "was never born", "SIGKILL", "fork a worker", "system refused|mold web"
        )
        daemon.expect("READY=1")
        daemon.write("fail", "")
        (worker,) = daemon.workers()
        os.kill(worker, signal.SIGKILL)
        daemon.until((daemon.folder / "failed").exists, "a fork was broken")
        daemon.until(lambda: set(daemon.workers()) - {worker}, "there is another")
        assert talk(daemon.addresses()[0], b"x").endswith(b"x")


@pytest.mark.parametrize("which", ["mold", "worker"])
def test_a_process_that_cannot_be_made_leaves_no_descriptors(which):
    processes = Processes(lambda _child: None, lambda _child: None)
    settings = Settings(name="test", directory="/", pools={"web": Pool(workers=1, servers={})})
    what = orders.make(settings, "web", generation=1, preload=True)
    ours, theirs = channel.pair()
    processes._add(Child(1, ours, is_mold=True, pool="web", slot=-1, generation=1))
    before = {int(fd) for fd in os.listdir("/proc/self/fd")}
    free = sorted(set(range(2000)) - before)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for room in range(20):
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[room], hard))
        try:
            processes.start_mold(2, what, {}) if which == "mold" else processes.spawn(2, 1, 0)
        except OSError:
            made = None
        else:
            made = processes.get(2)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if made:
            break
        assert len(os.listdir("/proc/self/fd")) == len(before)
    assert made
    assert room > 3
    if made.pid:
        os.kill(made.pid, signal.SIGKILL)
        os.waitpid(made.pid, 0)
    for child in processes.all():
        processes.forget(child)
    theirs.close()

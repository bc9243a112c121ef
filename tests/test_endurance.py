"""What takes long: siblings that stand still, times of a month, workers that go as soon as they come."""

from __future__ import annotations

import os
import signal
import time

import pytest

from .daemon import ECHO, Daemon, connect, pool, talk

KILLED = "was killed by SIGKILL"
GONE = "the (channel to the master ended|master is gone)"
MONTH = {
    "grace": {"server": {"grace": "30d"}},
    "boot": {"timeouts": {"boot": "30d"}},
    "giving up": {"restart": {"giving_up": {"failures": 1, "within": "30d"}}},
}
BLOCKS = "import time\nasync def serve(reader, writer):\n    writer.write(b'x')\n    await writer.drain()\n    time.sleep(1000)\n"
GOES = """
import asyncio, contextlib, os, signal

@contextlib.asynccontextmanager
async def lifespan():
    if os.path.exists("go"):
        with open("gone", "a") as file:
            file.write(".")
        asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGTERM)
    yield
"""


def test_a_worker_that_stood_still_while_its_sibling_was_replaced_twice():
    with Daemon(pool(restart={"backoff": "50ms", "backoff_max": "100ms"}), {"app.py": ECHO}) as daemon:
        daemon.allow(KILLED)
        daemon.expect("READY=1")
        (address,), (victim, still) = daemon.addresses(), daemon.workers()
        os.kill(still, signal.SIGSTOP)
        for _ in range(2):
            victim = replace(daemon, victim)
        os.kill(still, signal.SIGCONT)
        daemon.until(lambda: talks_to(still, address) or still not in daemon.workers(), "it serves again")
        # It attends its sibling's slot once more, so that it has heard everything until here.
        replace(daemon, victim)
        assert daemon.workers()[1] == still
        daemon.until(lambda: talks_to(still, address), "it serves still")
        assert daemon.log.count(KILLED) == 3
        assert daemon.pool()["restarts"] == 3


def replace(daemon: Daemon, victim: int) -> int:
    """Kill the worker of slot 0 and return its successor, once that serves."""
    os.kill(victim, signal.SIGKILL)

    def find() -> int:
        workers = daemon.pool()["workers"]
        return next((each["pid"] for each in workers if (each["slot"], each["state"]) == (0, "serving")), 0)

    return daemon.until(lambda: (pid := find()) != victim and pid, "the next one serves")


def talks_to(pid: int, address: str) -> bool:
    return int(talk(address).split()[0]) == pid


@pytest.mark.parametrize("what", MONTH)
def test_a_month_is_waited_for(what):
    with Daemon(pool(**MONTH[what]), {"app.py": ECHO}) as daemon:
        daemon.allow(KILLED)
        daemon.expect("READY=1")
        os.kill(daemon.workers()[0], signal.SIGKILL)
        daemon.until(lambda: len(daemon.workers()) == 2 and KILLED in daemon.log, "it was replaced")
        assert daemon.status()["state"] == ("degraded" if what == "giving up" else "running")
        with connect(daemon.addresses()[0]) as sock:
            sock.recv(100)
            daemon.signal(signal.SIGTERM)
            daemon.expect("STOPPING=1")
            daemon.until(lambda: len(daemon.pool()["workers"]) == 1, "only who has a connection is left")
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log


def test_a_month_of_grace_without_a_master():
    with Daemon(pool(server={"grace": "30d"}), {"app.py": ECHO}) as daemon:
        daemon.allow(GONE)
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.recv(100)
            daemon.signal(signal.SIGKILL)
            assert daemon.wait() == -signal.SIGKILL
            while sum("hourd: worker" in title for title in daemon.processes().values()) > 1:
                pass
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
        daemon.wait_gone()


def test_a_blocked_worker_that_has_lost_its_mold_and_its_master():
    with Daemon(pool(workers=1, server={"grace": "300ms"}), {"app.py": BLOCKS}) as daemon:
        daemon.allow(GONE, KILLED, "killing it|grace")
        daemon.expect("READY=1")
        (address,), (mold,) = daemon.addresses(), daemon.pool()["molds"]
        with connect(address) as sock:
            sock.recv(1)
            os.kill(mold, signal.SIGKILL)
            daemon.until(lambda: daemon.log.count("mold web gen=1 ready") == 2, "another mold")
            daemon.signal(signal.SIGKILL)
            assert daemon.wait() == -signal.SIGKILL
            end = time.monotonic() + 25
            while left := daemon.processes():
                assert time.monotonic() < end, f"still there: {left}"
        daemon.manager.forget()
        with pytest.raises(ConnectionRefusedError):
            connect(address)


def test_a_worker_that_goes_as_soon_as_it_comes():
    with Daemon(pool(workers=1, lifespan="app:lifespan"), {"app.py": ECHO + GOES}) as daemon:
        daemon.allow("worker web/0 ")
        daemon.expect("READY=1")
        (address,), (first,) = daemon.addresses(), daemon.workers()
        end = time.monotonic() + 3
        daemon.write("go", "")
        os.kill(first, signal.SIGTERM)
        answered = 0
        while time.monotonic() < end:
            assert daemon.status()["state"] in ("running", "degraded")
            talk(address)
            answered += 1
        assert answered
        spawned = len((daemon.folder / "gone").read_text())
        assert 1 <= spawned <= 15

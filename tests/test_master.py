"""The master itself stays small and the same, whatever happens around it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from .daemon import ECHO, Daemon, pool, talk


def looked_at(daemon: Daemon) -> tuple[int, int, int]:
    """Return the master's descriptors, threads and resident KiB, once it has nothing left to do."""
    daemon.wait_until(
        lambda status: all(
            len(each["molds"]) == 1 and all(worker["state"] == "serving" for worker in each["workers"])
            for each in status["pools"].values()
        ),
        "only the newest generation is there",
    )  # fmt: skip
    place = Path(f"/proc/{daemon.process.pid}")
    status = (place / "status").read_text()
    threads, memory = (int(re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)[1]) for name in ("Threads", "VmRSS"))  # type: ignore[index]
    return len(os.listdir(place / "fd")), threads, memory


def test_a_hundred_reloads_leave_no_trace():
    with Daemon(pool(workers=1), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        for _ in range(20):
            assert daemon.reload().ok
        descriptors, threads, memory = looked_at(daemon)
        assert threads == 1
        for _ in range(80):
            assert daemon.reload().ok
        assert daemon.status()["generation"] == 101
        daemon.until(lambda: looked_at(daemon)[:2] == (descriptors, 1), "the same descriptors and threads")
        assert looked_at(daemon)[2] < memory + 2048
        assert talk(daemon.addresses()[0], b"x").endswith(b"x")


def test_refused_reloads_leave_no_trace():
    with Daemon(pool(workers=1), {"app.py": ECHO}) as daemon:
        daemon.allow("refused", "mold web", "ZeroDivisionError")
        daemon.expect("READY=1")
        assert daemon.reload().ok
        before = looked_at(daemon)
        daemon.write("app.py", "1 / 0\n")
        # Each has an address of its own, which has to be given back.
        daemon.configure(pool(server={"bind": ["127.0.0.1:0", "127.0.0.2:0"]}))
        for _ in range(10):
            assert not daemon.reload().ok
        daemon.until(lambda: looked_at(daemon)[:2] == before[:2], "the same descriptors and threads")


def test_crashes_leave_no_trace():
    config = pool(workers=2, restart={"backoff": "10ms", "backoff_max": "10ms"})
    with Daemon(config, {"app.py": ECHO}) as daemon:
        daemon.allow("SIGKILL", "was never born")
        daemon.expect("READY=1")
        before = looked_at(daemon)
        for _ in range(10):
            workers = daemon.workers()
            for pid in (*workers, *daemon.pool()["molds"]):
                os.kill(pid, signal.SIGKILL)
            daemon.until(lambda: len(set(daemon.workers()) - set(workers)) == 2, "they are replaced")  # noqa: B023, called at once
        daemon.until(lambda: looked_at(daemon)[:2] == before[:2], "the same descriptors and threads")


def test_a_stopped_and_continued_tree_kills_nobody():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        workers = daemon.workers()
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in daemon.processes():
                os.kill(pid, number)
        assert talk(daemon.addresses()[0], b"x").endswith(b"x")
        assert daemon.workers() == workers

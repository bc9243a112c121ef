"""Workers that have served their time: replaced for what the configuration names, and nobody notices."""

from __future__ import annotations

import re

import pytest

from .daemon import ECHO, Daemon, pool, talk
from .test_health import SLOW
from .witness import WEB, Fresh, KeepAlive, Witness, alive, at_least, impatient, never_restarted, one_by_one, web

MIB = 1024**2
GROWS = """
import os

SHARED = bytearray(os.urandom(1)) * int(os.environ.get("SHARED_MIB", "0")) * 2**20
kept = []

async def serve(reader, writer):
    # Takes so many MiB for itself, and says who it is.
    data = await reader.read()
    kept.append(bytearray(b"x") * (int(data or 0) * 2**20))
    writer.write(f"{os.getpid()}\\n".encode())
"""
LAWS = (at_least(2), one_by_one(2), never_restarted)


def recycled(daemon: Daemon, why: str) -> list[tuple[str, int]]:
    """Return the name and pid of each worker that was recycled so far, in order; there has to be no other reason."""
    found = re.findall(r"worker (\S+) gen=1 pid=(\d+) is recycled: (.*)\n", daemon.log)
    assert all(re.fullmatch(why, text) for _, _, text in found), found
    return [(name, int(pid)) for name, pid, _ in found]


def check_order(daemon: Daemon) -> None:
    """See in the log that nobody ended before the successor was ready."""
    log = re.findall(r"worker (\S+) gen=1 pid=(\d+) (is recycled|ready|ended)", daemon.log)
    for at, (name, pid, what) in enumerate(log):
        if what == "is recycled" and (name, pid, "ended") in log:
            between = log[at : log.index((name, pid, "ended"))]
            assert [other for seat, other, done in between if (seat, done) == (name, "ready")], (name, pid, log)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_clients_with_keep_alive_lose_nothing_while_their_workers_are_recycled(loop):
    config = pool(server=web(grace="10s"), loop=loop, recycle={"requests": 50, "jitter": "0%"})
    with Daemon(config, {"app.py": WEB}) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with Witness(daemon, *LAWS), KeepAlive(address, 100) as clients, KeepAlive(address, 2, batch=5) as pipelined:
            daemon.until(lambda: len(recycled(daemon, r"\d+ requests \(recycle\.requests\)")) >= 6, "they are replaced")
            clients.wait_for(50)
            pipelined.wait_for(50)
        check_order(daemon)
        assert clients.closed
        assert pipelined.closed
        for number in re.findall(r"is recycled: (\d+) requests", daemon.log):
            assert int(number) >= 50


def test_connections_are_counted_too():
    with Daemon(pool(recycle={"connections": 20, "jitter": "0%"}), {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,), first = daemon.addresses(), alive(daemon)
        for _ in range(10):
            talk(address)
        with Witness(daemon, *LAWS), Fresh(address, 3) as clients:
            daemon.until(lambda: len(recycled(daemon, r"\d+ connections \(recycle\.connections\)")) >= 4, "replaced")
            clients.wait_for(20)
        check_order(daemon)
        assert set(first) <= {pid for _, pid in recycled(daemon, ".*")}
        for number in re.findall(r"is recycled: (\d+) connections", daemon.log):
            assert int(number) >= 20


@pytest.mark.parametrize("preload", [True, False])
def test_age(preload):
    with Daemon(pool(preload=preload, recycle={"age": "500ms", "jitter": "0%"}), {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,), first = daemon.addresses(), alive(daemon)
        with Witness(daemon, *LAWS), Fresh(address, 3):
            daemon.until(lambda: len(recycled(daemon, r"\d+s old \(recycle\.age\)")) >= 4, "they are replaced")
        names = [name for name, _ in recycled(daemon, ".*")]
        assert set(names) == {"web/0", "web/1"}
        check_order(daemon)
        for pid in first:
            daemon.wait_log(f"pid={pid} ended")


def test_private_memory_counts_and_what_is_shared_with_the_mold_does_not():
    config = {
        "environment": {"SHARED_MIB": "100"},
        **pool(recycle={"memory": "50MiB", "jitter": "0%"}),
    }
    with Daemon(config, {"app.py": GROWS}, command=impatient("sampling", _MEMORY_EVERY=0.2)) as daemon:
        daemon.allow(SLOW, "is recycled")
        daemon.expect("READY=1")
        (address,), greedy = daemon.addresses(), set()
        with Witness(daemon, *LAWS):
            for _ in range(2):
                # Memory is read of whoever has waited for it longest: until the second is found, all were.
                pid = int(talk(address, b"60"))
                greedy.add(pid)
                daemon.wait_log(rf"pid={pid} is recycled: \d+ MiB private memory \(recycle\.memory\)")
                daemon.wait_log(rf"pid={pid} ended")
        check_order(daemon)
        assert {pid for _, pid in recycled(daemon, "(6|7).*")} == greedy
        for worker in daemon.pool()["workers"]:
            assert worker["private_bytes"] < 50 * MIB < 100 * MIB < worker["rss_bytes"]


def test_a_worker_whose_successor_cannot_boot_serves_on():
    restart = {"backoff": "50ms", "backoff_max": "100ms"}
    config = pool(preload=False, recycle={"connections": 5, "jitter": "0%"}, restart=restart)
    with Daemon(config, {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW, "ZeroDivisionError")
        daemon.expect("READY=1")
        (address,), first = daemon.addresses(), alive(daemon)
        daemon.write("app.py", "1 / 0\n")
        with Witness(daemon, at_least(2), one_by_one(2)), Fresh(address, 3) as clients:
            daemon.until(lambda: daemon.log.count("before it was ready; ") >= 5, "several attempts")
            assert alive(daemon) == first
            assert clients.by.keys() == set(first)
            assert daemon.pool()["state"] == "degraded"
            daemon.write("app.py", ECHO)
            for pid in first:
                daemon.wait_log(f"pid={pid} ended")
        check_order(daemon)


def test_a_worker_whose_code_on_disk_is_broken_is_replaced_from_the_mold():
    with Daemon(pool(recycle={"connections": 5, "jitter": "0%"}), {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,), first = daemon.addresses(), alive(daemon)
        daemon.write("app.py", "1 / 0\n")
        with Witness(daemon, *LAWS), Fresh(address, 3):
            for pid in first:
                daemon.wait_log(f"pid={pid} ended")
        assert not set(first) & set(alive(daemon))

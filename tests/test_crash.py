"""Killed workers and molds: every slot stays attended, what is gone comes back, at once and then less often."""

from __future__ import annotations

import os
import signal

import pytest

from .daemon import ECHO, Daemon, pool, talk

KILLED = "was killed by SIGKILL"


def attended(status, name="web"):
    return all(slot["attended_by"] for slot in status["pools"][name]["slots"])


@pytest.mark.parametrize("preload", [True, False])
def test_each_killed_worker_is_replaced_at_once(preload):
    with Daemon(pool(workers=3, preload=preload), {"app.py": ECHO}) as daemon:
        daemon.allow(f"worker web/. .*{KILLED} after serving for")
        daemon.expect("READY=1")
        before = daemon.workers()
        for slot, pid in enumerate(before):
            os.kill(pid, signal.SIGKILL)
            daemon.wait_log(
                f"worker web/{slot} gen=1 pid={pid} {KILLED} after serving for .*; starting another at once"
            )
            daemon.until(lambda: len(daemon.workers()) == 3, "three workers serve")
        assert not set(before) & set(daemon.workers())
        status = daemon.status()
        assert status["pools"]["web"]["restarts"] == 3
        assert status["generation"] == 1
        assert attended(status)


def test_a_slot_is_attended_while_its_worker_is_held_back():
    config = pool(restart={"backoff": "1h", "backoff_max": "1h"})
    with Daemon(config, {"app.py": ECHO}) as daemon:
        daemon.allow(KILLED)
        daemon.expect("READY=1")
        address, (victim, sibling) = daemon.addresses()[0], daemon.workers()
        for again in ("starting another at once", r"next attempt in \d+"):
            os.kill(victim, signal.SIGKILL)
            daemon.wait_log(f"pid={victim} {KILLED} .*; {again}")
            if "once" in again:
                victim = daemon.until(lambda: len(daemon.workers()) == 2 and daemon.workers()[0], "a successor")
        status = daemon.wait_until(attended, "the sibling attends both slots")
        assert [slot["attended_by"] for slot in status["pools"]["web"]["slots"]] == [[sibling], [sibling]]
        # Of 40 connections half would go to the slot that has no worker of its own.
        assert {int(talk(address).split()[0]) for _ in range(40)} == {sibling}


def test_restarts_back_off():
    config = pool(
        workers=1, restart={"backoff": "50ms", "backoff_max": "200ms", "giving_up": {"failures": 4, "within": "60s"}}
    )
    with Daemon(config, {"app.py": ECHO}) as daemon:
        daemon.allow(KILLED)
        daemon.expect("READY=1")
        for _ in range(5):
            (pid,) = daemon.until(daemon.workers, "a worker serves")
            os.kill(pid, signal.SIGKILL)
            daemon.wait_log(f"pid={pid} {KILLED}")
        daemon.until(daemon.workers, "a worker serves")
        delays = [line.partition("; ")[2] for line in daemon.log.splitlines() if KILLED in line]
        assert delays[0] == "starting another at once"
        assert all(delay.startswith("next attempt in") for delay in delays[1:])
        assert daemon.status()["state"] == "degraded"
        daemon.expect("STATUS=degraded")


def test_a_crash_in_one_pool_is_not_noticed_in_another():
    config = {"pools": {**pool("web")["pools"], **pool("other")["pools"]}}
    with Daemon(config, {"app.py": ECHO}) as daemon:
        daemon.allow(KILLED)
        daemon.expect("READY=1")
        others = daemon.workers("other")
        for pid in daemon.workers():
            os.kill(pid, signal.SIGKILL)
        daemon.until(lambda: daemon.pool()["restarts"] == 2 and len(daemon.workers()) == 2, "both are replaced")
        assert daemon.workers("other") == others
        assert daemon.pool("other")["restarts"] == 0


def test_a_killed_mold_is_replaced_and_workers_serve_on():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.allow("mold web gen=1 .*SIGKILL.*workers serve on", KILLED)
        daemon.expect("READY=1")
        (address,), workers, (mold,) = daemon.addresses(), daemon.workers(), daemon.pool()["molds"]
        os.kill(mold, signal.SIGKILL)
        assert int(talk(address).split()[0]) in workers
        daemon.until(lambda: daemon.pool()["molds"] not in ([mold], []), "another mold")
        assert daemon.workers() == workers
        os.kill(workers[0], signal.SIGKILL)
        daemon.until(lambda: len(set(daemon.workers()) - {workers[0]}) == 2, "the new mold forks")
        assert daemon.workers()[1] == workers[1]


def test_everything_but_the_master_killed_at_once():
    with Daemon(pool(workers=3), {"app.py": ECHO}) as daemon:
        daemon.allow(KILLED)
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        before = set(daemon.processes()) - {daemon.process.pid}
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        # The connection waits in its slot's queue until somebody attends it.
        pid = int(talk(address).split()[0])
        assert pid not in before
        daemon.until(lambda: len(set(daemon.workers()) - before) == 3, "three new workers")


def test_a_worker_that_is_sent_term_is_replaced_before_it_goes():
    with Daemon(pool(workers=1), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (address,), (leaving,) = daemon.addresses(), daemon.workers()
        os.kill(leaving, signal.SIGTERM)
        while (pid := int(talk(address).split()[0])) == leaving:
            pass
        daemon.until(lambda: daemon.workers() == [pid], "the successor serves alone")
        daemon.wait_log(f"worker web/0 gen=1 pid={leaving} ended")
        assert daemon.log.index(f"pid={pid} ready") < daemon.log.index(f"pid={leaving} ended")
        assert daemon.pool()["restarts"] == 0


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2], ids=lambda number: number.name
)
def test_other_signals_to_workers_and_molds_mean_nothing(number):
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        workers, molds = daemon.workers(), daemon.pool()["molds"]
        for pid in (*workers, *molds):
            os.kill(pid, number)
        assert talk(daemon.addresses()[0], b"x").endswith(b"x")
        assert (daemon.workers(), daemon.pool()["molds"]) == (workers, molds)

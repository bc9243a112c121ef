"""Numbers of workers: asked for by operators, or following the load."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hourd import control
from hourd.scaling import Load, Pulse, starved

from .around import PATIENCE
from .daemon import ECHO, Daemon, connect, pool, talk
from .test_health import SLOW
from .witness import WEB, Fresh, KeepAlive, Witness, alive, impatient, never_restarted, web

BUSY = """
import os, time

async def serve(reader, writer):
    # Has its loop wait, as a driver of a database does that knows no asyncio.
    data = await reader.read()
    time.sleep(0.05)
    writer.write(f"{os.getpid()}\\n".encode() + data)
"""
BLOCKS = WEB.replace("async def answer(request):", "async def answer(request):\n    time.sleep(0.03)").replace(
    "import os", "import os, time"
)
"""Uses no CPU, as a driver of a database does that knows no asyncio."""
STEP = 0.75
"""Seconds between two looks at a load."""


def scale(daemon: Daemon, workers: int, name: str = "web") -> control.Answer:
    return control.ask(daemon.control, control.Request("scale", pool=name, workers=workers), timeout=PATIENCE)


def wait_for(daemon: Daemon, workers: int) -> list[int]:
    """Wait until so many workers are there, all of them serve, and every slot has exactly one; returns their pids."""
    found = daemon.wait_until(
        lambda status: (
            [each["state"] for each in status["pools"]["web"]["workers"]] == ["serving"] * workers
            and all(len(each["attended_by"]) == 1 for each in status["pools"]["web"]["slots"])
        ),
        f"{workers} workers",
    )
    return [each["pid"] for each in found["pools"]["web"]["workers"]]


def test_more_and_fewer_workers_lose_no_connection_and_leave_no_slot():
    with Daemon(pool(workers=2), {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,), before = daemon.addresses(), alive(daemon)
        with Witness(daemon, never_restarted), Fresh(address, 5) as clients:
            assert scale(daemon, 4).ok
            assert wait_for(daemon, 4)[:2] == before
            daemon.until(lambda: len(clients.by) == 4, "all four are asked")
            assert scale(daemon, 1).ok
            assert wait_for(daemon, 1) == before[:1]
            assert [slot["attended_by"] for slot in daemon.pool()["slots"]] == [before[:1]] * 4
            clients.wait_for(60)
        assert {int(talk(address).split()[0]) for _ in range(60)} == {before[0]}
        assert "pool web: 4 workers wanted" in daemon.log
        assert "killing" not in daemon.log


def test_a_connection_of_a_worker_that_is_too_many_may_finish():
    with Daemon(pool(workers=2, server={"grace": "60s"}), {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,), (_, second) = daemon.addresses(), alive(daemon)
        sock = connect(address)
        while int(sock.recv(100).split()[0]) != second:
            sock.close()
            sock = connect(address)
        with sock:
            assert scale(daemon, 1).ok
            daemon.wait_until(lambda status: "draining" in [w["state"] for w in status["pools"]["web"]["workers"]])
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
        wait_for(daemon, 1)
        daemon.wait_log(f"worker web/1 gen=1 pid={second} ended")


def test_a_number_outlives_crashes_until_the_next_reload():
    # More deaths than those that the test causes: who waits for its birth in a mold that is killed counts too.
    config = pool(workers=1, restart={"giving_up": {"failures": 20}})
    with Daemon(config, {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW, "SIGKILL")
        daemon.expect("READY=1")
        assert scale(daemon, 3).ok
        workers = wait_for(daemon, 3)
        for pid in (*workers, *daemon.pool()["molds"]):
            os.kill(pid, signal.SIGKILL)
        daemon.until(lambda: daemon.log.count("SIGKILL") >= 4, "all have died")
        assert not set(wait_for(daemon, 3)) & set(workers)
        assert daemon.reload().ok
        wait_for(daemon, 1)
        assert len(daemon.pool()["slots"]) == 3


def test_operators_stay_within_the_range_of_the_configuration():
    with Daemon(pool(workers={"min": 2, "max": 3}), {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        assert len(alive(daemon)) == 2
        for number, count in [(signal.SIGTTIN, 3), (signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 2)]:
            wanted = [*numbers(daemon), count]
            daemon.signal(number)
            daemon.until(lambda: numbers(daemon) == wanted)  # noqa: B023, called at once
            wait_for(daemon, count)
        for number in (1, 4):
            answer = scale(daemon, number)
            assert (answer.ok, answer.error) == (False, "pool web can have 2 to 3 workers")
        assert scale(daemon, 3).ok
        wait_for(daemon, 3)


def test_a_pool_grows_with_its_load_keeps_its_number_over_a_reload_and_shrinks_when_idle():
    config = pool(workers={"min": 1, "max": 3}, timeouts={"slow": "500ms"})
    command = impatient("scaling", _PATIENCE_UP=0.5, _PATIENCE_DOWN=1.5)
    with Daemon(config, {"app.py": BUSY}, command=command) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        assert len(alive(daemon)) == 1
        with Witness(daemon, never_restarted):
            with Fresh(address, 30):
                for number in (2, 3):
                    daemon.wait_log(rf"pool web: {number} workers wanted, \d+% busy, \d+ connections wait")
                    daemon.until(lambda: len(daemon.pool()["workers"]) >= number, "one more")  # noqa: B023, called at once
                wait_for(daemon, 3)
                assert daemon.reload().ok
                assert (
                    len([each for each in daemon.pool()["workers"] if each["generation"] == 2])
                    == numbers(daemon)[-1]
                    > 1
                )
            (last,) = wait_for(daemon, 1)
        assert {int(talk(address).split()[0]) for _ in range(30)} == {last}
        assert {abs(after - before) for before, after in pairwise([1, *numbers(daemon)])} == {1}


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_loop_that_is_kept_waiting_is_busy_though_it_uses_no_cpu_and_nobody_waits_in_a_queue(loop):
    with Daemon(pool(workers={"min": 1, "max": 2}, server=web(), loop=loop), {"app.py": BLOCKS}) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with KeepAlive(address, 10):
            daemon.wait_log(r"pool web: 2 workers wanted, (8[1-9]|9\d|100)% busy")
            wait_for(daemon, 2)


def numbers(daemon: Daemon) -> list[int]:
    """Return the numbers of workers that were wanted one after the other."""
    return [int(number) for number in re.findall(r"pool web: (\d+) workers wanted", daemon.log)]


# --- how busy a loop is, by a clock of its own -----------------------------------------------------


class Loop:
    """A loop that works and rests by turns, and gives its beats once they are due and it does not work."""

    def __init__(self, work: Callable[[], float], rest: Callable[[], float]) -> None:
        """Take what returns the seconds of the next piece of work, and of the rest after it."""
        self.now = 1000.0
        self.pulse = Pulse(0.25, Random(1))
        self.beats = 0
        self.longest = 0.0
        """Seconds between two beats that no work made late."""
        self._work = work
        self._rest = rest
        self._due = self.now
        self._worked = 0.0

    def run(self, seconds: float, *, cpu: float = 0.0, starved: float = 0.0) -> list[float]:
        """Let time pass; returns how busy it seemed, whenever the master looked.

        Args:
            seconds: how many.
            cpu: the share of its work in which it computes.
            starved: the share of its work in which it could and is not let.
        """
        return [self._go_on(cpu, starved) for _ in range(round(seconds / STEP))]

    def _go_on(self, cpu: float, starved: float) -> float:
        end = self.now + STEP
        while self.now < end:
            over = self.now + self._rest()
            while self._due <= over:
                self._beat(max(self.now, self._due), cpu * self._worked, starved * self._worked)
            work = self._work()
            self.now, self._worked = over + work, self._worked + work
        return self.pulse.busy

    def _beat(self, now: float, cpu: float, starved: float) -> None:
        self.beats += 1
        self.pulse.beat(now, cpu, starved)
        rest = self.pulse.rest(now)
        self.longest = max(self.longest, rest)
        self._due = now + rest


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("piece", [0.02, 0.05, 0.3])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("regular", [True, False])
def test_busy_is_the_share_of_time_in_which_a_loop_does_not_wait_for_events(piece, share, regular):
    random = Random(2)
    pause = piece * (1 - share) / share
    loop = Loop(lambda: piece, lambda: pause if regular else random.expovariate(1 / pause))
    loop.run(20.0)
    said = loop.run(1000.0)
    # Pieces of 20 ms are taken for idleness in their last 3.
    assert share - 0.1 < mean(said) < share + 0.1
    assert all(0 <= each <= 1 for each in said)
    assert share < 0.9 or piece == 0.02 or min(said) > 0.5


def test_work_that_comes_as_regularly_as_beats_is_seen():
    loop = Loop(lambda: 0.125, lambda: 0.125)
    loop.run(20.0)
    assert 0.4 < mean(loop.run(1000.0)) < 0.6


def test_a_loop_that_computes_in_pieces_too_small_to_be_late_is_as_busy_as_its_cpu_is():
    loop = Loop(lambda: 0.001, lambda: 0.0001)
    loop.run(20.0)
    assert mean(loop.run(100.0, cpu=1.0)) == pytest.approx(1 / 1.1, abs=0.05)


def test_who_is_not_given_a_cpu_is_not_busy_for_that():
    loop = Loop(lambda: 0.05, lambda: 0.01)
    loop.run(20.0, starved=1.0)
    assert max(loop.run(100.0, starved=1.0)) == 0.0


def test_an_idle_loop_is_asked_for_no_more_beats_than_before():
    loop = Loop(lambda: 0.0, lambda: 0.5)
    assert set(loop.run(1000.0)) == {0.0}
    assert loop.beats == pytest.approx(loop.now * 4 - 4000, rel=0.05)
    assert 0.3 < loop.longest < 0.32


def test_a_busy_loop_gives_a_bounded_number_of_beats():
    for interval in (0.025, 0.25, 0.5):
        loop = Loop(lambda: 0.005, lambda: 0.0)
        loop.pulse = Pulse(interval, Random(1))
        loop.run(100.0)
        assert loop.beats < 8000


def test_one_long_piece_of_work_is_soon_forgotten():
    pieces = iter([0.0, 5.0])
    loop = Loop(lambda: next(pieces, 0.0), lambda: 1.0)
    said = loop.run(20.0)
    assert max(said) > 0.3
    assert said[-1] < 0.01


def test_the_kernel_tells_how_long_a_thread_could_not_run():
    assert 0.0 <= starved() <= starved()


# --- the decision, by a clock of its own ----------------------------------------------------------


class Simulation:
    """Workers that share a load evenly, and are as many as is decided."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self.now = 1000.0
        self.changes: list[tuple[float, int]] = []
        """When the number changed, from the beginning, and by how much."""
        self._load = Load()

    def run(self, seconds: float, work: float, *, waiting: int = 0) -> None:
        """Let time pass in which there is work for so many workers."""
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            busy = min(1.0, work / self.workers)
            number = self._load.number(self.workers, busy=busy, waiting=waiting, now=self.now)
            if number != self.workers:
                self.changes.append((self.now - 1000.0, number - self.workers))
            self.workers = max(1, number)


def test_growing_takes_two_seconds_and_shrinking_thirty():
    world = Simulation()
    world.run(1.5, work=1.0)
    assert world.changes == []
    world.run(3.0, work=1.0)
    assert [(2.0 <= at <= 3.0, change) for at, change in world.changes] == [(True, 1)]
    world.run(29.0, work=0.1)
    assert len(world.changes) == 1
    world.run(10.0, work=0.1)
    assert [change for _, change in world.changes] == [1, -1]


def test_one_at_a_time_and_each_after_its_patience():
    world = Simulation()
    world.run(60.0, work=100.0)
    world.run(120.0, work=0.0)
    for way, patience in ((1, 2.0), (-1, 30.0)):
        times = [at for at, change in world.changes if change == way]
        assert len(times) > 2
        assert all(later - earlier >= patience for earlier, later in pairwise(times))
    assert {change for _, change in world.changes} == {1, -1}


def test_a_load_that_comes_and_goes_is_not_followed():
    world = Simulation(2)
    for _ in range(100):
        world.run(1.5, work=2.0)
        world.run(1.5, work=0.8)
    assert world.changes == []


def test_a_pause_in_idleness_begins_the_patience_anew():
    world = Simulation(2)
    for _ in range(10):
        world.run(25.0, work=0.1)
        world.run(4.0, work=1.2)
    assert world.changes == []


def test_connections_that_wait_make_it_grow_however_idle_it_seems():
    world = Simulation(2)
    world.run(60.0, work=0.9, waiting=2)
    assert world.changes == []
    world.run(3.0, work=0.0, waiting=3)
    assert world.changes[0][1] == 1


def test_the_last_worker_stays():
    world = Simulation(1)
    world.run(600.0, work=0.0)
    assert world.changes == []


@settings(deadline=None)  # it is not slow, the machine may be
@given(st.integers(1, 16), st.floats(0.0, 12.0))
def test_a_steady_load_changes_the_number_in_one_direction_and_comes_to_rest(workers: int, work: float):
    world = Simulation(workers)
    world.run(600.0, work=work)
    assert len({change for _, change in world.changes}) <= 1
    settled = world.workers
    world.run(600.0, work=work)
    assert world.workers == settled
    # Between the mark above which it grows and what the one below it leaves; averages come close and never there.
    assert work / settled < 0.81
    assert settled == 1 or work / (settled - 1) > 0.49

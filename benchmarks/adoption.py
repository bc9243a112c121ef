"""How soon is a worker's slot attended again? Workers are killed, or stopped, while clients connect.

A strict client (openloop.py) opens fresh connections at a steady rate, each for one request; the kernel
spreads them over the slots, so that every slot gets its share.

*Killed* (SIGKILL). The control socket is asked for the status again and again; the time runs from the signal
to the first answer in which somebody who lives attends the dead worker's slot. It includes the answer's own
way, and the master's work for the answers before it: the truth is a little better.

*Stopped* (SIGSTOP). Only clients can tell when a queue flows again: those that connected after the signal
and had not been answered a tenth of a second later wait in the stopped worker's slot. The time runs from
the signal to the first answer that one of them gets. Who connects when ``timeouts.slow`` has gone by, counted
from the signal, must not wait.
"""

from __future__ import annotations

import argparse
import bisect
import os
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import measure
import openloop
import standstill

KILLED_MS, STOPPED_MS = 50.0, 100.0
"""Targets: the median until a dead worker's slot is attended; the longest wait once a worker counts as slow."""
_RATE = 200
_REST = 1.0
"""Seconds without a fault, before each one."""
_STOPPED_FOR = 2.0
"""Seconds that a worker stays stopped beyond ``timeouts.slow``."""
_WAITED = 0.1
"""Seconds without an answer after which a client is known to wait for the stopped worker's slot."""
_IN_FLIGHT = 0.005
"""Seconds for which a process may still run, on another CPU, once the call that kills it has returned."""
_LOOK = 0.005
"""Seconds between two looks at whether a pool is as before."""
_RECOVERY = 60.0
"""Seconds that a pool may take to be as before."""
_RESTART = {"giving_up": {"failures": 1_000_000, "within": "500ms"}}
"""The deaths are ours: the pool is neither to wait nor to count as degraded because of them."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to one worker; monotonic seconds."""

    rested: float
    """The rest before it began."""
    at: float
    over: float
    """When it had been stopped for long enough, or the dead worker's slot was attended."""
    recovered: float
    """When all was as before."""


# --- faults ---------------------------------------------------------------------------------------


class Bench:
    """A daemon whose workers are treated badly."""

    def __init__(self, daemon: measure.Daemon, workers: int, slow: float) -> None:
        self._daemon = daemon
        self._workers = workers
        self._slow = slow
        self.asked: list[float] = []
        """Seconds from one status to the next, while waiting for one."""

    def kill(self, slot: int) -> Fault:
        """Kill the worker of a slot and watch who attends the slot."""
        rested = self._rest()
        pid = self._worker(slot)
        at = measure.clock()
        os.kill(pid, signal.SIGKILL)  # noqa: TID251, the fault
        asked = at
        while True:
            attendants = self._attendants()[slot]
            now = measure.clock()
            self.asked.append(now - asked)
            if attendants and pid not in attendants:
                return Fault(rested, at, now, self._recover())
            if now - at > _RECOVERY:
                raise measure.CannotRunError(f"nobody attends slot {slot} {_RECOVERY:g}s after its worker was killed")
            asked = now

    def stop(self, slot: int) -> Fault:
        """Stop the worker of a slot for a while."""
        rested = self._rest()
        pid = self._worker(slot)
        at = measure.clock()
        os.kill(pid, signal.SIGSTOP)  # noqa: TID251, the fault
        try:
            self._daemon.run_for(self._slow + _STOPPED_FOR)
            over = measure.clock()
        finally:
            os.kill(pid, signal.SIGCONT)  # noqa: TID251, as above
        return Fault(rested, at, over, self._recover())

    def _rest(self) -> float:
        start = measure.clock()
        self._daemon.run_for(_REST)
        return start

    def _worker(self, slot: int) -> int:
        return next(int(worker["pid"]) for worker in self._daemon.pool()["workers"] if worker["slot"] == slot)

    def _attendants(self) -> dict[int, list[int]]:
        return {slot["slot"]: slot["attended_by"] for slot in self._daemon.pool()["slots"]}

    def _recover(self) -> float:
        """Wait until every slot is attended by its own worker, and by nobody else."""
        end = measure.clock() + _RECOVERY
        while measure.clock() < end:
            pool = self._daemon.pool()
            seats = {worker["slot"]: [worker["pid"]] for worker in pool["workers"] if worker["state"] == "serving"}
            if len(pool["workers"]) == self._workers and all(
                slot["attended_by"] == seats.get(slot["slot"]) for slot in pool["slots"]
            ):
                return measure.clock()
            self._daemon.run_for(_LOOK)
        raise measure.CannotRunError(f"after {_RECOVERY:g}s the pool is not as before: {pool}")


# --- clients --------------------------------------------------------------------------------------


class Clients:
    """What fresh connections met with."""

    def __init__(self, driver: openloop.Driver, witnesses: standstill.Witnesses) -> None:
        requests = sorted(driver.requests(fresh=True), key=lambda request: request.due)
        self._due = [request.due for request in requests]
        self._latency = [witnesses.judge(request.due, request.latency) for request in requests]

    def begun(self, start: float, end: float) -> Iterator[tuple[float, float]]:
        """Yield when each was due that was so in a span, and its latency; not those that met but a standstill."""
        for number in range(bisect.bisect_left(self._due, start), bisect.bisect_left(self._due, end)):
            if (latency := self._latency[number]) is not None:
                yield self._due[number], latency

    def worst_ms(self, start: float, end: float) -> float:
        """Return the longest wait of those begun in a span."""
        return 1000 * max((latency for _, latency in self.begun(start, end)), default=0.0)

    def flows(self, fault: Fault, slow: float) -> float | None:
        """Return the seconds from a stop to the first answer in its slot; none if nobody waited there."""
        found = self.begun(fault.at, fault.at + slow)
        return min((due + latency - fault.at for due, latency in found if latency > _WAITED), default=None)


# --- the report -----------------------------------------------------------------------------------


def killed(options: argparse.Namespace) -> bool:
    """Kill workers; returns whether the targets were met."""
    bench, faults, driver, clients = _run(options, {}, lambda bench, slot: bench.kill(slot))
    attended = [1000 * (fault.over - fault.at) for fault in faults]
    measure.print_spreads(
        {
            "its slot is attended, ms": attended,
            "its successor serves, ms": [1000 * (fault.recovered - fault.at) for fault in faults],
            "a status, ms": [1000 * seconds for seconds in bench.asked],
            "longest wait, begun since, ms": [clients.worst_ms(fault.at, fault.recovered) for fault in faults],
            "longest wait, rest before, ms": [clients.worst_ms(fault.rested, fault.at - _WAITED) for fault in faults],
        }
    )
    lost = _print_losses(driver, faults, _IN_FLIGHT)
    median = statistics.median(attended)
    met = [
        measure.verdict("ms until attended", median, KILLED_MS, at_least=False, sample=attended),
        measure.verdict("requests lost that were not in flight", lost, 0, at_least=False),
    ]
    return all(met)


def stopped(options: argparse.Namespace) -> bool:
    """Stop workers; returns whether the targets were met."""
    slow = options.slow / 1000
    timeouts = {"timeouts": {"slow": f"{options.slow}ms"}}
    _, faults, driver, clients = _run(options, timeouts, lambda bench, slot: bench.stop(slot))
    late = [clients.worst_ms(fault.at + slow, fault.over) for fault in faults]
    flows = [found for fault in faults if (found := clients.flows(fault, slow)) is not None]
    measure.print_spreads(
        {
            "its queue flows again, s": flows or [0.0, 0.0],
            "longest wait, begun once slow, ms": late,
            "longest wait, begun before, ms": [clients.worst_ms(fault.at, fault.at + slow) for fault in faults],
            "longest wait, begun after, ms": [clients.worst_ms(fault.over, fault.recovered) for fault in faults],
            "longest wait, rest before, ms": [clients.worst_ms(fault.rested, fault.at - _WAITED) for fault in faults],
            "as before after going on, s": [fault.recovered - fault.over for fault in faults],
        }
    )
    lost = _print_losses(driver, faults, 0.0)
    met = [
        measure.verdict("longest wait once slow, ms", max(late), STOPPED_MS, at_least=False),
        measure.verdict("requests lost", lost, 0, at_least=False),
    ]
    return all(met)


def _run(
    options: argparse.Namespace, settings: dict[str, Any], fault: Callable[[Bench, int], Fault]
) -> tuple[Bench, list[Fault], openloop.Driver, Clients]:
    """Do something to one worker after the other, while clients connect."""
    pool = {"workers": options.workers, "restart": _RESTART, "servers": {"web": openloop.SERVER}, **settings}
    with measure.folder() as place:
        (place / "application.py").write_text(openloop.APPLICATION)
        with measure.Daemon.running(place, {"pools": {"web": pool}}) as daemon:
            load = openloop.Load(port=daemon.port(), rate=_RATE, fresh=1)
            bench = Bench(daemon, options.workers, options.slow / 1000)
            with standstill.watched() as witnesses, openloop.driven(load) as driver:
                faults = [fault(bench, number % options.workers) for number in range(options.rounds)]
                driver.stop()
                witnesses.hear()
                witnesses.print()
                return bench, faults, driver, Clients(driver, witnesses)


def _print_losses(driver: openloop.Driver, faults: Sequence[Fault], in_flight: float) -> int:
    """Print what was lost; returns how many of those were not in flight on a worker that was killed."""
    ats = [fault.at for fault in faults]
    print(f"{driver.begun} requests were sent, {driver.answered} answered, {driver.lost} lost; "
          f"{driver.unasked} responses came to no request.")  # fmt: skip
    excused = 0
    for loss in driver.losses:
        number = bisect.bisect_right(ats, loss.at) - 1
        at = ats[max(number, 0)]
        dead = in_flight > 0 and loss.due <= at + in_flight and at <= loss.at
        excused += dead
        if not dead:
            print(f"  due {loss.due - at:+.3f}s and lost {loss.at - at:+.3f}s from fault {number + 1}: {loss.why}")
    if in_flight:
        print(f"{excused} of the lost were in flight on a worker that was killed: due before, or {in_flight:g}s after.")
    return driver.lost + driver.unasked - excused


FAULTS = {"kill": killed, "stop": stopped}


def benchmark(options: argparse.Namespace) -> bool:
    """Measure and report; returns whether all targets were met."""
    measure.need()
    measure.print_head(f"One of {options.workers} workers fails, {options.rounds} times", "aiohttp", "uvloop")
    met = []
    for name in options.faults:
        print(f"{name}, with {_RATE} fresh connections a second", flush=True)
        met.append(FAULTS[name](options))
        print()
    return all(met)


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=measure.within(2, 10_000), default=20, help="of each fault, default 20")
    parser.add_argument("--workers", type=measure.within(2, 64), default=4, help="default 4")
    parser.add_argument(
        "--slow", type=measure.within(100, 5_000), default=1000, help="timeouts.slow in ms, default 1000"
    )
    parser.add_argument("--faults", choices=FAULTS, nargs="+", default=[*FAULTS], help="default: kill stop")
    options = parser.parse_args()
    return measure.run(lambda: benchmark(options))


if __name__ == "__main__":
    sys.exit(main())

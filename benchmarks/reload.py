"""Does a reload lose or delay requests? Reload after reload under load, with a quiet spell before each.

A strict client (openloop.py) sends requests at a set rate: four fifths on keep-alive connections, one fifth
on fresh ones. Meanwhile this program asks for a reload, waits for its result and for the end of every old
process, lets the daemon be for a while, and asks again. So requests in reloads and in quiet are of one
run, spell by spell, and whatever else this machine does meets both.

    in a reload     the request was under way at some moment between the asking and the result
    draining        it was due after the result, before the last process of the old generation had ended
    quiet           it was due and answered between two reloads, when only the new generation was there

The interval of the ratio of percentiles comes from resampling reloads, each with its quiet spell.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import itertools
import math
import os
import random
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import measure
import openloop
import standstill

TARGET = 2.0
"""The 99th percentile in reloads, as a multiple of that in quiet."""
GROWTH = 1.0
"""MiB by which the master may grow."""
_FRESH = 0.2
_CONNECTIONS = 64
_MORE = 1.02
"""More requests are sent than are asked for, so that the edges of the run leave enough."""
_QUIET = 0.6
"""Seconds of each quiet spell."""
_WARM_UP = 1.0
_SETTLE = 0.15
"""Seconds before it, in which what has ended is reaped."""
_WARM = 10
"""Reloads after which the master's memory is compared: the first ones fill its caches."""
_TOLD = 20
"""Losses that are printed."""
_FEWEST = 5
"""Reloads: fewer say nothing."""
_GONE = 60.0
"""Seconds that the old generation may take to end."""
_RESAMPLES = 1000
_BLOCKS = 50
"""Of neighbouring cycles, at most, that are resampled."""
NAMES = ("quiet", "in reloads", "draining")
_COUNTERS = ("ListenOverflows", "ListenDrops", "TCPReqQFullDrop", "TCPTimeouts", "TCPAbortOnData")
_OCTAVE = 32
"""Steps in which latencies are counted, for each doubling: 2 %."""


# --- reloads --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Master:
    """What a master holds."""

    descriptors: int
    threads: int
    rss: float

    @classmethod
    def of(cls, pid: int) -> Master:
        """Look."""
        return cls(measure.descriptors(pid), measure.threads(pid), measure.rss_mib(pid))


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds at one moment, or between two: then CPUs, and how long it was."""

    at: float
    daemon: float
    client: float
    machine: float

    def since(self, before: Used) -> Used:
        """Return how many CPUs were used."""
        seconds = self.at - before.at
        daemon, client, machine = (
            self.daemon - before.daemon,
            self.client - before.client,
            self.machine - before.machine,
        )
        return Used(seconds, daemon / seconds, client / seconds, machine / seconds)

    @property
    def others(self) -> float:
        """Return what neither the daemon nor the client used: this program, and whoever shares the machine.

        The kernel samples what the machine uses, so that it may be a little less than nothing.
        """
        return self.machine - self.daemon - self.client


@dataclass(frozen=True, slots=True)
class Cycle:
    """A quiet spell and the reload after it; monotonic seconds."""

    quiet: float
    asked: float
    concluded: float
    gone: float
    refused: str
    used: tuple[Used, Used]
    """When the quiet spell began and when it ended."""
    master: Master
    """When the quiet spell began."""


class Old:
    """The processes of the generation that a reload replaces."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._fds = [os.pidfd_open(pid) for pid in pids]

    def wait(self, daemon: measure.Daemon) -> None:
        """Wait until each has ended."""
        for fd in self._fds:
            if not daemon.wait_for(fd, _GONE):
                raise measure.CannotRunError(f"an old process has not ended {_GONE:g}s after the reload")

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


class Run:
    """A daemon under load, and what is done to it."""

    def __init__(self, daemon: measure.Daemon, client: openloop.Driver, workers: int) -> None:
        self._daemon = daemon
        self._client = client
        self._workers = workers
        self.after = Master.of(daemon.pid)
        """In the end."""
        self.counters = measure.tcp_counters(*_COUNTERS)
        self.cycles: list[Cycle] = []

    def go(self, reloads: int, seconds: float) -> None:
        """Reload so often, unless time is up."""
        self._daemon.run_for(_WARM_UP)
        end = measure.clock() + seconds
        while len(self.cycles) < reloads and measure.clock() < end:
            self.cycles.append(self._cycle())
            if len(self.cycles) % 50 == 0:
                print(f"({len(self.cycles)} reloads)", file=sys.stderr, flush=True)
        if len(self.cycles) < _FEWEST:
            raise measure.CannotRunError(f"only {len(self.cycles)} reloads were done in {seconds:g}s")
        self._daemon.run_for(_SETTLE)
        self.after = Master.of(self._daemon.pid)

    @property
    def warm(self) -> Master:
        """Return what the master held once its caches were filled."""
        return self.cycles[_WARM].master if len(self.cycles) > _WARM else self.cycles[-1].master

    def _cycle(self) -> Cycle:
        self._daemon.run_for(_SETTLE)
        family, master = self._family(), Master.of(self._daemon.pid)
        with contextlib.closing(Old(family[1:])) as old:
            before = self._used(family)
            self._daemon.run_for(_QUIET)
            after = self._used(family)
            asked = measure.clock()
            answer = self._daemon.ask("reload")
            concluded = measure.clock()
            if answer["ok"]:
                old.wait(self._daemon)
        gone = measure.clock()
        refused = "" if answer["ok"] else str(answer.get("error"))
        return Cycle(before.at, asked, concluded, gone, refused, (before, after), master)

    def _family(self) -> list[int]:
        """Return the processes: the master, a mold and all workers."""
        molds, workers = self._daemon.molds(), self._daemon.workers()
        if len(molds) != 1 or len(workers) != self._workers:
            raise measure.CannotRunError(f"in quiet there are molds {molds} and workers {workers}")
        return [self._daemon.pid, *molds, *workers]

    def _used(self, family: Iterable[int]) -> Used:
        daemon, client = measure.cpu_seconds_of_all(family), measure.cpu_seconds(self._client.pid)
        return Used(measure.clock(), daemon, client, measure.busy_seconds())


# --- latencies ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Latencies:
    """Latencies, counted in steps of 2 %."""

    steps: Counter[int] = field(default_factory=Counter)
    worst: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.steps[round(_OCTAVE * math.log2(max(seconds, 1e-6)))] += 1
        self.worst = max(self.worst, seconds)

    @property
    def count(self) -> int:
        """Return how many there are."""
        return self.steps.total()

    def percentile(self, share: float) -> float:
        """Return the seconds that this share of them stays below."""
        left = self.count * (1 - share)
        for step in sorted(self.steps, reverse=True):
            left -= self.steps[step]
            if left < 0:
                return float(2 ** (step / _OCTAVE))
        return 0.0


class Spells:
    """The latencies of each sort of spell, cycle by cycle."""

    def __init__(self, cycles: Sequence[Cycle], witnesses: standstill.Witnesses) -> None:
        self._cycles = cycles
        self._witnesses = witnesses
        self._asked = [cycle.asked for cycle in cycles]
        self.found = {name: [Latencies() for _ in cycles] for name in NAMES}
        self.still = {name: [Latencies() for _ in cycles] for name in NAMES}
        """Of requests that met little but a standstill of the whole machine."""
        self.answered = 0
        """Between an asking and its result."""

    def add(self, requests: Iterable[openloop.Request]) -> None:
        """Sort requests into their spells; those of the moments in between are left out."""
        for request in requests:
            answered = request.due + request.latency
            number = bisect.bisect_right(self._asked, answered) - 1
            if number >= 0:
                self.answered += answered <= self._cycles[number].concluded
            if spell := self._spell(request.due, number):
                name, cycle = spell
                latency = self._witnesses.judge(request.due, request.latency)
                if latency is None:
                    self.still[name][cycle].add(request.latency)
                else:
                    self.found[name][cycle].add(latency)

    def _spell(self, due: float, number: int) -> tuple[str, int] | None:
        """Find a spell, given the last reload that was asked for before the answer."""
        if number >= 0 and due <= self._cycles[number].concluded:
            return "in reloads", number
        if number >= 0 and due <= self._cycles[number].gone:
            return "draining", number
        if number + 1 < len(self._cycles) and due >= self._cycles[number + 1].quiet:
            return "quiet", number + 1
        return None


def _interval(quiet: Sequence[Latencies], reloads: Sequence[Latencies]) -> tuple[float, float]:
    """Return the 95 % interval of the ratio of 99th percentiles, by resampling cycles, neighbours together."""
    size = math.ceil(len(quiet) / _BLOCKS)
    starts = range(0, len(quiet), size)
    blocks = [(_sum(quiet[start : start + size]), _sum(reloads[start : start + size])) for start in starts]
    chance = random.Random(1)
    ratios = []
    for _ in range(_RESAMPLES):
        drawn = chance.choices(blocks, k=len(blocks))
        steady, disturbed = _sum(one for one, _ in drawn), _sum(other for _, other in drawn)
        if steady.count:
            ratios.append(disturbed.percentile(0.99) / steady.percentile(0.99))
    ratios.sort()
    return ratios[int(0.025 * len(ratios))], ratios[int(0.975 * len(ratios)) - 1]


def _sum(each: Iterable[Latencies]) -> Latencies:
    """Put latencies together."""
    found = Latencies()
    for one in each:
        found.steps.update(one.steps)
        found.worst = max(found.worst, one.worst)
    return found


# --- the report -----------------------------------------------------------------------------------


def benchmark(options: argparse.Namespace) -> bool:
    """Measure and report; returns whether every target was met."""
    measure.need()
    measure.print_head(f"{options.reloads} reloads of {options.workers} workers under load", "aiohttp", "uvloop")
    pool = {"workers": options.workers, "servers": {"web": openloop.SERVER}}
    with measure.folder() as place:
        (place / "application.py").write_text(openloop.APPLICATION)
        with measure.Daemon.running(place, {"pools": {"web": pool}}) as daemon:
            load = openloop.Load(
                port=daemon.port(), rate=round(options.rate * _MORE), fresh=_FRESH, connections=_CONNECTIONS
            )
            print(f"{load.rate} requests a second are sent, {1 - _FRESH:.0%} of them on {_CONNECTIONS} keep-alive "
                  f"connections, {_FRESH:.0%} on fresh ones.\n", flush=True)  # fmt: skip
            with standstill.watched() as witnesses, openloop.driven(load) as client:
                run = Run(daemon, client, options.workers)
                run.go(options.reloads, options.minutes * 60)
                client.stop()
                witnesses.hear()
                return _report(run, client, witnesses, options)


def _report(run: Run, client: openloop.Driver, witnesses: standstill.Witnesses, options: argparse.Namespace) -> bool:
    kept, fresh = Spells(run.cycles, witnesses), Spells(run.cycles, witnesses)
    kept.add(client.requests(fresh=False))
    fresh.add(client.requests(fresh=True))
    every = {name: [_sum(two) for two in zip(kept.found[name], fresh.found[name], strict=True)] for name in NAMES}
    still = {name: [_sum(two) for two in zip(kept.still[name], fresh.still[name], strict=True)] for name in NAMES}
    _print_latencies({"keep-alive": kept.found, "fresh": fresh.found, "all": every, "standstill": still})
    witnesses.print()
    _print_cycles(run.cycles, every)
    _print_costs(run)
    _print_losses(run.cycles, client)
    served = kept.answered + fresh.answered
    span = sum(cycle.concluded - cycle.asked for cycle in run.cycles)
    quiet, reloads = (_sum(every[name]).percentile(0.99) for name in ("quiet", "in reloads"))
    bounds = _interval(every["quiet"], every["in reloads"])
    first, last = run.warm, run.after
    verdicts = [
        measure.verdict("reloads", len(run.cycles), options.reloads, at_least=True),
        measure.verdict("reloads refused", sum(bool(cycle.refused) for cycle in run.cycles), 0, at_least=False),
        measure.verdict("requests answered a second, in reloads", served / span, options.rate, at_least=True),
        measure.verdict("requests lost", client.lost + client.unasked, 0, at_least=False),
        measure.verdict("p99 in reloads / p99 in quiet", reloads / quiet, TARGET, at_least=False, bounds=bounds),
        measure.verdict("descriptors more in the master", last.descriptors - first.descriptors, 0, at_least=False),
        measure.verdict("threads more in the master", last.threads - first.threads, 0, at_least=False),
        measure.verdict("MiB more in the master", last.rss - first.rss, GROWTH, at_least=False),
    ]
    return all(verdicts)


def _print_latencies(sorts: Mapping[str, Mapping[str, Sequence[Latencies]]]) -> None:
    rows: list[Sequence[str | float]] = []
    for name in NAMES:
        for sort, spells in sorts.items():
            found = _sum(spells[name])
            shares = [found.percentile(share) * 1000 for share in (0.5, 0.99, 0.999)]
            rows.append([f"{name}, {sort}", f"{found.count}", *shares, found.worst * 1000])
    measure.print_table(["latency, ms", "requests", "p50", "p99", "p99.9", "max"], rows)
    print()


def _print_cycles(cycles: Sequence[Cycle], every: Mapping[str, Sequence[Latencies]]) -> None:
    pairs = zip(every["in reloads"], every["quiet"], strict=True)
    costs = [later.used[0].since(cycle.used[1]) for cycle, later in itertools.pairwise(cycles)]
    quiets = [cycle.used[1].since(cycle.used[0]) for cycle in cycles]
    measure.print_spreads(
        {
            "reload, s": [cycle.concluded - cycle.asked for cycle in cycles],
            "until the old have ended, s": [cycle.gone - cycle.concluded for cycle in cycles],
            "p99 in the reload / in the quiet before": [
                reload.percentile(0.99) / quiet.percentile(0.99) for reload, quiet in pairs if quiet.count
            ],
            "CPUs used by hourd, quiet": [used.daemon for used in quiets],
            "CPUs used by hourd, reload": [used.daemon for used in costs],
            "CPUs used by the client, quiet": [used.client for used in quiets],
            "CPUs used by the client, reload": [used.client for used in costs],
            "CPUs used by others, quiet": [used.others for used in quiets],
            "CPUs used by others, reload": [used.others for used in costs],
        }
    )
    print()


def _print_costs(run: Run) -> None:
    moments = {"before": run.cycles[0].master, f"after {_WARM} reloads": run.warm, "in the end": run.after}
    rows: list[Sequence[str | float]] = [
        [name, f"{seen.descriptors}", f"{seen.threads}", seen.rss] for name, seen in moments.items()
    ]
    measure.print_table(["master", "descriptors", "threads", "RSS MiB"], rows)
    now = measure.tcp_counters(*_COUNTERS)
    told = ", ".join(f"{name} {now[name] - before}" for name, before in run.counters.items())
    print(f"\nThe kernel counted, for all on this machine: {told}.")


def _print_losses(cycles: Sequence[Cycle], client: openloop.Driver) -> None:
    print(f"{client.begun} requests were sent, {client.answered} answered, {client.lost} lost; {client.unasked} "
          f"responses came to no request; {client.unsent} requests found no free connection.")  # fmt: skip
    for loss in client.losses[:_TOLD]:
        number = bisect.bisect_right([cycle.asked for cycle in cycles], loss.at) - 1
        at = loss.at - cycles[max(number, 0)].asked
        print(f"  {'fresh' if loss.fresh else 'keep-alive'}, {at:.3f}s after reload {number + 1} was asked for, "
              f"{loss.at - loss.sent:.3f}s after it was sent: {loss.why}")  # fmt: skip
    for number, cycle in enumerate(cycles):
        if cycle.refused:
            print(f"  reload {number + 1} was refused: {cycle.refused}")
    print()


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=measure.within(_FEWEST, 100_000), default=1000, help="default 1000")
    parser.add_argument(
        "--rate", type=measure.within(100, 100_000), default=5000, help="requests a second, default 5000"
    )
    parser.add_argument("--workers", type=measure.within(1, 64), default=4, help="default 4")
    parser.add_argument("--minutes", type=measure.within(1, 1440), default=120, help="at most, default 120")
    options = parser.parse_args()
    return measure.run(lambda: benchmark(options))


if __name__ == "__main__":
    sys.exit(main())

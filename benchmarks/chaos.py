"""Does hourd lose a request? Strict clients, faults at random, and one verdict for each request.

A daemon is started in a folder of its own and on the loopback interface. Clients of every kind talk to it from
processes of their own; nothing that fails is tried again. Meanwhile faults are injected, one after the other, and
after each the daemon has to become well again. A request may be lost only if it was in flight on a process that was
killed, which is proven by the kernel's list of what that process held when it stood still before it died.

Without a file it serves an application of its own, which can be told to misbehave. With -c it serves yours, with
the faults that need nothing of it. The file is not run as it is: all addresses are replaced by others on the
loopback interface or in a folder of this run, log: by plain text (so that a log.config of yours, and whatever it
writes to, is not exercised), the control socket by another, and a grace of less than 15 s by that, because a request
of these clients takes seconds. What is right is what your servers answer before the first fault: the status of each
later answer must be the same; bodies are not compared, since they may change by right.

Ends with 0 when nothing was lost and the daemon recovered from everything, 1 if not, 2 when it could not run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chaos_clients
import chaos_faults
import chaos_sockets
import chaos_verdict
import measure
from chaos_crowd import Crowd
from chaos_daemon import Daemon, EndedError
from chaos_scene import Scene
from chaos_stage import GivenUpError, Stage
from chaos_world import ANSWERED

_HERE = Path(__file__).resolve().parent
_OWN = _HERE / "chaos.yaml"
_QUIET = (1.0, 2.0)
"""Seconds between two faults."""
_FIRST_QUIET = 5.0
"""Seconds before the first one, at most; a sixth of the run, if that is less."""
_QUICK = frozenset(name for name, sort in chaos_clients.SORTS.items() if not sort.part)


# --- the run --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Run:
    """One run, and what it has shown."""

    options: argparse.Namespace
    stage: Stage
    crowd: Crowd
    begun: float
    windows: list[chaos_verdict.Window] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    """Faults that would have been possible, had there been time."""
    counters: dict[str, int] = field(default_factory=dict)
    """By how much the kernel's counters have grown."""

    def go(self) -> None:
        """Inject faults until the time is over."""
        before = chaos_sockets.counters()
        try:
            self.stage.begin()
            faults = self._choose()
            self.crowd.start()
            self._inject(faults)
        except GivenUpError as error:
            self.stage.problems.append(str(error))
        self.crowd.finish()
        if not self.stage.daemon.close(gently=True):
            self.stage.problems.append("processes of the daemon were left behind")
        if self.stage.daemon.ended != 0:
            self.stage.problems.append(f"the daemon ended with {self.stage.daemon.ended}")
        self.counters = {name: value - before[name] for name, value in chaos_sockets.counters().items()}

    def _inject(self, faults: list[chaos_faults.Fault]) -> None:
        options, end = self.options, self.begun + self.options.seconds
        self.missed = [fault.name for fault in faults]
        self.stage.pause(min(_FIRST_QUIET, options.seconds / 6))
        for fault, chance in chaos_faults.deal(faults, options.seed):
            self.crowd.check()
            if measure.clock() >= end:
                return
            self._inject_one(fault, chance)
            self.stage.pause(chance.uniform(*_QUIET))

    def _inject_one(self, fault: chaos_faults.Fault, chance: random.Random) -> None:
        begin, what = measure.clock(), "nothing came of it"
        self.stage.attendance.fault, self.stage.attendance.takes = fault.name, fault.takes
        try:
            what = fault.inject(self.stage, chance)
            self.stage.recover()
        finally:
            self.stage.attendance.settle()
            now = measure.clock()
            self.windows.append(chaos_verdict.Window(fault.name, begin, now, what))
            print(f"{begin - self.begun:7.1f}s  {fault.name:<14}  {what}; {now - begin:.2f}s", flush=True)
        if fault.name in self.missed:
            self.missed.remove(fault.name)

    def _choose(self) -> list[chaos_faults.Fault]:
        known = {fault.name: fault for fault in chaos_faults.FAULTS}
        asked = self.options.faults or [name for name, fault in known.items() if fault.needs(self.stage)]
        if strange := [name for name in asked if name not in known]:
            raise measure.CannotRunError(f"no such fault: {', '.join(strange)}; there are {', '.join(known)}")
        if cannot := [name for name in asked if not known[name].needs(self.stage)]:
            raise measure.CannotRunError(f"this configuration does not allow for: {', '.join(cannot)}")
        return [known[name] for name in asked]

    # --- the end ----------------------------------------------------------------------------------

    def report(self, *, own_network: bool) -> bool:
        """Print what was found; returns whether it is good."""
        stage = self.stage
        judgement = chaos_verdict.Judgement(stage.deaths, stage.downs, self.windows, _QUICK, stage.spared)
        judgement.judge(self.crowd.files)
        log = stage.daemon.log.read_text(errors="replace")
        stage.problems += [f"a traceback of hourd's own:\n{each}" for each in chaos_verdict.own_tracebacks(log)]
        if not judgement.total.counts[ANSWERED]:
            stage.problems.append("no request was answered")
        stage.problems += stage.attendance.problems()
        dropped = {name: self.counters[name] for name in chaos_sockets.DROPS if self.counters.get(name)}
        if dropped and own_network:
            stage.problems.append(f"the kernel dropped connections: {dropped}")
        print()
        judgement.print_tables()
        self._print_witnesses(judgement, own_network=own_network)
        judgement.print_lost(self.begun)
        for problem in stage.problems:
            print(f"failed: {problem}")
        lost = judgement.total.counts[chaos_verdict.LOST]
        print(f"\n{lost} requests lost, {len(stage.problems)} other failures; seed {self.options.seed}")
        if self.options.json:
            options = {name: value for name, value in vars(self.options).items() if name != "json"}
            shown = {
                "options": options,
                "own_network": own_network,
                "counters": self.counters,
                "problems": stage.problems,
            }
            Path(self.options.json).write_text(json.dumps({**shown, **judgement.show(self.begun)}, indent=1))
        return not lost and not stage.problems

    def _print_witnesses(self, judgement: chaos_verdict.Judgement, *, own_network: bool) -> None:
        whose = "of this run alone" if own_network else "of everything on this machine, a hint only"
        print(f"\nKernel counters, {whose}: {', '.join(f'{name} {value}' for name, value in self.counters.items())}")
        print(f"Slots that nobody attended, in {self.stage.attendance.samples} samples:")
        for line in self.stage.attendance.lines():
            print(f"  {line}")
        print(f"Clients themselves were late by {judgement.lag * 1000:.0f} ms at most.")
        if self.missed:
            print(f"There was no time for: {', '.join(self.missed)}")


def run(options: argparse.Namespace) -> bool:
    """Run, report, and return whether it was good."""
    measure.need("asyncssh")
    own_network = options.own_network and chaos_sockets.own_network()
    measure.print_head(f"Chaos: {options.config}, {options.seconds} s, seed {options.seed}", "aiohttp", "uvloop")
    place = Path(tempfile.mkdtemp(prefix="hourd-chaos-"))
    keep = True
    try:
        good = _run_in(place, options, own_network=own_network)
        keep = options.keep or not good
    except (KeyboardInterrupt, SystemExit):
        keep = False
        raise
    finally:
        if keep and (place / "log").exists():
            print(f"The log of the daemon is {place}/log, beside the records of all requests")
        else:
            shutil.rmtree(place)
    return good


def _run_in(place: Path, options: argparse.Namespace, *, own_network: bool) -> bool:
    scene = Scene.of(Path(options.config), place)
    scene.limit = options.patience
    for line in scene.changed:
        print(line)
    with contextlib.ExitStack() as stack:
        daemon = Daemon(scene)
        stack.callback(daemon.close, gently=False)
        try:
            daemon.start()
        except EndedError as error:
            raise measure.CannotRunError(f"{error}:\n{daemon.log.read_text()[-5000:]}") from None
        stage = Stage(daemon, scene, strict=_is_own(options))
        crowd = Crowd(place, stage, options)
        stage.move = crowd.move
        stack.callback(crowd.close)
        stack.callback(_hear_nothing_more)
        current = Run(options, stage, crowd, measure.clock())
        current.go()
        return current.report(own_network=own_network)


def _hear_nothing_more() -> None:
    """Let whoever is impatient not interrupt the end, which is bounded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _is_own(options: argparse.Namespace) -> bool:
    return Path(options.config).resolve() == _OWN


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run."""
    names = ", ".join(fault.name for fault in chaos_faults.FAULTS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = parser.add_argument
    add("-c", "--config", default=str(_OWN), help="a configuration of yours; default: chaos.yaml beside this program")
    add("--seconds", type=measure.within(1, 86400), default=180, help="for faults, default 180; a bounded end follows")
    add("--seed", type=int, default=random.randrange(2**32), help="of all that is chosen; default: a new one")
    add("--faults", type=lambda text: text.split(","), help=f"of {names}; default: all that the configuration allows")
    add("--patience", type=float, default=0.0, help="seconds for an answer, and to become well again; "
        "default: what the timeouts of the configuration allow, and 20 s more")  # fmt: skip
    add("--rate", type=float, default=1.0, help="of the clients, times the usual; default 1")
    add("--path", default="/", help="what is asked of HTTP servers of yours; default /")
    add("--expect", type=measure.within(100, 599), metavar="STATUS", help="with which they answer that; "
        "default: each goes on as it answers before the first fault, which may be no 4xx and no 5xx")  # fmt: skip
    add("--echo", action="append", default=[], metavar="POOL/SERVER", help="it sends back what it gets")
    add("--json", metavar="FILE", help="write everything that was found")
    add("--keep", action="store_true", help="keep the log and the records of all requests, also of a good run")
    add("--own-network", action=argparse.BooleanOptionalAction, help="a network namespace that has a loopback only; "
        "default: without -c, if permitted")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.own_network is None:
        options.own_network = _is_own(options)
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(measure.CANNOT_RUN))
    return measure.run(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())

"""What faults have in hand: the daemon, what it should be like, and a list of who died with what in hands."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import chaos_sockets
import measure
from chaos_attendance import Attendance
from chaos_daemon import Daemon, EndedError, send, stand_still, stat
from chaos_scene import Scene

_LOOK = 0.1
"""Seconds between two looks at the status."""
_STOP_LIMIT = 20.0
_TRIES = 20
T = TypeVar("T")


class GivenUpError(Exception):
    """The daemon is not what it should be, and there is no point in going on."""


@dataclass(slots=True)
class Death:
    """A process that was killed, or may be soon. Times are monotonic seconds."""

    pid: int
    pool: str
    how: str
    at: float
    """When its connections were listed; it was standing still, so that they are those with which it died."""
    held: frozenset[str]
    """Names of connections, as ``chaos_sockets.held`` returns them."""


@dataclass(slots=True)
class Down:
    """The daemon was told to stop and started again. Times are monotonic seconds."""

    told: float
    ready: float
    addresses: list[str]
    """That it had before."""


@dataclass(slots=True)
class Victim:
    """A worker that stands still."""

    pid: int
    pool: str
    slot: int
    pidfd: int
    death: Death

    def __str__(self) -> str:
        return f"{self.pool}/{self.slot} pid={self.pid} with {len(self.death.held)} connections"

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it is there still."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return bool(select.select([self.pidfd], [], [], 0)[0])


@dataclass(slots=True)
class Stage:
    """One run."""

    daemon: Daemon
    scene: Scene
    strict: bool
    """Whether the daemon must never count as degraded."""
    move: Callable[[], None] = lambda: None
    """Tells the clients the addresses of a daemon that was started anew."""
    deaths: list[Death] = field(default_factory=list)
    downs: list[Down] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What hourd has done wrong, besides losing requests."""
    spared: list[Death] = field(default_factory=list)
    """Who was to be killed, or might have been, and was not."""
    attendance: Attendance = field(init=False)
    wanted: dict[str, tuple[int, int]] = field(default_factory=dict)
    """How many workers each pool is to have, at least and at most."""
    _shot: list[Victim] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.attendance = Attendance({pool: self.scene.slow(pool) for pool in self.scene.pools})

    def begin(self) -> None:
        """Note what is wanted, once the daemon is ready."""
        for name, pool in self.look()["pools"].items():
            self.wanted[name] = self.scene.workers(name) or (len(pool["workers"]), len(pool["workers"]))

    # --- looking ----------------------------------------------------------------------------------

    def look(self) -> dict[str, Any]:
        """Return the status, and note which slots nobody attends.

        Raises:
            GivenUpError: the daemon is gone.
        """
        try:
            status = self.daemon.status()
        except EndedError as error:
            raise GivenUpError(str(error)) from None
        self.attendance.look(measure.clock(), status["pools"], self.wanted)
        return status

    def pause(self, seconds: float) -> None:
        """Let time pass, and look meanwhile."""
        end = measure.clock() + seconds
        while measure.clock() < end:
            self.look()
            self.daemon.rest(min(_LOOK, max(0.0, end - measure.clock())))

    def during(self, work: Callable[[], T]) -> T:
        """Look until some work is done, which waits for the daemon, and return what it returns."""
        executor = ThreadPoolExecutor(1)
        try:
            done = executor.submit(work)
            while not done.done():
                self.pause(_LOOK)
            return done.result()
        finally:
            executor.shutdown(wait=False)  # whoever is interrupted ends the daemon next, and with it the work

    def until(self, true: Callable[[dict[str, Any]], Any], what: str, *, look: float = _LOOK) -> None:
        """Look until something has become true.

        Raises:
            GivenUpError: it does not.
        """
        end = measure.clock() + self.scene.patience
        while not true(status := self.look()):
            if measure.clock() > end:
                raise GivenUpError(f"within {self.scene.patience:g}s it did not come to this: {what}; {_brief(status)}")
            self.daemon.rest(look)

    def recover(self) -> None:
        """Wait until the daemon is what it should be.

        Raises:
            GivenUpError: that does not happen.
        """
        self.until(self._is_well, "running, every slot attended, as many workers as wanted")
        for victim in self._shot:
            if not victim.gone or not self._was_killed(victim):
                self.deaths.remove(victim.death)  # what it held it has to answer for
                self.spared.append(victim.death)
            os.close(victim.pidfd)
        self._shot.clear()

    def _is_well(self, status: dict[str, Any]) -> bool:
        if status["state"] not in (("running",) if self.strict else ("running", "degraded")):
            return False
        there = {worker["pid"] for pool in status["pools"].values() for worker in pool["workers"]}
        if any(victim.death.how and (victim.pid in there or not victim.gone) for victim in self._shot):
            return False  # it has not heard yet
        return all(self._has_all(name, pool) for name, pool in status["pools"].items())

    def _has_all(self, name: str, pool: dict[str, Any]) -> bool:
        low, high = self.wanted[name]
        states = [worker["state"] for worker in pool["workers"] if worker["state"] != "draining"]
        attended = all(slot["attended_by"] for slot in pool["slots"])
        return attended and low <= len(states) <= high and set(states) == {"serving"}

    def _was_killed(self, victim: Victim) -> bool:
        """Tell whether a worker died as was planned, or was killed by the daemon; not whether it drained."""
        if victim.death.how:
            return True
        return bool(self.killed_by_daemon([victim.pid]))

    def killed_by_daemon(self, pids: list[int]) -> list[int]:
        """Return those workers that the daemon says it has killed."""
        log = self.daemon.log.read_text(errors="replace")
        return [pid for pid in pids if re.search(rf"killing worker \S+ gen=\d+ pid={pid}\b", log)]

    def pids(self) -> list[int]:
        """Return the process ids of all workers."""
        return [worker["pid"] for pool in self.look()["pools"].values() for worker in pool["workers"] if worker["pid"]]

    def addresses(self) -> dict[str, list[str]]:
        """Return where each server listens, by ``pool/server``."""
        pools = self.look()["pools"].items()
        return {f"{name}/{server}": places for name, pool in pools for server, places in pool["addresses"].items()}

    # --- victims ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def stopped(self, chance: Random, how: str, *, pool: str | None = None) -> Iterator[Victim]:
        """Provide a worker that stands still, and let it go on in the end.

        Args:
            chance: chooses the worker.
            how: it is going to die; empty when it is not meant to.
            pool: of which; default: any.
        """
        victim = self.attempt(lambda: self._stop(chance, how, pool))
        try:
            yield victim
        finally:
            victim.send(signal.SIGCONT)

    def stop_all(self, pool: str, how: str) -> list[Victim]:
        """Stop every worker of a pool at once, for good."""
        workers = [{"pool": pool, **worker} for worker in self.look()["pools"][pool]["workers"] if worker["pid"]]
        found = []
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                found.append((worker, self._open(worker["pid"])))
                signal.pidfd_send_signal(found[-1][1], signal.SIGSTOP)
        victims = []
        for worker, pidfd in found:
            with contextlib.suppress(ProcessLookupError):
                victims.append(self._list(worker, pidfd, how))
        return victims

    @contextlib.contextmanager
    def ordered(self, chance: Random, order: str, how: str) -> Iterator[Victim]:
        """Provide a worker that stands still before it does what it was told, and does it in the end."""
        victim = self.attempt(lambda: self._order(chance, order, how))
        try:
            yield victim
        finally:
            victim.send(signal.SIGCONT)

    def until_gone(self, victim: Victim, what: str) -> None:
        """Wait until a victim has ended."""
        self.until(lambda _: victim.gone, what)

    def pick(self, chance: Random, pool: str | None = None, *, states: tuple[str, ...] = ("serving",)) -> Any:
        """Choose a worker by its seat, so that a seed always means the same."""
        pools = self.look()["pools"]
        name = pool or chance.choice(sorted(pools))
        workers = [worker for worker in pools[name]["workers"] if worker["state"] in states and worker["pid"]]
        if not workers:
            raise ProcessLookupError
        return {"pool": name, **chance.choice(sorted(workers, key=lambda each: (each["slot"], each["generation"])))}

    def give_order(self, pid: int, order: str) -> None:
        """Tell a worker of the tool's own application to misbehave."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_STOP_LIMIT)
            try:
                sock.connect(str(self.scene.application / "orders" / f"{pid}.sock"))
                sock.sendall(f"{order}\n".encode())
            except OSError:
                raise ProcessLookupError from None

    def _stop(self, chance: Random, how: str, pool: str | None) -> Victim:
        worker = self.pick(chance, pool)
        pidfd = self._open(worker["pid"])
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        return self._list(worker, pidfd, how)

    def _order(self, chance: Random, order: str, how: str) -> Victim:
        pools = [name for name in sorted(self.scene.pools) if self.scene.takes_orders(name)]
        worker = self.pick(chance, chance.choice(pools))
        pidfd = self._open(worker["pid"])
        self.give_order(worker["pid"], order)
        return self._list(worker, pidfd, how)

    def _open(self, pid: int) -> int:
        """Return a pidfd of a child of the daemon: the number may mean another process by now."""
        pidfd = os.pidfd_open(pid)
        try:
            if int(stat(pid)[1]) != self.daemon.pid:
                raise ProcessLookupError
        except OSError:
            os.close(pidfd)
            raise ProcessLookupError from None
        return pidfd

    def _list(self, worker: Any, pidfd: int, how: str) -> Victim:
        pid, pool = worker["pid"], worker["pool"]
        if not stand_still(pid, _STOP_LIMIT):
            raise ProcessLookupError
        death = Death(pid, pool, how, measure.clock(), chaos_sockets.held(pid))
        victim = Victim(pid, pool, worker["slot"], pidfd, death)
        self.deaths.append(death)
        self._shot.append(victim)
        return victim

    def attempt(self, find: Callable[[], T]) -> T:
        """Find a victim; one may be replaced in the very moment in which it was chosen."""
        for _ in range(_TRIES):
            with contextlib.suppress(ProcessLookupError):
                return find()
            self.daemon.rest(_LOOK)
        raise GivenUpError("there is no worker that stays for long enough to be a victim")

    def send_all(self, number: signal.Signals) -> None:
        """Signal every process of the daemon."""
        for pid in self.daemon.family():
            send(pid, number)


def _brief(status: dict[str, Any]) -> str:
    pools = [
        f"{name}: workers {[(worker['slot'], worker['state']) for worker in pool['workers']]},"
        f" attended {[(slot['slot'], slot['attended_by']) for slot in pool['slots']]}"
        for name, pool in status["pools"].items()
    ]
    return f"the daemon is {status['state']}; {'; '.join(pools)}"

"""Actions out: what the supervisor wishes is done here, as far as it concerns children, sockets and configurations."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from . import channel, errors, events, lending, orders, postmortem
from .listeners import Rests
from .parts import Parts
from .processes import Child

_RESTS: dict[str, Rests] = {"stopping": "nothing", "failing": "restored", "handing over": "all"}
"""What the service manager is to go on with. Whether there is a next attempt after one that fails, it knows."""
_logger = logging.getLogger("hourd")


class Performer:
    """Performs actions. What comes of them is an event again."""

    def __init__(self, parts: Parts, *, hear: Callable[[events.Event], None], lose: Callable[[Child], None]) -> None:
        """Take what is acted on.

        Args:
            parts: of the master.
            hear: takes an event.
            lose: gives up a child's channel.
        """
        self._supervisor = parts.supervisor
        self._processes = parts.processes
        self._listeners = parts.listeners
        self._generations = parts.generations
        self._reporter = parts.reporter
        self._descriptors = parts.descriptors
        self._hear = hear
        self._lose = lose
        self._unbound: set[tuple[str, int]] = set()
        """Pools and slots that could not be bound, of which was told."""

    def perform(self, action: events.Action) -> None:  # noqa: C901, PLR0912, a table of all actions
        """Do what is wished for."""
        match action:
            case events.Say(level=level, text=text):
                _logger.log(logging.getLevelNamesMapping()[level.upper()], "%s", text)
            case events.Configure(generation=generation):
                self._hear(self._generations.configure(generation))
            case events.StartMold():
                self._start_mold(action)
            case events.Spawn():
                self._spawn(action)
            case events.Attend(worker=worker, slot=slot):
                self._attend(worker, slot)
            case events.Release(worker=worker, slot=slot):
                self._release(worker, slot)
            case events.Drain(worker=worker):
                self.tell(worker, channel.Drain())
            case events.Dismiss(mold=mold):
                self.tell(mold, channel.Quit())
            case events.Dump(child=number):
                self._processes.dump(number)
            case events.Kill(child=number):
                self._kill(number)
            case events.Commit(generation=generation):
                self._generations.commit(generation)
            case events.Abandon(generation=generation):
                self._generations.abandon(generation)
            case events.Conclude():
                self._reporter.conclude(action)
            case events.Notify(what=what):
                self._reporter.notify(what)
                if rests := _RESTS.get(what):
                    # Held on to, an address would let clients wait, for as long as others drain, for nobody.
                    self._listeners.close(rests=rests if self._reporter.is_kept else "nothing")

    def _kill(self, number: int) -> None:
        child = self._processes.get(number)
        if child and child.dumped:
            _logger.error("%s: %s", self._processes.name(child), postmortem.describe(child, time.monotonic()))
        self._processes.kill(number)

    def _start_mold(self, action: events.StartMold) -> None:
        settings = self._generations[action.generation]
        what = orders.make(
            settings,
            action.pool,
            generation=action.generation,
            preload=action.preload,
            descriptors=self._descriptors,
        )
        try:
            trial = 0 < self._supervisor.generation != action.generation
            self._processes.start_mold(action.mold, what, settings.environment, gives_way=trial)
        except OSError as error:
            why, code = str(errors.from_os(error, f"execute a mold for pool {action.pool}")), errors.EXIT_SYSTEM
            self._hear(events.Failed(action.mold, why, code))
            self._hear(events.Exited(action.mold, code))

    def _spawn(self, action: events.Spawn) -> None:
        try:
            self._processes.spawn(action.worker, action.mold, action.slot)
        except OSError as error:
            why = str(errors.from_os(error, f"have a worker of pool {action.pool} forked"))
            self._hear(events.Failed(action.worker, why, errors.EXIT_SYSTEM))
            self._hear(events.Lost(action.worker))

    def tell(self, number: int, message: channel.Message, fds: tuple[int, ...] = ()) -> None:
        """Send a message; a child that does not read is as good as lost."""
        child = self._processes.get(number)
        if child is not None and not self._processes.send(child, message, fds):
            self._lose(child)

    def _attend(self, worker: int, slot: int) -> None:
        child = self._processes.get(worker)
        if child is None:
            return  # its end is among the events that wait
        try:
            message, fds = lending.attend(self._listeners, self._generations.all, child, slot)
        except OSError as error:
            # That is no fault of the worker's, which may have connections.
            if (child.pool, slot) not in self._unbound:
                why = errors.from_os(error, f"bind slot {slot} of pool {child.pool}")
                _logger.error("%s; trying again", why)  # noqa: TRY400, no bug of ours
            self._unbound.add((child.pool, slot))
            self._hear(events.Unable(worker, slot))
            return
        self._unbound.discard((child.pool, slot))
        self.tell(worker, message, fds)

    def _release(self, worker: int, slot: int) -> None:
        if child := self._processes.get(worker):
            others = [other for pool in self._supervisor.pools.values() for other in pool.serving]
            self.tell(worker, lending.release(self._listeners, self._generations.all, child, slot, others))

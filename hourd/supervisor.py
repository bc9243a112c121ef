"""The decisions of a daemon: what is to be done, given what has happened.

Rules. ``handle`` takes a fact and the time and returns wishes; ``deadline`` says when it wants to be
called again. There is no I/O, no clock, no waiting. Stop and reload are states, so any event may
come at any time and has an answer.

    starting ──> running <──> reloading          (running shows as degraded while a pool crashes a lot)
        │           │             │
        └───────────┴─────────────┴──> stopping ──> Exit

A start and a reload are the same transaction, from nothing or from a stable generation to the next:

    Configure ─> Configured ─> molds import (loading) ─> one worker attends, the others follow (rolling) ─> Commit
                    │                  │                                 │
                    └── any failure ───┴─────────────────────────────────┴──> Abandon: the stable generation serves on,
                                                                              or, at the first start, Exit

A further reload takes the place of the one under way; ``Conclude`` answers all who wait.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from . import errors, events, health, state
from .children import Mold, Worker
from .events import Action, Event
from .pool import Pool
from .reconcile import kill_all, reconcile

State = Literal["starting", "running", "reloading", "degraded", "stopping"]
How = Literal["stopping", "handing over", "failing"]


@dataclass(slots=True)
class Transaction:
    """A start or a reload under way."""

    generation: int
    since: float
    removed: frozenset[str] = frozenset()
    """Pools that the new configuration does not have."""
    rolling: bool = False
    answers: tuple[int, ...] = ()
    """The generations whose result this is: its own, and those whose place it took."""

    def __post_init__(self) -> None:
        self.answers = (self.generation,)


class Supervisor:
    """A daemon's pools and where they are to go."""

    def __init__(self, random: Random) -> None:
        self.pools: dict[str, Pool] = {}
        self.generation = 0
        """The last one that was committed; 0 before the first."""
        self.transaction: Transaction | None = None
        self.stopping = False
        self.exit_code = errors.EXIT_STOPPED
        self.attempts = 0
        """The number of the newest generation, tried or not."""
        self._asked: Transaction | None = None
        self._handled = 0.0
        """When the last event was."""
        self._ids = itertools.count(1)
        self._random = random
        self._interrupted = False

    def resume(self, saved: state.State, pools: dict[str, Pool]) -> None:
        """Go on from where the program was whose place we have taken."""
        self.generation, self.attempts, self.pools = saved.generation, saved.attempts, pools
        self._ids = itertools.count(saved.next_id)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Note a fact and return what is to be done about it, in this order."""
        self._handled = now
        actions = list(self._note(event, now))
        actions += self._advance(now)
        for pool in self.pools.values():
            pool.note_time(now)
            actions += reconcile(pool, self._ids, now)
        actions += self._settle(now)
        for pool in self.pools.values():
            actions += health.judge_pool(pool, now)
        return actions

    def deadline(self) -> float | None:
        """Return when ``Elapsed`` is wanted, in monotonic seconds.

        It may be past already: what the time until the last event did not bring about is still due.
        """
        times = (pool.deadline(self._handled) for pool in self.pools.values())
        return min((at for at in times if at is not None), default=None)

    @property
    def generations_in_use(self) -> set[int]:
        """The generations whose workers may still be told to attend something."""
        return {
            worker.generation
            for pool in self.pools.values()
            for worker in pool.workers.values()
            if worker.serving or worker.coming
        }

    @property
    def changing(self) -> bool:
        """Whether a start, a reload or a stop is under way."""
        return self.stopping or self.transaction is not None or self._asked is not None

    def state(self, now: float) -> State:
        if self.stopping:
            return "stopping"
        if self.transaction:
            return "reloading" if self.generation else "starting"
        return "degraded" if any(pool.degraded(now) for pool in self.pools.values()) else "running"

    def pool_state(self, pool: Pool, now: float) -> State:
        if pool.closing:
            return "stopping"
        if pool.trial:
            return "reloading" if pool.stable else "starting"
        return "degraded" if pool.degraded(now) else "running"

    # --- events -----------------------------------------------------------------------------------

    def _note(self, event: Event, now: float) -> Iterator[Action]:
        match event:
            case events.ReloadAsked():
                yield from self._reload(now)
            case events.Configured():
                yield from self._begin(event)
            case events.Misconfigured():
                yield from self._refuse(event, now)
            case events.StopAsked():
                how: How = "handing over" if event.hand_over else "stopping"
                yield from self._stop(now, at_once=event.now, how=how)
            case events.Interrupted():
                yield from self._stop(now, at_once=self._interrupted)
                self._interrupted = True
            case events.ScaleAsked() | events.StepAsked():
                yield from self._scale(event)
            case events.Sampled():
                samples = {sample.worker: sample for sample in event.samples}
                for pool in self.pools.values():
                    health.judge(pool, samples, now)
            case events.Elapsed():
                pass
            case _:
                self._note_child(event, now)

    def _note_child(self, event: Event, now: float) -> None:
        """Pass on what concerns one child; a child that is gone may still be heard of."""
        number = next(getattr(event, name) for name in ("worker", "mold", "child") if hasattr(event, name))
        for pool in self.pools.values():
            if worker := pool.workers.get(number):
                _note_worker(pool, worker, event, now)
            elif mold := pool.molds.get(number):
                _note_mold(pool, mold, event, now)

    def _scale(self, asked: events.ScaleAsked | events.StepAsked) -> Iterator[Action]:
        pools = {name: pool for name, pool in self.pools.items() if not pool.closing}
        first = next(iter(pools), "")
        if pool := pools.get(asked.pool if isinstance(asked, events.ScaleAsked) else first):
            pool.scale(asked.workers if isinstance(asked, events.ScaleAsked) else pool.number + asked.change)
            yield events.Say("info", f"pool {pool.name}: {pool.number} workers wanted")

    # --- the transaction --------------------------------------------------------------------------

    def _reload(self, now: float) -> Iterator[Action]:
        """Ask for the configuration; what is under way goes on until that is found right."""
        if self.stopping or self._asked:
            return  # a configuration that has yet to be read fulfils this wish too
        self.attempts += 1
        self._asked = Transaction(self.attempts, now)
        if self.generation:
            yield events.Notify("reloading")
        yield events.Configure(self.attempts)

    def _take_asked(self, generation: int) -> Transaction | None:
        """Return the reload that a configuration was read for, if it is still wanted."""
        if self._asked is None or self._asked.generation != generation:
            return None
        asked, self._asked = self._asked, None
        return asked

    def _begin(self, event: events.Configured) -> Iterator[Action]:
        asked = self._take_asked(event.generation)
        if asked is None:
            yield events.Abandon(event.generation)
            return
        if self.transaction:
            yield events.Abandon(self.transaction.generation)
            asked.answers = (*self.transaction.answers, *asked.answers)
        self.transaction = asked
        asked.removed = frozenset(self.pools) - {plan.pool for plan in event.plans}
        for name in asked.removed:
            self.pools[name].drop_trial()
        for plan in event.plans:
            self.pools.setdefault(plan.pool, Pool(plan.pool, self._random)).begin(plan)
        what = f"reloading to generation {event.generation}" if self.generation else "starting"
        yield events.Say("info", f"{what}: importing the application")

    def _refuse(self, event: events.Misconfigured, now: float) -> Iterator[Action]:
        """Leave everything as it is, also a transaction under way."""
        asked = self._take_asked(event.generation)
        if asked is None:
            return
        if self.generation or self.transaction:
            yield events.Say("error", f"reload refused, nothing was changed: {event.reason.strip()}")
        if self.generation and not self.transaction:
            yield events.Notify("ready")
        yield from self._conclude(asked, ok=False, reason=event.reason, now=now)
        if not (self.generation or self.transaction):
            yield from self._fail(event.reason, event.exit_code, now)

    def _advance(self, now: float) -> Iterator[Action]:
        """Take the transaction's next step, if it can be taken."""
        current = self.transaction
        if current is None:
            return
        failure = next((pool.trial_failure for pool in self.pools.values() if pool.trial_failure), None)
        if failure:
            yield from self._roll_back(current, *failure, now)
        elif not current.rolling and all(pool.imported for pool in self.pools.values()):
            current.rolling = True
            for pool in self.pools.values():
                if pool.trial:
                    pool.roll()

    def _roll_back(self, current: Transaction, reason: str, exit_code: int, now: float) -> Iterator[Action]:
        self.transaction = None
        for pool in self.pools.values():
            pool.drop_trial()
        yield events.Abandon(current.generation)
        if self.generation:
            refused = f"reload to generation {current.generation} was refused"
            yield events.Say("error", f"{refused}, generation {self.generation} serves on: {reason.strip()}")
            yield events.Notify("ready")
        yield from self._conclude(current, ok=False, reason=reason, now=now)
        if not self.generation:
            yield from self._fail(reason, exit_code, now)

    def _fail(self, reason: str, exit_code: int, now: float) -> Iterator[Action]:
        """End a start that led nowhere."""
        yield events.Say("error", f"cannot start: {reason.strip()}")
        self.exit_code = exit_code
        yield from self._stop(now, at_once=True, how="failing")

    def _conclude(self, current: Transaction, *, ok: bool, reason: str, now: float) -> Iterator[Action]:
        yield events.Conclude(current.generation, ok, reason, now - current.since, current.answers)

    def _commit(self, current: Transaction, now: float) -> Iterator[Action]:
        first = not self.generation
        self.generation = current.generation
        self.transaction = None
        for pool in self.pools.values():
            if pool.trial:
                pool.adopt_trial()
            else:
                pool.close()
        yield events.Commit(self.generation)
        took = f"in {now - current.since:.2f}s"
        yield events.Say("info", f"started {took}" if first else f"reloaded to generation {self.generation} {took}")
        yield events.Notify("ready")
        yield from self._conclude(current, ok=True, reason="", now=now)
        for pool in self.pools.values():
            yield from reconcile(pool, self._ids, now)

    def _settle(self, now: float) -> Iterator[Action]:
        """See whether something has come to its end: a reload, a closing pool, the daemon."""
        current = self.transaction
        if current and current.rolling and all(p.settled for n, p in self.pools.items() if n not in current.removed):
            yield from self._commit(current, now)
        for name in [name for name, pool in self.pools.items() if pool.closing and pool.empty]:
            del self.pools[name]
        if self.stopping and not self.pools:
            yield events.Say("info", "stopped")
            yield events.Exit(self.exit_code)

    # --- the end ----------------------------------------------------------------------------------

    def _stop(self, now: float, *, at_once: bool, how: How = "stopping") -> Iterator[Action]:
        if not self.stopping:
            self.stopping = True
            yield events.Say("info", "stopping at once" if at_once else "stopping: connections may finish")
            yield events.Notify(how)
            waiting = [current for current in (self.transaction, self._asked) if current]
            self.transaction = self._asked = None
            for current in waiting:
                yield from self._conclude(current, ok=False, reason="hourd was stopped meanwhile", now=now)
            for pool in self.pools.values():
                pool.close()
        if at_once:
            for pool in self.pools.values():
                yield from kill_all(pool, "is stopped at once")


def _note_worker(pool: Pool, worker: Worker, event: Event, now: float) -> None:
    match event:
        case events.Born():
            pool.born(worker, event.pid)
        case events.Ready():
            pool.ready(worker, now)
        case events.Attending():
            pool.attending(worker, event.slot, now)
        case events.Unable():
            pool.unable(worker, event.slot, now)
        case events.Leaving():
            pool.leaving(worker, now)
        case _:
            _note_any(pool, worker, event, now)


def _note_mold(pool: Pool, mold: Mold, event: Event, now: float) -> None:
    match event:
        case events.MoldReady():
            pool.mold_ready(mold, now)
        case events.MoldUnsafe():
            pool.mold_unsafe(mold, event.reason)
        case _:
            _note_any(pool, mold, event, now)


def _note_any(pool: Pool, child: Mold | Worker, event: Event, now: float) -> None:
    match event:
        case events.Failed():
            pool.failed(child, event.reason, event.exit_code, now)
        case events.Lost():
            pool.lost(child, now)
        case events.Exited():
            pool.exited(child, event, now)

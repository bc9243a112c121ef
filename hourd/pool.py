"""One pool: its plans, molds, workers and slots, as facts. ``reconcile.py`` draws the conclusions.

Nothing here does I/O, reads a clock or asks for anything.

A pool follows its ``stable`` plan. During a start or reload it has a ``trial`` plan too:

    loading   the trial's mold imports; workers follow the stable plan
    rolling   each slot gets a worker of the trial, one at a time (all at once where nothing serves)
    proven    one worker of the trial has attended its slot: from now on gaps are filled with its like

Then the supervisor adopts the trial as stable, or drops it, and reconciling does the rest. A pool
without any plan closes: its workers drain, and it is done when it is empty.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from .children import Mold, Worker, describe_exit
from .errors import EXIT_BOOT
from .events import Exited, Plan, Say
from .restarts import Backoff, Failures
from .scaling import Load
from .settings import WORKERS_MAX, Restart

_TRIAL_KILLS = 3
"""So many children of a trial may be killed from outside before the trial itself is blamed."""
_ENDING = 5.0
"""Seconds that a child may take to end after its channel did, or after it said that it fails."""
_AGAIN = 1.0
"""Seconds until a worker is given a slot again that could not be given one."""
_SOON = 0.05
"""Seconds until a look that is overdue."""


class Pool:
    """The workers of one pool."""

    def __init__(self, name: str, random: Random) -> None:
        self.name = name
        self.stable: Plan | None = None
        self.trial: Plan | None = None
        self.rolling = False
        self.proven = False
        self.trial_failure: tuple[str, int] | None = None
        """Why the trial cannot be, and the exit code that stands for it."""
        self.molds: dict[int, Mold] = {}
        self.workers: dict[int, Worker] = {}
        self.slots = 0
        """Seats that have sockets. They only grow: closing one would reset its queue."""
        self.restarts = 0
        self.cut = 0
        """Connections that workers which are gone have cut at the end of their grace."""
        self.backoffs: dict[int, Backoff] = {}
        self.turnover: dict[int, Backoff] = {}
        """Of seats whose workers ask to be replaced: that is no failure, but not to be had at any rate either."""
        self.mold_backoff = Backoff()
        self.load = Load()
        self.news: list[Say] = []
        self._random = random
        self._kills = 0
        self.was_degraded = False
        """Whether that was said last."""
        self._failures = Failures()

    # --- plans ------------------------------------------------------------------------------------

    def begin(self, plan: Plan) -> None:
        """Try a plan; an earlier trial is forgotten."""
        self.drop_trial()
        if plan.range and self.stable:
            # The load has not changed because the code has.
            plan = replace(plan, workers=_within(plan, self.stable.workers))
        self.trial = plan

    def roll(self) -> None:
        """Replace the workers: the import has succeeded everywhere."""
        self.rolling = True
        self._add_slots()

    def adopt_trial(self) -> None:
        self.stable = self.trial
        self.drop_trial()

    def drop_trial(self) -> None:
        self.trial = None
        self.rolling = self.proven = False
        self.trial_failure = None
        self._kills = 0
        self.mold_backoff.forgive()
        self.backoffs.clear()
        self.turnover.clear()
        self._failures.forget()
        self._add_slots()

    def close(self) -> None:
        """Let everything end; without a plan nothing new begins."""
        self.stable = None
        self.drop_trial()

    def scale(self, workers: int) -> None:
        """Want another number of workers; it is kept within what the configuration allows."""
        if self.stable:
            self.stable = replace(self.stable, workers=_within(self.stable, workers))
        if self.trial:
            self.trial = replace(self.trial, workers=_within(self.trial, workers))
        self._add_slots()

    def _add_slots(self) -> None:
        if self.wanted:
            self.slots = max(self.slots, self.wanted.slots, self.wanted.workers)

    # --- what is ----------------------------------------------------------------------------------

    @property
    def wanted(self) -> Plan | None:
        """The plan that workers are to follow."""
        return self.trial if self.rolling else self.stable

    @property
    def number(self) -> int:
        """How many workers the newest plan has."""
        plan = self.trial or self.stable
        return plan.workers if plan else 0

    @property
    def limits(self) -> tuple[int, int]:
        """How many workers the newest plan may have."""
        return _limits(self.trial or self.stable)

    @property
    def fallback(self) -> Plan | None:
        """The plan that gaps are filled from as long as the trial is not proven."""
        return self.stable if self.rolling and not self.proven else None

    @property
    def closing(self) -> bool:
        return self.stable is None and self.trial is None

    @property
    def policy(self) -> Restart:
        plan = self.stable or self.trial
        return plan.restart if plan else Restart()

    @property
    def children(self) -> list[Mold | Worker]:
        return [*self.molds.values(), *self.workers.values()]

    @property
    def empty(self) -> bool:
        return not self.children

    @property
    def serving(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.serving]

    @property
    def imported(self) -> bool:
        """Whether the trial, if there is one, can fork workers."""
        return self.trial is None or self.ready_mold(self.trial) is not None

    @property
    def settled(self) -> bool:
        """Whether every slot is attended as wanted and nobody else serves or will."""
        plan, serving = self.wanted, [worker for worker in self.serving if not self.keeps(worker)]
        return (
            plan is not None
            and (self.trial is None or self.rolling)
            and {worker.slot for worker in serving} == set(range(plan.workers))
            and all(self.good(worker) and worker.attends.get(worker.slot) for worker in serving)
            and len({slot for worker in serving for slot, said in worker.attends.items() if said}) == self.slots
        )

    def good(self, worker: Worker) -> bool:
        """Tell whether a worker is one that is wanted."""
        return worker.follows(self.wanted)

    def waits(self, slot: int, now: float) -> bool:
        """Tell whether it is too soon for the next worker of a slot."""
        return any(slot in seats and seats[slot].until > now for seats in (self.backoffs, self.turnover))

    def draining_from(self, slot: int) -> int:
        """Return how many workers of a slot drain."""
        return sum(worker.state == "draining" and worker.slot == slot for worker in self.workers.values())

    def keeps(self, worker: Worker) -> bool:
        """Tell whether a worker has addresses that the trial lacks, and stays until the trial is settled on."""
        narrows = self.rolling and self.trial is not None and self.trial.narrows
        return narrows and self.stable is not None and worker.generation == self.stable.generation

    def ready_mold(self, plan: Plan) -> Mold | None:
        for mold in self.molds.values():
            if mold.generation == plan.generation and mold.forks:
                return mold
        return None

    def attended_by(self, slot: int) -> list[Worker]:
        return [worker for worker in self.serving if worker.attends.get(slot)]

    def degraded(self, now: float) -> bool:
        return now < self._degraded_until

    def deadline(self, now: float) -> float | None:
        """Return when time alone will change something."""
        times = [child.deadline for child in self.children]
        # One whose time has passed while something else was done is still due; only a sample moves it.
        times += [max(worker.look_at, now + _SOON) for worker in self.workers.values() if worker.beats]
        times += [backoff.until for backoff in (self.mold_backoff, *self.backoffs.values(), *self.turnover.values())]
        times += [worker.unable_until for worker in self.workers.values()]
        times.append(self._degraded_until)
        return min((at for at in times if at is not None and at > now), default=None)

    @property
    def _degraded_until(self) -> float:
        limit = self.policy.giving_up
        seats = (self.mold_backoff, *self.backoffs.values())
        return max(self._failures.passes_at(limit), *(seat.passes_at(limit) for seat in seats))

    # --- what happened ----------------------------------------------------------------------------

    def note_time(self, now: float) -> None:
        """Forget what was true until now only."""
        for worker in self.workers.values():
            if worker.unable_until is not None and worker.unable_until <= now:
                worker.unable_until = None

    def mold_ready(self, mold: Mold, now: float) -> None:
        if mold.state == "loading" and not mold.lost:
            mold.state, mold.deadline = "ready", None
            self.say("info", f"{mold} ready in {now - mold.since:.2f}s")

    def mold_unsafe(self, mold: Mold, reason: str) -> None:
        """Its generation goes on with a mold that does not import the application."""
        if self.stable and self.stable.generation == mold.generation:
            self.stable = replace(self.stable, preload=False)
        if self.trial and self.trial.generation == mold.generation:
            self.trial = replace(self.trial, preload=False)
        self.say("warning", f"{mold} cannot be forked safely: importing the application left {reason}; "
                  "going on as with preload: false")  # fmt: skip

    def born(self, worker: Worker, pid: int) -> None:
        if worker.pid is None:
            worker.pid = pid
            if worker.state == "forking":
                worker.state = "booting"

    def ready(self, worker: Worker, now: float) -> None:
        if worker.state == "booting":
            worker.state, worker.served_from = "serving", now
            worker.looked = worker.beat = now

    def attending(self, worker: Worker, slot: int, now: float) -> None:
        if not worker.serving or slot not in worker.attends:
            return  # it was released or drained while it answered
        first = worker.deadline is not None and slot == worker.slot
        worker.attends[slot] = True
        if first:
            worker.deadline = None
            self.say("info", f"{worker} ready in {now - worker.since:.2f}s")
        if self.rolling and self.trial and worker.generation == self.trial.generation:
            self.proven = True

    def unable(self, worker: Worker, slot: int, now: float) -> None:
        """A worker does not attend a slot that it was told to: somebody else is to, or it later."""
        if worker.attends.get(slot) is False:
            del worker.attends[slot]
            worker.unable_until = now + _AGAIN

    def leaving(self, worker: Worker, now: float) -> None:
        """Note that a worker wants to be replaced. It serves until then, and who asks often waits longer."""
        if not worker.leaving:
            worker.leaving = True
            served = now - worker.served_from if worker.served_from is not None else 0.0
            self.turnover.setdefault(worker.slot, Backoff()).failed(now, served, self.policy, self._random)
            self.say("info", f"{worker} asks to be replaced")

    def failed(self, child: Mold | Worker, reason: str, exit_code: int, now: float) -> None:
        """A child has said why it ends. Its threads may keep it for long; nobody waits for that."""
        if child.ending:
            return
        child.failure, child.exit_code = reason, exit_code
        if child.deadline is None or child.deadline > now + _ENDING:
            child.deadline, child.overdue = now + _ENDING, "said that it fails, and did not end"

    def lost(self, child: Mold | Worker, now: float) -> None:
        """A child's channel ended: it has ended too, or is beyond control."""
        child.lost = True
        if isinstance(child, Worker) and child.pid is None:
            self._forget_worker(child, "was never born", now)
        elif child.deadline is None or child.deadline > now + _ENDING:
            child.deadline, child.overdue = now + _ENDING, "closed its channel and did not end"

    def exited(self, child: Mold | Worker, how: Exited, now: float) -> None:
        description = describe_exit(how.code, oom=how.oom)
        if isinstance(child, Worker):
            self._forget_worker(child, description, now, how.code)
        else:
            self._forget_mold(child, description, now, how.code)

    def _forget_worker(self, worker: Worker, how: str, now: float, code: int = -1) -> None:
        del self.workers[worker.id]
        self.cut += worker.cut
        if worker.ending:
            clean = code == 0 or worker.state == "dying"
            self.say("info" if clean else "error", f"{worker} {'ended' if clean else f'{how} while it drained'}")
            return
        if all(plan is None or plan.generation != worker.generation for plan in (self.stable, self.trial)):
            self.say("info", f"{worker} {how}; nobody comes after it")
            return
        self._blame_trial(worker, refused=worker.served_from is None and code >= 0, how=how)
        served = now - worker.served_from if worker.served_from is not None else 0.0
        delay = self.backoffs.setdefault(worker.slot, Backoff()).failed(now, served, self.policy, self._random)
        if worker.pid is not None or worker.failure:
            self._failures.add(now)  # who was never born is counted with its mold
        self.restarts += 1
        after = " before it was ready" if worker.pid else ""
        if worker.served_from is not None:
            after = f" after serving for {served:.1f}s"
        self._report(worker, how + after, delay)

    def _forget_mold(self, mold: Mold, how: str, now: float, code: int) -> None:
        del self.molds[mold.id]
        if mold.ending:
            return
        self._blame_trial(mold, refused=mold.state == "loading" and code >= 0, how=how)
        lived = now - mold.since if mold.state == "ready" else 0.0  # an import may take long, and fail
        delay = self.mold_backoff.failed(now, lived, self.policy, self._random)
        self._failures.add(now)
        serve_on = ", its workers serve on" if self.serving else ""
        self._report(mold, how + serve_on, delay)

    def _report(self, child: Mold | Worker, how: str, delay: float) -> None:
        """Log a death. One that ends a start or a reload is explained there, once and with its reason."""
        if self.closing or self.trial_failure:
            self.say("info", f"{child} {how}")
            return
        again = f"next attempt in {delay:.1f}s" if delay else "starting another at once"
        why = f": {child.failure.strip()}" if child.failure else ""
        # Who was never born has done nothing wrong: its mold has ended, or has said what is.
        unborn = isinstance(child, Worker) and child.pid is None and not child.failure
        self.say("info" if unborn else "error", f"{child} {how}; {again}{why}")

    def _blame_trial(self, child: Mold | Worker, *, refused: bool, how: str) -> None:
        """Tell a trial that cannot be from one that is being shot at.

        Who says why it fails, runs out of time or exits on its own before it was ready would do so
        again. A signal may come from outside, so a few are forgiven.
        """
        if self.trial is None or child.generation != self.trial.generation or self.trial_failure:
            return
        if not (child.failure or refused):
            self._kills += 1
            if self._kills < _TRIAL_KILLS:
                return
        self.trial_failure = (child.failure or f"{child} {how}", child.exit_code or EXIT_BOOT)

    def chance(self, low: float, high: float) -> float:
        """Return a number between two."""
        return self._random.uniform(low, high)

    def say(self, level: str, text: str) -> None:
        """Have a line logged with the next actions."""
        self.news.append(Say(level, text))  # type: ignore[arg-type]


def _within(plan: Plan, workers: int) -> int:
    least, most = _limits(plan)
    return min(max(workers, least), most)


def _limits(plan: Plan | None) -> tuple[int, int]:
    return (plan.range.min, plan.range.max) if plan and plan.range else (1, WORKERS_MAX)

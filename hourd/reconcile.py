"""Close the gap between what a pool has and what it wants.

``reconcile`` may be called at any time, after any event. It asks for nothing twice, since whatever
it asks for it also notes in the pool. Its order matters: children that are overdue first, then
molds, then workers, then who attends which slot; only then may anybody be told to drain.

The promise is kept here: a slot is given to somebody new before it is taken from whoever has it, and
a worker drains only when it attends nothing any more.
"""

from __future__ import annotations

from collections.abc import Iterator

from .children import Mold, Worker
from .events import Action, Attend, Dismiss, Drain, Kill, Plan, Release, Say, Spawn, StartMold
from .pool import Pool

_HELPED_AFTER = 5.0
"""Seconds beyond what a child was given to end, after which it is killed."""


def reconcile(pool: Pool, ids: Iterator[int], now: float) -> Iterator[Action]:
    """Yield what is to be done.

    Args:
        pool: what is and what is wanted.
        ids: the source of ids for new children.
        now: monotonic seconds.
    """
    yield from pool.news
    pool.news.clear()
    yield from _kill_overdue(pool, now)
    yield from _keep_molds(pool, ids, now)
    yield from _kill_unwanted(pool)
    yield from _keep_workers(pool, ids, now)
    yield from _keep_slots(pool)
    yield from _retire(pool, now)


def kill_all(pool: Pool, reason: str) -> Iterator[Action]:
    """Yield what ends a pool at once."""
    for child in (*pool.molds.values(), *pool.workers.values()):
        yield from _kill(child, reason)


def _kill_overdue(pool: Pool, now: float) -> Iterator[Action]:
    for child in (*pool.molds.values(), *pool.workers.values()):
        if child.deadline is not None and child.deadline <= now:
            overdue = child.overdue
            if child.state not in ("draining", "leaving", "dying"):
                child.failure = child.failure or f"{child} {overdue}"
            yield from _kill(child, overdue)
            if isinstance(child, Worker) and child.pid is None and child.mold in pool.molds:
                # Its mold does not fork. Once that is gone, the request in its queue is gone too.
                yield from _kill(pool.molds[child.mold], "does not fork")
        elif isinstance(child, Worker) and child.state == "dying":
            yield from _kill(child, child.overdue)


def _kill(child: Mold | Worker, reason: str) -> Iterator[Action]:
    """Kill now, or as soon as the child has a process id."""
    child.deadline = None
    child.overdue = reason
    already = child.state == "dying" if isinstance(child, Mold) else child.killed
    child.state = "dying"
    if already or (isinstance(child, Worker) and child.pid is None):
        return
    if isinstance(child, Worker):
        child.killed = True
    yield Say("warning" if child.failure else "info", f"killing {child}: it {reason}")
    yield Kill(child.id, reason)


def _keep_molds(pool: Pool, ids: Iterator[int], now: float) -> Iterator[Action]:
    plans = [plan for plan in (pool.stable, pool.trial) if plan]
    generations = {plan.generation for plan in plans}
    for mold in pool.molds.values():
        unsafe = mold.preload and mold.generation in pool.unsafe
        if mold.usable and (mold.generation not in generations or unsafe):
            mold.state, mold.deadline, mold.overdue = "leaving", now + _HELPED_AFTER, "did not end when dismissed"
            yield Dismiss(mold.id)
    for plan in plans:
        there = any(mold.usable and mold.generation == plan.generation for mold in pool.molds.values())
        if not there and pool.mold_backoff.until <= now and not pool.trial_failure:
            yield _start_mold(pool, plan, next(ids), now)


def _start_mold(pool: Pool, plan: Plan, number: int, now: float) -> StartMold:
    preload = plan.preload and plan.generation not in pool.unsafe
    pool.molds[number] = Mold(
        id=number,
        pool=pool.name,
        generation=plan.generation,
        preload=preload,
        since=now,
        deadline=now + plan.boot,
        overdue=f"did not import the application within {plan.boot:g}s (timeouts.boot)",
    )
    return StartMold(number, pool.name, plan.generation, preload)


def _kill_unwanted(pool: Pool) -> Iterator[Action]:
    """Stop boots that lead nowhere: they serve nobody yet."""
    for worker in pool.workers.values():
        if worker.coming and not (pool.good(worker) or _fills_gap(pool, worker)):
            yield from _kill(worker, "is no longer wanted")


def _fills_gap(pool: Pool, worker: Worker) -> bool:
    """Tell whether a booting worker of the stable plan stands in while a trial is not proven."""
    stable = pool.stable
    return (
        pool.rolling
        and not pool.proven
        and stable is not None
        and worker.generation == stable.generation
        and worker.slot < stable.workers
        and not worker.leaving
    )


def _keep_workers(pool: Pool, ids: Iterator[int], now: float) -> Iterator[Action]:
    wanted = pool.wanted
    if wanted is None or pool.trial_failure:
        return
    for slot in range(wanted.workers):
        plan = _plan_for(pool, slot, wanted)
        mold = pool.ready_mold(plan) if plan else None
        if plan is None or mold is None:
            continue
        backoff = pool.backoffs.get(slot)
        if backoff is None or backoff.until <= now:
            yield _spawn(pool, plan, mold, slot, next(ids), now)


def _plan_for(pool: Pool, slot: int, wanted: Plan) -> Plan | None:
    """Decide which plan the slot's next worker follows, or that it needs none now."""
    there = [worker for worker in pool.workers.values() if worker.slot == slot and (worker.coming or worker.serving)]
    if any(pool.good(worker) for worker in there):
        return None
    if any(worker.serving for worker in there):
        return None if _successor_comes(pool) else wanted
    if pool.rolling and not pool.proven and pool.stable and slot < pool.stable.workers:
        if any(worker.coming for worker in there):
            return None
        if pool.ready_mold(pool.stable):
            return pool.stable
    return wanted


def _successor_comes(pool: Pool) -> bool:
    """Tell whether a worker is on its way to a slot that another serves: one at a time."""
    served = {worker.slot for worker in pool.serving if worker.attends.get(worker.slot)}
    return any(
        worker.slot in served and (worker.coming or (worker.serving and not worker.attends.get(worker.slot)))
        for worker in pool.workers.values()
    )


def _spawn(pool: Pool, plan: Plan, mold: Mold, slot: int, number: int, now: float) -> Spawn:
    pool.workers[number] = Worker(
        id=number,
        pool=pool.name,
        slot=slot,
        generation=plan.generation,
        mold=mold.id,
        since=now,
        deadline=now + plan.boot,
        overdue=f"was not ready within {plan.boot:g}s (timeouts.boot)",
        grace=plan.grace,
    )
    return Spawn(number, mold.id, pool.name, slot, plan.generation)


def _keep_slots(pool: Pool) -> Iterator[Action]:
    """Give each slot to the best there is, and take it from others once that one attends."""
    if pool.closing:
        return
    for slot in range(pool.slots):
        best = min(pool.serving, key=lambda worker: _distance(pool, worker, slot), default=None)
        if best is None:
            continue
        if slot not in best.attends:
            best.attends[slot] = False
            yield Attend(best.id, slot)
        elif best.attends[slot]:
            for worker in pool.serving:
                if worker is not best and slot in worker.attends:
                    yield _release(worker, slot)


def _distance(pool: Pool, worker: Worker, slot: int) -> tuple[bool, bool, bool, int, int, int]:
    """Order the candidates for a slot: the least is the best.

    Its own worker comes first, even an unwanted one: it stays until its successor attends. Then who
    is wanted, who has the slot already (no needless change), and who has the least to do.
    """
    plan = pool.wanted
    own = worker.slot == slot and plan is not None and slot < plan.workers
    others = len(worker.attends) - (slot in worker.attends)
    return (
        not own,
        not pool.good(worker),
        slot not in worker.attends,
        others,
        worker.connections,
        worker.id,
    )


def _release(worker: Worker, slot: int) -> Release:
    del worker.attends[slot]
    return Release(worker.id, slot)


def _retire(pool: Pool, now: float) -> Iterator[Action]:
    """Let unwanted workers drain once they attend nothing; without a plan, all and at once."""
    for worker in pool.serving:
        if pool.closing:
            for slot in tuple(worker.attends):
                yield _release(worker, slot)
        if worker.attends or pool.good(worker):
            continue
        worker.state = "draining"
        worker.deadline = now + worker.grace + _HELPED_AFTER
        worker.overdue = f"did not end within its grace of {worker.grace:g}s"
        yield Drain(worker.id)

"""Close the gap between what a pool has and what it wants.

``reconcile`` may be called at any time, after any event. It asks for nothing twice, since whatever
it asks for it also notes in the pool. Its order matters: children that are overdue first, then molds,
then who attends which slot, and who may drain therefore; last who is to come.

The promise is kept here: a slot is given to somebody new before it is taken from whoever has it, and
a worker drains only when it attends nothing any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .children import Mold, Worker
from .events import Action, Attend, Dismiss, Drain, Dump, Kill, Plan, Release, Say, Spawn, StartMold
from .pool import Pool

_DRAINING_GENERATIONS = 6
"""So many may drain side by side: clients that never leave must not pile up workers without bound."""
_LAST_WORDS = 0.5
"""Seconds that a child has to show its stacks before it is killed for what it does not do."""
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
    yield from _keep_slots(pool)
    yield from _retire(pool, now)
    yield from _cut_oldest(pool)
    yield from _kill_unwanted(pool)
    yield from _keep_workers(pool, ids, now)


def kill_all(pool: Pool, reason: str) -> Iterator[Action]:
    """Yield what ends a pool at once."""
    for child in pool.children:
        yield from _kill(child, reason)


def _kill_overdue(pool: Pool, now: float) -> Iterator[Action]:
    for child in pool.children:
        if child.deadline is not None and child.deadline <= now:
            child.deadline = None
            yield from _fail(child, child.overdue, now)
            if isinstance(child, Worker) and child.pid is None and child.mold in pool.molds:
                # Once its mold is gone, the request in its queue is gone too.
                yield from _fail(pool.molds[child.mold], "does not fork", now)
        elif child.state == "dying" and not (child.dumped and child.deadline):
            yield from _kill(child, child.overdue)


def _fail(child: Mold | Worker, reason: str, now: float) -> Iterator[Action]:
    """Kill a child for what it does not do, once it had the time to show where it is.

    When it was to end anyway, that is no failure of it.
    """
    if not child.ending:
        child.failure = child.failure or f"{child} {reason}"
    unborn = isinstance(child, Worker) and child.pid is None
    if child.dumped or child.killed or child.lost or unborn:
        yield from _kill(child, reason)
    else:
        child.dumped = True
        child.state, child.overdue, child.deadline = "dying", reason, now + _LAST_WORDS
        yield Dump(child.id)


def _kill(child: Mold | Worker, reason: str) -> Iterator[Action]:
    """Kill now, or as soon as the child has a process id; until then its deadline stands."""
    child.state, child.overdue = "dying", reason
    if isinstance(child, Worker) and child.pid is None:
        return
    child.deadline = None
    if not child.killed:
        child.killed = True
        yield Say("warning" if child.failure or child.dumped else "info", f"killing {child}: it {reason}")
        yield Kill(child.id, reason)


def _keep_molds(pool: Pool, ids: Iterator[int], now: float) -> Iterator[Action]:
    plans = {plan.generation: plan for plan in (pool.stable, pool.trial) if plan}
    for mold in pool.molds.values():
        plan = plans.get(mold.generation)
        if plan is not None and mold.preload <= plan.preload:
            continue
        if mold.state == "loading":
            yield from _kill(mold, "is no longer wanted")  # it may not listen for long, and has no workers
        elif mold.state == "ready":
            # It ends after its workers, which have their grace.
            mold.state, mold.deadline = "leaving", now + mold.grace + 2 * _HELPED_AFTER
            mold.overdue = "did not end when dismissed"
            if not mold.lost:
                yield Dismiss(mold.id)
    there = {mold.generation for mold in pool.molds.values() if not mold.ending}
    for plan in plans.values():
        if plan.generation not in there and pool.mold_backoff.until <= now:
            yield _start_mold(pool, plan, next(ids), now)


def _start_mold(pool: Pool, plan: Plan, number: int, now: float) -> StartMold:
    pool.molds[number] = Mold(
        id=number,
        pool=pool.name,
        generation=plan.generation,
        preload=plan.preload,
        grace=plan.grace,
        since=now,
        deadline=now + plan.boot,
        overdue=f"did not import the application within {plan.boot:g}s (timeouts.boot)",
    )
    return StartMold(number, pool.name, plan.generation, plan.preload)


def _kill_unwanted(pool: Pool) -> Iterator[Action]:
    """Stop boots that lead nowhere: they serve nobody yet."""
    for worker in pool.workers.values():
        if worker.coming and not (pool.good(worker) or worker.follows(pool.fallback)):
            yield from _kill(worker, "is no longer wanted")


def _keep_workers(pool: Pool, ids: Iterator[int], now: float) -> Iterator[Action]:
    wanted = pool.wanted
    if wanted is None:
        return
    seats = _seats(pool)
    one_comes = any(map(_successor_comes, seats.values()))  # one at a time
    for slot in _by_age(seats, wanted.workers):
        there = seats.get(slot, [])
        plan = _plan_for(pool, there, slot, wanted)
        mold = pool.ready_mold(plan) if plan else None
        served = any(worker.serving for worker in there)
        if plan is None or mold is None or (served and one_comes) or pool.waits(slot, now):
            continue
        one_comes = one_comes or served
        yield _spawn(pool, plan, mold, slot, next(ids), now)


def _seats(pool: Pool) -> dict[int, list[Worker]]:
    """Return who has, or holds until it was reaped, each seat."""
    seats: dict[int, list[Worker]] = {}
    for worker in pool.workers.values():
        if not worker.ending:
            seats.setdefault(worker.slot, []).append(worker)
    return seats


def _by_age(seats: dict[int, list[Worker]], number: int) -> list[int]:
    """Return the slots: first those that nobody serves, then by age, so that all have their turn to be recycled."""
    ages = {
        slot: min((each.since for each in seats.get(slot, ()) if each.serving), default=0.0) for slot in range(number)
    }
    return sorted(ages, key=ages.__getitem__)


def _successor_comes(there: list[Worker]) -> bool:
    """Tell whether somebody is on the way to a seat that another has; two who are settled are not."""
    alive = [worker for worker in there if worker.coming or worker.serving]
    return len(alive) > 1 and any(worker.coming or worker.deadline is not None for worker in alive)


def _plan_for(pool: Pool, there: list[Worker], slot: int, wanted: Plan) -> Plan | None:
    """Decide which plan a seat's next worker follows, or that it needs none."""
    if any(pool.good(worker) for worker in there):
        return None
    if any(worker.serving for worker in there):
        return wanted
    if (fallback := pool.fallback) and slot < fallback.workers:
        if any(worker.coming for worker in there):
            return None
        if pool.ready_mold(fallback):
            return fallback
    return wanted


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
        plan=plan,
        stamina=pool.chance(1 - plan.recycle.jitter, 1),
    )
    return Spawn(number, mold.id, pool.name, slot, plan.generation)


def _keep_slots(pool: Pool) -> Iterator[Action]:
    """Keep every slot attended: once, or, where a trial lacks addresses, by it and by those who have them."""
    serving = [] if pool.closing else pool.serving
    kept = [worker for worker in serving if pool.keeps(worker)]
    others = [worker for worker in serving if not pool.keeps(worker)]
    yield from _share_slots(pool, kept)
    # A canary has its own slot and no more, as long as others are well and not all of its like are there.
    few = pool.wanted is not None and len({worker.slot for worker in others}) < pool.wanted.workers
    yield from _share_slots(pool, others, only_own=few and any(not worker.slow for worker in kept))


def _share_slots(pool: Pool, serving: list[Worker], *, only_own: bool = False) -> Iterator[Action]:
    """Give each slot to the best among some, and take it from the others once that one attends.

    Args:
        pool: whose slots.
        serving: among whom.
        only_own: whether nobody is to have more than the own slot.
    """
    holders: dict[int, list[Worker]] = {}
    for worker in serving:
        for slot in worker.attends:
            holders.setdefault(slot, []).append(worker)
    for slot, best in _attendants(pool, serving, holders, only_own=only_own).items():
        if slot not in best.attends:
            best.attends[slot] = False
            yield Attend(best.id, slot)
        elif best.attends[slot]:
            for worker in holders[slot]:
                if worker is not best and not _stays(pool, worker, slot, best):
                    yield _release(worker, slot)


def _stays(pool: Pool, worker: Worker, slot: int, best: Worker) -> bool:
    """Tell whether a worker keeps its own slot beside a sibling: while it is slow, and has no successor."""
    wanted = pool.wanted is not None and slot < pool.wanted.workers
    return worker.slow and worker.slot == slot and best.slot != slot and wanted


def _attendants(
    pool: Pool, serving: list[Worker], holders: dict[int, list[Worker]], *, only_own: bool
) -> dict[int, Worker]:
    """Choose who is to attend each slot: its own worker, or, where it has none, a sibling.

    The own worker stays even when it is unwanted, until its successor can serve. Who is slow is chosen
    only where everybody is.
    """
    able = [worker for worker in serving if not worker.slow] or serving
    seats = range(pool.wanted.workers if pool.wanted else 0)
    chosen: dict[int, Worker] = {}
    for worker in sorted(able, key=lambda worker: (pool.good(worker), worker.id)):
        if worker.slot in seats and worker.takes(worker.slot):
            chosen[worker.slot] = worker
    gaps = [slot for slot in range(pool.slots) if slot not in chosen] if able and not only_own else []
    takers = [worker for worker in able if worker.unable_until is None]
    return chosen | (_spread(pool, takers, holders, gaps, chosen) if gaps and takers else {})


def _spread(
    pool: Pool, serving: list[Worker], holders: dict[int, list[Worker]], gaps: list[int], chosen: dict[int, Worker]
) -> dict[int, Worker]:
    """Spread slots over those who have the least to do; among equals, who has a slot keeps it.

    The load is what was chosen here, not what is attended now: choosing again has to give the same.
    """
    # Who is on the way out gets a slot last: with one it could not go, and its seat would seem to have two.
    staying = [worker for worker in serving if worker.follows(pool.fallback)]
    able = [worker for worker in serving if pool.good(worker)] or staying or serving
    load = Counter(worker.id for worker in chosen.values())
    levels: dict[int, dict[int, Worker]] = {}
    for worker in sorted(able, key=lambda worker: (worker.connections, worker.id)):
        levels.setdefault(load[worker.id], {})[worker.id] = worker
    least = min(levels)
    result: dict[int, Worker] = {}
    for slot in gaps:
        while not levels.get(least):
            least += 1
        idle = levels[least]
        best = next((worker for worker in holders.get(slot, ()) if worker.id in idle), next(iter(idle.values())))
        result[slot] = best
        levels.setdefault(least + 1, {})[best.id] = idle.pop(best.id)
    return result


def _release(worker: Worker, slot: int) -> Release:
    del worker.attends[slot]
    return Release(worker.id, slot)


def _retire(pool: Pool, now: float) -> Iterator[Action]:
    """Let unwanted workers drain once they attend nothing; without a plan, all and at once."""
    for worker in pool.serving:
        if pool.closing:
            for slot in tuple(worker.attends):
                yield _release(worker, slot)
        if worker.attends or worker.unable_until is not None or pool.good(worker):
            continue
        worker.state = "draining"
        worker.deadline = now + worker.plan.grace + _HELPED_AFTER
        worker.overdue = f"did not end within its grace of {worker.plan.grace:g}s"
        yield Drain(worker.id)


def _cut_oldest(pool: Pool) -> Iterator[Action]:
    draining = [worker for worker in pool.workers.values() if worker.state == "draining"]
    cut = sorted({worker.generation for worker in draining})[:-_DRAINING_GENERATIONS]
    for worker in draining:
        if worker.generation in cut:
            yield from _kill(worker, f"is the oldest of more than {_DRAINING_GENERATIONS} generations that drain")

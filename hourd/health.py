"""Who is well, and who has served its time: conclusions from what workers show of themselves.

    well    its loop turned within ``slow``
    slow    it did not: siblings attend its slot too, and nothing else happens; its next beat makes it well
    hung    no beat for ``hung``: it is made to show its stacks, killed and replaced

Only a sample tells. Time alone makes nobody slow, since a worker may have beaten meanwhile. Who boots
has ``boot`` instead; who drains attends nothing, and is never slow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from .children import Worker
from .events import Sample, Say
from .pool import Pool

_LEAST_LIFE = 1.0
"""Seconds that a worker serves at least before it is recycled: limits may be below what it begins with."""
_YOUNG = 60.0
"""Seconds within which nobody should have used up its memory."""
_DRAINING = 6
"""So many of a slot may drain side by side; then its worker is recycled later."""


def judge(pool: Pool, samples: Mapping[int, Sample], now: float) -> None:
    """Note what workers show; ``reconcile`` does something about it.

    Args:
        pool: whose workers.
        samples: by the workers' ids.
        now: monotonic seconds.
    """
    for worker in pool.workers.values():
        if sample := samples.get(worker.id):
            worker.connections, worker.busy, worker.waiting = sample.connections, sample.busy, sample.waiting
            worker.cut = sample.cut
            if worker.beats:
                _judge_beat(pool, worker, sample.beat, now)
            if worker.serving:
                _judge_age(pool, worker, sample, now)
    _judge_load(pool, now)


def judge_pool(pool: Pool, now: float) -> Iterator[Say]:
    """Yield what is to be said when a pool becomes degraded, and when that is over."""
    degraded = not pool.closing and pool.degraded(now)
    if degraded and not pool.was_degraded:
        limit = pool.policy.giving_up
        deaths = f"{limit.failures} deaths within {limit.within:g}s (restart.giving_up)"
        yield Say("error", f"pool {pool.name} is degraded: {deaths}; attempts go on, siblings attend the slots")
    elif pool.was_degraded and not degraded and not pool.closing:
        yield Say("info", f"pool {pool.name} is not degraded any more")
    pool.was_degraded = degraded


def _judge_beat(pool: Pool, worker: Worker, beat: float, now: float) -> None:
    worker.looked = now
    worker.beat = max(worker.beat, min(beat, now))
    silence = now - worker.beat
    was_slow, worker.slow = worker.slow, worker.serving and now >= worker.beat + worker.plan.slow
    if now >= worker.beat + worker.plan.hung:
        worker.hung = True
        worker.deadline, worker.overdue = now, f"gave no sign of life for {silence:.1f}s (timeouts.hung)"
    elif worker.slow and not was_slow:
        helped = "; siblings attend its slot" if len(pool.serving) > 1 else ""
        pool.say("warning", f"{worker} is slow: no sign of life for {silence:.1f}s{helped}")
    elif was_slow and worker.serving and not worker.slow:
        pool.say("info", f"{worker} is well again")


def _judge_age(pool: Pool, worker: Worker, sample: Sample, now: float) -> None:
    """Have a worker replaced that has served its time; it serves until its successor does.

    Not in a start or reload: where workers wear out sooner than all are there, that would never come to its end.
    """
    served = now - (worker.served_from or now)
    if pool.trial or worker.deadline is not None or not pool.good(worker) or served < _LEAST_LIFE:
        return
    why = next(_worn(worker, sample, served), None)
    if why is None:
        return
    if pool.draining_from(worker.slot) >= _DRAINING:
        if not worker.put_off:
            worker.put_off = True
            pool.say("warning", f"{worker} is not recycled yet: {_DRAINING} workers of its slot still drain; {why}")
        return
    worker.leaving = True
    if served < _YOUNG and sample.memory >= (worker.plan.recycle.memory or math.inf):
        pool.say("warning", f"{worker} is recycled: {why}; it has served for {served:.0f}s, and began with little less")
    else:
        pool.say("info", f"{worker} is recycled: {why}")


def _worn(worker: Worker, sample: Sample, served: float) -> Iterator[str]:
    limits = worker.plan.recycle
    for value, limit, text in (
        (sample.requests, limits.requests, f"{sample.requests} requests (recycle.requests)"),
        (sample.accepted, limits.connections, f"{sample.accepted} connections (recycle.connections)"),
        (served, limits.age, f"{served:.0f}s old (recycle.age)"),
        (sample.memory, limits.memory, f"{sample.memory / 1024**2:.0f} MiB private memory (recycle.memory)"),
    ):
        if limit is not None and value >= limit * worker.stamina:
            yield text


def _judge_load(pool: Pool, now: float) -> None:
    """Let a pool with a range of workers grow or shrink; not while a start or reload is under way."""
    plan = pool.stable
    if plan is None or plan.range is None or pool.trial:
        return
    able = [worker for worker in pool.serving if pool.good(worker)]
    if len(able) < plan.workers:
        return  # one is on its way, or being replaced
    busy = sum(1.0 if worker.slow else worker.busy for worker in able) / len(able)
    waiting = sum(worker.waiting for worker in able)
    number = pool.load.number(plan.workers, busy=busy, waiting=waiting, now=now)
    number = min(max(number, plan.range.min), plan.range.max)
    if number != plan.workers:
        pool.scale(number)
        pool.say("info", f"pool {pool.name}: {number} workers wanted, {busy:.0%} busy, {waiting} connections wait")

"""Everything a master knows, to and from the state that travels to the program which takes its place (``state.py``)."""

from __future__ import annotations

from random import Random

from . import state
from .parts import Parts
from .pool import Pool


def save(parts: Parts) -> state.State:
    """Return everything; when a start, reload or stop is under way, nobody can go on from that."""
    supervisor, generations = parts.supervisor, parts.generations
    bound, places = parts.listeners.save(generations.all)
    children = parts.processes.save()
    ids = [child.id for pool in supervisor.pools.values() for child in pool.children] + [each.id for each in children]
    return state.State(
        started=parts.started,
        forgiven=parts.clock.forgiven,
        generation=supervisor.generation,
        attempts=supervisor.attempts,
        next_id=max(ids, default=0) + 1,
        settings=dict(generations.all),
        # Before the first commit, what the daemon began with may have been replaced: then any will do for a trial.
        committed=next((n for n, it in generations.all.items() if it is generations.committed), max(generations.all)),
        obsolete=sorted(generations.obsolete),
        pools=[_save_pool(pool) for pool in supervisor.pools.values()],
        children=children,
        bound=bound,
        places=places,
        handed=parts.handed.save(),
        control=parts.control.save(parts.reporter.waits_for) if parts.control else None,
        lock=parts.lock,
        descriptors=parts.descriptors,
        last_reload=parts.reporter.last_reload,
    )


def restore(parts: Parts, before: state.State) -> None:
    """Go on from there, but for the control socket."""
    for child in before.children:
        parts.processes.restore(child)
    parts.generations.restore(before)
    parts.listeners.restore(before, {child.id: child for child in parts.processes.all()})
    parts.supervisor.resume(before, {pool.name: _restore_pool(pool) for pool in before.pools})
    parts.reporter.last_reload = before.last_reload


def restore_clients(parts: Parts, before: state.Control) -> None:
    """Go on with the operators that are connected."""
    assert parts.control is not None
    for saved in before.clients:
        client = parts.control.restore(saved)
        if saved.waits_for is not None:
            parts.reporter.wait(saved.waits_for, client)


def _save_pool(pool: Pool) -> state.Pool:
    return state.Pool(
        name=pool.name,
        stable=pool.stable,
        molds=[*pool.molds.values()],
        workers=[*pool.workers.values()],
        slots=pool.slots,
        restarts=pool.restarts,
        cut=pool.cut,
    )


def _restore_pool(saved: state.Pool) -> Pool:
    """Return a pool. What its failures were is forgotten, as by any reload."""
    pool = Pool(saved.name, Random())  # noqa: S311, jitter is no secret
    pool.stable = saved.stable
    pool.molds = {mold.id: mold for mold in saved.molds}
    pool.workers = {worker.id: worker for worker in saved.workers}
    pool.slots, pool.restarts, pool.cut = saved.slots, saved.restarts, saved.cut
    return pool

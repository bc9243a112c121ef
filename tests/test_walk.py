"""Walks: whatever happens, in whatever order, the laws of ``world.py`` hold."""

from __future__ import annotations

import os
from random import Random

import pytest

from hourd import events as e

from .world import World

SEEDS = 200
EVENTS = int(os.environ.get("HOURD_TEST_EVENTS", "1000000"))
"""Over all seeds, at least; fewer where the same has been walked already, on another Python."""


@pytest.mark.parametrize("seed", range(SEEDS))
def test_laws_hold(seed: int) -> None:
    random = Random(seed)
    heard = 0
    while heard < EVENTS // SEEDS:
        heard += _live(random, enough=EVENTS // SEEDS - heard)
    assert heard * SEEDS >= EVENTS


def _live(random: Random, *, enough: int) -> int:
    """Let a daemon live from start to end, soon if it has heard of enough events; return of how many it has."""
    world = World(random, ills=random.choice((0.0, 0.05, 0.15, 0.4)))
    rush = random.choice((0.1, 0.5, 2.0, 10.0))
    world.tell(e.ReloadAsked())
    for _ in range(random.choice((3, 30, 300))):
        world.run(random.expovariate(1 / rush))
        world.trouble()
        if world.heard >= enough:
            break
    if random.random() < 0.7:
        _calm(world)
    _stop(world)
    return world.heard


def _calm(world: World) -> None:
    """Let nothing go wrong any more: then everything comes right."""
    world.ills = 0.0
    world.busy = 0.3
    world.run(600)
    world.traffic = False  # twelve busy workers that are recycled by requests always have one who is being replaced
    for _ in range(200):
        # Workers that have served their time are replaced now too: some moment is without.
        if world.exit_code is not None or not world.unsettled():
            return
        world.run(0.5)
    world.check_settled()


def _stop(world: World) -> None:
    asked = world.now
    for event in world.random.choice(((e.StopAsked(),), (e.StopAsked(now=True),), (e.Interrupted(), e.Interrupted()))):
        world.tell(event)
        world.run(world.random.random())
    world.run(60)
    assert world.exit_code is not None, f"still there after {world.now - asked:.1f}s"


@pytest.mark.parametrize("molds", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_crash_loops_are_bounded(seed: int, *, molds: bool) -> None:
    world = World(Random(seed), ills=0.0)
    world.tell(e.ReloadAsked())
    world.run(30)
    end = world.now + 600
    while world.now < end:
        world.run(0.5)
        world.fell(molds=molds)
    assert world.supervisor.state(world.now) == "degraded"
    for seat in {begun[1:] for begun in world.begun}:
        times = [at for at, *rest in world.begun if tuple(rest) == seat]
        assert max(sum(1 for at in times if start <= at < start + 60) for start in times) <= 12
        assert sum(1 for at in times if at >= end - 60) <= 4
    assert len(world.begun) >= 20
    _calm(world)
    _stop(world)

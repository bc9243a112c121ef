"""What the master reads of its workers, and how often."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from hourd import memory, scoreboard
from hourd.sampling import Sampler
from hourd.settings import Pool, Range, Recycle, Server, Settings

SERVER = Server(kind="stream", app="app:serve", bind=("127.0.0.1:0",))
LOOK = 0.75
"""Seconds between two looks, as they come with ``timeouts.slow`` of 1s."""


class Scene:
    """Workers of one pool, with a clock of their own."""

    def __init__(self, workers: int, *, slots: int = 0, waiting: dict[int, int] | None = None) -> None:
        self.now = 1000.0
        self.read: list[tuple[float, int]] = []
        """When the memory of which process was."""
        pool = Pool(workers=Range(min=1, max=64), servers={"main": SERVER}, recycle=Recycle(memory=2**30))
        self._settings = {1: Settings(name="test", directory="/tmp", pools={"web": pool})}
        self.children = [worker(number, slot) for slot, number in enumerate(range(2, workers + 2))]
        listeners: Any = SimpleNamespace(
            slots=lambda *_: slots or workers, waiting=lambda _settings, _pool, slot: (waiting or {}).get(slot, 0)
        )
        processes: Any = SimpleNamespace(all=lambda: self.children)
        clock: Any = SimpleNamespace(now=lambda: self.now, at=lambda beat: beat)
        self._sampler = Sampler(processes, listeners, clock)

    def look(self) -> dict[int, Any]:
        """Look at once; returns the samples by slot."""
        samples = {sample.worker: sample for sample in self._sampler.look(self._settings).samples}
        return {child.slot: samples[child.id] for child in self.children}

    def private(self, pid: int) -> int:
        self.read.append((self.now, pid))
        return pid * 2**20


def worker(number: int, slot: int) -> Any:
    return SimpleNamespace(
        id=number, pid=number + 100, pool="web", slot=slot, generation=1, board=True, read_board=scoreboard.Record
    )


@pytest.mark.parametrize(("workers", "longest"), [(1, 6.0), (12, 6.0), (64, 24.0)])
def test_the_memory_of_each_worker_is_read_regularly_and_of_few_in_a_look(workers, longest, monkeypatch):
    scene = Scene(workers)
    monkeypatch.setattr(memory, "private", scene.private)
    for _ in range(200):
        scene.look()
        scene.now += LOOK
    assert {pid for _, pid in scene.read} == {child.pid for child in scene.children}
    for child in scene.children:
        times = [at for at, pid in scene.read if pid == child.pid]
        assert all(5.0 <= later - earlier <= longest for earlier, later in pairwise(times))
        assert scene.now - times[-1] <= longest
    looks = [at for at, _ in scene.read]
    assert max(map(looks.count, looks)) <= 2
    assert {sample.memory for sample in scene.look().values()} == {child.pid * 2**20 for child in scene.children}


def test_connections_that_wait_in_a_slot_without_a_worker_count_too():
    scene = Scene(4, slots=4, waiting={0: 1, 1: 2, 2: 4, 3: 8})
    assert {slot: sample.waiting for slot, sample in scene.look().items()} == {0: 1, 1: 2, 2: 4, 3: 8}
    del scene.children[2:]
    assert {slot: sample.waiting for slot, sample in scene.look().items()} == {0: 13, 1: 2}
    del scene.children[0]
    assert {slot: sample.waiting for slot, sample in scene.look().items()} == {1: 15}

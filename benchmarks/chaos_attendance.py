"""Is each slot attended? What waits in the queue of a slot that is not is not lost, only late; this is the judge of it.

hourd promises that somebody attends each slot whenever there is somebody who could: a sibling that serves, or
the very worker that a reload, a recycling or a smaller number replaces. It does not when all workers of a pool were
killed or stood still, or the one that it had. A slot is judged in two ways, therefore:

- always: nobody attends it while a sibling serves
- in a fault that does not take all workers of its pool: nobody attends it, for whatever reason

Who is hung, or slow where a sibling serves, does not count as attending. The bound is a multiple of what an idle
machine needs: clients and others use the same CPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NONE, ONE, ALL = 0, 1, 1 << 30
"""How many workers of a pool a fault may take from it."""
_SLACK = 5.0
"""Seconds beyond ``timeouts.slow``."""


@dataclass(slots=True)
class Spell:
    """For how long a slot was seen without anybody who attends it."""

    samples: int = 0
    longest: float = 0.0
    """Seconds from the first to the last of samples in a row."""
    longest_judged: float = 0.0
    """The same, of those in which somebody had to attend it."""
    worst: str = ""
    """The fault in which that was."""
    since: float | None = None
    since_judged: float | None = None

    def forget(self) -> None:
        """End the row of samples."""
        self.since = self.since_judged = None

    def add(self, now: float, fault: str, *, judged: bool) -> None:
        """Add a sample in which nobody attended the slot."""
        self.samples += 1
        self.since = now if self.since is None else self.since
        self.longest = max(self.longest, now - self.since)
        if not judged:
            self.since_judged = None
            return
        self.since_judged = now if self.since_judged is None else self.since_judged
        if now - self.since_judged > self.longest_judged:
            self.longest_judged, self.worst = now - self.since_judged, fault


@dataclass(slots=True)
class Attendance:
    """What is seen of all slots."""

    slow: dict[str, float]
    """Of each pool: seconds after which a worker counts as slow."""
    fault: str = ""
    """That is going on; empty between two."""
    takes: int = NONE
    samples: int = 0
    spells: dict[str, Spell] = field(default_factory=dict)

    def settle(self) -> None:
        """Note that there is no fault any more."""
        self.fault, self.takes = "", NONE

    def forget(self) -> None:
        """Begin all spells anew: for a while nobody could do anything, nor look."""
        for spell in self.spells.values():
            spell.forget()

    def look(self, now: float, pools: dict[str, Any], wanted: dict[str, tuple[int, int]]) -> None:
        """Take a sample.

        Args:
            now: monotonic seconds.
            pools: of the status.
            wanted: how many workers each pool is to have, at least and at most.
        """
        self.samples += 1
        there = set()
        for name, pool in pools.items():
            able = {worker["pid"] for worker in pool["workers"] if worker["state"] == "serving"}
            judged = bool(able) or wanted.get(name, (0, 0))[0] > self.takes
            for slot in pool["slots"]:
                there.add(what := f"{name}/{slot['slot']}")
                spell = self.spells.setdefault(what, Spell())
                if _is_attended(slot, pool, able):
                    spell.forget()
                else:
                    spell.add(now, self.fault, judged=judged)
        for what in self.spells.keys() - there:
            self.spells[what].forget()

    def bound(self, slot: str) -> float:
        """Return the seconds for which nobody may attend a slot that somebody has to."""
        return self.slow.get(slot.rpartition("/")[0], 0.0) + _SLACK

    def lines(self) -> Iterator[str]:
        """Yield what was seen, beside the bound."""
        seen = {slot: spell for slot, spell in sorted(self.spells.items()) if spell.samples}
        for slot, spell in seen.items():
            worst = f" ({spell.worst or 'between faults'})" if spell.longest_judged else ""
            yield (
                f"{slot}: {spell.samples} times, {spell.longest:.2f}s at most; where somebody had to, "
                f"{spell.longest_judged:.2f}s{worst} of at most {self.bound(slot):.1f}s"
            )
        if not seen:
            bounds = sorted({self.bound(slot) for slot in self.spells})
            yield f"none; at most {' or '.join(f'{bound:.1f}s' for bound in bounds)} would have been allowed"

    def problems(self) -> Iterator[str]:
        """Yield what lasted for too long."""
        for slot, spell in sorted(self.spells.items()):
            if spell.longest_judged > self.bound(slot):
                yield (
                    f"slot {slot} was attended by nobody for {spell.longest_judged:.2f}s, with at most "
                    f"{self.bound(slot):.1f}s allowed, in {spell.worst or 'no fault'}"
                )


def _is_attended(slot: dict[str, Any], pool: dict[str, Any], able: set[int]) -> bool:
    """Tell whether somebody attends a slot who does so in time, or as well as anybody could."""
    states = {worker["pid"]: worker["state"] for worker in pool["workers"]}
    attends = [states.get(pid, "serving") for pid in slot["attended_by"]]
    if able:
        return any(state not in ("slow", "hung") for state in attends)
    return bool(attends)

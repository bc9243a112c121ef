"""Who is to blame for what was not answered, and the tables.

answered   the whole answer came, and it was the right one
lost       another answer came than the right one, no matter who was killed; nobody who dies says something wrong
killed     not answered, on a connection that a process held in the moment in which it was killed; of datagrams, which
nobody holds, one for each process of their pool that was killed soon after they were sent
away       not answered, and told so: refused while the daemon was down because it had been told to stop,
or a websocket that was closed with a goodbye
lost       anything else

In the table of faults each request has one row. Those of which no moment was in a fault or the recovery from it are
"between"; that is not idleness: workers are recycled all the time, and drain for long after a reload.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import measure
from chaos_stage import Death, Down
from chaos_world import ANSWERED, ENDED, GOODBYE, REFUSED, TIMEOUT, WRONG, Record

KILLED, AWAY, LOST = "killed", "away", "lost"
_VERDICTS = (ANSWERED, KILLED, AWAY, LOST)
BETWEEN = "(between)"
"""Stands for no fault."""
_READ_WITHIN = 10.0
"""Seconds within which a datagram is read, by a sibling if need be."""
_KEPT = 1000
"""So many lost requests are kept to be shown."""
_FRAME = re.compile(r'^\s+File "([^"]+)", line \d+')
_OWN = str(measure.ROOT / "hourd") + "/"


@dataclass(frozen=True, slots=True)
class Window:
    """From a fault to the moment in which the daemon was well again. Times are monotonic seconds."""

    fault: str
    begin: float
    end: float
    what: str


@dataclass(frozen=True, slots=True)
class Loss:
    """A request that was lost, and what is known of it."""

    record: Record
    faults: tuple[str, ...]
    """All that were going on in its time."""
    holder: int
    """Process id of who had its connection, if that was seen; 0 if not."""


@dataclass(slots=True)
class Tally:
    """What became of some requests."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_VERDICTS, 0))
    latencies: list[float] = field(default_factory=list)

    def add(self, verdict: str, latency: float | None) -> None:
        """Count one; a latency counts if it was answered."""
        self.counts[verdict] += 1
        if verdict == ANSWERED and latency is not None:
            self.latencies.append(latency)

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def percentile(self, share: float) -> float:
        """Return a latency in milliseconds; 0 where there is none."""
        if not self.latencies:
            return 0.0
        self.latencies.sort()
        return self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))] * 1000

    def row(self) -> list[str | float]:
        """Return it as the tables show it."""
        counts = [str(self.requests), *(str(self.counts[each]) for each in _VERDICTS)]
        return [*counts, *(self.percentile(share) for share in (0.5, 0.99, 1.0))]


@dataclass(slots=True)
class Judgement:
    """The verdict on a run."""

    deaths: Sequence[Death]
    downs: Sequence[Down]
    windows: Sequence[Window]
    """In their order; none begins before another has ended."""
    quick: frozenset[str]
    """The sorts of client whose latency is that of the server."""
    spared: Sequence[Death] = ()
    """Who stood still and was not killed, and what it held: they are witnesses only."""
    total: Tally = field(default_factory=Tally)
    faults: dict[str, Tally] = field(default_factory=dict)
    sorts: dict[str, Tally] = field(default_factory=dict)
    lost: list[Loss] = field(default_factory=list)
    """The first that were lost."""
    _forgiven: set[int] = field(default_factory=set)
    """Deaths for which a datagram was forgiven."""
    lag: float = 0.0
    """The longest time, in seconds, by which clients themselves were late."""

    def judge(self, files: Iterable[Path]) -> None:
        """Read what clients have written down.

        Raises:
            measure.CannotRunError: it is not whole.
        """
        for file in files:
            whole = False
            with file.open(encoding="ascii") as lines:
                for line in lines:
                    if line.startswith("{"):
                        self.lag, whole = max(self.lag, json.loads(line)["lag"]), True
                    else:
                        self._add(Record.read(line))
            if not whole:
                raise measure.CannotRunError(f"{file} ends too soon")

    def _add(self, record: Record) -> None:
        verdict = self.verdict(record)
        faults = self._faults(record)
        # What delayed a request came first, what ended it came last.
        fault = (faults[0] if verdict == ANSWERED else faults[-1]) if faults else BETWEEN
        if verdict == LOST and len(self.lost) < _KEPT:
            self.lost.append(Loss(record, faults, record.worker or self._holder(record)))
        latency = record.latency if record.sort in self.quick else None
        self.total.add(verdict, latency)
        self.faults.setdefault(fault, Tally()).add(verdict, latency)
        self.sorts.setdefault(record.sort, Tally()).add(verdict, record.latency)

    def verdict(self, record: Record) -> str:
        """Return what became of a request, and whose fault that is."""
        if record.outcome == ANSWERED:
            return ANSWERED
        if record.outcome == WRONG:
            return LOST  # whoever was killed
        if any(_held(record, death) for death in self.deaths):
            return KILLED
        if record.sort == "datagram" and record.outcome == TIMEOUT:
            return self._verdict_on_datagram(record)
        if record.outcome == GOODBYE or any(_turned_away(record, down) for down in self.downs):
            return AWAY
        return LOST

    def _verdict_on_datagram(self, record: Record) -> str:
        """A datagram is read and answered in one step, so that who is killed has one in its hands at most."""
        pool = record.server.partition("/")[0]
        for number, death in enumerate(self.deaths):
            soon = death.pool == pool and record.started <= death.at <= record.started + _READ_WITHIN
            if soon and number not in self._forgiven:
                self._forgiven.add(number)
                return KILLED
        return AWAY if any(down.told <= record.started <= down.ready for down in self.downs) else LOST

    def _holder(self, record: Record) -> int:
        return next((death.pid for death in (*self.deaths, *self.spared) if _held(record, death)), 0)

    def _faults(self, record: Record) -> tuple[str, ...]:
        """Return all faults in whose time a request was, in their order."""
        first = bisect.bisect_left(self.windows, record.started, key=lambda window: window.end)
        last = bisect.bisect_right(self.windows, record.ended, key=lambda window: window.begin) - 1
        return tuple(window.fault for window in self.windows[first : last + 1])

    # --- showing ----------------------------------------------------------------------------------

    def print_tables(self) -> None:
        """Print what became of requests, by fault and by sort of client."""
        head = ["requests", *_VERDICTS, "p50 ms", "p99 ms", "max ms"]
        rows: list[list[str | float]] = []
        for fault in sorted(self.faults, key=lambda name: (name != BETWEEN, name)):
            spans = [window.end - window.begin for window in self.windows if window.fault == fault]
            longest = f"{max(spans):.1f}" if spans else ""
            rows.append([fault, str(len(spans)) if spans else "", longest, *self.faults[fault].row()])
        rows.append(["total", str(len(self.windows)), "", *self.total.row()])
        print(f"By fault; latencies of {', '.join(sorted(self.quick & set(self.sorts)))}; {BETWEEN}: in no fault,")
        print("nor while the daemon recovered from one, though workers were recycled, and drained, then too:")
        measure.print_table(["fault", "times", "longest s", *head], rows)
        print("\nBy client:")
        measure.print_table(["client", *head], [[sort, *self.sorts[sort].row()] for sort in sorted(self.sorts)])

    def print_lost(self, zero: float, number: int = 20) -> None:
        """Print the first of the requests that were lost; their times count from ``zero``."""
        for loss in self.lost[:number]:
            record = loss.record
            age = max(0.0, record.started - record.opened) if record.opened else 0.0
            faults = " and ".join(loss.faults) or "no fault"
            print(
                f"lost: {record.sort} to {record.server} at {record.started - zero:.3f}s, {record.outcome} after "
                f"{record.ended - record.started:.3f}s, in {faults}; connection {record.connection or 'none'}, "
                f"{age:.3f}s old, worker {loss.holder or 'unknown'}: {record.detail}"
            )

    def show(self, zero: float) -> dict[str, Any]:
        """Return it as JSON types; times are seconds from ``zero``."""
        tallies = {"faults": self.faults, "clients": self.sorts}
        return {
            **{what: {name: _show(each) for name, each in found.items()} for what, found in tallies.items()},
            "total": _show(self.total),
            "windows": [
                {"fault": each.fault, "begin": each.begin - zero, "end": each.end - zero, "what": each.what}
                for each in self.windows
            ],
            "lost": [{"faults": each.faults, "holder": each.holder, **asdict(each.record)} for each in self.lost],
            "lag_s": self.lag,
        }


def _held(record: Record, death: Death) -> bool:
    """Tell whether a process had the connection of a request when it stood still."""
    return record.connection in death.held and record.opened <= death.at <= record.ended


def _turned_away(record: Record, down: Down) -> bool:
    """Tell whether a connection came too late for a daemon that had been told to stop.

    Who was connected before has a right to an answer.
    """
    if record.outcome == REFUSED:
        # Clients go on with an old port until they have heard of the new one.
        gone = record.address in down.addresses and not record.address.startswith("unix:")
        return record.ended >= down.told and (gone or record.opened <= down.ready)
    return record.outcome == ENDED and not record.worker and down.told <= record.connected <= down.ready


def _show(tally: Tally) -> dict[str, Any]:
    latencies = {f"{name}_ms": tally.percentile(share) for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}
    return {"requests": tally.requests, **tally.counts, **latencies}


def own_tracebacks(log: str) -> Iterator[str]:
    """Yield tracebacks of which hourd is to blame: the last frame that is no library's is its own."""
    lines = log.splitlines()
    for number, line in enumerate(lines):
        if not line.endswith("Traceback (most recent call last):"):
            continue
        block = [line]
        for following in lines[number + 1 :]:
            block.append(following)
            if not following.startswith(" "):
                break
        places = [match[1] for each in block if (match := _FRAME.match(each))]
        theirs = [place for place in places if place.startswith(_OWN) or not re.search(r"/lib/python|^<", place)]
        if theirs and theirs[-1].startswith(_OWN):
            yield "\n".join(block)

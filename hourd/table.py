"""The status as ``hourd status`` prints it: no line of a worker has more than 120 columns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

_HEAD = (
    "slot", "pid", "gen", "state", "busy", "beat", "open", "accepted", "requests", "errors", "MiB", "private", "up",
)  # fmt: skip
_ROW = "{:>4} {:>8} {:>4} {:<9}{:>4} {:>7} {:>6} {:>10} {:>11} {:>6} {:>6} {:>7} {:>9}"
_NAMED = 4
"""So many of those who attend a slot are named."""


def render(status: dict[str, Any]) -> str:
    """Return the status as text, a line for each worker, and for slots that not just their own worker attends."""
    return "\n".join([*_daemon(status), *(line for item in status["pools"].items() for line in _pool(*item))])


def _daemon(status: dict[str, Any]) -> list[str]:
    head = "{name}: {state}, generation {generation}, pid {pid}, hourd {version}, since {started_at}"
    last = status["last_reload"]
    if last is None or last["ok"]:
        return [head.format_map(status)]
    refused = f"the reload to generation {last['generation']} at {last['at']} was refused"
    return [head.format_map(status), f"{refused}: {last['reason'].strip()}"]


def _pool(name: str, pool: dict[str, Any]) -> list[str]:
    places = "; ".join(f"{server} at {', '.join(where)}" for server, where in pool["addresses"].items())
    workers = sorted(pool["workers"], key=lambda worker: (worker["slot"], worker["generation"]))
    return [
        f"\npool {name}: {pool['state']}, {pool['restarts']} restarts; {places}",
        _ROW.format(*_HEAD),
        *map(_worker, workers),
        *_adopted(pool),
    ]


def _worker(worker: dict[str, Any]) -> str:
    busy, beat = worker.get("busy"), worker.get("beat_age_s")
    return _ROW.format(
        worker["slot"],
        worker["pid"] or "-",
        worker["generation"],
        worker["state"],
        "-" if busy is None else f"{busy:.0%}",
        "-" if beat is None else f"{beat:.1f}s",
        worker["connections"],
        worker["accepted"],
        worker["requests"],
        worker.get("errors", 0),
        _mebibytes(worker["rss_bytes"]),
        _mebibytes(worker["private_bytes"]),
        f"{worker['uptime_s']:.0f}s",
    )


def _mebibytes(size: int | None) -> str:
    """Return a number; what the master may not read is no zero."""
    return "-" if size is None else f"{size / 1024**2:.0f}"


def _adopted(pool: dict[str, Any]) -> Iterator[str]:
    """Yield who attends slots besides, or in the place of, their own worker; neighbours with the same in one line."""
    seats = {worker["pid"]: worker["slot"] for worker in pool["workers"]}
    for pids, group in groupby(pool["slots"], key=lambda slot: slot["attended_by"]):
        slots = [slot["slot"] for slot in group if not pids or any(seats.get(pid) != slot["slot"] for pid in pids)]
        if slots:
            which = f"slot {slots[0]} is" if len(slots) == 1 else f"slots {slots[0]} to {slots[-1]} are"
            yield f"{which} attended by {_named(pids, seats)}"


def _named(pids: list[int], seats: dict[int, int]) -> str:
    """Name workers by pid, with the slots that are their own."""
    names = [f"{pid} (of slot {seats.get(pid, '-')})" for pid in pids[:_NAMED]]
    more = [f"{len(pids) - _NAMED} more"] if len(pids) > _NAMED else []
    return ", ".join([*names, *more]) or "nobody"

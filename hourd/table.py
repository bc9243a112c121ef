"""The status as ``hourd status`` prints it."""

from __future__ import annotations

from typing import Any

_HEAD = ("slot", "pid", "gen", "state", "open", "accepted", "requests", "MiB", "up")
_ROW = "{:>4} {:>8} {:>4} {:<9}{:>6} {:>9} {:>10} {:>6} {:>9}"


def render(status: dict[str, Any]) -> str:
    """Return the status as text, a line for each worker."""
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
        *(f"{slot['slot']:>4} is attended by nobody" for slot in pool["slots"] if not slot["attended_by"]),
    ]


def _worker(worker: dict[str, Any]) -> str:
    return _ROW.format(
        worker["slot"],
        worker["pid"] or "-",
        worker["generation"],
        worker["state"],
        worker["connections"],
        worker["accepted"],
        worker["requests"],
        round((worker["rss_bytes"] or 0) / 1024**2),
        f"{worker['uptime_s']:.0f}s",
    )

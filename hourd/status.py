"""What ``hourd status`` shows: the supervisor's view, with what the scoreboards and the kernel add."""

from __future__ import annotations

import datetime as dt
import os
from typing import Any

from . import __version__, memory
from .children import Worker
from .listeners import Listeners
from .pool import Pool
from .processes import Processes
from .settings import Settings
from .state import LastReload
from .supervisor import Supervisor

_STATES = {
    "forking": "booting",
    "booting": "booting",
    "serving": "serving",
    "draining": "draining",
    "dying": "draining",
}


def report(
    supervisor: Supervisor,
    processes: Processes,
    listeners: Listeners,
    settings: Settings,
    *,
    started: float,
    last_reload: LastReload | None,
    now: float,
    monotonic: float,
) -> dict[str, Any]:
    """Return the status as JSON types.

    Args:
        supervisor: the decisions.
        processes: the children.
        listeners: the addresses.
        settings: as committed.
        started: wall-clock seconds.
        last_reload: if there was one.
        now: seconds of the master's clock.
        monotonic: seconds of the system's, which the scoreboards have.
    """
    return {
        "name": settings.name,
        "version": __version__,
        "pid": os.getpid(),
        "state": supervisor.state(now),
        "generation": supervisor.generation,
        "started_at": _timestamp(started),
        "last_reload": _last(last_reload) if last_reload else None,
        "pools": {
            name: {
                "state": supervisor.pool_state(pool, now),
                "restarts": pool.restarts,
                "cut": pool.cut + sum(worker.cut for worker in pool.workers.values()),
                "molds": [_pid(processes, mold.id) for mold in pool.molds.values()],
                "addresses": listeners.actual(settings, name) if name in settings.pools else {},
                "slots": _slots(pool),
                "workers": [_worker(processes, worker, now, monotonic) for worker in pool.workers.values()],
            }
            for name, pool in supervisor.pools.items()
        },
    }


def _last(reload: LastReload) -> dict[str, Any]:
    return {
        "ok": reload.ok,
        "generation": reload.generation,
        "reason": reload.reason,
        "seconds": round(reload.seconds, 3),
        "at": _timestamp(reload.at),
    }


def _slots(pool: Pool) -> list[dict[str, Any]]:
    return [
        {"slot": slot, "attended_by": [worker.pid for worker in pool.attended_by(slot)]} for slot in range(pool.slots)
    ]


def _worker(processes: Processes, worker: Worker, now: float, monotonic: float) -> dict[str, Any]:
    child = processes.get(worker.id)
    board = child.read_board() if child else None
    return {
        "pid": worker.pid,
        "slot": worker.slot,
        "generation": worker.generation,
        "state": _state(worker),
        "beat_age_s": round(max(0.0, monotonic - board.beat), 3) if board and board.beat else None,
        "lag_s": round(board.lag, 4) if board else None,
        "busy": round(board.busy, 3) if board else None,
        "connections": board.connections if board else 0,
        "accepted": board.accepted if board else 0,
        "requests": board.requests if board else 0,
        "errors": board.errors if board else 0,
        "rss_bytes": memory.resident(worker.pid),
        "private_bytes": memory.private(worker.pid),
        "uptime_s": round(now - worker.since, 1),
    }


def _state(worker: Worker) -> str:
    if worker.hung:
        return "hung"
    return "slow" if worker.slow and worker.serving else _STATES[worker.state]


def _pid(processes: Processes, number: int) -> int | None:
    child = processes.get(number)
    return child.pid if child else None


def _timestamp(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""What is said of a child that is killed for what it does not do."""

from __future__ import annotations

from pathlib import Path

from . import memory
from .processes import Child

_WAITS = {"T": "it is stopped by a signal", "t": "a debugger holds it", "D": "it waits in the kernel"}


def describe(child: Child, now: float) -> str:
    """Return memory, age, last sign of life and stacks, as far as they are known.

    Args:
        child: lives still.
        now: seconds of the system's monotonic clock.
    """
    facts = [f"{now - child.since:.0f}s old"]
    if size := memory.private(child.pid):
        facts.append(f"{size / 1024**2:.0f} MiB private memory")
    if beat := child.read_board().beat:
        facts.append(f"last sign of life {now - beat:.1f}s ago")
    if state := _WAITS.get(_state(child.pid)):
        facts.append(state)
    stacks = child.board.stacks() if child.board else ""
    return f"{', '.join(facts)}; {'its stacks:' if stacks else 'it did not show its stacks'}\n{stacks}".rstrip()


def _state(pid: int | None) -> str:
    """Read the state of a process (stat, proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""

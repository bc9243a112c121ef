"""What the supervisor hears and what it asks for.

Events are facts, in the past tense. Actions are wishes, in the imperative. Both are plain data, so
that a log of them can be pasted into a test. Children (molds and workers) are named by ids of the
supervisor's own, since a worker's process id is known only once it was born.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from .settings import Range, Recycle, Restart


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A pool as the supervisor needs to know it, in one generation."""

    pool: str
    generation: int
    workers: int
    slots: int
    """Slots that have sockets already, from earlier generations; they stay attended."""
    preload: bool = True
    boot: float = 60.0
    """Seconds for an import, and for a worker to become ready."""
    grace: float = 30.0
    """Seconds, the longest of its servers'."""
    slow: float = 1.0
    """Seconds without a beat until siblings attend a worker's slot too."""
    hung: float = 30.0
    """Seconds without a beat until a worker is killed."""
    restart: Restart = Restart()  # noqa: RUF009, frozen
    recycle: Recycle = Recycle()  # noqa: RUF009, frozen
    range: Range | None = None
    """Between these numbers the load decides; ``workers`` is where it begins."""
    narrows: bool = False
    """It has not all addresses that the pool has now: whoever has them keeps them until it is settled on."""


# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Configured:
    """A configuration was read and found right, and its new addresses are bound."""

    generation: int
    plans: tuple[Plan, ...]


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """The configuration was refused; nothing was changed."""

    generation: int
    reason: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class ReloadAsked:
    """Somebody wants new configuration and code."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody wants the daemon to end."""

    now: bool = False
    hand_over: bool = False
    """It will be started again: the service manager keeps the sockets, and what waits there."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """SIGINT: the first is a graceful stop, the second an immediate one."""


@dataclass(frozen=True, slots=True)
class ScaleAsked:
    """Somebody wants another number of workers."""

    pool: str
    workers: int


@dataclass(frozen=True, slots=True)
class StepAsked:
    """SIGTTIN, SIGTTOU: one worker more or fewer in the first pool."""

    change: int


@dataclass(frozen=True, slots=True)
class MoldReady:
    """A mold has imported what it was to import."""

    mold: int


@dataclass(frozen=True, slots=True)
class MoldUnsafe:
    """The import left something behind (threads, sockets) that does not survive a fork."""

    mold: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A mold or a worker says why it will end."""

    child: int
    reason: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Born:
    """A worker's process exists."""

    worker: int
    pid: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker can serve, and accepts nothing yet."""

    worker: int


@dataclass(frozen=True, slots=True)
class Attending:
    """A worker accepts on a slot's sockets."""

    worker: int
    slot: int


@dataclass(frozen=True, slots=True)
class Unable:
    """A worker could not be given a slot: there is no descriptor left, for it or for the master."""

    worker: int
    slot: int


@dataclass(frozen=True, slots=True)
class Leaving:
    """A worker wants to be replaced (it was sent SIGTERM)."""

    worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a worker shows of itself; its own words, so hints only."""

    worker: int
    beat: float
    """When its event loop turned last, by the clock of ``now``."""
    connections: int = 0
    accepted: int = 0
    requests: int = 0
    busy: float = 0.0
    """The share of its time in which the loop worked, from 0 to 1."""
    cut: int = 0
    """Connections that were open after their grace."""
    waiting: int = 0
    """Connections in the queue of its slot, as the kernel says."""
    memory: int = 0
    """Private bytes, as the kernel says; 0 where nobody asked."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What all workers show of themselves at this moment."""

    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """A child's channel ended."""

    child: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A child's process ended and was reaped: its id means nothing to the system any more."""

    child: int
    code: int
    """The exit code, or minus the number of the signal that killed it."""
    oom: bool = False
    """The kernel killed it for want of memory."""


@dataclass(frozen=True, slots=True)
class Elapsed:
    """The time that was asked for came; what is sampled was sampled."""


Event: TypeAlias = (
    Configured
    | Misconfigured
    | ReloadAsked
    | StopAsked
    | Interrupted
    | ScaleAsked
    | StepAsked
    | MoldReady
    | MoldUnsafe
    | Failed
    | Born
    | Ready
    | Attending
    | Unable
    | Leaving
    | Sampled
    | Lost
    | Exited
    | Elapsed
)


# --- actions --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Configure:
    """Read the configuration; answer with Configured or Misconfigured."""

    generation: int


@dataclass(frozen=True, slots=True)
class StartMold:
    """Execute a mold."""

    mold: int
    pool: str
    generation: int
    preload: bool


@dataclass(frozen=True, slots=True)
class Spawn:
    """Let a mold fork a worker."""

    worker: int
    mold: int
    pool: str
    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class Attend:
    """Give a worker a slot's sockets to accept on."""

    worker: int
    slot: int


@dataclass(frozen=True, slots=True)
class Release:
    """Let a worker accept no more on a slot's sockets."""

    worker: int
    slot: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Let a worker finish its connections and end."""

    worker: int


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Let a mold end."""

    mold: int


@dataclass(frozen=True, slots=True)
class Dump:
    """Let a child that is to be killed show where it is: the stacks of its threads."""

    child: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL to a child that was born and not reaped."""

    child: int
    reason: str


@dataclass(frozen=True, slots=True)
class Commit:
    """Settle on a generation: the configuration and sockets of others may go."""

    generation: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Forget a generation: what was bound for it may go."""

    generation: int


@dataclass(frozen=True, slots=True)
class Conclude:
    """A start or reload came to its end; tell whoever waits."""

    generation: int
    ok: bool
    reason: str
    seconds: float
    answers: tuple[int, ...]
    """The generations whose result this is: a later reload takes the place of those under way."""


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the service manager."""

    what: Literal["ready", "reloading", "stopping", "handing over", "failing"]


@dataclass(frozen=True, slots=True)
class Say:
    """Log a line for the operator."""

    level: Literal["debug", "info", "warning", "error"]
    text: str


@dataclass(frozen=True, slots=True)
class Exit:
    """Everything has ended: end the master."""

    exit_code: int


Action: TypeAlias = (
    Configure
    | StartMold
    | Spawn
    | Attend
    | Release
    | Drain
    | Dismiss
    | Dump
    | Kill
    | Commit
    | Abandon
    | Conclude
    | Notify
    | Say
    | Exit
)

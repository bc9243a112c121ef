"""What the supervisor hears and what it asks for.

Events are facts, in the past tense. Actions are wishes, in the imperative. Both are plain data, so
that a log of them can be pasted into a test. Children (molds and workers) are named by ids of the
supervisor's own, since a worker's process id is known only once it was born.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from .settings import Restart


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
    restart: Restart = Restart()  # noqa: RUF009, frozen


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


@dataclass(frozen=True, slots=True)
class Interrupted:
    """SIGINT: the first is a graceful stop, the second an immediate one."""


@dataclass(frozen=True, slots=True)
class ScaleAsked:
    """Somebody wants more or fewer workers in the first pool."""

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
    """A mold or a booting worker says why it will end."""

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
class Leaving:
    """A worker wants to be replaced (it was sent SIGTERM)."""

    worker: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """How many connections workers have open: a hint for choosing who adopts."""

    connections: tuple[tuple[int, int], ...]
    """Each worker with its number."""


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


@dataclass(frozen=True, slots=True)
class Elapsed:
    """The time that was asked for came."""


Event: TypeAlias = (
    Configured
    | Misconfigured
    | ReloadAsked
    | StopAsked
    | Interrupted
    | ScaleAsked
    | MoldReady
    | MoldUnsafe
    | Failed
    | Born
    | Ready
    | Attending
    | Leaving
    | Loaded
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

    what: Literal["ready", "reloading", "stopping"]


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
    | Kill
    | Commit
    | Abandon
    | Conclude
    | Notify
    | Say
    | Exit
)

"""The processes of the daemon: executing molds, having workers forked, talking, killing, reaping.

This is the only place that sends signals, and only to children that were not reaped.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from . import channel, errors, orders, priority, scoreboard, stacks, state

_logger = logging.getLogger("hourd")
_PROGRAM = "from hourd.mold import main; main()"
_NOT_FOR_CHILDREN = (
    "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
)  # fmt: skip
_EVERY_SIGNAL = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


@dataclass(slots=True, eq=False)
class Child:
    """A mold or worker as the system knows it."""

    id: int
    end: channel.MasterEnd | None
    is_mold: bool
    pool: str
    slot: int
    generation: int
    pid: int | None = None
    since: float = field(default_factory=time.monotonic)
    dumped: bool = False
    """It was told to show its stacks."""
    killed: bool = False
    gives_way: bool = False
    """A mold that imports at less than its usual priority."""
    board: scoreboard.Board | None = None
    last: scoreboard.Record = field(default_factory=scoreboard.Record)

    def read_board(self) -> scoreboard.Record:
        if self.board:
            self.last = self.board.read()
        return self.last


class _Making(contextlib.ExitStack):
    """What a child is made of: closed at the end, but for what the master keeps if nothing failed."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = self.enter_context(contextlib.ExitStack())

    def fd(self, fd: int) -> int:
        self.callback(os.close, fd)
        return fd

    def ends(self, board_fd: int) -> tuple[channel.MasterEnd, scoreboard.Board, socket.socket]:
        """Return what the master keeps, its end of a channel and a scoreboard, and the child's end."""
        end, theirs = channel.pair()
        self._kept.callback(end.close)
        self.enter_context(theirs)
        board = scoreboard.Board(os.dup(board_fd), writable=False)
        self._kept.callback(board.close)
        return end, board, theirs

    def keep(self) -> None:
        self._kept.pop_all()


class Processes:
    """All children, by the supervisor's ids and by the system's."""

    def __init__(self, watch: Callable[[Child], None], unwatch: Callable[[Child], None]) -> None:
        """Take what is to be done when a channel opens and before it closes."""
        self._children: dict[int, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._watch = watch
        self._unwatch = unwatch

    def save(self) -> list[state.Child]:
        """Return all children, for the program that takes our place."""
        return [
            state.Child(
                id=child.id, is_mold=child.is_mold, pool=child.pool, slot=child.slot, generation=child.generation,
                pid=child.pid, since=child.since, dumped=child.dumped, killed=child.killed,
                channel=child.end.fileno() if child.end else None, board=child.board.fd if child.board else None,
            )
            for child in self.all()
        ]  # fmt: skip

    def restore(self, saved: state.Child) -> None:
        """Go on with a child of the program whose place we have taken."""
        child = Child(
            saved.id, None, is_mold=saved.is_mold, pool=saved.pool, slot=saved.slot, generation=saved.generation,
            pid=saved.pid, since=saved.since, dumped=saved.dumped, killed=saved.killed,
        )  # fmt: skip
        if saved.board is not None:
            child.board = scoreboard.Board(saved.board, writable=False)
        self._children[child.id] = child
        if child.pid is not None:
            self._by_pid[child.pid] = child
        if saved.channel is not None:
            child.end = channel.MasterEnd(socket.socket(fileno=saved.channel))
            self._watch(child)

    def get(self, number: int) -> Child | None:
        return self._children.get(number)

    def all(self) -> tuple[Child, ...]:
        return tuple(self._children.values())

    def start_mold(
        self, number: int, what: orders.Orders, environment: Mapping[str, str], *, gives_way: bool = False
    ) -> None:
        """Execute a mold and give it its orders.

        Args:
            number: the supervisor's id for it.
            what: its orders.
            environment: variables besides those of the master.
            gives_way: whether its import leaves the CPUs to others, who serve meanwhile.

        Raises:
            OSError: the system refused.
        """
        with _Making() as made:
            fds = made.fd(orders.write(what)), made.fd(scoreboard.create())
            end, board, theirs = made.ends(fds[1])
            # It reads this when it is there. Whatever the system may refuse comes before there is a process.
            end.send(channel.Begin(), fds)
            pid = _execute(theirs.fileno(), {**os.environ, **environment})
            made.keep()
        child = Child(number, end, is_mold=True, pool=what.pool, slot=-1, generation=what.generation, pid=pid)
        child.board = board
        child.gives_way = gives_way and what.preload and priority.give_way(pid)
        self._by_pid[pid] = child
        self._add(child)
        self._entrust(child)

    def _entrust(self, mold: Child) -> None:
        """Give a mold the workers of an earlier one, to see them off should the master die."""
        workers = [
            child.pid
            for child in self._by_pid.values()
            if child.pid and not child.is_mold and (child.pool, child.generation) == (mold.pool, mold.generation)
        ]
        for pid in workers:
            # One by one: there may be few descriptors, and without this they serve all the same.
            try:
                with _Making() as made:
                    self.send(mold, channel.Watch(), (made.fd(os.pidfd_open(pid)),))
            except OSError as error:
                doing = f"have {self.name(mold)} see off the workers of an earlier one"
                _logger.warning("%s", errors.from_os(error, doing))
                return

    def spawn(self, number: int, mold: int, slot: int) -> None:
        """Have a mold fork a worker.

        Raises:
            OSError: the system refused.
        """
        parent = self._children[mold]
        if parent.gives_way and parent.pid:
            parent.gives_way = False
            priority.catch_up(parent.pid)
        with _Making() as made:
            fd = made.fd(scoreboard.create())
            end, board, theirs = made.ends(fd)
            self.send(parent, channel.Fork(slot), (theirs.fileno(), fd))
            made.keep()
        child = Child(number, end, is_mold=False, pool=parent.pool, slot=slot, generation=parent.generation)
        child.board = board
        self._add(child)

    def send(self, child: Child, message: channel.Message, fds: tuple[int, ...] = ()) -> bool:
        """Send a message; returns whether the child may still be reading.

        One that has ended is heard of by the end of its channel, so that is no failure here.
        """
        if child.end is None:
            return True
        try:
            child.end.send(message, fds)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ETOOMANYREFS):
                _logger.error("%s does not read its channel", self.name(child))  # noqa: TRY400, no bug of ours
                return False
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                raise
        return True

    def be_born(self, child: Child, pid: int) -> bool:
        """Accept the process id that the kernel gives for a worker's first message, if it is our child's."""
        if child.pid is not None or pid in self._by_pid or not _is_our_child(pid):
            return False
        child.pid = pid
        self._by_pid[pid] = child
        return True

    def kill(self, number: int) -> None:
        if child := self._signal(number, signal.SIGKILL):
            child.killed = True

    def dump(self, number: int) -> None:
        """Let a child write the stacks of its threads to its scoreboard."""
        if child := self._signal(number, stacks.SIGNAL):
            child.dumped = True

    def _signal(self, number: int, which: int) -> Child | None:
        child = self._children.get(number)
        if child is None or child.pid not in self._by_pid:
            return None
        os.kill(child.pid, which)
        return child

    def close_channel(self, child: Child) -> None:
        if child.end:
            self._unwatch(child)
            child.end.close()
            child.end = None

    def forget(self, child: Child) -> None:
        self.close_channel(child)
        if child.board:
            child.board.close()
        del self._children[child.id]

    def peek(self) -> int | None:
        """Return the process id of a child that has ended and is not reaped yet, ours or foreign."""
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        return ended.si_pid if ended else None

    def is_known(self, pid: int) -> bool:
        return pid in self._by_pid

    def reap(self, pid: int) -> tuple[Child, int] | None:
        """Reap one that has ended; a foreign one (adopted as subreaper or as PID 1) is nobody."""
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
        child = self._by_pid.pop(pid, None)
        if child is None or ended is None:
            _logger.debug("reaped foreign process %d", pid)
            return None
        return child, ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def unborn(self) -> Iterator[Child]:
        return (child for child in self.all() if child.pid is None)

    def name(self, child: Child) -> str:
        what = "mold" if child.is_mold else "worker"
        seat = child.pool if child.is_mold else f"{child.pool}/{child.slot}"
        return f"{what} {seat} gen={child.generation} pid={child.pid}"

    def _add(self, child: Child) -> None:
        self._children[child.id] = child
        self._watch(child)


def _execute(channel_fd: int, environment: dict[str, str]) -> int:
    for name in _NOT_FOR_CHILDREN:
        environment.pop(name, None)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-c", _PROGRAM],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, channel_fd, channel.MOLD_FD),
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        ],
        # A group of its own: a terminal's ^C is for the master, which tells the others.
        setpgroup=0,
        setsigmask=[],
        setsigdef=_EVERY_SIGNAL,
    )


def _is_our_child(pid: int) -> bool:
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True

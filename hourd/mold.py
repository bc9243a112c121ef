"""A mold's life: import once, freeze, fork workers on request.

A mold is executed anew for each pool and generation, so that it has the code of now and a fresh
memory layout. It has no event loop and no threads. Its workers are forked twice: the one in between
ends at once, and the master, being a child subreaper, becomes their parent.

The master may die first. Then its channels end, workers drain by themselves, and a worker that does
not is killed here at the end of its grace.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import logging.config
import os
import select
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

from setproctitle import setproctitle

from . import channel, descriptors, ending, errors, log, loops, orders, privileges, rotation, stacks, worker
from .application import Application, explain, load
from .opening import Birth

_PIDFD = b"\0"
"""Comes with a worker's pidfd; anything else is the number of the error for which there is none."""
_LAST_HELP = 5.0
"""Seconds beyond the longest grace after which an orphan is killed."""
_LONGEST_WAIT = 20 * 24 * 3600.0
"""Seconds that poll() can wait at most; who has more grace than that loses it."""
_logger = logging.getLogger("hourd.mold")


class Mold:
    """The template of a pool's workers in one generation."""

    def __init__(self, end: channel.ChildEnd, mine: orders.Orders, board_fd: int) -> None:
        self._channel = end
        self._orders = mine
        self._application: Application | None = None
        self._certificates: dict[str, rotation.Certificates] = {}
        self._board_fd = board_fd
        self._workers: list[int] = []
        """A pidfd for each worker that may be alive."""

    def read_certificates(self) -> None:
        """Read what the servers' TLS needs, as the user that workers are."""
        for name, server in self._orders.settings.servers.items():
            if server.tls:
                self._certificates[name] = rotation.Certificates(server.tls)

    def import_application(self) -> None:
        """Import, and find out whether that can be forked."""
        before = _sockets()
        loops.factory(self._orders.settings.loop)
        self._application = load(self._orders.settings)
        if remains := _remains(before):
            self._channel.send(channel.Unsafe(remains))
        gc.collect()
        # Objects that live now live as long as the mold. Frozen, the collector does not visit them,
        # so that their pages stay shared with the workers.
        gc.freeze()

    def serve(self) -> Birth | None:
        """Fork as asked. Returns a ``Birth`` in each worker, and ``None`` in the mold at its end."""
        self._channel.send(channel.Imported())
        while packet := self._hear():
            match packet.message:
                case _ if packet.truncated:
                    # With its descriptors, the worker's channel is closed here: the master hears of that.
                    _logger.error("%s: no descriptors are left; %s", self._orders.title, descriptors.ADVICE)
                    packet.close()
                case channel.Fork(slot=slot):
                    worker_channel, board_fd = packet.fds
                    if birth := self._fork(slot, worker_channel, board_fd):
                        return birth
                case channel.Watch():
                    self._workers += packet.fds
                case channel.Reopen():
                    log.reopen()
                case channel.Quit():
                    self._see_workers_off()
                    return None
        self._outlive_master()
        return None

    def _hear(self) -> channel.Packet | None:
        """Wait for the master. Meanwhile, take new certificates: a worker that is born has none that is older."""
        while self._certificates and not _readable(self._channel.fileno(), rotation.LOOK):
            for name, each in self._certificates.items():
                if each.refresh(time.monotonic()):
                    _logger.debug("%s: new certificate of server %s for workers to come", self._orders.title, name)
        return self._channel.receive()

    def _fork(self, slot: int, channel_fd: int, board_fd: int) -> Birth | None:
        try:
            ours, theirs = socket.socketpair()
            is_adopted, adopt = os.pipe()
        except OSError as error:
            raise errors.from_os(error, "fork a worker") from None
        # A signal between the fork and the worker's own handlers would be lost in the mold's: the
        # worker unblocks them itself.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            between = os.fork()
        except OSError as error:
            for sock in (ours, theirs):
                sock.close()
            raise errors.from_os(error, "fork a worker") from None
        if between == 0:
            ours.close()
            os.close(adopt)
            _fork_again(theirs)
            stacks.show_on_signal(board_fd)
            self._forget_mold()
            _wait_until_adopted(is_adopted)
            end = channel.ChildEnd(socket.socket(fileno=channel_fd))
            return Birth(
                orders=self._orders,
                application=self._application,
                certificates=self._certificates,
                slot=slot,
                channel=end,
                board_fd=board_fd,
            )
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        theirs.close()
        for fd in (channel_fd, board_fd, is_adopted):
            os.close(fd)
        self._adopt(ours, adopt, between)
        return None

    def _adopt(self, ours: socket.socket, adopt: int, between: int) -> None:
        """Take the worker's pidfd; once the one in between is gone, the worker is the master's, and may go on."""
        with ours, open(adopt, "wb", buffering=0) as go_on:
            said, fds, _, _ = socket.recv_fds(ours, 1, 1)
            os.waitpid(between, 0)
            if fds:
                with contextlib.suppress(BrokenPipeError):  # it was killed meanwhile
                    go_on.write(_PIDFD)
        if not said:
            # The one in between was killed. The master hears of the worker that never was, and asks for another.
            _logger.error("%s: a worker was lost while it was forked", self._orders.title)
            return
        if not fds:
            number = errno.EMFILE if said == _PIDFD else said[0]
            raise errors.from_os(OSError(number, os.strerror(number)), "fork a worker")
        for fd in [fd for fd in self._workers if _ended(fd)]:
            self._workers.remove(fd)
            os.close(fd)
        self._workers += fds

    def _forget_mold(self) -> None:
        """Close, in a worker, what belongs to the mold."""
        self._channel.close()
        for fd in (self._board_fd, *self._workers):
            os.close(fd)
        self._workers.clear()

    def _see_workers_off(self) -> None:
        """End after the workers that drain: should the master die meanwhile, nobody else would see to them."""
        poll = select.poll()
        for fd in (self._channel.fileno(), *self._workers):
            poll.register(fd, select.POLLIN)
        left = set(self._workers)
        while left:
            ready = {fd for fd, _ in poll.poll()}
            if self._channel.fileno() in ready and self._channel.receive() is None:
                self._outlive_master()
                return
            for fd in ready & left:
                poll.unregister(fd)
                left.discard(fd)

    def _outlive_master(self) -> None:
        """See that no worker outlives its grace when the master is dead."""
        grace = max(server.grace for server in self._orders.settings.servers.values()) + _LAST_HELP
        _logger.error("the master is gone: workers drain, and end within %.0fs", grace)
        end = time.monotonic() + grace
        for fd in self._workers:
            if not _ended(fd, max(0.0, end - time.monotonic())):
                _logger.error("a worker of %s did not end within its grace: killing it", self._orders.title)
                signal.pidfd_send_signal(fd, signal.SIGKILL)


def main() -> NoReturn:
    """Live as a mold, and as a worker in each child that is forked from it."""
    end = channel.ChildEnd(socket.socket(fileno=channel.MOLD_FD))
    try:
        code = _live(end)
    finally:
        end.leave_open()
    ending.leave(code)


def _live(end: channel.ChildEnd) -> int:
    birth: Birth | None
    try:
        mold = _begin(end)
        if mold is None:
            return errors.EXIT_STOPPED
        birth = mold.serve()
    except errors.HourdError as error:
        end.refuse(str(error), error.exit_code)
        return error.exit_code
    except (BrokenPipeError, ConnectionResetError):
        return errors.EXIT_STOPPED  # the master is gone; no worker was forked yet
    except Exception as error:  # noqa: BLE001, the master is to know it, whatever it is
        end.refuse(explain(error, "the mold failed"), errors.EXIT_INTERNAL)
        return errors.EXIT_INTERNAL
    if birth is None:
        return errors.EXIT_STOPPED
    return worker.main(birth)


def _begin(end: channel.ChildEnd) -> Mold | None:
    packet = end.receive()
    if packet is None:
        return None
    mine = orders.read(packet.fds[0])
    if mine.protocol != channel.PROTOCOL:
        raise errors.BootError("the installed hourd is not the one that runs: hourd upgrade, or restart it")
    board_fd = packet.fds[1]
    if mine.descriptors is not None:
        descriptors.set_limit(mine.descriptors)
    stacks.show_on_signal(board_fd)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        # Handled, not ignored: what is ignored stays ignored in programs that user code executes.
        signal.signal(number, _ignore)
    setproctitle(f"hourd: mold {mine.title}")
    _settle_in(mine)
    mold = Mold(end, mine, board_fd)
    mold.read_certificates()
    if mine.preload:
        gc.disable()
        mold.import_application()
        # A worker enables it again.
    return mold


def _settle_in(mine: orders.Orders) -> None:
    """Become the user, in the directory, with the logging that user code is to find."""
    log.set_up(mine.log)
    _become(mine)
    try:
        os.chdir(mine.directory)
    except OSError as error:
        raise errors.from_os(error, f"enter directory {mine.directory}") from None
    sys.path.insert(0, mine.directory)
    if mine.log.config:
        try:
            logging.config.dictConfig({"disable_existing_loggers": False, **mine.log.config})
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            cause = f": {error.__cause__}" if error.__cause__ else ""
            raise errors.ConfigError(f"log.config: {error}{cause}") from None


def _become(mine: orders.Orders) -> None:
    """Become the configured user, who must be able to run what is to be run."""
    who = mine.user or f"group {mine.group}"
    try:
        privileges.drop(mine.user, mine.group)
    except KeyError:
        raise errors.ConfigError(f"{who} does not exist any more") from None
    except OSError as error:
        raise errors.from_os(error, f"become {who}") from None
    for place in (os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(__file__))):
        if not os.access(place, os.R_OK | os.X_OK):
            raise errors.NoPermissionError(f"user {who} may not read {place}: install Python and hourd where it may")


def _fork_again(theirs: socket.socket) -> None:
    """Fork the worker, send its pidfd to the mold, and end. Returns in the worker only."""
    try:
        worker = os.fork()
        if worker == 0:
            theirs.close()  # so that it ends with the one in between, whatever that dies of
            return
        # The worker is our child until we end, so that its process id cannot mean another yet.
        socket.send_fds(theirs, [_PIDFD], [os.pidfd_open(worker)])
    except OSError as error:
        with contextlib.suppress(OSError):  # the mold was killed meanwhile
            theirs.send(bytes([error.errno or errno.EAGAIN]))  # in place of a pidfd
        os._exit(errors.EXIT_SYSTEM)
    os._exit(errors.EXIT_STOPPED)


def _wait_until_adopted(is_adopted: int) -> None:
    """Wait until the one in between was reaped: only then is the master our parent.

    A worker that the mold does not know, since its pidfd was lost, ends.
    """
    adopted = os.read(is_adopted, 1)
    os.close(is_adopted)
    if not adopted:
        os._exit(errors.EXIT_SYSTEM)


def _remains(before: set[str]) -> str:
    """Name what an import left behind that does not survive a fork, or return nothing."""
    found = [f"thread {thread.name}" for thread in threading.enumerate() if thread is not threading.main_thread()]
    native = len(os.listdir("/proc/self/task")) - 1 - len(found)
    if native > 0:
        found.append(f"{native} native thread(s)")
    sockets = len(_sockets() - before)
    if sockets:
        found.append(f"{sockets} open socket(s)")
    return ", ".join(found)


def _sockets() -> set[str]:
    names = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue  # the descriptor of this very listing
    return {name for name in names if name.startswith("socket:")}


def _ended(pidfd: int, wait: float = 0.0) -> bool:
    """Tell whether a process ended; a pidfd polls readable then (pidfd_open(2))."""
    return _readable(pidfd, wait)


def _readable(fd: int, wait: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(min(wait, _LONGEST_WAIT) * 1000))


def _ignore(_signal: int, _frame: object) -> None:
    """Do nothing: the master decides, and tells it on the channel."""

"""A worker's life: open everything, say so, attend what it is told to, drain, close.

One event loop runs all servers of the pool. ``Life.live`` is the whole story, to be read downwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import os
import signal
import time
from collections.abc import Iterator
from random import Random
from typing import Any

from setproctitle import setproctitle

from . import channel, context, descriptors, errors, kinds, log, loops, opening, scoreboard
from .application import explain, load
from .attendance import Attendance
from .kinds import arrivals, blame
from .opening import Birth
from .scaling import Pulse, starved

_BEATS = 4
"""In the time after which a worker that gives none counts as slow; more of them while it is busy."""
_BEAT_MOST = 0.5
"""Seconds between two beats, at most, but for what chance adds."""
_LOOK = 0.02
"""Seconds between two looks at how many connections are left, while draining."""
_TURNS = 3
"""Turns of the loop after which what it had accepted before it stopped listening is known to the servers."""
_ARRIVAL = 5.0
"""Seconds that connections which are accepted and still before their TLS handshake, say, have to come through."""
_NONE_LEFT = (errno.EMFILE, errno.ENFILE)
_THE_END = channel.Packet(None)
"""Stands for the end of the channel among the master's messages."""
_LAST_MOMENT = 2.0
"""Seconds in which a worker that fails lets finish what is open in it. Its successor waits for its end."""
_logger = logging.getLogger("hourd.worker")


class Life:
    """What a worker has while it lives."""

    def __init__(self, birth: Birth) -> None:
        self._birth = birth
        self._pool = birth.orders.settings
        self._channel = birth.channel
        self._commands: asyncio.Queue[channel.Packet] = asyncio.Queue()
        self._board = scoreboard.Board(os.dup(birth.board_fd), writable=True)
        self._servers: dict[str, kinds.Kind] = {}
        self._opened: dict[str, kinds.Kind] = {}
        """Those that are to be closed."""
        self._attendance = Attendance(self._servers, self._pool.servers)
        self._unable = False
        """It could not attend the last slot that it was told to, and has said so."""
        self._left_alone = False
        """The master is gone. Until another comes, if one does, nobody else sees to what waits."""
        self._errors = 0
        self._cut = 0
        self._pulse = Pulse(min(_BEAT_MOST, self._pool.timeouts.slow / _BEATS), Random())  # noqa: S311, no secret
        self.drained = False
        self.failed = False
        """A server in it cannot go on."""
        self._worker = context.Worker(
            name=birth.orders.name,
            pool=birth.orders.pool,
            slot=birth.slot,
            generation=birth.orders.generation,
            log=logging.getLogger("hourd.worker"),
        )

    @property
    def exit_code(self) -> int:
        return errors.EXIT_BOOT if self.failed else errors.EXIT_STOPPED

    async def live(self) -> None:
        """Live, from the first moment in the event loop to the last."""
        self._hear()
        self._beat()
        async with contextlib.AsyncExitStack() as stack:
            with self._unless_unwanted():
                await self._boot(stack)
            self._channel.send(channel.Ready())
            await self._obey()
            await self._drain()
            self.drained = True

    def _give_up(self, server: str, why: str, error: BaseException | None) -> None:
        """End since a server cannot go on. Whoever drains ends anyway."""
        if self.failed or self._worker.draining.is_set():
            return
        self.failed = True
        what = f"server {server} cannot go on: {why}"
        # From now on the master has siblings attend, and gives this worker some seconds to end.
        self._channel.refuse(explain(error, what) if error else what, errors.EXIT_BOOT)
        self._commands.put_nowait(_THE_END)

    # --- boot -------------------------------------------------------------------------------------

    async def _boot(self, stack: contextlib.AsyncExitStack) -> None:
        """Open the lifespan and every server. Whatever fails here is told to the master."""
        self._worker.make_current()
        application = self._birth.application or load(self._pool)
        await opening.enter_lifespan(stack, application, self._worker)
        stack.push_async_callback(self._close_servers)
        for name, part in application.servers.items():
            give_up = functools.partial(self._give_up, name)
            self._opened[name] = await opening.open_server(self._birth, self._worker, name, part, give_up)
            self._servers[name] = self._opened[name]

    # --- the master -------------------------------------------------------------------------------

    def _hear(self) -> None:
        """Listen to the master and to signals, and let in the signals that came since the fork."""
        loop = asyncio.get_running_loop()
        self._channel.set_blocking(flag=False)
        loop.add_reader(self._channel.fileno(), self._receive)
        loop.add_signal_handler(signal.SIGTERM, self._leave)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            # Handled, not ignored: what is ignored stays ignored in programs that user code executes.
            loop.add_signal_handler(number, _ignore)
        loop.set_exception_handler(self._on_error)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def _receive(self) -> None:
        """Queue what the master says, and its end. Log files are reopened at once, also while this worker drains."""
        with contextlib.suppress(BlockingIOError):
            while packet := self._channel.receive():
                if isinstance(packet.message, channel.Reopen):
                    self._reopen()
                else:
                    self._commands.put_nowait(packet)
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._commands.put_nowait(_THE_END)

    def _reopen(self) -> None:
        log.reopen()
        for server in self._opened.values():
            server.reopen()

    def _leave(self) -> None:
        self._say(channel.Leaving())

    def _say(self, message: channel.Message) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # then its end is in the queue
            self._channel.send(message)

    @contextlib.contextmanager
    def _unless_unwanted(self) -> Iterator[None]:
        """Give up booting when the master is gone or says drain.

        The boot itself stays in this task, since what a lifespan enters it must leave in the same task.
        """
        boot = asyncio.current_task()
        assert boot is not None
        watch = asyncio.get_running_loop().create_task(self._until_unwanted(boot))
        try:
            yield
        finally:
            watch.cancel()

    async def _until_unwanted(self, boot: asyncio.Task[None]) -> None:
        while not isinstance((await self._commands.get()).message, channel.Drain | None):
            pass  # before it is ready, a worker is told nothing else that matters
        boot.cancel()

    async def _obey(self) -> None:
        """Do what the master says until it says drain, or is gone; or until this worker cannot go on."""
        while not self.failed:
            packet = await self._commands.get()
            match packet.message:
                case channel.Attend() as attend:
                    await self._attend(attend, packet)
                case channel.Release(slot=slot, last=last):
                    self._attendance.release(slot, last)
                case channel.Drain():
                    return
                case None if not self.failed:
                    # Mostly the master is gone. It may also have dropped this one worker.
                    _logger.error("the channel to the master ended: draining")
                    self._left_alone = True
                    return

    async def _attend(self, attend: channel.Attend, packet: channel.Packet) -> None:
        """Attend a slot, or say that somebody else has to: what is open here goes on in any case."""
        try:
            await self._attendance.attend(attend, packet)
        except OSError as error:
            if not self._unable:
                why = error.strerror or str(error)
                if error.errno in _NONE_LEFT:
                    why = f"no descriptors left ({descriptors.ADVICE})"
                what = "siblings are asked, or this worker again later"
                _logger.error("cannot attend slot %d: %s; %s", attend.slot, why, what)  # noqa: TRY400, no bug of ours
            self._unable = True
            self._say(channel.CannotAttend(attend.slot))
            return
        self._unable = False
        if not self.failed:
            self._say(channel.Attends(attend.slot))

    # --- the end ----------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Let what is open finish, each server within its own grace."""
        await self._attendance.end(last=self._left_alone)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        begun = time.monotonic()
        graces = (self._grace(name) for name in self._servers)
        await arrivals.settle(self._servers.values(), min(_ARRIVAL, *graces))
        late = {name for name, server in self._servers.items() if server.arriving}
        # In one turn, so that nobody acts on the one without the other. Only servers for whose connections the least
        # grace of all was too short are asked later: that one is not to cut them, nor to wait for them.
        self._worker.draining.set()
        for name, server in self._servers.items():
            if name not in late:
                self._ask_to_finish(server)
        await asyncio.gather(*(self._drain_server(name, begun, late=name in late) for name in self._servers))

    def _grace(self, name: str) -> float:
        grace = self._pool.servers[name].grace
        return min(grace, _LAST_MOMENT) if self.failed else grace

    def _ask_to_finish(self, server: kinds.Kind) -> None:
        try:
            server.drain()
        except Exception:
            server.context.log.exception("server %s failed to drain", server.context.server)

    async def _drain_server(self, name: str, begun: float, *, late: bool) -> None:
        server, grace = self._servers[name], self._grace(name)
        if late:
            await arrivals.settle([server], begun + min(_ARRIVAL, grace) - time.monotonic())
            if server.context.arrivals:
                await server.context.arrivals.close()
            self._ask_to_finish(server)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(begun + grace - time.monotonic()):
                while server.connections:  # noqa: ASYNC110, no library tells of its last connection
                    await asyncio.sleep(_LOOK)
        if left := server.connections:
            self._cut += left
            self._board.write(self._board.read()._replace(cut=self._cut))  # there may be no further beat
            server.context.log.warning("cut %d connections that were open after its grace of %gs", left, grace)
        await self._close_server(name)

    async def _close_servers(self) -> None:
        """Close what is open still: after a boot that failed."""
        for name in reversed(tuple(self._opened)):
            await self._close_server(name)

    async def _close_server(self, name: str) -> None:
        server = self._opened.pop(name)
        try:
            await server.close()
        except Exception:
            server.context.log.exception("server %s failed to close", name)

    # --- health -----------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Write the scoreboard. The loop itself does it, so that a beat proves that the loop turns."""
        now = time.monotonic()
        lag = self._pulse.beat(now, time.thread_time(), starved())
        self._board.write(
            scoreboard.Record(
                beat=now,
                lag=lag,
                busy=self._pulse.busy,
                connections=sum(server.connections + server.arriving for server in self._servers.values()),
                accepted=sum(server.accepted for server in self._servers.values()),
                requests=sum(server.requests for server in self._servers.values()),
                errors=self._errors + sum(server.errors for server in self._servers.values()),
                cut=self._cut,
            )
        )
        asyncio.get_running_loop().call_later(self._pulse.rest(time.monotonic()), self._beat)

    def _on_error(self, _loop: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
        """Log what user code raised in a callback or a forgotten task, with the server's name if it is one's."""
        what, error = about.get("message", "error in the event loop"), about.get("exception")
        if kind := blame.find(about):
            kind.failed(what, error)
            return
        self._errors += 1
        _logger.error("%s", what, exc_info=error)


def main(birth: Birth) -> int:
    """Live as a worker; returns the exit code."""
    mine = birth.orders
    setproctitle(f"hourd: worker {birth.slot} {mine.title}")
    gc.enable()
    life = Life(birth)
    try:
        birth.channel.send(channel.Hello())
        with asyncio.Runner(loop_factory=loops.factory(mine.settings.loop)) as runner:
            runner.run(life.live())
    except errors.HourdError as error:
        birth.channel.refuse(str(error), error.exit_code)
        return error.exit_code
    except (BrokenPipeError, ConnectionResetError, asyncio.CancelledError):
        return life.exit_code  # the master went or changed its mind, or a server gave up, while this worker booted
    except Exception as error:  # noqa: BLE001, the master is to know it, whatever it is
        if life.drained:
            _logger.error("%s", explain(error, "lifespan failed to close"))  # noqa: TRY400, it holds the traceback
        else:
            birth.channel.refuse(explain(error, "the worker failed"), errors.EXIT_INTERNAL)
        return errors.EXIT_INTERNAL
    finally:
        birth.channel.leave_open()
    return life.exit_code


def _ignore() -> None:
    """Do nothing: the master decides, and tells it on the channel."""

"""The loop: wait in one place, turn what happens into events, perform the actions.

Rules. Nothing here decides and nothing waits but ``select``. No user code is imported. Every event
and action is logged at level debug, so that a log is a transcript.
"""

from __future__ import annotations

import logging
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from random import Random

from . import channel, control, descriptors, events, handover, lending, memory, state
from .clock import Clock
from .events import Event
from .generations import Generations
from .inherited import Inherited
from .listeners import Listeners
from .parts import Parts
from .performing import Performer
from .processes import Child, Processes
from .reporter import Reporter
from .sampling import Sampler
from .settings import Settings
from .signals import SIGNALS, Signals
from .status import report
from .supervisor import Supervisor
from .systemd import Manager
from .understanding import understand
from .upgrade import Upgrade

_LONGEST_WAIT = 3600.0
_EVERYTHING = 1_000_000
_MESSAGES_A_TURN = 64
"""A child that talks without end must not keep others waiting."""
_logger = logging.getLogger("hourd")


class Master:
    """A running daemon."""

    def __init__(
        self,
        settings: Settings,
        read_again: Callable[[], Settings],
        *,
        manager: Manager,
        handed: Inherited,
        before: state.State | None = None,
    ) -> None:
        """Take a configuration.

        Args:
            settings: what to start with.
            read_again: returns the configuration as it is now, for a reload; raises ``HourdError``.
            manager: the service manager.
            handed: the sockets that were open when this process began.
            before: what the program had whose place this one takes.
        """
        self._manager = manager
        self._supervisor = Supervisor(Random())  # noqa: S311, jitter is no secret
        self._selector = selectors.DefaultSelector()
        self._signals = Signals()
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signals)
        self._listeners = Listeners(manager, handed)
        self._generations = Generations(settings, read_again, self._listeners)
        self._processes = Processes(self._watch, self._selector_forget)
        self._events: deque[Event] = deque()
        self._hearing = False
        self._exit_code: int | None = None
        self._clock = Clock(before.forgiven if before else 0.0)
        self._sampler = Sampler(self._processes, self._listeners, self._clock)
        self._oom_kills = memory.OomKills()
        self._upgrade = Upgrade(
            self._selector, lambda: handover.save(self.parts), self._refuse_upgrade, lambda: self._signals.untaken
        )
        self._reporter = Reporter(
            manager, self._supervisor, self._hear, self._report, self._make_room, self._begin_upgrade
        )
        self.parts = Parts(
            started=before.started if before else time.time(),
            clock=self._clock,
            # Molds and workers get as many as this process began with.
            descriptors=before.descriptors if before else descriptors.raise_limit(),
            handed=handed,
            supervisor=self._supervisor,
            processes=self._processes,
            generations=self._generations,
            listeners=self._listeners,
            reporter=self._reporter,
        )
        self._performer = Performer(self.parts, hear=self._hear, lose=self._lose)
        if before:
            self._go_on_from(before)

    def listen(self, path: str) -> None:
        """Open the control socket.

        Raises:
            errors.UnavailableError: another instance runs.
            OSError: the place cannot be used.
        """
        self.parts.control = control.Control(*control.listen(path), self._selector, self._reporter.on_request)

    def _go_on_from(self, before: state.State) -> None:
        handover.restore(self.parts, before)
        if saved := before.control:
            sock = socket.socket(fileno=saved.socket)
            self.parts.control = control.Control(sock, saved.file, self._selector, self._reporter.on_request)
            handover.restore_clients(self.parts, saved)

    def run(self) -> int:
        """Supervise until everything has ended; returns the exit code."""
        self._reap()
        self._hear(events.ReloadAsked())
        while self._exit_code is None:
            deadline = self._supervisor.deadline()
            for key, mask in self._wait(deadline):
                key.data(mask)
            if deadline is not None and self._clock.now() >= deadline:
                self._hear(self._sampler.look(self._generations.all))
                self._hear(events.Elapsed())
            self._manager.completed(time.monotonic(), changing=self._supervisor.changing)
            self._go_on_with_upgrade()
        return self._exit_code

    def _wait(self, deadline: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for something to happen, until the deadline at most."""
        # epoll takes at most some 24 days; to wake once an hour costs nothing.
        timeout = min(_LONGEST_WAIT, self._manager.patience(time.monotonic(), changing=self._supervisor.changing))
        now = self._clock.now()
        timeout = min(timeout, self._upgrade.patience(now))
        if deadline is not None:
            timeout = min(timeout, deadline - now)
        timeout = max(0.0, timeout)
        self._clock.will_wait(timeout)
        happened = self._selector.select(timeout)
        if late := self._clock.has_waited():
            _logger.warning("stood still for %.1fs; nobody is judged by that time", late)
        return happened

    def close(self) -> None:
        """Let go of everything that is not a process."""
        if self.parts.control:
            self.parts.control.close()
        # Who did not come to an exit code was not stopped, but is dying, and may be followed by another.
        self._listeners.close(rests="all" if self._exit_code is None and self._manager.is_there else "nothing")
        self._selector.close()
        self._signals.close()

    # --- events in --------------------------------------------------------------------------------

    def _hear(self, event: Event) -> None:
        """Let the supervisor decide, and perform what it wants.

        An action may make events, which come after all actions of the event before.
        """
        self._events.append(event)
        if self._hearing:
            return
        self._hearing = True
        while self._events and self._exit_code is None:
            self._decide(self._events.popleft())
        self._hearing = False
        self._generations.forget(lambda: self._supervisor.generations_in_use)
        self._reporter.answer()
        self._reporter.announce(self._clock.now())

    def _decide(self, event: Event) -> None:
        _logger.debug("%r", event)
        for action in self._supervisor.handle(event, self._clock.now()):
            _logger.debug("    %r", action)
            if isinstance(action, events.Exit):
                self._exit_code = action.exit_code
            else:
                self._performer.perform(action)

    def _on_signals(self, _mask: int) -> None:
        for number in self._signals.take():
            match number:
                case signal.SIGCHLD:
                    self._reap()
                case signal.SIGUSR1:
                    for child in self._processes.all():
                        self._performer.tell(child.id, channel.Reopen())
                case signal.SIGUSR2:
                    _logger.info("SIGUSR2 received")
                    self._begin_upgrade()
                case _:
                    _logger.info("%s received", number.name)
                    event = SIGNALS[number]
                    if isinstance(event, events.StepAsked) and (why := self._reporter.refuse_step(event)):
                        _logger.warning("%s", why)
                    else:
                        self._hear(event)

    def _reap(self) -> None:
        ended = list(self._reap_all())
        if ended:
            # What the dead have shown last counts, and who adopts their slots is to be who has least to do now.
            self._hear(self._sampler.look(self._generations.all))
        for child, code in ended:
            self._processes.forget(child)
            oom = code == -signal.SIGKILL and not child.killed and self._oom_kills.claim()
            self._hear(events.Exited(child.id, code, oom))

    def _reap_all(self) -> Iterator[tuple[Child, int]]:
        """Yield our children that have ended, with how, after their last words."""
        while (pid := self._processes.peek()) is not None:
            if not self._processes.is_known(pid):
                # A worker that ended soon after its birth: its first message is still unread.
                for child in tuple(self._processes.unborn()):
                    self._on_child(child)
            if reaped := self._processes.reap(pid):
                child, code = reaped
                self._on_child(child, _EVERYTHING)
                yield child, code

    def _on_child(self, child: Child, limit: int = _MESSAGES_A_TURN) -> None:
        """Hear what a child has said; what is left makes the selector return at once."""
        for _ in range(limit):
            if child.end is None:
                return
            try:
                packet = child.end.receive()
            except BlockingIOError:
                return
            except channel.ProtocolError as error:
                self._complain(child, str(error))
                packet = None
            if packet is None:
                self._lose(child)
                return
            event = understand(child, packet, self._processes)
            if event is None:
                self._complain(child, f"sent {packet.message!r}, which it may not")
                self._lose(child)
                return
            self._hear(event)

    def _complain(self, child: Child, what: str) -> None:
        _logger.error("%s %s: it is not heard any more", self._processes.name(child), what)

    def _lose(self, child: Child) -> None:
        self._processes.close_channel(child)
        if child.pid is None:
            self._processes.forget(child)
        self._hear(events.Lost(child.id))

    def _make_room(self, pool: str, slots: int, workers: int) -> str:
        return lending.make_room(self._listeners, self._generations.all, pool, slots, workers)

    def _report(self) -> dict[str, object]:
        return report(
            self._supervisor,
            self._processes,
            self._listeners,
            self._generations.committed,
            started=self.parts.started,
            last_reload=self._reporter.last_reload,
            now=self._clock.now(),
            monotonic=time.monotonic(),
        )

    # --- another program in our place -------------------------------------------------------------

    def _begin_upgrade(self) -> None:
        if self._supervisor.stopping:
            _logger.warning("hourd is stopping: it is not upgraded")
        else:
            self._upgrade.begin(self._clock.now())

    def _refuse_upgrade(self, why: str) -> None:
        self._reporter.refuse_upgrade(why)
        self._reporter.announce(self._clock.now())

    def _go_on_with_upgrade(self) -> None:
        self._upgrade.check(self._clock.now())
        if self._supervisor.stopping:
            self._upgrade.abandon("hourd was stopped meanwhile")
        elif self._upgrade.passed and not self._supervisor.changing and self._manager.knows_all:
            self._upgrade.execute()

    # --- the selector -----------------------------------------------------------------------------

    def _watch(self, child: Child) -> None:
        assert child.end is not None
        self._selector.register(child.end, selectors.EVENT_READ, lambda _mask: self._on_child(child))

    def _selector_forget(self, child: Child) -> None:
        assert child.end is not None
        self._selector.unregister(child.end)

"""What others are told: operators at the control socket, and the service manager."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from . import __version__, control, events
from .pool import Pool
from .state import LastReload
from .supervisor import Supervisor
from .systemd import Manager

_STATUS_MOST = 800
_logger = logging.getLogger("hourd")


class Reporter:
    """Answers requests, and keeps the service manager's view true."""

    def __init__(
        self,
        manager: Manager,
        supervisor: Supervisor,
        hear: Callable[[events.Event], None],
        report: Callable[[], dict[str, Any]],
        make_room: Callable[[str, int, int], str],
        upgrade: Callable[[], None],
    ) -> None:
        """Take what is reported on.

        Args:
            manager: the service manager.
            supervisor: the decisions.
            hear: takes what operators want.
            report: returns the status.
            make_room: binds so many slots of a pool, for so many workers more; returns why that cannot be.
            upgrade: begins an upgrade in place.
        """
        self.last_reload: LastReload | None = None
        self._manager = manager
        self._supervisor = supervisor
        self._hear = hear
        self._report = report
        self._make_room = make_room
        self._upgrade = upgrade
        self._waiting: list[tuple[int, control.Client]] = []
        self._answers: list[tuple[control.Client, control.Answer]] = []
        """To those who wait no longer, and are to hear it."""
        self._upgrading: list[control.Client] = []
        """Who waits for another program, and its first reload."""
        self._upgrade_refused = ""
        self._announced = ""

    @property
    def is_kept(self) -> bool:
        """Whether a service manager keeps sockets beyond our end."""
        return self._manager.is_there

    def on_request(self, request: control.Request, client: control.Client) -> None:
        """Answer an operator, or let one wait for the end of a reload."""
        match request.command:
            case "status":
                client.answer(control.Answer(ok=True, status=self._report()))
            case "scale":
                refused = self._refuse_scale(request)
                client.answer(control.Answer(ok=not refused, error=refused))
                if not refused:
                    _logger.info("scale asked: pool %s to %d workers", request.pool, request.workers)
                    self._hear(events.ScaleAsked(request.pool, request.workers))
            case "stop" if request.hand_over and not self._manager.is_there:
                client.answer(control.Answer(ok=False, error="no service manager is there that could keep the sockets"))
            case "stop":
                how = " at once" if request.now else " until the next start" if request.hand_over else ""
                _logger.info("stop asked%s", how)
                client.answer(control.Answer(ok=True))
                self._hear(events.StopAsked(request.now, request.hand_over))
            case "reload" | "upgrade" if self._supervisor.stopping:
                client.answer(control.Answer(ok=False, error="hourd is stopping"))
            case "reload":
                _logger.info("reload asked")
                self.wait(self._supervisor.attempts + 1, client)
                self._hear(events.ReloadAsked())
            case "upgrade":
                _logger.info("upgrade asked")
                self._upgrading.append(client)
                self._upgrade()

    def wait(self, generation: int, client: control.Client) -> None:
        """Let a client wait for the result of a generation."""
        self._waiting.append((generation, client))

    def waits_for(self, client: control.Client) -> int | None:
        """Return the generation that a client waits for. A new program reloads first of all."""
        if client in self._upgrading:
            return self._supervisor.attempts + 1
        return next((generation for generation, other in self._waiting if other is client), None)

    def refuse_upgrade(self, why: str) -> None:
        """Tell all who wait that this program goes on, and why."""
        _logger.error("upgrade refused, hourd %s goes on: %s", __version__, why)
        self._upgrade_refused = _last_line(why)
        for client in self._upgrading:
            client.answer(control.Answer(ok=False, error=why))
        self._upgrading.clear()

    def _refuse_scale(self, request: control.Request) -> str:
        """Return why a pool cannot have a number of workers, or nothing."""
        pools = {name: pool for name, pool in self._supervisor.pools.items() if not pool.closing}
        if self._supervisor.stopping:
            return "hourd is stopping"
        if request.pool not in pools:
            return f"there is no pool {request.pool}; there is {', '.join(pools)}"
        least, most = pools[request.pool].limits
        if not least <= request.workers <= most:
            return f"pool {request.pool} can have {least} to {most} workers"
        return self._refuse_workers(pools[request.pool], request.workers)

    def _refuse_workers(self, pool: Pool, workers: int) -> str:
        more = workers - pool.number
        return self._make_room(pool.name, workers, more) if more > 0 else ""

    def refuse_step(self, asked: events.StepAsked) -> str:
        """Return why the first pool cannot have more workers, or nothing."""
        pool = next((pool for pool in self._supervisor.pools.values() if not pool.closing), None)
        if pool is None or pool.number + asked.change > pool.limits[1]:
            return ""  # it keeps its number
        return self._refuse_workers(pool, pool.number + asked.change)

    def conclude(self, result: events.Conclude) -> None:
        """Tell all who wait how a reload ended."""
        if result.generation > 1:
            self._upgrade_refused = "" if result.ok else self._upgrade_refused
            self.last_reload = LastReload(
                ok=result.ok, generation=result.generation, reason=result.reason, seconds=result.seconds, at=time.time()
            )
        answer = control.Answer(
            ok=result.ok, error=result.reason, generation=result.generation, seconds=round(result.seconds, 3),
            version=__version__,
        )  # fmt: skip
        self._answers += [(client, answer) for generation, client in self._waiting if generation in result.answers]
        self._waiting = [entry for entry in self._waiting if entry[0] not in result.answers]

    def notify(self, what: str) -> None:
        """Tell the service manager of a change of state (sd_notify(3))."""
        match what:
            case "ready":
                self._manager.tell("READY=1")
            case "reloading":
                self._manager.reloading()
            case "stopping" | "handing over" | "failing":
                self._manager.tell("STOPPING=1")

    def answer(self) -> None:
        """Answer those who waited for a reload, now that all is done that belongs to it: what it removes is gone."""
        answers, self._answers = self._answers, []
        for client, answer in answers:
            client.answer(answer)

    def announce(self, now: float) -> None:
        """Keep the service manager's status line true."""
        state = self._supervisor.state(now)
        serving = sum(len(pool.serving) for pool in self._supervisor.pools.values())
        text = f"{state}: {serving} workers serve, generation {self._supervisor.generation}"
        if degraded := [name for name, pool in self._supervisor.pools.items() if pool.degraded(now)]:
            text += f"; {', '.join(degraded)} degraded"
        if self.last_reload and not self.last_reload.ok:
            text += f"; reload refused: {_last_line(self.last_reload.reason)}"
        if self._upgrade_refused:
            text += f"; upgrade refused: {self._upgrade_refused}"
        # One line, of which the manager takes some 4,000 bytes (NOTIFY_BUFFER_MAX).
        text = "".join(each if each.isprintable() else " " for each in text[:_STATUS_MOST])
        if text != self._announced:
            self._announced = text
            self._manager.tell(f"STATUS={text}")


def _last_line(reason: str) -> str:
    """Return where a reason says most: a traceback's end. It may come from user code, and be blank."""
    return (reason.strip().splitlines() or ["no reason was given"])[-1]

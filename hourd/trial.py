"""``hourd check --import``: let a mold of each pool import its application, and end."""

from __future__ import annotations

import os
import select

from . import channel, errors, orders
from .processes import Child, Processes
from .settings import Settings


def run(settings: Settings) -> None:
    """Import every application in a child, as the configured user.

    Raises:
        errors.HourdError: with the reason of each pool that could not be imported.
    """
    failures = [failure for pool in settings.pools if (failure := _try(settings, pool))]
    if failures:
        worst = max(failures, key=lambda failure: failure.exit_code)
        kind = errors.BY_EXIT_CODE.get(worst.exit_code, errors.BootError)
        raise kind("\n".join(each.reason.strip() for each in failures))


def _try(settings: Settings, pool: str) -> channel.Refused | None:
    processes = Processes(_ignore, _ignore)
    try:
        processes.start_mold(1, orders.make(settings, pool, generation=1, preload=True), settings.environment)
    except OSError as error:
        raise errors.from_os(error, f"execute a mold for pool {pool}") from None
    (child,) = processes.all()
    assert child.pid is not None
    try:
        return _answer(child, settings.pools[pool].timeouts.boot)
    finally:
        processes.kill(child.id)
        os.waitid(os.P_PID, child.pid, os.WEXITED)
        processes.forget(child)


def _answer(child: Child, patience: float) -> channel.Refused | None:
    """Wait for the mold's word; ``None`` says that it has imported everything."""
    assert child.end is not None
    poll = select.poll()
    poll.register(child.end, select.POLLIN)
    while poll.poll(min(patience, 3600.0) * 1000):
        try:
            packet = child.end.receive()
        except channel.ProtocolError as error:
            return channel.Refused(f"pool {child.pool}: the importing process {error}", errors.EXIT_BOOT)
        match packet.message if packet else None:
            case channel.Imported():
                return None
            case channel.Refused() as refused:
                return refused
            case None:
                return channel.Refused(f"pool {child.pool}: the process ended while it imported", errors.EXIT_BOOT)
    return channel.Refused(f"pool {child.pool}: not imported within {patience:g}s (timeouts.boot)", errors.EXIT_BOOT)


def _ignore(_child: Child) -> None:
    """Watch nothing: there is one child, and it is waited for."""

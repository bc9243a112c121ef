"""What a child's message means, and whether that child may say it."""

from __future__ import annotations

from . import channel, errors, events
from .processes import Child, Processes


def understand(child: Child, packet: channel.Packet, processes: Processes) -> events.Event | None:
    """Turn a message into an event, or into nothing when this child may not say it.

    Args:
        child: whose channel it came on.
        packet: the message, with the sender as the kernel knows it.
        processes: accepts a worker's process id with its first message.
    """
    if child.is_mold:
        return _of_mold(child, packet.message)
    if isinstance(packet.message, channel.Hello):
        return events.Born(child.id, packet.pid) if processes.be_born(child, packet.pid) else None
    # A descendant that inherited the channel is not the worker.
    return _of_worker(child, packet.message) if packet.pid == child.pid else None


def _of_mold(mold: Child, message: channel.Message) -> events.Event | None:
    match message:
        case channel.Imported():
            return events.MoldReady(mold.id)
        case channel.Unsafe(reason=reason):
            return events.MoldUnsafe(mold.id, reason)
        case channel.Refused(reason=reason, exit_code=code):
            return events.Failed(mold.id, reason, _known(code))
    return None


def _of_worker(worker: Child, message: channel.Message) -> events.Event | None:
    match message:
        case channel.Ready():
            return events.Ready(worker.id)
        case channel.Attends(slot=slot):
            return events.Attending(worker.id, slot)
        case channel.CannotAttend(slot=slot):
            return events.Unable(worker.id, slot)
        case channel.Leaving():
            return events.Leaving(worker.id)
        case channel.Refused(reason=reason, exit_code=code):
            return events.Failed(worker.id, reason, _known(code))
    return None


def _known(code: int) -> int:
    """Return an exit code that hourd documents: the daemon may end with it."""
    return code if code in errors.BY_EXIT_CODE else errors.EXIT_INTERNAL

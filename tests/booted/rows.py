"""What became of the requests of a transition.

A request is *lost* unless one complete and right answer came in time: connections that were refused, reset or ended count,
wherever the fault may be. ``openloop.py`` says how it judges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .load import openloop


@dataclass
class Row:
    """What became of the requests of a transition."""

    transition: str
    sent: int = 0
    answered: int = 0
    lost: int = 0
    seconds: float = 0.0
    """From what was asked to its end."""
    longest: float = 0.0
    """Seconds from when a request was due to its answer."""
    note: str = ""
    astray: str = ""
    """What the client saw besides."""
    losses: list[openloop.Loss] = field(default_factory=list)
    requests: list[openloop.Request] = field(default_factory=list)
    began: float = 0.0
    """Monotonic seconds."""

    def take(self, account: openloop.Driver) -> None:
        """Fill it in."""
        self.sent, self.answered, self.lost = account.begun, account.answered, account.lost
        if account.unsent or account.unasked:
            self.astray = f"{account.unsent} requests were never sent, {account.unasked} responses were to no request"
        self.losses = account.losses
        self.requests = [request for fresh in (False, True) for request in account.requests(fresh=fresh)]
        self.longest = max((request.latency for request in self.requests), default=0.0)

    def under_way(self) -> int:
        """Return how many requests were under way when it began."""
        return sum(request.due <= self.began < request.due + request.latency for request in self.requests)

    def assert_nothing_lost(self) -> None:
        """Every request was answered."""
        assert self.answered, "nothing was asked"
        assert not self.astray, self.astray
        told = [
            f"{loss.at - self.began:+.3f}s, sent {loss.sent - self.began:+.3f}s: {loss.why}"
            for loss in self.losses[:10]
        ]
        assert not self.lost, f"{self.lost} of {self.sent} requests were lost (times from the beginning): {told}"


def table(rows: list[Row]) -> str:
    """Return rows as markdown."""
    lines = ["| transition | requests | answered | lost | took | longest wait |", "|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        name = f"{row.transition} ({row.note})" if row.note else row.transition
        numbers = (row.sent, row.answered, row.lost) if row.sent else ("-", "-", "-")
        longest = f"{row.longest:.2f} s" if row.sent else "-"
        seconds = f"{row.seconds:.2f} s" if row.seconds else "-"
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} | {seconds} | {longest} |")
    return "\n".join(lines)

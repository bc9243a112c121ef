"""After a death: at once, then with doubling delays, up to a maximum."""

from __future__ import annotations

from random import Random

import pytest

from hourd.restarts import Backoff, Failures
from hourd.settings import GivingUp, Restart

POLICY = Restart(backoff=0.5, backoff_max=8.0, giving_up=GivingUp(failures=3, within=60.0))
LIMIT = POLICY.giving_up


class Steady(Random):
    """Takes as much off the delays as ``share`` says: 0 nothing, 1 all that may be."""

    def __init__(self, share: float) -> None:
        super().__init__(0)
        self.share = share

    def uniform(self, a: float, b: float) -> float:
        return b - self.share * (b - a)


@pytest.mark.parametrize(("share", "kept"), [(0.0, 1.0), (1.0, 0.75)])
def test_delays_double_up_to_the_maximum(share: float, kept: float) -> None:
    backoff, random = Backoff(), Steady(share)
    delays = [backoff.failed(10.0, 0.0, POLICY, random) for _ in range(8)]
    assert delays == [kept * delay for delay in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)]


def test_next_attempt_waits_for_the_delay() -> None:
    backoff = Backoff()
    assert backoff.until < 0
    backoff.failed(10.0, 0.0, POLICY, Steady(0.0))
    assert backoff.until == 10.0
    backoff.failed(11.0, 0.0, POLICY, Steady(0.0))
    assert backoff.until == 11.5


@pytest.mark.parametrize(("lived", "delay"), [(59.9, 1.0), (60.0, 0.0)])
def test_long_life_starts_a_new_row(lived: float, delay: float) -> None:
    backoff = Backoff()
    backoff.failed(0.0, 0.0, POLICY, Steady(0.0))
    backoff.failed(1.0, 0.0, POLICY, Steady(0.0))
    assert backoff.failed(2.0, lived, POLICY, Steady(0.0)) == delay


def test_failing_for_months_overflows_nothing() -> None:
    backoff = Backoff()
    assert max(backoff.failed(0.0, 0.0, POLICY, Random(0)) for _ in range(3000)) <= 8.0


def test_forgiven_seat_starts_anew() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.failed(10.0, 0.0, POLICY, Steady(0.0))
    backoff.forgive()
    assert backoff.until < 0
    assert backoff.passes_at(LIMIT) < 0
    assert backoff.failed(10.0, 0.0, POLICY, Steady(0.0)) == 0.0


def test_seat_fails_until_an_attempt_has_lived() -> None:
    backoff = Backoff()
    for now in (0.0, 100.0):
        backoff.failed(now, 0.0, POLICY, Steady(0.0))
        assert backoff.passes_at(LIMIT) < 0
    backoff.failed(200.0, 0.0, POLICY, Steady(0.0))
    assert backoff.passes_at(LIMIT) == 200.0 + 1.0 + 60.0


def test_failures_are_too_many_within_the_window() -> None:
    failures = Failures()
    for now in (0.0, 10.0):
        failures.add(now)
        assert failures.passes_at(LIMIT) < 0
    failures.add(20.0)
    assert failures.passes_at(LIMIT) == 60.0
    failures.add(30.0)
    assert failures.passes_at(LIMIT) == 70.0
    failures.forget()
    assert failures.passes_at(LIMIT) < 0


@pytest.mark.parametrize("number", [1024, 1025, 5000])
def test_as_many_failures_as_are_allowed_are_counted(number: int) -> None:
    failures, limit = Failures(), GivingUp(failures=number, within=60.0)
    for _ in range(number - 1):
        failures.add(10.0)
        assert failures.passes_at(limit) < 0
    failures.add(20.0)
    assert failures.passes_at(limit) == 70.0

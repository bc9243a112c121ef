"""Time in which the master could not run is nobody's fault."""

import select
import time

from hourd.clock import Clock


def test_what_is_waited_beyond_the_wish_is_forgiven():
    clock = Clock()
    before = clock.now()
    clock.will_wait(0.1)
    select.select([], [], [], 1.5)  # as if it had been stopped for 1.4 of these seconds
    assert clock.has_waited() >= 1.3
    assert clock.now() - before < time.monotonic() - before - 1.3


def test_a_wish_that_comes_true_is_not_touched():
    clock = Clock()
    for timeout in (0.0, 0.01, 3600.0):
        clock.will_wait(timeout)
        select.select([], [], [], 0.01)
        assert clock.has_waited() == 0.0
    assert abs(clock.now() - time.monotonic()) < 1.0


def test_what_passes_between_two_readings_is_forgiven_too():
    """It may be stopped anywhere, not only where it waits."""
    clock = Clock()
    before = clock.now()
    select.select([], [], [], 1.2)
    assert clock.now() - before < 0.2
    assert clock.has_waited() >= 1.2
    assert clock.has_waited() == 0.0


def test_a_moment_before_it_stood_still_is_shown_as_it_was_then():
    """Who was silent before is not well because the master stood still."""
    clock = Clock()
    moment, shown = time.monotonic(), clock.now()
    for _ in range(3):
        clock.now()
        select.select([], [], [], 0.1)
        clock.now()
    select.select([], [], [], 1.2)
    assert abs(clock.at(moment) - shown) < 0.1
    assert clock.now() - shown >= 0.3
    assert abs(clock.at(time.monotonic() - 0.6) - clock.now()) < 0.1, "nothing was while it stood still"

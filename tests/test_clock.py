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
    for timeout in (0.0, 0.01, None):
        clock.will_wait(timeout)
        select.select([], [], [], 0.01)
        assert clock.has_waited() == 0.0
    assert abs(clock.now() - time.monotonic()) < 1.0

"""Stories of a daemon as transcripts: what it hears and what it asks for.

Each step is ``(now, event, actions)``, where lines for the log are left out. In ``RUNNING``, which
most stories begin with, mold 1 has forked workers 2 and 3 for the slots 0 and 1.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TypeAlias

import pytest

from hourd.events import (
    Abandon,
    Action,
    Attend,
    Attending,
    Born,
    Commit,
    Conclude,
    Configure,
    Configured,
    Dismiss,
    Drain,
    Dump,
    Elapsed,
    Event,
    Exit,
    Exited,
    Failed,
    Interrupted,
    Kill,
    Leaving,
    Lost,
    Misconfigured,
    MoldReady,
    MoldUnsafe,
    Notify,
    Plan,
    Ready,
    Release,
    ReloadAsked,
    Sample,
    Sampled,
    Say,
    ScaleAsked,
    Spawn,
    StartMold,
    StopAsked,
)
from hourd.settings import Range, Recycle
from hourd.supervisor import Supervisor

Step: TypeAlias = tuple[float, Event, list[Action]]


def web(generation: int, workers: int = 2, slots: int = 2) -> Plan:
    return Plan(
        pool="web", generation=generation, workers=workers, slots=slots, boot=10.0, grace=5.0, slow=5000.0, hung=9000.0
    )


def console(generation: int) -> Plan:
    return Plan(
        pool="console", generation=generation, workers=1, slots=0, boot=10.0, grace=0.0, slow=5000.0, hung=9000.0
    )


def play(*steps: Step) -> Supervisor:
    """Tell a new supervisor of all events and compare what it asks for."""
    supervisor = Supervisor(Random(0))
    for now, event, expected in steps:
        actions = [action for action in supervisor.handle(event, now) if not isinstance(action, Say)]
        assert actions == expected, f"after {event} at {now}"
    return supervisor


def said(supervisor: Supervisor, event: Event, now: float) -> str:
    """Return what is logged about an event."""
    return "\n".join(action.text for action in supervisor.handle(event, now) if isinstance(action, Say))


RUNNING: tuple[Step, ...] = (
    (0.0, ReloadAsked(), [Configure(1)]),
    (0.0, Configured(1, (web(1, slots=0),)), [StartMold(1, "web", 1, True)]),
    (1.0, MoldReady(1), [Spawn(2, 1, "web", 0, 1), Spawn(3, 1, "web", 1, 1)]),
    (1.0, Born(2, 4002), []),
    (1.0, Born(3, 4003), []),
    (2.0, Ready(2), [Attend(2, 0), Attend(2, 1)]),
    (2.0, Attending(2, 0), []),
    (2.0, Attending(2, 1), []),
    (3.0, Ready(3), [Attend(3, 1)]),
    (3.0, Attending(3, 1), [Release(2, 1), Commit(1), Notify("ready"), Conclude(1, True, "", 3.0, (1,))]),
)


# --- start ----------------------------------------------------------------------------------------


def test_first_start() -> None:
    supervisor = play(*RUNNING)
    assert (supervisor.state(3.0), supervisor.generation, supervisor.deadline()) == ("running", 1, 5002.0)
    assert supervisor.pools["web"].settled


@pytest.mark.parametrize("preload", [True, False])
def test_mold_imports_as_planned(*, preload: bool) -> None:
    plan = Plan(pool="web", generation=1, workers=1, slots=0, preload=preload)
    play((0.0, ReloadAsked(), [Configure(1)]), (0.0, Configured(1, (plan,)), [StartMold(1, "web", 1, preload)]))


def test_first_start_with_a_wrong_configuration() -> None:
    play(
        (0.0, ReloadAsked(), [Configure(1)]),
        (
            0.5,
            Misconfigured(1, "hourd.yaml:3: pools: missing", 78),
            [Conclude(1, False, "hourd.yaml:3: pools: missing", 0.5, (1,)), Notify("failing"), Exit(78)],
        ),
    )


def test_first_start_that_cannot_import() -> None:
    play(
        (0.0, ReloadAsked(), [Configure(1)]),
        (0.0, Configured(1, (web(1), console(1))), [StartMold(1, "web", 1, True), StartMold(2, "console", 1, True)]),
        (1.0, MoldReady(2), []),
        (1.0, Failed(1, "ImportError: hello", 75), []),
        (1.0, Lost(1), []),
        (
            1.5,
            Exited(1, 1),
            [
                Abandon(1),
                Conclude(1, False, "ImportError: hello", 1.5, (1,)),
                Notify("failing"),
                Kill(2, "is stopped at once"),
            ],
        ),
        (1.6, Lost(2), []),
        (1.6, Exited(2, -9), [Exit(75)]),
    )


def test_first_start_with_a_worker_that_cannot_boot() -> None:
    play(
        *RUNNING[:8],
        (3.0, Failed(3, "OSError: no database", 75), []),
        (3.0, Lost(3), []),
        (
            3.0,
            Exited(3, 1),
            [
                Abandon(1),
                Conclude(1, False, "OSError: no database", 3.0, (1,)),
                Notify("failing"),
                Kill(1, "is stopped at once"),
                Kill(2, "is stopped at once"),
            ],
        ),
        (3.1, Exited(1, -9), []),
        (3.1, Exited(2, -9), [Exit(75)]),
    )


def test_first_start_that_hangs() -> None:
    play(
        *RUNNING[:2],
        (9.9, Elapsed(), []),
        (10.0, Elapsed(), [Dump(1)]),
        (10.5, Elapsed(), [Kill(1, "did not import the application within 10s (timeouts.boot)")]),
        (
            10.5,
            Exited(1, -9),
            [
                Abandon(1),
                Conclude(
                    1, False, "mold web gen=1 did not import the application within 10s (timeouts.boot)", 10.5, (1,)
                ),
                Notify("failing"),
                Exit(75),
            ],
        ),
    )


def test_first_start_forgives_a_kill_from_outside() -> None:
    play(
        *RUNNING[:8],
        (3.0, Exited(3, -9), [Spawn(4, 1, "web", 1, 1)]),
        (3.1, Born(4, 4004), []),
        (4.0, Ready(4), [Attend(4, 1)]),
        (4.0, Attending(4, 1), [Release(2, 1), Commit(1), Notify("ready"), Conclude(1, True, "", 4.0, (1,))]),
    )


def test_unsafe_import_goes_on_without_preload() -> None:
    play(
        *RUNNING[:2],
        (1.0, MoldUnsafe(1, "thread-1"), [Kill(1, "is no longer wanted"), StartMold(2, "web", 1, False)]),
        (1.5, MoldReady(2), [Spawn(3, 2, "web", 0, 1), Spawn(4, 2, "web", 1, 1)]),
        (1.6, Exited(1, 0), []),
        (1.7, Exited(2, -9), [StartMold(5, "web", 1, False)]),
    )


def test_unsafe_import_of_a_mold_that_was_started_again() -> None:
    play(
        *RUNNING,
        (10.0, Exited(1, -9), [StartMold(4, "web", 1, True)]),
        (11.0, MoldUnsafe(4, "thread-1"), [Kill(4, "is no longer wanted"), StartMold(5, "web", 1, False)]),
    )


# --- crashes --------------------------------------------------------------------------------------


def test_sibling_adopts_the_slot_of_a_crashed_worker() -> None:
    play(
        *RUNNING,
        (10.0, Lost(3), [Attend(2, 1)]),
        (10.0, Exited(3, -11), [Spawn(4, 1, "web", 1, 1)]),
        (10.1, Attending(2, 1), []),
        (10.1, Born(4, 4004), []),
        (11.0, Ready(4), [Attend(4, 1)]),
        (11.1, Attending(4, 1), [Release(2, 1)]),
    )


def test_least_loaded_sibling_adopts() -> None:
    play(
        *RUNNING,
        (5.0, ScaleAsked("web", 3), [Attend(2, 2), Spawn(4, 1, "web", 2, 1)]),
        (5.1, Born(4, 4004), []),
        (6.0, Ready(4), [Attend(4, 2)]),
        (6.0, Attending(4, 2), [Release(2, 2)]),
        (7.0, Sampled((Sample(worker=2, beat=7.0, connections=10), Sample(worker=4, beat=7.0, connections=9))), []),
        (8.0, Exited(3, -9), [Attend(4, 1), Spawn(5, 1, "web", 1, 1)]),
    )


def test_crash_is_logged_with_its_reason() -> None:
    supervisor = play(*RUNNING)
    text = said(supervisor, Exited(3, -9), 10.0)
    assert text == "worker web/1 gen=1 pid=4003 was killed by SIGKILL after serving for 7.0s; starting another at once"


def test_repeated_crashes_back_off() -> None:
    supervisor, worker, now, delays = play(*RUNNING), 3, 10.0, []
    for _ in range(12):
        crashed = now
        spawns = [action for action in supervisor.handle(Exited(worker, 1), now) if isinstance(action, Spawn)]
        while not spawns:
            due = supervisor.deadline()
            assert due is not None
            now = due
            spawns = [action for action in supervisor.handle(Elapsed(), now) if isinstance(action, Spawn)]
        delays.append(now - crashed)
        worker = spawns[0].worker
        supervisor.handle(Born(worker, worker + 4000), now)
    doubled = [0.1 * 2**n for n in range(9)] + [30.0, 30.0]
    assert delays[0] == 0.0
    assert all(most * 0.75 <= delay <= most + 1e-9 for delay, most in zip(delays[1:], doubled, strict=True))
    assert len({delay / most for delay, most in zip(delays[1:], doubled, strict=True)}) > 5, "no jitter"


def test_pool_that_crashes_a_lot_is_degraded_until_it_passes() -> None:
    supervisor = play(*RUNNING)
    for number in range(3, 8):
        supervisor.handle(Exited(number, 1), 10.0 + number * 10)
        assert supervisor.state(10.0 + number * 10) == ("degraded" if number == 7 else "running")
        supervisor.handle(Born(number + 1, 5000 + number), 11.0 + number * 10)
    assert 140.0 <= (supervisor.pools["web"].deadline(100.0) or 0.0) < 141.0
    assert supervisor.state(139.9) == "degraded"
    assert supervisor.state(141.0) == "running"


def test_crashes_of_all_workers_count_for_the_pool() -> None:
    supervisor = play(
        *RUNNING,
        (10.0, Exited(2, 1), [Attend(3, 0), Spawn(4, 1, "web", 0, 1)]),
        (10.0, Exited(3, 1), [Spawn(5, 1, "web", 1, 1)]),
        (10.5, Born(5, 4005), []),
        (10.5, Born(4, 4004), []),
        (11.0, Exited(5, 1), []),
        (11.0, Exited(4, 1), []),
    )
    assert supervisor.state(11.0) == "running"
    supervisor.handle(Exited(1, -9), 11.0)
    assert supervisor.state(11.0) == "degraded"


def test_pool_stays_degraded_while_no_attempt_succeeds() -> None:
    """The delays leave too few deaths in the window."""
    supervisor, now = play(*RUNNING), 10.0
    for number in range(3, 23):
        assert supervisor.state(now) == ("running" if number < 8 else "degraded"), number
        supervisor.handle(Exited(number, 1), now)
        now += 31.0
        supervisor.handle(Born(number + 1, 5000 + number), now)


def test_worker_that_does_not_boot_is_killed() -> None:
    play(
        *RUNNING,
        (20.0, Exited(3, 1), [Attend(2, 1), Spawn(4, 1, "web", 1, 1)]),
        (20.1, Born(4, 4004), []),
        (29.9, Elapsed(), []),
        (30.0, Elapsed(), [Dump(4)]),
        (30.5, Elapsed(), [Kill(4, "was not ready within 10s (timeouts.boot)")]),
        (30.1, Exited(4, -9), []),
        (30.2, Elapsed(), [Spawn(5, 1, "web", 1, 1)]),
    )


def test_worker_that_is_ready_and_does_not_attend_is_killed() -> None:
    play(
        *RUNNING,
        (20.0, Exited(3, 1), [Attend(2, 1), Spawn(4, 1, "web", 1, 1)]),
        (20.1, Born(4, 4004), []),
        (21.0, Ready(4), [Attend(4, 1)]),
        (30.0, Elapsed(), [Dump(4)]),
        (30.5, Elapsed(), [Kill(4, "was not ready within 10s (timeouts.boot)")]),
        (30.0, Attending(4, 1), []),
    )


def test_worker_that_attends_only_the_slot_of_another_is_killed() -> None:
    play(
        *RUNNING,
        (20.0, Exited(3, 1), [Attend(2, 1), Spawn(4, 1, "web", 1, 1)]),
        (20.1, Born(4, 4004), []),
        (21.0, Ready(4), [Attend(4, 1)]),
        (21.0, Exited(2, 1), [Attend(4, 0), Spawn(5, 1, "web", 0, 1)]),
        (21.0, Attending(4, 0), []),
        (30.0, Elapsed(), [Dump(4)]),
        (30.5, Elapsed(), [Kill(4, "was not ready within 10s (timeouts.boot)")]),
    )


def test_end_that_was_asked_for_is_no_failure() -> None:
    supervisor = play(
        *RUNNING,
        (10.0, ScaleAsked("web", 3), [Attend(2, 2), Spawn(4, 1, "web", 2, 1)]),
        (10.1, Born(4, 4004), []),
        (10.2, ScaleAsked("web", 2), [Kill(4, "is no longer wanted")]),
        (10.2, Failed(4, "OSError: no database", 75), []),
        (10.3, Exited(4, 1), []),
    )
    assert supervisor.pools["web"].restarts == 0


def test_lost_worker_serves_nobody_and_is_killed_if_it_does_not_end() -> None:
    play(
        *RUNNING,
        (10.0, Lost(3), [Attend(2, 1)]),
        (14.9, Elapsed(), []),
        (15.0, Elapsed(), [Kill(3, "closed its channel and did not end")]),
        (15.1, Exited(3, -9), [Spawn(4, 1, "web", 1, 1)]),
    )


def test_worker_that_was_never_born() -> None:
    play(
        *RUNNING,
        (10.0, Exited(3, 1), [Attend(2, 1), Spawn(4, 1, "web", 1, 1)]),
        (10.1, Lost(4), []),
        (10.3, Elapsed(), [Spawn(5, 1, "web", 1, 1)]),
    )


def test_mold_that_does_not_fork_is_killed() -> None:
    play(
        *RUNNING,
        (10.0, Exited(3, 1), [Attend(2, 1), Spawn(4, 1, "web", 1, 1)]),
        (20.0, Elapsed(), [Dump(1)]),
        (20.5, Elapsed(), [Kill(1, "does not fork")]),
        (20.6, Exited(1, -9), [StartMold(5, "web", 1, True)]),
        (20.6, Lost(4), []),
        (21.0, MoldReady(5), [Spawn(6, 5, "web", 1, 1)]),
    )


def test_worker_born_after_it_was_given_up_is_killed_at_its_birth() -> None:
    play(
        *RUNNING,
        (10.0, ScaleAsked("web", 3), [Attend(2, 2), Spawn(4, 1, "web", 2, 1)]),
        (10.0, ScaleAsked("web", 2), []),
        (10.1, Born(4, 4004), [Kill(4, "is no longer wanted")]),
    )


def test_mold_killed_at_rest() -> None:
    play(
        *RUNNING,
        (10.0, Lost(1), []),
        (10.0, Exited(3, 1), [Attend(2, 1)]),
        (10.0, Exited(1, -9), [StartMold(4, "web", 1, True)]),
        (11.0, MoldReady(4), [Spawn(5, 4, "web", 1, 1)]),
    )


def test_late_events_of_those_who_are_gone() -> None:
    play(
        *RUNNING,
        (10.0, Exited(3, 1), [Attend(2, 1), Spawn(4, 1, "web", 1, 1)]),
        (10.1, Born(3, 4003), []),
        (10.1, Ready(3), []),
        (10.1, Attending(3, 1), []),
        (10.1, Failed(3, "too late", 75), []),
        (10.1, Lost(3), []),
        (10.1, MoldReady(99), []),
    )


# --- health ---------------------------------------------------------------------------------------


def running(**changes: object) -> tuple[Step, ...]:
    """Return ``RUNNING`` with a plan that differs in something; its workers count as slow after a second."""
    plan = replace(web(1, slots=0), **{"slow": 1.0, "hung": 30.0, **changes})  # type: ignore[arg-type]
    return (RUNNING[0], (0.0, Configured(1, (plan,)), RUNNING[1][2]), *RUNNING[2:])


def look(now: float, *workers: int, silent: dict[int, float] | None = None, **shown: float) -> Sampled:
    """Return what is sampled.

    Args:
        now: when it is.
        workers: who has just beaten.
        silent: who has not since when.
        shown: what they show besides.
    """
    beats = {**dict.fromkeys(workers, now), **(silent or {})}
    return Sampled(tuple(Sample(worker=worker, beat=beat, **shown) for worker, beat in beats.items()))  # type: ignore[arg-type]


LONE: tuple[Step, ...] = (
    (0.0, ReloadAsked(), [Configure(1)]),
    (0.0, Configured(1, (replace(web(1, workers=1, slots=0), slow=1.0, hung=30.0),)), [StartMold(1, "web", 1, True)]),
    (1.0, MoldReady(1), [Spawn(2, 1, "web", 0, 1)]),
    (1.0, Born(2, 4002), []),
    (2.0, Ready(2), [Attend(2, 0)]),
    (2.0, Attending(2, 0), [Commit(1), Notify("ready"), Conclude(1, True, "", 2.0, (1,))]),
)
"""A pool of one worker, 2."""
SLOW: tuple[Step, ...] = (
    *running(),
    (3.9, look(3.9, 2, 3), []),
    (4.8, look(4.8, 2, silent={3: 3.9}), []),
    (4.9, look(4.9, 2, silent={3: 3.9}), [Attend(2, 1)]),
    (4.9, Attending(2, 1), []),
)
"""Worker 3 has not beaten since 3.9; worker 2 attends its slot too."""


def test_slow_worker_is_helped_until_it_beats_again() -> None:
    supervisor = play(*SLOW, (5.0, look(5.0, 2, silent={3: 3.9}), []), (5.1, look(5.1, 2, 3), [Release(2, 1)]))
    assert supervisor.pools["web"].settled
    assert supervisor.pools["web"].restarts == 0


def test_what_is_said_of_a_slow_worker_is_said_once() -> None:
    supervisor = play(*SLOW[:-2])
    name = "worker web/1 gen=1 pid=4003"
    assert (
        said(supervisor, look(4.9, 2, silent={3: 3.9}), 4.9)
        == f"{name} is slow: no sign of life for 1.0s; siblings attend its slot"
    )
    assert said(supervisor, look(5.5, 2, silent={3: 3.9}), 5.5) == ""
    assert said(supervisor, look(6.0, 2, 3), 6.0) == f"{name} is well again"


def test_time_alone_makes_nobody_slow() -> None:
    play(*running(), (50.0, Elapsed(), []), (50.0, look(50.0, 2, 3), []), (99.0, Elapsed(), []))


def test_it_is_looked_again_as_the_next_could_become_slow_and_soon_once_one_is() -> None:
    supervisor = play(*SLOW[:-3])
    assert supervisor.deadline() == 4.9
    for now in (4.9, 5.15, 5.4):
        supervisor.handle(look(now, 2, silent={3: 3.9}), now)
        assert supervisor.deadline() == pytest.approx(now + 0.25)
    supervisor = play(*LONE)
    supervisor.handle(look(32.9, silent={2: 3.0}), 32.9)
    assert supervisor.deadline() == 33.0


def test_nobody_helps_where_all_are_slow() -> None:
    play(*running(), (10.0, look(10.0, silent={2: 4.0, 3: 4.0}), []))


def test_slow_worker_that_dies_is_replaced() -> None:
    play(
        *SLOW,
        (5.0, Exited(3, -9), [Spawn(4, 1, "web", 1, 1)]),
        (5.1, Born(4, 4004), []),
        (5.2, Ready(4), [Attend(4, 1)]),
        (5.2, Attending(4, 1), [Release(2, 1)]),
    )


def test_who_helps_a_slow_worker_may_become_slow_itself() -> None:
    play(
        *SLOW,
        (6.0, look(6.0, 3, silent={2: 4.9}), [Release(2, 1), Attend(3, 0)]),
        (6.0, Attending(3, 0), []),
        (6.5, look(6.5, 2, 3), [Release(3, 0)]),
    )


def test_slow_worker_that_is_unwanted_drains() -> None:
    play(*SLOW, (5.0, ScaleAsked("web", 1), [Release(3, 1), Drain(3)]), (6.0, Exited(3, 0), []))


def test_hung_worker_shows_its_stacks_and_is_killed_and_replaced() -> None:
    supervisor = play(
        *SLOW,
        (33.8, look(33.8, 2, silent={3: 3.9}), []),
        (33.9, look(33.9, 2, silent={3: 3.9}), [Dump(3)]),
        (34.0, look(34.0, 2, 3), []),
        (34.3, Elapsed(), []),
        (34.4, Elapsed(), [Kill(3, "gave no sign of life for 30.0s (timeouts.hung)")]),
        (34.5, Exited(3, -9), [Spawn(4, 1, "web", 1, 1)]),
        (34.6, Born(4, 4004), []),
        (34.7, Ready(4), [Attend(4, 1)]),
        (34.7, Attending(4, 1), [Release(2, 1)]),
    )
    assert supervisor.pools["web"].restarts == 1
    assert supervisor.pools["web"].settled


def test_hung_worker_of_a_pool_without_siblings() -> None:
    play(
        *LONE,
        (4.0, look(4.0, silent={2: 3.0}), []),
        (33.0, look(33.0, silent={2: 3.0}), [Dump(2)]),
        (33.5, Elapsed(), [Kill(2, "gave no sign of life for 30.0s (timeouts.hung)")]),
        (33.6, Exited(2, -9), [Spawn(3, 1, "web", 0, 1)]),
    )


def test_who_drains_is_never_slow_but_may_hang() -> None:
    supervisor = play(
        *running(grace=3600.0),
        (10.0, look(10.0, 2, 3), []),
        (10.0, ScaleAsked("web", 1), [Attend(2, 1)]),
        (10.0, Attending(2, 1), [Release(3, 1), Drain(3)]),
        (38.0, look(38.0, 2, 3), []),
        (67.9, look(67.9, 2, silent={3: 38.0}), []),
        (68.0, look(68.0, 2, silent={3: 38.0}), [Dump(3)]),
        (68.5, Elapsed(), [Kill(3, "gave no sign of life for 30.0s (timeouts.hung)")]),
        (68.6, Exited(3, -9), []),
    )
    assert supervisor.pools["web"].restarts == 0


def test_who_boots_is_not_judged_by_beats() -> None:
    play(
        *running(),
        (10.0, ScaleAsked("web", 1), [Attend(2, 1)]),
        (10.0, Attending(2, 1), [Release(3, 1), Drain(3)]),
        (11.0, ScaleAsked("web", 2), [Spawn(4, 1, "web", 1, 1)]),
        (11.0, Born(4, 4004), []),
        (14.0, look(14.0, 2, silent={3: 0.0, 4: 0.0}), []),
        (14.0, Ready(4), [Attend(4, 1)]),
        (14.9, look(14.9, 2, silent={4: 0.0}), []),
    )


def test_beat_from_the_future_is_one_of_now() -> None:
    play(
        *running(),
        (3.5, look(3.5, 3, silent={2: 1e300}), []),
        (4.4, look(4.4, 3, silent={2: 0.0}), []),
        (4.5, look(4.5, 3, silent={2: 0.0}), [Attend(3, 0)]),
        (4.5, Attending(3, 0), []),
        (4.6, look(4.6, 3, silent={2: 1e300}), [Release(3, 0)]),
    )


# --- recycling ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "shown", "why"),
    [
        ({"requests": 50}, {"requests": 50}, "50 requests (recycle.requests)"),
        ({"connections": 50}, {"accepted": 51}, "51 connections (recycle.connections)"),
        ({"age": 7.0}, {}, "8s old (recycle.age)"),
        (
            {"memory": 2**20},
            {"memory": 3 * 2**20},
            "3 MiB private memory (recycle.memory); it has served for 8s, and began with little less",
        ),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_worker_that_has_served_its_time_is_replaced_first(
    limit: dict[str, float], shown: dict[str, float], why: str
) -> None:
    steps = running(recycle=Recycle(**limit, jitter=0.0))  # type: ignore[arg-type]
    play(*steps, (3.0, look(3.0, 2, 3), []), (8.9, look(8.9, 2, 3), []))
    supervisor = play(
        *steps,
        (10.0, look(10.0, 2, **shown), [Spawn(4, 1, "web", 0, 1)]),
        (10.1, Born(4, 4004), []),
        (10.2, look(10.2, 2, **shown), []),
        (10.3, Ready(4), [Attend(4, 0)]),
        (10.3, Attending(4, 0), [Release(2, 0), Drain(2)]),
        (10.4, look(10.4, 4), []),
        (10.5, Exited(2, 0), []),
    )
    assert supervisor.pools["web"].restarts == 0
    assert said(play(*steps), look(10.0, 2, **shown), 10.0) == f"worker web/0 gen=1 pid=4002 is recycled: {why}"


def test_workers_are_recycled_one_at_a_time() -> None:
    play(
        *running(recycle=Recycle(requests=50, jitter=0.0)),
        (10.0, look(10.0, 2, 3, requests=50), [Spawn(4, 1, "web", 0, 1)]),
        (10.1, Born(4, 4004), []),
        (10.2, look(10.2, 2, 3, requests=90), []),
        (10.3, Ready(4), [Attend(4, 0)]),
        (10.3, Attending(4, 0), [Release(2, 0), Drain(2), Spawn(5, 1, "web", 1, 1)]),
        (10.4, Born(5, 4005), []),
        (10.5, Ready(5), [Attend(5, 1)]),
        (10.5, Attending(5, 1), [Release(3, 1), Drain(3)]),
    )


def test_recycled_worker_serves_on_while_its_successor_cannot_boot() -> None:
    play(
        *running(recycle=Recycle(requests=50, jitter=0.0)),
        (10.0, look(10.0, 2, requests=50), [Spawn(4, 1, "web", 0, 1)]),
        (10.1, Born(4, 4004), []),
        (10.2, Failed(4, "ImportError: hello", 75), []),
        (10.2, Exited(4, 1), [Spawn(5, 1, "web", 0, 1)]),
        (10.3, Born(5, 4005), []),
        (10.4, Exited(5, 1), []),
        (10.6, Elapsed(), [Spawn(6, 1, "web", 0, 1)]),
        (10.7, Born(6, 4006), []),
        (10.8, Ready(6), [Attend(6, 0)]),
        (10.8, Attending(6, 0), [Release(2, 0), Drain(2)]),
    )


def test_chance_lowers_the_limits_of_each_worker_by_up_to_the_jitter() -> None:
    supervisor = play(*running(recycle=Recycle(requests=50, jitter=0.1)))
    supervisor.handle(ScaleAsked("web", 500), 4.0)
    staminas = [worker.stamina for worker in supervisor.pools["web"].workers.values()]
    assert 0.9 <= min(staminas) < 0.91
    assert 0.99 < max(staminas) <= 1.0
    worker = supervisor.pools["web"].workers[2]
    worker.stamina = 0.9
    assert said(supervisor, look(5.0, 2, requests=44), 5.0) == ""
    assert "is recycled: 45 requests" in said(supervisor, look(5.0, 2, requests=45), 5.0)


# --- numbers that follow the load -----------------------------------------------------------------


def busy(steps: tuple[Step, ...], share: float, since: float, until: float, *workers: int) -> tuple[Step, ...]:
    """Return further steps in which workers are looked at every half a second, and nothing has to be done."""
    times = [since + 0.5 * number for number in range(int((until - since) * 2))]
    return (*steps, *((now, look(now, *workers, busy=share), []) for now in times))


RANGED = running(range=Range(min=2, max=3))


def test_busy_pool_grows_to_its_maximum() -> None:
    supervisor = play(
        *busy(RANGED, 0.9, 4.0, 6.0, 2, 3),
        (6.0, look(6.0, 2, 3, busy=0.9), [Attend(2, 2), Spawn(4, 1, "web", 2, 1)]),
        (6.0, Attending(2, 2), []),
        (6.0, Born(4, 4004), []),
        (7.0, Ready(4), [Attend(4, 2)]),
        (7.0, Attending(4, 2), [Release(2, 2)]),
        *busy((), 0.9, 7.0, 60.0, 2, 3, 4),
    )
    assert supervisor.pools["web"].settled


def test_pool_with_a_queue_grows() -> None:
    steps = [(now, look(now, 2, 3, waiting=2), []) for now in (4.0, 5.0)]
    play(*RANGED, *steps, (6.0, look(6.0, 2, 3, waiting=2), [Attend(2, 2), Spawn(4, 1, "web", 2, 1)]))


def test_slow_worker_counts_as_busy() -> None:
    """What its loop did before it was blocked says nothing."""

    def step(now: float, *actions: Action) -> Step:
        return now, look(now, 2, silent={3: 3.0}, busy=0.7), list(actions)

    play(
        *running(range=Range(min=2, max=3)),
        step(4.0, Attend(2, 1)),
        (4.0, Attending(2, 1), []),
        *(step(4.5 + 0.5 * number) for number in range(3)),
        step(6.0, Attend(2, 2), Spawn(4, 1, "web", 2, 1)),
    )
    play(*busy(running(range=Range(min=2, max=3)), 0.7, 4.0, 60.0, 2, 3))


GROWN: tuple[Step, ...] = (
    *RANGED,
    (4.0, ScaleAsked("web", 3), [Attend(2, 2), Spawn(4, 1, "web", 2, 1)]),
    (4.0, Attending(2, 2), []),
    (4.0, Born(4, 4004), []),
    (5.0, Ready(4), [Attend(4, 2)]),
    (5.0, Attending(4, 2), [Release(2, 2)]),
)
"""With a third worker, more than the configuration begins with."""


def test_idle_pool_shrinks_to_its_minimum() -> None:
    supervisor = play(
        *busy(GROWN, 0.1, 5.0, 35.0, 2, 3, 4),
        (35.0, look(35.0, 2, 3, 4, busy=0.1), [Attend(2, 2)]),
        (35.0, Attending(2, 2), [Release(4, 2), Drain(4)]),
        (35.1, Exited(4, 0), []),
        *busy((), 0.0, 35.5, 120.0, 2, 3),
    )
    assert supervisor.pools["web"].settled


def test_nothing_is_decided_while_somebody_is_on_the_way() -> None:
    steps = busy(GROWN, 0.0, 5.0, 34.0, 2, 3, 4)
    steps = (*steps, (34.0, Exited(4, -9), [Attend(2, 2), Spawn(5, 1, "web", 2, 1)]))
    play(*busy(steps, 0.0, 34.5, 43.5, 2, 3))


def test_reload_keeps_a_number_that_has_grown() -> None:
    plan = replace(web(2, slots=3), range=Range(min=1, max=4), slow=1.0)
    supervisor = play(
        *GROWN,
        (10.0, ReloadAsked(), [Notify("reloading"), Configure(2)]),
        (10.0, Configured(2, (plan,)), [StartMold(5, "web", 2, True)]),
    )
    assert supervisor.pools["web"].number == 3
    fewer = replace(plan, range=Range(min=1, max=2))
    supervisor = play(
        *GROWN,
        (10.0, ReloadAsked(), [Notify("reloading"), Configure(2)]),
        (10.0, Configured(2, (fewer,)), [StartMold(5, "web", 2, True)]),
    )
    assert supervisor.pools["web"].number == 2


def test_operators_stay_within_the_range() -> None:
    supervisor = play(*RANGED)
    for asked, number in ((1, 2), (99, 3), (3, 3)):
        supervisor.handle(ScaleAsked("web", asked), 4.0)
        assert supervisor.pools["web"].number == number


# --- reload ---------------------------------------------------------------------------------------

LOADING: tuple[Step, ...] = (
    *RUNNING,
    (10.0, ReloadAsked(), [Notify("reloading"), Configure(2)]),
    (10.0, Configured(2, (web(2),)), [StartMold(4, "web", 2, True)]),
)
"""A reload to generation 2 in which mold 4 imports."""

PROVEN: tuple[Step, ...] = (
    *LOADING,
    (11.0, MoldReady(4), [Spawn(5, 4, "web", 0, 2)]),
    (11.0, Born(5, 4005), []),
    (12.0, Ready(5), [Attend(5, 0)]),
    (12.0, Attending(5, 0), [Release(2, 0), Drain(2), Spawn(6, 4, "web", 1, 2)]),
)
"""Further, its first worker 5 serves in place of 2, which drains; worker 6 is to take the place of 3."""


def test_reload() -> None:
    supervisor = play(
        *PROVEN,
        (12.0, Born(6, 4006), []),
        (12.5, Exited(2, 0), []),
        (13.0, Ready(6), [Attend(6, 1)]),
        (
            13.0,
            Attending(6, 1),
            [Release(3, 1), Drain(3), Commit(2), Notify("ready"), Conclude(2, True, "", 3.0, (2,)), Dismiss(1)],
        ),
        (13.5, Exited(1, 0), []),
        (14.0, Exited(3, 0), []),
    )
    assert supervisor.generation == 2
    assert supervisor.pools["web"].restarts == 0


def test_reload_that_is_misconfigured() -> None:
    supervisor = play(
        *RUNNING,
        (10.0, ReloadAsked(), [Notify("reloading"), Configure(2)]),
        (
            10.0,
            Misconfigured(2, "hourd.yaml:3: pools: missing", 78),
            [Notify("ready"), Conclude(2, False, "hourd.yaml:3: pools: missing", 0.0, (2,))],
        ),
        (11.0, ReloadAsked(), [Notify("reloading"), Configure(3)]),
    )
    assert supervisor.state(11.0) == "running"


def test_configuration_that_nobody_waits_for_is_abandoned() -> None:
    play(
        *RUNNING,
        (10.0, ReloadAsked(), [Notify("reloading"), Configure(2)]),
        (10.0, Configured(9, (web(9),)), [Abandon(9)]),
        (10.0, Configured(2, (web(2),)), [StartMold(4, "web", 2, True)]),
    )


def test_reload_that_cannot_import() -> None:
    supervisor = play(
        *LOADING,
        (11.0, Failed(4, "ImportError: hello", 75), []),
        (11.0, Lost(4), []),
        (11.0, Exited(4, 1), [Abandon(2), Notify("ready"), Conclude(2, False, "ImportError: hello", 1.0, (2,))]),
    )
    assert (supervisor.state(11.0), supervisor.generation) == ("running", 1)


def test_reload_whose_first_worker_does_not_boot() -> None:
    supervisor = play(
        *LOADING,
        (11.0, MoldReady(4), [Spawn(5, 4, "web", 0, 2)]),
        (11.0, Born(5, 4005), []),
        (12.0, Failed(5, "OSError: no database", 75), []),
        (
            12.0,
            Exited(5, 1),
            [Abandon(2), Notify("ready"), Conclude(2, False, "OSError: no database", 2.0, (2,)), Dismiss(4)],
        ),
        (12.1, Exited(4, 0), []),
    )
    assert (supervisor.state(11.0), supervisor.generation) == ("running", 1)


def test_reload_rolls_back_in_the_middle_of_the_roll() -> None:
    supervisor = play(
        *PROVEN,
        (12.0, Born(6, 4006), []),
        (
            13.0,
            Exited(6, 3),
            [
                Abandon(2),
                Notify("ready"),
                Conclude(2, False, "worker web/1 gen=2 pid=4006 exited with code 3", 3.0, (2,)),
                Dismiss(4),
                Spawn(7, 1, "web", 0, 1),
            ],
        ),
        (13.1, Born(7, 4007), []),
        (14.0, Ready(7), [Attend(7, 0)]),
        (14.0, Attending(7, 0), [Release(5, 0), Drain(5)]),
    )
    assert supervisor.pools["web"].settled


def test_reload_takes_the_place_of_another() -> None:
    play(
        *LOADING,
        (10.5, ReloadAsked(), [Notify("reloading"), Configure(3)]),
        (10.6, ReloadAsked(), []),
        (10.7, Configured(3, (web(3),)), [Abandon(2), Kill(4, "is no longer wanted"), StartMold(5, "web", 3, True)]),
        (10.8, MoldReady(4), []),
        (10.8, Exited(4, 0), []),
        (11.0, MoldReady(5), [Spawn(6, 5, "web", 0, 3)]),
        (11.0, Born(6, 4006), []),
        (12.0, Ready(6), [Attend(6, 0)]),
        (12.0, Attending(6, 0), [Release(2, 0), Drain(2), Spawn(7, 5, "web", 1, 3)]),
        (12.0, Born(7, 4007), []),
        (13.0, Ready(7), [Attend(7, 1)]),
        (
            13.0,
            Attending(7, 1),
            [Release(3, 1), Drain(3), Commit(3), Notify("ready"), Conclude(3, True, "", 2.5, (2, 3)), Dismiss(1)],
        ),
    )


def test_reload_takes_the_place_of_one_that_rolls() -> None:
    """The stable generation serves until the new import has succeeded."""
    play(
        *PROVEN,
        (12.0, Born(6, 4006), []),
        (12.5, ReloadAsked(), [Notify("reloading"), Configure(3)]),
        (
            12.5,
            Configured(3, (web(3),)),
            [
                Abandon(2),
                Dismiss(4),
                StartMold(7, "web", 3, True),
                Kill(6, "is no longer wanted"),
                Spawn(8, 1, "web", 0, 1),
            ],
        ),
        (13.0, Born(8, 4008), []),
        (13.0, Exited(6, -9), []),
        (13.5, MoldReady(7), []),
    )


def test_reload_forgives_crashes() -> None:
    play(
        *RUNNING,
        (10.0, Exited(3, 1), [Attend(2, 1), Spawn(4, 1, "web", 1, 1)]),
        (10.0, Born(4, 4004), []),
        (10.5, Exited(4, 1), []),
        (10.5, Exited(1, 1), [StartMold(5, "web", 1, True)]),
        (10.5, MoldReady(5), []),
        (10.5, Exited(5, 1), []),
        (10.5, ReloadAsked(), [Notify("reloading"), Configure(2)]),
        (
            10.5,
            Configured(2, (web(2),)),
            [StartMold(6, "web", 1, True), StartMold(7, "web", 2, True)],
        ),
        (10.5, MoldReady(6), [Spawn(8, 6, "web", 1, 1)]),
    )


def test_commit_waits_until_each_slot_is_attended() -> None:
    play(
        *RUNNING,
        (10.0, ReloadAsked(), [Notify("reloading"), Configure(2)]),
        (10.0, Configured(2, (web(2, workers=1),)), [StartMold(4, "web", 2, True)]),
        (11.0, MoldReady(4), [Spawn(5, 4, "web", 0, 2)]),
        (11.0, Born(5, 4005), []),
        (11.5, Exited(1, -9), [StartMold(6, "web", 1, True)]),
        (11.5, Exited(2, -9), [Attend(3, 0)]),
        (11.5, Exited(3, -9), []),
        (12.0, Ready(5), [Attend(5, 0), Attend(5, 1)]),
        (12.0, Attending(5, 0), []),
        (
            12.0,
            Attending(5, 1),
            [Commit(2), Notify("ready"), Conclude(2, True, "", 2.0, (2,)), Kill(6, "is no longer wanted")],
        ),
    )


def test_refused_reload_leaves_the_one_under_way() -> None:
    play(
        *LOADING,
        (10.5, ReloadAsked(), [Notify("reloading"), Configure(3)]),
        (
            10.75,
            Misconfigured(3, "hourd.yaml:3: pools: missing", 78),
            [Conclude(3, False, "hourd.yaml:3: pools: missing", 0.25, (3,))],
        ),
        (11.0, MoldReady(4), [Spawn(5, 4, "web", 0, 2)]),
    )


def test_mold_killed_during_a_reload_is_started_again() -> None:
    play(
        *LOADING,
        (10.25, Exited(4, -9), [StartMold(5, "web", 2, True)]),
        (10.5, Exited(5, -9), []),
        (10.75, Elapsed(), [StartMold(6, "web", 2, True)]),
        (
            11.0,
            Exited(6, -9),
            [Abandon(2), Notify("ready"), Conclude(2, False, "mold web gen=2 was killed by SIGKILL", 1.0, (2,))],
        ),
    )


def test_crash_before_the_trial_is_proven_is_answered_by_the_stable_generation() -> None:
    play(
        *LOADING,
        (11.0, MoldReady(4), [Spawn(5, 4, "web", 0, 2)]),
        (11.1, Exited(3, -9), [Attend(2, 1), Spawn(6, 1, "web", 1, 1)]),
        (11.2, Born(5, 4005), []),
        (11.2, Born(6, 4006), []),
        (12.0, Ready(5), [Attend(5, 0), Attend(5, 1)]),
        (12.0, Attending(5, 0), [Release(2, 0), Kill(6, "is no longer wanted"), Spawn(7, 4, "web", 1, 2)]),
        (12.1, Exited(6, -9), []),
    )


def test_fewer_workers_share_the_slots_evenly() -> None:
    play(
        *RUNNING,
        (5.0, ScaleAsked("web", 4), [Attend(2, 2), Attend(3, 3), Spawn(4, 1, "web", 2, 1), Spawn(5, 1, "web", 3, 1)]),
        (5.0, Born(4, 4004), []),
        (5.0, Born(5, 4005), []),
        (6.0, Ready(4), [Attend(4, 2)]),
        (6.0, Attending(4, 2), [Release(2, 2)]),
        (6.0, Ready(5), [Attend(5, 3)]),
        (6.0, Attending(5, 3), [Release(3, 3)]),
        (10.0, ReloadAsked(), [Notify("reloading"), Configure(2)]),
        (10.0, Configured(2, (web(2, workers=2, slots=4),)), [StartMold(6, "web", 2, True)]),
        (11.0, MoldReady(6), [Spawn(7, 6, "web", 0, 2)]),
        (11.0, Born(7, 4007), []),
        (12.0, Ready(7), [Attend(7, 0), Attend(7, 2), Attend(7, 3)]),
        (12.0, Attending(7, 0), [Release(2, 0), Drain(2), Spawn(8, 6, "web", 1, 2)]),
        (12.0, Attending(7, 2), [Release(4, 2), Drain(4)]),
        (12.0, Attending(7, 3), [Release(5, 3), Drain(5)]),
        (12.0, Born(8, 4008), []),
        (13.0, Ready(8), [Attend(8, 1), Attend(8, 3)]),
        (
            13.0,
            Attending(8, 1),
            [Release(3, 1), Drain(3), Commit(2), Notify("ready"), Conclude(2, True, "", 3.0, (2,)), Dismiss(1)],
        ),
        (13.0, Attending(8, 3), [Release(7, 3)]),
    )


def test_pool_is_added_and_another_removed() -> None:
    supervisor = play(
        *RUNNING,
        (10.0, ReloadAsked(), [Notify("reloading"), Configure(2)]),
        (10.0, Configured(2, (console(2),)), [StartMold(4, "console", 2, True)]),
        (11.0, MoldReady(4), [Spawn(5, 4, "console", 0, 2)]),
        (11.0, Born(5, 4005), []),
        (12.0, Ready(5), [Attend(5, 0)]),
        (
            12.0,
            Attending(5, 0),
            [
                Commit(2),
                Notify("ready"),
                Conclude(2, True, "", 2.0, (2,)),
                Dismiss(1),
                Release(2, 0),
                Drain(2),
                Release(3, 1),
                Drain(3),
            ],
        ),
        (12.1, Exited(1, 0), []),
        (12.1, Exited(2, 0), []),
        (12.1, Exited(3, 0), []),
    )
    assert list(supervisor.pools) == ["console"]


def test_pool_of_a_refused_reload_goes() -> None:
    supervisor = play(
        *RUNNING,
        (10.0, ReloadAsked(), [Notify("reloading"), Configure(2)]),
        (
            10.0,
            Configured(2, (web(2), console(2))),
            [StartMold(4, "web", 2, True), StartMold(5, "console", 2, True)],
        ),
        (11.0, MoldReady(5), []),
        (11.0, Failed(4, "ImportError: hello", 75), []),
        (
            11.0,
            Exited(4, 1),
            [Abandon(2), Notify("ready"), Conclude(2, False, "ImportError: hello", 1.0, (2,)), Dismiss(5)],
        ),
        (11.1, Exited(5, 0), []),
    )
    assert list(supervisor.pools) == ["web"]


def test_draining_generations_are_capped() -> None:
    supervisor = play(*RUNNING)
    killed: list[int] = []
    for _ in range(8):
        killed += _reload(supervisor)
    assert killed == [2, 3, 5, 6]


def _reload(supervisor: Supervisor) -> list[int]:
    """Play a reload of two workers in which those who drain do not end, and return who was killed."""
    killed: list[int] = []
    waiting: list[Event] = [ReloadAsked()]
    while waiting:
        for action in supervisor.handle(waiting.pop(0), 10.0):
            match action:
                case Configure(generation):
                    waiting.append(Configured(generation, (web(generation),)))
                case StartMold(mold):
                    waiting.append(MoldReady(mold))
                case Spawn(worker):
                    waiting += [Born(worker, 4000 + worker), Ready(worker)]
                case Attend(worker, slot):
                    waiting.append(Attending(worker, slot))
                case Dismiss(mold):
                    waiting.append(Exited(mold, 0))
                case Kill(worker):
                    killed.append(worker)
    return killed


# --- scaling and leaving --------------------------------------------------------------------------


def test_scale_up_and_down() -> None:
    supervisor = play(
        *RUNNING,
        (10.0, ScaleAsked("web", 3), [Attend(2, 2), Spawn(4, 1, "web", 2, 1)]),
        (10.1, Attending(2, 2), []),
        (10.1, Born(4, 4004), []),
        (11.0, Ready(4), [Attend(4, 2)]),
        (11.0, Attending(4, 2), [Release(2, 2)]),
        (12.0, ScaleAsked("web", 1), [Attend(2, 1), Attend(2, 2)]),
        (12.0, Attending(2, 1), [Release(3, 1), Drain(3)]),
        (12.0, Attending(2, 2), [Release(4, 2), Drain(4)]),
        (13.0, Exited(3, 0), []),
        (13.0, Exited(4, 0), []),
        (14.0, ScaleAsked("web", 1), []),
    )
    assert supervisor.pools["web"].settled


def test_scaling_during_a_reload_changes_the_new_number() -> None:
    play(
        *RUNNING,
        (10.0, ReloadAsked(), [Notify("reloading"), Configure(2)]),
        (10.0, Configured(2, (web(2, workers=3, slots=3),)), [StartMold(4, "web", 2, True)]),
        (10.5, ScaleAsked("web", 2), []),
        (11.0, MoldReady(4), [Attend(2, 2), Spawn(5, 4, "web", 0, 2)]),
    )


def test_scaling_outlives_a_roll_back() -> None:
    play(
        *PROVEN,
        (12.0, ScaleAsked("web", 3), [Attend(5, 2), Spawn(7, 4, "web", 2, 2)]),
        (12.0, Attending(5, 2), []),
        (12.5, Failed(6, "OSError: no database", 75), []),
        (
            12.5,
            Exited(6, 1),
            [
                Abandon(2),
                Notify("ready"),
                Conclude(2, False, "OSError: no database", 2.5, (2,)),
                Dismiss(4),
                Attend(3, 2),
                Spawn(8, 1, "web", 2, 1),
                Spawn(9, 1, "web", 0, 1),
            ],
        ),
    )


def test_scaling_the_stable_generation_beyond_the_slots() -> None:
    """A reload to one worker is rolled back to what has three by then."""
    supervisor = play(
        *RUNNING,
        (10.0, ReloadAsked(), [Notify("reloading"), Configure(2)]),
        (10.0, Configured(2, (web(2, workers=1),)), [StartMold(4, "web", 2, True)]),
        (11.0, MoldReady(4), [Spawn(5, 4, "web", 0, 2)]),
        (11.0, Exited(4, 0), [StartMold(6, "web", 2, True)]),
        (11.0, Failed(5, "OSError: no database", 75), []),
        (11.0, Born(5, 4005), []),
        (11.1, ScaleAsked("web", 3), [Attend(2, 2), Spawn(7, 1, "web", 2, 1)]),
        (
            11.5,
            Exited(5, 1),
            [
                Abandon(2),
                Notify("ready"),
                Conclude(2, False, "OSError: no database", 1.5, (2,)),
                Kill(6, "is no longer wanted"),
            ],
        ),
    )
    assert supervisor.pools["web"].slots == 3


def test_leaving_worker_is_replaced_first() -> None:
    play(
        *RUNNING,
        (10.0, Leaving(2), [Spawn(4, 1, "web", 0, 1)]),
        (10.0, Leaving(3), []),
        (10.1, Born(4, 4004), []),
        (11.0, Ready(4), [Attend(4, 0)]),
        (11.0, Attending(4, 0), [Release(2, 0), Drain(2), Spawn(5, 1, "web", 1, 1)]),
        (12.0, Exited(2, 0), []),
    )


def test_leaving_worker_that_boots_is_given_up() -> None:
    play(
        *RUNNING,
        (10.0, Exited(3, 1), [Attend(2, 1), Spawn(4, 1, "web", 1, 1)]),
        (10.1, Born(4, 4004), []),
        (10.2, Leaving(4), [Kill(4, "is no longer wanted"), Spawn(5, 1, "web", 1, 1)]),
        (10.3, Born(5, 4005), []),
        (10.4, Leaving(5), [Kill(5, "is no longer wanted")]),
        (10.7, Elapsed(), [Spawn(6, 1, "web", 1, 1)]),  # the second in a row waits
    )


# --- the end --------------------------------------------------------------------------------------


def test_stop() -> None:
    play(
        *RUNNING,
        (10.0, StopAsked(), [Notify("stopping"), Dismiss(1), Release(2, 0), Drain(2), Release(3, 1), Drain(3)]),
        (10.1, Exited(1, 0), []),
        (11.0, Exited(3, 0), []),
        (11.0, ReloadAsked(), []),
        (11.0, ScaleAsked("web", 3), []),
        (12.0, Exited(2, 0), [Exit(0)]),
    )


def test_stop_at_once() -> None:
    play(
        *RUNNING,
        (10.0, StopAsked(), [Notify("stopping"), Dismiss(1), Release(2, 0), Drain(2), Release(3, 1), Drain(3)]),
        (
            10.5,
            StopAsked(now=True),
            [Kill(1, "is stopped at once"), Kill(2, "is stopped at once"), Kill(3, "is stopped at once")],
        ),
    )


def test_stop_does_not_wait_beyond_the_grace() -> None:
    play(
        *RUNNING,
        (10.0, StopAsked(), [Notify("stopping"), Dismiss(1), Release(2, 0), Drain(2), Release(3, 1), Drain(3)]),
        (20.0, Elapsed(), [Dump(2), Dump(3)]),
        (
            20.5,
            Elapsed(),
            [Kill(2, "did not end within its grace of 5s"), Kill(3, "did not end within its grace of 5s")],
        ),
        (20.6, Exited(2, -9), []),
        (20.6, Exited(3, -9), []),
        (25.0, Elapsed(), [Dump(1)]),
        (25.5, Elapsed(), [Kill(1, "did not end when dismissed")]),
        (25.6, Exited(1, -9), [Exit(0)]),
    )


def test_stop_in_the_middle_of_a_reload() -> None:
    play(
        *PROVEN,
        (12.5, ReloadAsked(), [Notify("reloading"), Configure(3)]),
        (
            13.0,
            StopAsked(),
            [
                Notify("stopping"),
                Conclude(2, False, "hourd was stopped meanwhile", 3.0, (2,)),
                Conclude(3, False, "hourd was stopped meanwhile", 0.5, (3,)),
                Dismiss(1),
                Dismiss(4),
                Release(3, 1),
                Drain(3),
                Release(5, 0),
                Drain(5),
            ],
        ),
        (13.0, Born(6, 4006), [Kill(6, "is no longer wanted")]),
        (13.1, Configured(3, (web(3),)), [Abandon(3)]),
        (13.1, Exited(1, 0), []),
        (13.1, Lost(4), []),
        (13.1, Exited(4, 0), []),
        (13.1, Exited(2, 0), []),
        (13.1, Exited(6, -9), []),
        (13.2, Exited(3, 0), []),
        (13.3, Exited(5, 0), [Exit(0)]),
    )


def test_stop_during_the_first_start() -> None:
    play(
        (0.0, ReloadAsked(), [Configure(1)]),
        (0.0, StopAsked(), [Notify("stopping"), Conclude(1, False, "hourd was stopped meanwhile", 0.0, (1,)), Exit(0)]),
    )


def test_second_interrupt_stops_at_once() -> None:
    play(
        *RUNNING,
        (10.0, Interrupted(), [Notify("stopping"), Dismiss(1), Release(2, 0), Drain(2), Release(3, 1), Drain(3)]),
        (
            10.5,
            Interrupted(),
            [Kill(1, "is stopped at once"), Kill(2, "is stopped at once"), Kill(3, "is stopped at once")],
        ),
        (10.6, Interrupted(), []),
        (10.6, Exited(1, -9), []),
        (10.6, Exited(2, -9), []),
        (10.6, Exited(3, -9), [Exit(0)]),
    )


def test_interrupt_after_a_stop_is_the_first() -> None:
    play(
        *RUNNING,
        (10.0, StopAsked(), [Notify("stopping"), Dismiss(1), Release(2, 0), Drain(2), Release(3, 1), Drain(3)]),
        (10.5, Interrupted(), []),
        (
            11.0,
            Interrupted(),
            [Kill(1, "is stopped at once"), Kill(2, "is stopped at once"), Kill(3, "is stopped at once")],
        ),
    )


# --- what must not go on for ever -----------------------------------------------------------------


def test_nobody_is_recycled_during_a_reload() -> None:
    play(
        *running(recycle=Recycle(requests=50, jitter=0.0)),
        (10.0, ReloadAsked(), [Notify("reloading"), Configure(2)]),
        (
            10.0,
            Configured(2, (replace(web(2), recycle=Recycle(requests=50, jitter=0.0)),)),
            [StartMold(4, "web", 2, True)],
        ),
        (11.0, MoldReady(4), [Spawn(5, 4, "web", 0, 2)]),
        (11.0, Born(5, 4005), []),
        (11.1, Ready(5), [Attend(5, 0)]),
        (11.1, Attending(5, 0), [Release(2, 0), Drain(2), Spawn(6, 4, "web", 1, 2)]),
        (11.2, Born(6, 4006), []),
        (14.0, look(14.0, 3, 5, requests=50), []),
    )


def test_the_oldest_is_recycled_first() -> None:
    play(
        *running(recycle=Recycle(requests=50, jitter=0.0)),
        (10.0, look(10.0, 2, 3, requests=50), [Spawn(4, 1, "web", 0, 1)]),
        (10.1, Born(4, 4004), []),
        (10.2, Ready(4), [Attend(4, 0)]),
        (10.2, Attending(4, 0), [Release(2, 0), Drain(2), Spawn(5, 1, "web", 1, 1)]),
        (10.3, Exited(2, 0), []),
        (10.3, Born(5, 4005), []),
        (11.5, look(11.5, 3, 4, requests=50), []),
        (11.6, Ready(5), [Attend(5, 1)]),
        (11.6, Attending(5, 1), [Release(3, 1), Drain(3), Spawn(6, 1, "web", 0, 1)]),
    )


def test_those_that_drain_do_not_pile_up() -> None:
    steps: list[Step] = [
        (0.0, ReloadAsked(), [Configure(1)]),
        (0.0, Configured(1, (replace(web(1, workers=1, slots=0), grace=3600.0, recycle=Recycle(requests=50, jitter=0.0)),)),
         [StartMold(1, "web", 1, True)]),
        (1.0, MoldReady(1), [Spawn(2, 1, "web", 0, 1)]),
        (1.0, Born(2, 4002), []),
        (2.0, Ready(2), [Attend(2, 0)]),
        (2.0, Attending(2, 0), [Commit(1), Notify("ready"), Conclude(1, True, "", 2.0, (1,))]),
    ]  # fmt: skip
    for old in range(2, 8):
        at = 10.0 * old
        steps += [
            (at, look(at, old, requests=50), [Spawn(old + 1, 1, "web", 0, 1)]),
            (at, Born(old + 1, 4001 + old), []),
            (at + 1, Ready(old + 1), [Attend(old + 1, 0)]),
            (at + 1, Attending(old + 1, 0), [Release(old, 0), Drain(old)]),
        ]
    supervisor = play(*steps, (90.0, look(90.0, 8, requests=50), []))
    assert said(play(*steps), look(90.0, 8, requests=50), 90.0) == (
        "worker web/0 gen=1 pid=4008 is not recycled yet: 6 workers of its slot still drain; 50 requests (recycle.requests)"
    )
    assert said(supervisor, look(91.0, 8, requests=50), 91.0) == ""
    play(*steps, (90.0, Exited(2, 0), []), (90.5, look(90.5, 8, requests=50), [Spawn(9, 1, "web", 0, 1)]))


def test_who_says_that_it_fails_has_little_time_to_end() -> None:
    play(
        *RUNNING,
        (10.0, Failed(2, "OSError: no database", 75), [Attend(3, 0)]),
        (10.1, Attending(3, 0), []),
        (15.0, Elapsed(), [Dump(2)]),
        (15.5, Elapsed(), [Kill(2, "said that it fails, and did not end")]),
        (15.6, Exited(2, -9), [Spawn(4, 1, "web", 0, 1)]),
    )


def test_who_asks_to_be_replaced_again_and_again_is_no_failure() -> None:
    steps: list[Step] = []
    for old in range(3, 9):
        at = 40.0 * old
        spawn = [Spawn(old + 1, 1, "web", 1, 1)]
        steps += [
            (at, Leaving(old), spawn if old == 3 else []),
            (at + 5, Elapsed(), [] if old == 3 else spawn),  # the second in a row waits
            (at + 5, Born(old + 1, 4001 + old), []),
            (at + 6, Ready(old + 1), [Attend(old + 1, 1)]),
            (at + 6, Attending(old + 1, 1), [Release(old, 1), Drain(old)]),
            (at + 7, Exited(old, 0), []),
        ]
    supervisor = play(*RUNNING, *steps)
    assert supervisor.state(332.0) == "running"

"""The status as text."""

from __future__ import annotations

from typing import Any

from hourd import table

MIB = 1024**2


def worker(slot: int, **changes: Any) -> dict[str, Any]:
    known = {
        "pid": 4200 + slot, "slot": slot, "generation": 3, "state": "serving", "beat_age_s": 0.21, "lag_s": 0.001,
        "busy": 0.456, "connections": 12, "accepted": 9000, "requests": 81000, "errors": 2, "rss_bytes": 50 * MIB,
        "private_bytes": 4 * MIB, "uptime_s": 300.5,
    }  # fmt: skip
    return {**known, **changes}


def lines(attended_by: list[list[int]], *workers: dict[str, Any]) -> list[str]:
    """Return what is printed of a pool: the head, the workers, and more."""
    pool = {
        "state": "running", "restarts": 1, "cut": 0, "molds": [4199], "addresses": {"main": ["127.0.0.1:80"]},
        "slots": [{"slot": slot, "attended_by": pids} for slot, pids in enumerate(attended_by)],
        "workers": list(workers),
    }  # fmt: skip
    status = {
        "name": "hello", "version": "0.1.0", "pid": 4198, "state": "running", "generation": 3,
        "started_at": "2026-01-31T12:00:00Z", "last_reload": None, "pools": {"web": pool},
    }  # fmt: skip
    first, _, pool_line, *rest = table.render(status).split("\n")
    assert first == "hello: running, generation 3, pid 4198, hourd 0.1.0, since 2026-01-31T12:00:00Z"
    assert pool_line == "pool web: running, 1 restarts; main at 127.0.0.1:80"
    return rest


def columns(head: str, row: str) -> dict[str, str]:
    return dict(zip(head.split(), row.split(), strict=True))


def test_a_worker_shows_what_tells_whether_it_is_well():
    head, row = lines([[4200]], worker(0))
    assert columns(head, row) == {
        "slot": "0", "pid": "4200", "gen": "3", "state": "serving", "busy": "46%", "beat": "0.2s", "open": "12",
        "accepted": "9000", "requests": "81000", "errors": "2", "MiB": "50", "private": "4", "up": "300s",
    }  # fmt: skip


def test_what_is_not_known_is_no_zero():
    row = lines([[]], worker(0, pid=None, busy=None, beat_age_s=None, rss_bytes=None, private_bytes=None))
    shown = columns(row[0], row[1])
    assert {shown[name] for name in ("pid", "busy", "beat", "MiB", "private")} == {"-"}


def test_no_line_is_too_long_and_columns_stay_below_their_heads():
    great = {"pid": 4194304, "generation": 9999, "connections": 999999, "accepted": 10**10 - 1, "requests": 10**11 - 1}
    more = {"errors": 99999, "rss_bytes": 999999 * MIB, "private_bytes": 999999 * MIB, "uptime_s": 99999999.0}
    rows = lines([[4194300 + each for each in range(9)]], worker(1023, beat_age_s=9999.9, busy=1.0, **great, **more))
    assert max(map(len, rows)) <= 120
    assert len(rows[0]) == len(rows[1])


def test_slots_that_others_attend_are_named_with_them():
    rows = lines([[4200], [4200, 4202], [4202], [], [4200], [4200]], worker(0), worker(2))
    assert rows[3:] == [
        "slot 1 is attended by 4200 (of slot 0), 4202 (of slot 2)",
        "slot 3 is attended by nobody",
        "slots 4 to 5 are attended by 4200 (of slot 0)",
    ]


def test_many_are_counted():
    rows = lines([[4201, 4202, 4203, 4204, 4205, 4206]], *(worker(slot) for slot in range(1, 7)))
    assert rows[-1].endswith("4203 (of slot 3), 4204 (of slot 4), 2 more")


def test_in_a_reload_both_generations_have_the_slot():
    assert len(lines([[4200, 4300]], worker(0), worker(0, pid=4300, generation=4))) == 3

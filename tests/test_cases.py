"""Cases that users of other supervisors reported, each with the tests that hold it.

Balance and queues

- 400 short connections on 4 slots (gunicorn#2938, uvicorn-worker#34):
  test_cases.py::test_short_connections_are_spread_over_all_slots
- `kill -9` of a worker with a non-empty queue (granian#567):
  test_cases.py::test_connections_in_the_queue_of_a_killed_worker_are_answered
- A draining, hung or dead worker never leaves its slot unattended (envoy#8031):
  test_cases.py::test_workers_are_replaced_one_by_one_and_slow_boots_are_waited_for
  test_health.py::test_a_worker_that_hangs_is_shown_killed_and_replaced
  test_health.py::test_a_stopped_worker_is_helped_until_it_goes_on
  test_crash.py::test_a_slot_is_attended_while_its_worker_is_held_back
- A second instance on the same address (moq#2960):
  test_instances.py::test_a_second_instance_on_the_same_address
  test_instances.py::test_an_address_of_another_process_that_shares_its_port

Reload

- 20 reloads under load (gunicorn#3394, #2296):
  test_cases.py::test_twenty_reloads_under_load_lose_nothing
  test_queues.py::test_no_connection_is_reset_over_reloads
- A reload that cannot be (gunicorn#2443, #554, #371):
  test_reload.py::test_a_broken_application_changes_nothing
  test_reload.py::test_a_factory_that_raises_changes_nothing
  test_reload.py::test_a_wrong_configuration_changes_nothing
  test_reload.py::test_a_taken_address_changes_nothing
- `preload: true` and reload (gunicorn#2449):
  test_cases.py::test_a_reload_serves_new_code_and_new_templates
  test_reload.py::test_changed_code_is_served
- Rolling one by one (gunicorn#1642); slow boots (gunicorn#1754):
  test_cases.py::test_workers_are_replaced_one_by_one_and_slow_boots_are_waited_for
- A connection that is accepted and not yet read when its worker drains (uvicorn#2757, gunicorn#3612):
  test_http_draining.py::test_a_connection_that_has_not_asked_yet_is_answered
- Many reloads leave the master as it was (gunicorn#3648):
  test_master.py::test_a_hundred_reloads_leave_no_trace
  test_master.py::test_refused_reloads_leave_no_trace
- TERM during a reload; `reload` reports its result (puma#2213):
  test_signals.py::test_stop_during_a_reload
  test_reload.py::test_changed_code_is_served
  test_reload.py::test_a_broken_application_changes_nothing
  test_control.py::test_all_who_wait_for_a_reload_are_answered
- Old workers with long connections do not pile up (haproxy#155, #1792):
  test_cases.py::test_old_workers_with_long_connections_do_not_pile_up
  test_supervisor.py::test_draining_generations_are_capped

Recycling and hanging

- `recycle.requests: 50` under clients with keep-alive (gunicorn#2567, #3038):
  test_recycle.py::test_clients_with_keep_alive_lose_nothing_while_their_workers_are_recycled
- SIGSTOP of the whole tree, then CONT (gunicorn#2458, #2415):
  test_health.py::test_a_tree_that_stood_still_for_longer_than_hung_loses_nobody
- A boot that holds the GIL is not killed; a blocked loop is noticed, shown and replaced (uvicorn#2506):
  test_health.py::test_a_boot_that_holds_the_interpreters_lock_is_no_hang
  test_health.py::test_a_worker_that_hangs_is_shown_killed_and_replaced
- Each kill leaves a trace (trinity#131):
  test_health.py::test_a_worker_that_hangs_is_shown_killed_and_replaced
  test_boot.py::test_a_boot_that_takes_too_long
  test_life.py::test_a_worker_whose_loop_is_blocked_is_killed_after_its_grace

Crash loops

- An application that cannot be imported (gunicorn#2504, #2385):
  test_cases.py::test_what_cannot_be_imported_is_tried_less_and_less_often
  test_walk.py::test_crash_loops_are_bounded
- A worker recycled while its package is being installed (uWSGI#2198):
  test_recycle.py::test_a_worker_whose_successor_cannot_boot_serves_on
  test_recycle.py::test_a_worker_whose_code_on_disk_is_broken_is_replaced_from_the_mold
- A worker that the OOM killer takes (gunicorn#1937):
  test_memory.py::test_a_worker_that_the_oom_killer_takes_is_named_as_such

Processes and signals

- `kill -9` of the master (LightRAG#3494, hypercorn#288):
  test_orphans.py::test_idle_workers_end_with_the_master
  test_orphans.py::test_workers_release_their_port_and_finish_what_they_have
  test_orphans.py::test_connections_are_cut_after_their_grace
  test_orphans.py::test_a_worker_that_is_blocked_is_killed_by_its_mold
- As PID 1 (gunicorn#3220, #3274):
  test_orphans.py::test_as_the_first_process_of_a_container
- TERM at any moment of the first seconds (sanic#2997):
  test_life.py::test_sigterm_at_any_moment_leaves_nothing
- Websocket and SSH sessions at shutdown (uvicorn#326, granian#796):
  test_websockets.py::test_each_is_told_with_a_code_and_its_handler_ends
  test_websockets.py::test_one_that_does_not_end_is_cut_at_the_grace
  test_kind_ssh.py::test_a_session_hears_that_the_worker_drains_and_a_new_one_is_served
  test_kind_ssh.py::test_a_session_beyond_the_grace_is_cut
- `Server.wait_closed()` never blocks a stop (cpython#104344):
  test_life.py::test_connections_are_cut_after_their_grace
  test_websockets.py::test_one_that_does_not_end_is_cut_at_the_grace
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from .around import GATE, Gate
from .daemon import ECHO, Daemon, connect, pool, talk
from .test_health import SLOW
from .witness import WEB, KeepAlive, Witness, alive, at_least, never_restarted, one_by_one, stopped, web

CASES = re.findall(r"(test_\w+\.py)::(test_\w+)$", __doc__ or "", re.MULTILINE)


@pytest.mark.parametrize("file", sorted({file for file, _ in CASES}))
def test_the_tests_that_are_named_above_exist(file: str):
    tree = ast.parse(Path(__file__).with_name(file).read_text())
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert {name for its, name in CASES if its == file} - there == set()


# --- balance and queues ---------------------------------------------------------------------------


def test_short_connections_are_spread_over_all_slots():
    """Four times 400, so that chance alone cannot be blamed."""
    with Daemon(pool(workers=4), {"app.py": ECHO}) as daemon:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        by = Counter(int(talk(address).split()[0]) for _ in range(1600))
        assert by.keys() == set(alive(daemon))
        assert min(by.values()) / max(by.values()) >= 0.6


def test_connections_in_the_queue_of_a_killed_worker_are_answered():
    with Daemon(pool(timeouts={"slow": "1h", "hung": "1h"}), {"app.py": ECHO}) as daemon:
        daemon.allow("SIGKILL")
        daemon.expect("READY=1")
        (address,), (victim, _) = daemon.addresses(), alive(daemon)
        with contextlib.ExitStack() as stack:
            stack.enter_context(stopped(victim))
            socks = [stack.enter_context(connect(address)) for _ in range(60)]
            for sock in socks:
                sock.sendall(b"x")
            os.kill(victim, signal.SIGKILL)
            by = [int(sock.makefile("rb").readline().split()[0]) for sock in socks]
        assert victim not in by
        daemon.wait_log(f"pid={victim} was killed by SIGKILL")


# --- reload ---------------------------------------------------------------------------------------


def test_twenty_reloads_under_load_lose_nothing():
    with Daemon(pool(server=web(grace="30s")), {"app.py": WEB}) as daemon, contextlib.ExitStack() as stack:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        stack.enter_context(Witness(daemon, at_least(2), one_by_one(2), never_restarted))
        kinds = (KeepAlive(address, 10), KeepAlive(address, 2, batch=5), KeepAlive(address, 5, once=True))
        for clients in kinds:
            stack.enter_context(clients)
        for generation in range(2, 22):
            answer = daemon.reload()
            assert (answer.ok, answer.generation) == (True, generation)
            for clients in kinds:
                clients.wait_for(20)
            daemon.wait_for_the_old()


@pytest.mark.parametrize("preload", [True, False])
def test_a_reload_serves_new_code_and_new_templates(preload):
    code = """
from pathlib import Path

TEMPLATE = Path("page.html").read_text()

async def serve(reader, writer):
    writer.write(f"{TEMPLATE} {Path('page.html').read_text()} of code 1".encode())
"""
    with Daemon(pool(preload=preload), {"app.py": code, "page.html": "page 1"}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        assert talk(address) == b"page 1 page 1 of code 1"
        daemon.write("page.html", "page 2")
        assert talk(address) == b"page 1 page 2 of code 1"
        daemon.write("app.py", code.replace("code 1", "code 2"))
        assert daemon.reload().ok
        daemon.wait_until(lambda status: len(status["pools"]["web"]["workers"]) == 2, "the old ones are gone")
        assert {talk(address) for _ in range(20)} == {b"page 2 page 2 of code 2"}


def test_workers_are_replaced_one_by_one_and_slow_boots_are_waited_for():
    files = {"app.py": ECHO, "gate.py": GATE}
    with Daemon(pool(workers=3, lifespan="gate:lifespan"), files) as daemon, ThreadPoolExecutor(1) as executor:
        daemon.allow(SLOW)
        daemon.expect("READY=1")
        (address,), old = daemon.addresses(), alive(daemon)
        with Gate(daemon.folder) as gate, Witness(daemon, at_least(3), one_by_one(3), never_restarted):
            reloading = executor.submit(daemon.reload)
            for number in range(3):
                pid, held = gate.next()
                # It boots for as long as this test likes.
                status = daemon.wait_until(
                    lambda status: sum(w["state"] == "serving" for w in status["pools"]["web"]["workers"]) == 3
                )
                (booting,) = [each for each in status["pools"]["web"]["workers"] if each["state"] == "booting"]
                assert booting["pid"] == pid
                assert (status["state"], status["generation"]) == ("reloading", 1)
                assert len({each["pid"] for each in status["pools"]["web"]["workers"]} & set(old)) >= 3 - number
                assert talk(address, b"x").endswith(b"x")
                assert not reloading.done()
                held.close()
            assert reloading.result().ok
        assert not set(alive(daemon)) & set(old)


def test_old_workers_with_long_connections_do_not_pile_up():
    with Daemon(pool(workers=1, server={"grace": "1h"}), {"app.py": ECHO}) as daemon, contextlib.ExitStack() as stack:
        daemon.allow(SLOW, "Reset|Broken pipe")
        daemon.expect("READY=1")
        (address,), socks = daemon.addresses(), []
        for _ in range(8):
            (newest,) = alive(daemon)
            # The one before may not have heard yet that it is to accept no more.
            while int((sock := connect(address)).recv(100).split()[0]) != newest:
                sock.close()
            socks.append(stack.enter_context(sock))
            assert daemon.reload().ok
            assert len(daemon.pool()["workers"]) <= 1 + 6 + 1
        daemon.wait_until(lambda status: len(status["pools"]["web"]["workers"]) == 1 + 6, "six drain")
        for sock in socks[:2]:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(100) == b""
        for sock in socks[2:]:
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
        assert len(re.findall("killing worker .* is the oldest of more than 6 generations that drain", daemon.log)) == 2


# --- crash loops ----------------------------------------------------------------------------------

FAILS = """
import time
with open("tries", "a") as file:
    file.write(f"{time.monotonic()}\\n")
import not_installed_here
"""


@pytest.mark.parametrize("preload", [True, False])
def test_what_cannot_be_imported_is_tried_less_and_less_often(preload):
    config = {"pools": pool(preload=preload)["pools"] | pool("other", server={"app": "other:serve"})["pools"]}
    with Daemon(config, {"app.py": ECHO, "other.py": ECHO}) as daemon:
        daemon.allow(SLOW, "SIGKILL", "not_installed_here")
        daemon.expect("READY=1")
        (address,), others, tries = daemon.addresses(), alive(daemon, "other"), daemon.folder / "tries"
        daemon.write("app.py", FAILS)
        with Witness(daemon, at_least(2), never_restarted, pool="other"):
            os.kill(daemon.pool()["molds"][0] if preload else alive(daemon)[0], signal.SIGKILL)
            # The first attempt is made at once, the second after 100 ms, less up to a quarter; then it doubles.
            daemon.until(lambda: tries.exists() and len(tries.read_text().splitlines()) >= 5, "five attempts")
            times = [float(line) for line in tries.read_text().splitlines()]
            for number, (before, after) in enumerate(pairwise(times)):
                assert after - before >= 0.075 * 2**number
            daemon.expect("STATUS=degraded")
            status = daemon.status()
            assert (status["state"], status["pools"]["web"]["state"]) == ("degraded", "degraded")
            assert status["pools"]["other"]["state"] == "running"
            assert all(slot["attended_by"] for slot in status["pools"]["web"]["slots"])
            assert talk(address, b"x").endswith(b"x")
        assert alive(daemon, "other") == others
        daemon.write("app.py", ECHO)
        assert daemon.reload().ok
        assert daemon.status()["state"] == "running"

"""First starts that cannot succeed: why is said, the exit code tells whether to try again, nothing stays."""

from __future__ import annotations

import os
import re
import signal

import pytest

from .around import AT_GATE, BROKEN, GATE, Gate
from .daemon import ECHO, Daemon, pool

SIBLING = "killing worker web/. .*: it is stopped at once"


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("how", BROKEN)
def test_an_application_that_cannot_boot(how, preload):
    code, reason = BROKEN[how]
    with Daemon(pool(preload=preload), {"app.py": code}) as daemon:
        daemon.allow("cannot start: ", reason, SIBLING)
        assert daemon.wait() == 75
        assert re.search(f"cannot start: .*{reason}", daemon.log, re.DOTALL)
        assert not re.search(r"hourd/\w+\.py|importlib", daemon.log), "the traceback is the user's"
        assert not daemon.heard("READY=1")


def test_a_module_that_is_not_there():
    with Daemon(pool()) as daemon:
        daemon.allow("cannot start: ", "server main")
        assert daemon.wait() == 75
        assert (
            f"server main: app: cannot import app:serve: no module app, neither in {daemon.folder} nor installed"
            in daemon.log
        )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def create():\n    return 1 / 0\n", r"app\.py.*ZeroDivisionError"),
        ("async def create():\n    return 1 / 0\n", r"app\.py.*ZeroDivisionError"),
        ("def create():\n    return 3\n", " made 3, expected an aiohttp.web.Application"),
        ("create = 'text'\n", "app is 'text', expected an aiohttp.web.Application"),
    ],
    ids=["factory raises", "coroutine raises", "factory of something else", "something else"],
)
def test_a_factory_that_cannot_make_an_application(code, reason):
    with Daemon(pool(server={"kind": "aiohttp", "app": "app:create"}), {"app.py": code}) as daemon:
        daemon.allow("server main", SIBLING)
        assert daemon.wait() == 75
        assert re.search(rf"cannot start: server main \(kind aiohttp\).*{reason}", daemon.log, re.DOTALL)


def test_a_lifespan_that_raises():
    code = """
import contextlib
@contextlib.asynccontextmanager
async def lifespan():
    raise ConnectionError("no database")
    yield
"""
    with Daemon(pool(lifespan="app:lifespan"), {"app.py": ECHO + code}) as daemon:
        daemon.allow("lifespan failed to open", SIBLING)
        assert daemon.wait() == 75
        assert re.search(r"cannot start: lifespan failed to open:.*app\.py.*no database", daemon.log, re.DOTALL)


def test_a_boot_that_takes_too_long():
    config = pool(lifespan="gate:lifespan", timeouts={"boot": "5s"}, preload=False)
    with Daemon(config, {"app.py": ECHO, "gate.py": GATE}) as daemon, Gate(daemon.folder):
        daemon.allow("boot", "its stacks")
        assert daemon.wait() == 75
        assert re.search(r"its stacks:\n(.*\n)+.*runners.py", daemon.log)
        assert re.search(r"cannot start: worker web/. .* was not ready within 5s \(timeouts.boot\)", daemon.log)


def test_a_worker_killed_during_the_start_is_replaced():
    with Daemon(pool(workers=1, lifespan="gate:lifespan"), {"app.py": ECHO, "gate.py": GATE}) as daemon:
        daemon.allow("worker web/0 .* was killed by SIGKILL before it was ready")
        with Gate(daemon.folder) as gate:
            first, held = gate.next()
            os.kill(first, signal.SIGKILL)
            held.close()
            second, held = gate.next()
            held.close()
            daemon.expect("READY=1")
            assert daemon.workers() == [second]
        daemon.wait_log(
            f"worker web/0 gen=1 pid={first} was killed by SIGKILL before it was ready; starting another at once"
        )


def test_workers_killed_again_and_again_during_the_start():
    with Daemon(pool(workers=1, lifespan="gate:lifespan"), {"app.py": ECHO, "gate.py": GATE}) as daemon:
        daemon.allow("SIGKILL")
        with Gate(daemon.folder) as gate:
            for _ in range(3):
                pid, held = gate.next()
                os.kill(pid, signal.SIGKILL)
                held.close()
            assert daemon.wait() == 75


def test_a_mold_killed_during_the_start_is_replaced():
    with Daemon(pool(), {"app.py": AT_GATE, "gate.py": GATE}) as daemon:
        daemon.allow("mold web gen=1 was killed by SIGKILL")
        with Gate(daemon.folder) as gate:
            first, held = gate.next()
            os.kill(first, signal.SIGKILL)
            held.close()
            second, held = gate.next()
            held.close()
            daemon.expect("READY=1")
            assert daemon.pool()["molds"] == [second]


def test_a_second_pool_that_cannot_boot_stops_the_first():
    config = {"pools": {**pool("web")["pools"], **pool("bad", server={"app": "bad:serve"})["pools"]}}
    with Daemon(config, {"app.py": ECHO, "bad.py": "1 / 0\n"}) as daemon:
        daemon.allow("ZeroDivisionError")
        assert daemon.wait() == 75
        assert not daemon.heard("READY=1")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("pools: [", r"hourd\.yaml:2"),
        ("pools: {web: {servers: {main: {kind: stream, app: 'app:serve', bind: 'x'}}}}", "pools.web.servers.main.bind"),
        ("pools: {web: {wrokers: 2, servers: {main: {kind: stream, app: 'app:serve', bind: ':0'}}}}", "workers"),
    ],
    ids=["no YAML", "no address", "misspelt"],
)
def test_a_wrong_configuration(config, reason):
    with Daemon(config) as daemon:
        daemon.allow(reason)
        assert daemon.wait() == 78
        assert re.search(reason, daemon.log)


def test_a_directory_that_is_not_there():
    with Daemon({"directory": "/nowhere/at/all", **pool()}) as daemon:
        daemon.allow("/nowhere/at/all")
        assert daemon.wait() in (71, 75, 78)
        assert "/nowhere/at/all" in daemon.log

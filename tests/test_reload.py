"""Reloading: new code and new configuration, all or nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from typing import Any

import pytest

from hourd import config, events
from hourd.config import Overrides
from hourd.generations import Generations
from hourd.inherited import Inherited
from hourd.listeners import Listeners
from hourd.systemd import Manager

from .around import AT_GATE, BROKEN, GATE, Gate
from .daemon import ECHO, Daemon, connect, pool, talk
from .witness import Fresh

SAY = "async def serve(reader, writer):\n    writer.write(b'{}')\n"


@pytest.mark.parametrize("preload", [True, False])
def test_changed_code_is_served(preload):
    with Daemon(pool(preload=preload), {"app.py": SAY.format("old")}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        assert talk(address) == b"old"
        daemon.write("app.py", SAY.format("new"))
        assert talk(address) == b"old"
        result = daemon.run("reload", "-c", str(daemon.file))
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("reloaded to generation 2 in ")
        daemon.wait_for_the_old()
        assert [talk(address) for _ in range(20)] == [b"new"] * 20
        reloading = daemon.expect("RELOADING=1")
        assert re.search(r"^MONOTONIC_USEC=\d+$", reloading, re.MULTILINE)
        daemon.expect("READY=1")
        status = daemon.status()
        assert status["generation"] == 2
        assert status["last_reload"]["ok"] is True


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_application_changes_nothing(how, preload):
    code, reason = BROKEN[how]
    with Daemon(pool(preload=preload), {"app.py": ECHO}) as daemon:
        daemon.allow("refused", reason, "SIGKILL.*no other is needed", "stopped at once|no longer wanted")
        daemon.expect("READY=1")
        workers, (address,) = daemon.workers(), daemon.addresses()
        daemon.write("app.py", code)
        result = daemon.run("reload", "-c", str(daemon.file))
        assert result.returncode == 1
        for text in (result.stderr, daemon.status()["last_reload"]["reason"], daemon.log):
            assert re.search(reason, text, re.DOTALL)
        assert result.stderr.startswith("reload refused, the old generation serves on: ")
        daemon.expect("RELOADING=1", "READY=1")
        assert daemon.workers() == workers
        assert int(talk(address).split()[0]) in workers
        status = daemon.status()
        assert (status["state"], status["generation"], status["last_reload"]["ok"]) == ("running", 1, False)
        assert status["pools"]["web"]["restarts"] in (0, 1)
        daemon.write("app.py", ECHO)
        assert daemon.reload().ok
        assert not set(daemon.workers()) & set(workers)
        assert daemon.status()["last_reload"]["ok"] is True


def test_a_factory_that_raises_changes_nothing():
    code = "from aiohttp import web\ndef create():\n    return web.Application()\n"
    with Daemon(pool(server={"kind": "aiohttp", "app": "app:create"}), {"app.py": code}) as daemon:
        daemon.allow("ZeroDivisionError")
        daemon.expect("READY=1")
        workers = daemon.workers()
        daemon.write("app.py", "def create():\n    1 / 0\n")
        answer = daemon.reload()
        assert not answer.ok
        assert re.search(r"server main \(kind aiohttp\).*app\.py.*ZeroDivisionError", answer.error, re.DOTALL)
        assert daemon.workers() == workers


def test_a_wrong_configuration_changes_nothing():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.allow("reload refused, nothing was changed: .*hourd.yaml")
        daemon.expect("READY=1")
        workers = daemon.workers()
        for text in ("pools: [", "pools: {}", "nonsense: 1\n" + daemon.file.read_text()):
            good = daemon.file.read_text()
            daemon.configure(text)
            answer = daemon.reload()
            assert not answer.ok
            assert "hourd.yaml:" in answer.error
            assert answer.error.strip() in daemon.log
            assert daemon.workers() == workers
            daemon.configure(good)
            daemon.expect("RELOADING=1", "READY=1")  # systemctl reload waits for both
        assert daemon.reload().ok


def test_a_bug_while_the_configuration_is_read_changes_nothing(caplog):
    def read_again():
        raise ZeroDivisionError("on purpose")

    settings = config.from_app("app:serve", environ={}, overrides=Overrides(bind=("127.0.0.1:0",))).settings
    generations = Generations(settings, read_again, Listeners(Manager({}), Inherited()))
    generations.all = {1: settings}
    refused = generations.configure(2)
    assert isinstance(refused, events.Misconfigured)
    assert refused.reason.startswith("the configuration could not be read: ZeroDivisionError; that is a bug of hourd")
    assert (refused.generation, refused.exit_code, dict(generations.all)) == (2, 70, {1: settings})
    assert "Traceback" in caplog.text
    assert "on purpose" in caplog.text


def test_a_taken_address_changes_nothing():
    with Daemon(pool(), {"app.py": ECHO}) as daemon, socket.create_server(("127.0.0.1", 0)) as foreign:
        daemon.allow("Address already in use")
        daemon.expect("READY=1")
        workers = daemon.workers()
        place = f"127.0.0.1:{foreign.getsockname()[1]}"
        daemon.configure(pool(server={"bind": ["127.0.0.1:0", place]}))
        answer = daemon.reload()
        assert not answer.ok
        assert answer.error == f"cannot bind {place} for server main: Address already in use"
        assert daemon.workers() == workers
        foreign.close()
        assert daemon.reload().ok
        assert place in daemon.addresses()


def test_more_and_fewer_workers():
    with Daemon(pool(workers=2), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        for count in (3, 1, 2):
            daemon.configure(pool(workers=count))
            assert daemon.reload().ok
            assert daemon.addresses() == [address]
            assert len(daemon.workers()) == count
            # Slots are never given up: fewer workers attend as many.
            assert all(slot["attended_by"] for slot in daemon.pool()["slots"])
            assert {int(talk(address).split()[0]) for _ in range(40)} <= set(daemon.workers())
        assert len(daemon.pool()["slots"]) == 3


def test_a_server_comes_and_goes():
    two = pool()
    two["pools"]["web"]["servers"]["more"] = {"kind": "stream", "app": "app:serve", "bind": "127.0.0.1:0"}
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (first,) = daemon.addresses()
        daemon.configure(two)
        assert daemon.reload().ok
        (second,) = daemon.addresses(server="more")
        assert talk(second, b"x").endswith(b"x")
        daemon.configure(pool())
        assert daemon.reload().ok
        assert talk(first, b"x").endswith(b"x")
        daemon.until(lambda: refuses(second), "the address is free")


def test_a_pool_comes_and_goes():
    two = {"pools": {**pool()["pools"], **pool("more", workers=1)["pools"]}}
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        daemon.configure(two)
        assert daemon.reload().ok
        (address,) = daemon.addresses("more")
        assert talk(address, b"x").endswith(b"x")
        daemon.configure(pool())
        assert daemon.reload().ok
        daemon.wait_until(lambda status: list(status["pools"]) == ["web"])
        daemon.until(lambda: refuses(address), "the address is free")


def test_a_changed_environment_and_address():
    answer = "    await reader.read()\n    writer.write(os.environ['COLOUR'].encode())\n"
    code = f"import os\nasync def serve(reader, writer):\n{answer}"
    with Daemon({"environment": {"COLOUR": "red"}, **pool()}, {"app.py": code}) as daemon:
        daemon.expect("READY=1")
        (before,) = daemon.addresses()
        assert talk(before) == b"red"
        path = daemon.folder / "web.sock"
        daemon.configure({"environment": {"COLOUR": "blue"}, **pool(server={"bind": f"unix:{path}"})})
        assert daemon.reload().ok
        assert talk(f"unix:{path}") == b"blue"
        daemon.until(lambda: refuses(before), "the address is free")


def test_an_address_that_becomes_wider_and_narrower_again():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        port = int(address.rpartition(":")[2])
    for family, narrow, wide in (("127.0.0.1", "127.0.0.1", "0.0.0.0"), ("[::1]", "[::1]", "[::]")):
        with Daemon(pool(server={"bind": f"{narrow}:{port}"}), {"app.py": ECHO}) as daemon:
            daemon.expect("READY=1")
            for host in (wide, narrow, wide):
                daemon.configure(pool(server={"bind": f"{host}:{port}"}))
                assert daemon.reload().ok
                assert daemon.addresses() == [f"{host}:{port}"]
                for _ in range(20):
                    assert talk(f"{family}:{port}", b"said").endswith(b"said")


@pytest.mark.parametrize("victim", ["old worker", "old mold", "new mold"])
def test_processes_killed_during_a_reload(victim):
    with Daemon(pool(), {"app.py": ECHO, "gate.py": GATE}) as daemon, Gate(daemon.folder) as gate:
        daemon.allow("SIGKILL")
        daemon.expect("READY=1")
        (address,), workers, (mold,) = daemon.addresses(), daemon.workers(), daemon.pool()["molds"]
        daemon.write("app.py", AT_GATE)
        daemon.signal(signal.SIGHUP)
        new, held = gate.next()
        assert daemon.status()["state"] == "reloading"
        os.kill({"old worker": workers[0], "old mold": mold, "new mold": new}[victim], signal.SIGKILL)
        if victim == "old worker":
            # Nothing is held up by the reload: the old mold forks a successor.
            daemon.until(lambda: len(set(daemon.workers()) - {workers[0]}) == 2, "a successor of the old generation")
        elif victim == "old mold":
            _, old_held = gate.next()  # it imports the code of now, which waits at the gate too
            assert talk(address, b"x").endswith(b"x")
            old_held.close()
        else:
            _, again = gate.next()
            again.close()
        held.close()
        daemon.wait_until(lambda status: status["generation"] == 2)
        assert talk(address, b"x").endswith(b"x")
        assert daemon.status()["last_reload"]["ok"]


def test_a_new_worker_killed_while_it_boots_during_a_reload():
    with Daemon(pool(lifespan="gate:lifespan"), {"app.py": ECHO, "gate.py": GATE}) as daemon:
        daemon.allow("SIGKILL")
        daemon.expect("READY=1")
        with Gate(daemon.folder) as gate:
            (address,), workers = daemon.addresses(), daemon.workers()
            daemon.signal(signal.SIGHUP)
            pid, held = gate.next()
            os.kill(pid, signal.SIGKILL)
            held.close()
            assert int(talk(address).split()[0]) in workers
            for _ in range(2):
                _, held = gate.next()
                held.close()
            daemon.wait_until(lambda status: status["generation"] == 2)


def refuses(address: str) -> bool:
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return True
    return False


# --- addresses that a pool loses ------------------------------------------------------------------

FAILS = """
@contextlib.asynccontextmanager
async def fails():
    await at_gate()
    raise RuntimeError("boot on purpose")
    yield
"""


def two_pools(first: list[str], second: list[str], lifespan: str | None = None) -> dict[str, Any]:
    """Return a pool ``web`` and a pool ``two``, with their addresses; the other one has a lifespan."""
    web, two = pool(server={"bind": first})["pools"], pool("two", server={"bind": second}, lifespan=lifespan)["pools"]
    return {"pools": web | two}


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(number)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


@pytest.mark.parametrize("boots", [True, False])
@pytest.mark.parametrize("moves", [True, False])
def test_an_address_that_a_pool_loses_is_attended_until_the_reload_is_settled(moves, boots):
    address, other, third = (f"127.0.0.1:{port}" for port in free_ports(3))
    config = two_pools([address], [other])
    with Daemon(config, {"app.py": ECHO, "gate.py": GATE + FAILS}) as daemon, Gate(daemon.folder) as gate:
        daemon.allow("boot on purpose", "refused", "lifespan failed")
        daemon.expect("READY=1")
        old = set(daemon.workers())
        lifespan = "gate:lifespan" if boots else "gate:fails"
        daemon.configure(two_pools([third], [other, address] if moves else [other], lifespan))
        with Fresh(address, 3) as clients:
            daemon.signal(signal.SIGHUP)
            _, held = gate.next()
            daemon.until(lambda: len(daemon.workers()) == 4, "the new workers of the pool serve beside the old ones")
            clients.wait_for(100)
            assert set(clients.by) == old
            if moves or not boots:
                held.close()
                gate.remove()
                last = daemon.wait_until(lambda status: status["last_reload"])["last_reload"]
                assert last["ok"] is boots
                clients.wait_for(100)
        held.close()
        gate.remove()
        last = daemon.wait_until(lambda status: status["last_reload"])["last_reload"]
        daemon.wait_for_the_old()
        if not boots:
            assert set(daemon.workers()) == old
            assert {int(talk(address).split()[0]) for _ in range(30)} == old
        elif moves:
            assert {int(talk(address).split()[0]) for _ in range(30)} == set(daemon.workers("two"))
        else:
            with pytest.raises(ConnectionRefusedError):
                connect(address)

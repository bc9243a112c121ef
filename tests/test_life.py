"""Starting, serving, draining, stopping."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from .around import GATE, Gate
from .daemon import ECHO, Daemon, connect, pool, talk


def test_ready_is_said_when_every_pool_serves():
    config = {"pools": {**pool("web")["pools"], **pool("slow", lifespan="gate:lifespan")["pools"]}}
    with Daemon(config, {"app.py": ECHO, "gate.py": GATE}) as daemon, Gate(daemon.folder) as gate:
        waiting = [gate.next() for _ in range(2)]
        assert daemon.status()["state"] == "starting"
        assert not daemon.heard("READY=1")
        for _, sock in waiting:
            sock.close()
        daemon.expect("READY=1")
        status = daemon.status()
        assert status["state"] == "running"
        assert {name: each["state"] for name, each in status["pools"].items()} == {"web": "running", "slow": "running"}
        assert sorted(daemon.workers("slow")) == sorted(pid for pid, _ in waiting)


def test_every_worker_serves():
    with Daemon(pool(workers=3), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        workers = set(daemon.workers())
        seen = set()
        for _ in range(400):
            pid, data = talk(address, b"hello").decode().split("\n")
            assert data == "hello"
            seen.add(int(pid.split()[0]))
            if seen == workers:
                break
        assert seen == workers


@pytest.mark.parametrize("preload", [True, False])
def test_master_never_imports_the_application(preload):
    with Daemon(pool(preload=preload), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        worker, importer = map(int, talk(daemon.addresses()[0]).split())
        assert worker in daemon.workers()
        (mold,) = daemon.pool()["molds"]
        assert importer == (mold if preload else worker)
        assert daemon.process.pid not in (worker, importer)


def test_workers_have_the_configured_environment_and_nothing_of_the_service_manager():
    code = """
import os
async def serve(reader, writer):
    writer.write(f"{os.environ['COLOUR']} {os.environ.get('NOTIFY_SOCKET')} {os.getcwd()}".encode())
"""
    with Daemon({"environment": {"COLOUR": "red"}, **pool()}, {"app.py": code}) as daemon:
        daemon.expect("READY=1")
        assert talk(daemon.addresses()[0]).decode() == f"red None {daemon.folder}"


def test_connections_finish_within_their_grace():
    with Daemon(pool(server={"grace": "60s"}), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with connect(address) as sock:
            sock.recv(100)
            daemon.signal(signal.SIGTERM)
            daemon.expect("STOPPING=1")
            daemon.until(lambda: not _accepts(address), "the address is released")
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
            assert daemon.process.poll() is None
        assert daemon.wait() == 0


def test_connections_are_cut_after_their_grace():
    with Daemon(pool(server={"grace": "500ms"}), {"app.py": ECHO}) as daemon:
        daemon.allow("cut 1 connections that were open after its grace of 0.5s")
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.recv(100)
            began = time.monotonic()
            daemon.signal(signal.SIGTERM)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(100) == b""
            assert time.monotonic() - began > 0.4
            assert daemon.wait() == 0
        daemon.wait_log("cut 1 connections")


def test_each_server_has_its_own_grace():
    config = pool(workers=1, server={"grace": "60s"})
    config["pools"]["web"]["servers"]["short"] = {
        "kind": "stream", "app": "app:serve", "bind": "127.0.0.1:0", "grace": "100ms",
    }  # fmt: skip
    with Daemon(config, {"app.py": ECHO}) as daemon:
        daemon.allow("cut 1 connections that were open after its grace of 0.1s")
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as patient, connect(daemon.addresses(server="short")[0]) as short:
            patient.recv(100), short.recv(100)
            daemon.signal(signal.SIGTERM)
            daemon.wait_log("cut 1 connections")
            patient.sendall(b"still here")
            assert patient.recv(100) == b"still here"
        assert daemon.wait() == 0


def test_a_worker_whose_loop_is_blocked_is_killed_after_its_grace():
    code = "import time\nasync def serve(reader, writer):\n    writer.write(b'x')\n    await writer.drain()\n    time.sleep(1000)\n"
    with Daemon(pool(workers=1, server={"grace": "100ms"}), {"app.py": code}) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.recv(1)
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
        daemon.allow("its stacks", "killing worker")
        daemon.wait_log("killing worker web/0 .*: it did not end within its grace of 0.1s")
        daemon.wait_log(r"its stacks:\n.*\n.*app.py\", line 5 in serve")


@pytest.mark.parametrize("preload", [True, False])
def test_sigterm_at_any_moment_leaves_nothing(preload):
    with ThreadPoolExecutor(4) as executor:
        for outcome in [executor.submit(_stop_after, step * 0.05, preload=preload) for step in range(20)]:
            outcome.result()


def _stop_after(delay: float, *, preload: bool) -> None:
    with Daemon(pool(preload=preload), {"app.py": ECHO}) as daemon:
        # Any moment has to do: this is no waiting for something.
        threading.Event().wait(delay)
        daemon.signal(signal.SIGTERM)
        code = daemon.wait()
        # Python itself dies of it, until hourd has handlers; then nothing has been started yet.
        assert code == 0 or (code == -signal.SIGTERM and not daemon.log), daemon.log
        daemon.allow("cannot start: ")


@pytest.mark.parametrize(
    ("code", "left"),
    [
        (
            "import threading\nthreading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()\n",
            "thread poller",
        ),
        ("import socket\nkept = socket.socket()\n", r"1 open socket\(s\)"),
    ],
    ids=["thread", "socket"],
)
def test_an_import_that_cannot_be_forked_is_not(code, left):
    with Daemon(pool(), {"app.py": code + ECHO}) as daemon:
        daemon.allow(
            f"mold web gen=. cannot be forked safely: importing the application left {left}; going on as with preload: false"
        )
        daemon.allow("ResourceWarning")
        daemon.expect("READY=1")
        daemon.wait_log(f"importing the application left {left}")
        worker, importer = map(int, talk(daemon.addresses()[0]).split())
        assert worker == importer
        assert daemon.reload().ok


def _accepts(address: str) -> bool:
    try:
        with connect(address):
            return True
    except ConnectionRefusedError:
        return False

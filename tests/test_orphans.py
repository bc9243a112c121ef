"""Processes that lose their parent: workers without a master, and what workers leave to the master."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .daemon import ECHO, Daemon, connect, pool, talk

FORKS = """
import asyncio
async def serve(reader, writer):
    # The shell ends at once; what it started has no parent any more.
    shell = await asyncio.create_subprocess_exec("sh", "-c", "sleep 9876 & :")
    await shell.wait()
    writer.write(b"forked")
"""
BLOCKS = "import time\nasync def serve(reader, writer):\n    writer.write(b'x')\n    await writer.drain()\n    time.sleep(1000)\n"
GONE = "the (channel to the master ended|master is gone)"


def refused(address):
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return True
    return False


def kill_master(daemon):
    daemon.signal(signal.SIGKILL)
    assert daemon.wait() == -signal.SIGKILL


def patiently(condition, daemon):
    """Wait although the master has ended."""
    while not condition():
        assert daemon.processes()


def test_idle_workers_end_with_the_master():
    with Daemon(pool(workers=3), {"app.py": ECHO}) as daemon:
        daemon.allow(GONE)
        daemon.expect("READY=1")
        kill_master(daemon)
        daemon.wait_gone()


def test_workers_release_their_port_and_finish_what_they_have():
    with Daemon(pool(server={"grace": "60s"}), {"app.py": ECHO}) as daemon:
        daemon.allow(GONE)
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with connect(address) as sock:
            sock.recv(100)
            kill_master(daemon)
            daemon.manager.forget()
            patiently(lambda: refused(address), daemon)
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
            with Daemon(pool(server={"bind": address}), {"app.py": ECHO}) as successor:
                successor.expect("READY=1")
                assert int(talk(address).split()[0]) in successor.workers()
                sock.sendall(b"again")
                assert sock.recv(100) == b"again"
        daemon.wait_gone()


def test_connections_are_cut_after_their_grace():
    with Daemon(pool(server={"grace": "300ms"}), {"app.py": ECHO}) as daemon:
        daemon.allow(GONE, "cut 1 connections that were open after its grace of 0.3s")
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.recv(100)
            kill_master(daemon)
            daemon.wait_gone()
        assert "cut 1 connections" in daemon.log


def test_a_worker_that_is_blocked_is_killed_by_its_mold():
    with Daemon(pool(workers=1, server={"grace": "300ms"}), {"app.py": BLOCKS}) as daemon:
        daemon.allow(GONE, "did not end within its grace: killing it")
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.recv(1)
            kill_master(daemon)
            daemon.wait_gone()
        assert "did not end within its grace: killing it" in daemon.log


def test_molds_and_workers_that_begin_end_with_the_master():
    for _ in range(3):
        with Daemon(pool(workers=4, preload=False), {"app.py": ECHO}) as daemon:
            daemon.allow(GONE)
            daemon.wait_log("mold web gen=1 ready")
            kill_master(daemon)
            daemon.wait_gone()


def test_a_worker_leaves_processes_to_the_master():
    with Daemon(pool(), {"app.py": FORKS}) as daemon:
        daemon.expect("READY=1")
        reap_orphan(daemon, daemon.process.pid)
        assert daemon.pool()["restarts"] == 0


def test_as_the_first_process_of_a_container():
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare(1) cannot make a namespace of processes here")
    hourd = [sys.executable, "-P", "-c", "from hourd.cli import main; main()"]
    with Daemon(pool(), {"app.py": FORKS}, command=[*command, *hourd]) as daemon:
        daemon.expect("READY=1")
        assert daemon.status()["pid"] == 1
        (master,) = (pid for pid, title in daemon.processes().items() if "hourd: master" in title)
        reap_orphan(daemon, master)
        assert daemon.pool()["restarts"] == 0
        os.kill(master, signal.SIGTERM)
        assert daemon.wait() == 0


def reap_orphan(daemon: Daemon, master: int) -> None:
    """Have a worker leave a process behind; see that the master has it, and reaps it."""
    for how in (signal.SIGKILL, signal.SIGTERM):
        assert talk(daemon.addresses()[0]) == b"forked"
        (orphan,) = daemon.until(
            lambda: [pid for pid, title in daemon.processes().items() if title == "sleep 9876"], "the orphan"
        )
        status = Path(f"/proc/{orphan}/status").read_text()
        assert re.search(rf"^PPid:\t{master}$", status, re.MULTILINE)
        os.kill(orphan, how)
        daemon.until(lambda: orphan not in daemon.processes(), "it is reaped")  # noqa: B023, called at once

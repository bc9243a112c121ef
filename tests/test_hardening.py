"""Hostile and hard surroundings: swapped files, held locks, missing descriptors, storms, floods, deaf readers."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import pty
import re
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hourd import errors, unix

from .daemon import ECHO, PATIENCE, Daemon, connect, pool, talk

PROGRAM = "from hourd.cli import main; main()"
SWAP = """
import os, stat, sys
path, link, victim = sys.argv[1:]
print("ready", flush=True)
while True:
    if not os.path.lexists(link):
        os.symlink(victim, link)
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.rename(link, path)
    except FileNotFoundError:
        pass
"""
HTTP = """
from aiohttp import web

async def answer(request):
    return web.Response(text="here")

async def create():
    app = web.Application()
    app.router.add_get("/", answer)
    return app
"""
FLOOD = """
import os, socket, threading

COUNT = 200_000

def find_channel():
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            sock = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        if (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            return sock
        sock.detach()

def flood(sock):
    sent = 0
    while sent < COUNT:
        try:
            sock.send(b"\\x91\\xa5Ready")
            sent += 1
        except BlockingIOError:
            continue  # to wait would leave the master a moment
        if sent == 1000:
            open("begun", "w").close()
    open("over", "w").close()

async def serve(reader, writer):
    threading.Thread(target=flood, args=[find_channel()], daemon=True).start()
"""
TERMINAL = """
import fcntl, os, signal, subprocess, sys, termios
# A shell with job control: it leads the session, has the terminal's foreground, and starts a job in the background.
terminal = os.open(sys.argv[1], os.O_RDWR)
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
modes = termios.tcgetattr(terminal)
modes[3] |= termios.TOSTOP
termios.tcsetattr(terminal, termios.TCSANOW, modes)
job = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stderr=terminal, process_group=0)
assert os.tcgetpgrp(terminal) == os.getpgrp() != job.pid
sys.exit(job.wait())
"""


def in_shell(exec_line: str, *program: str) -> list[str]:
    """Return a command whose redirections a shell makes first."""
    return ["sh", "-c", exec_line, "sh", *(program or (sys.executable, "-P", "-c", PROGRAM))]


def access(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def test_who_owns_the_folder_cannot_have_another_file_opened(nobody, tmp_path):
    victim = tmp_path / "victim"
    victim.touch(0o600)
    before = access(victim)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hourd-")))  # others can enter it
        os.chown(folder, nobody.uid, nobody.gid)
        path = folder / "web.sock"
        command = [nobody.python, "-c", SWAP, str(path), str(folder / "link"), str(victim)]
        swapper = subprocess.Popen(command, user=nobody.uid, group=nobody.gid, extra_groups=[], stdout=subprocess.PIPE)
        stack.enter_context(swapper)
        stack.callback(swapper.kill)
        assert swapper.stdout.readline() == b"ready\n"
        for _ in range(300):
            with contextlib.suppress(errors.HourdError, OSError):
                unix.listen(str(path), mode=0o666, backlog=1, uid=nobody.uid, gid=nobody.gid)[0].close()
            assert access(victim) == before
            while os.path.lexists(path) and not path.is_symlink():
                assert swapper.poll() is None
            path.unlink(missing_ok=True)


def test_who_locks_the_folder_keeps_nobody_from_starting():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        folder = os.open(daemon.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            control = str(daemon.folder / "second.sock")
            with Daemon({"control": control, **pool()}, {"app.py": ECHO}) as second:
                second.control = control
                second.expect("READY=1")
                assert second.status()["state"] == "running"
        finally:
            os.close(folder)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_started_without_its_standard_descriptors(closed):
    with Daemon(pool(), {"app.py": ECHO}, command=in_shell(f'exec "$@" {closed}')) as daemon:
        daemon.expect("READY=1")
        for _ in range(20):
            who, _, said = talk(daemon.addresses()[0], b"said").partition(b"\n")
            assert int(who.split()[0]) in daemon.workers()
            assert said == b"said"


def test_a_storm_of_signals_hides_no_term():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        with daemon.file.open("a") as file:
            file.write("# takes a while to be read\n" * 10_000)
        for _ in range(1500):
            for number in (signal.SIGHUP, signal.SIGUSR1):
                daemon.signal(number)
                while is_pending(daemon.process.pid, number):
                    pass
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Tell whether a signal is still to be taken; another of its kind would be lost in it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.search(r"^ShdPnd:\t(\w+)$", status, re.MULTILINE)[1], 16) >> (number - 1) & 1)


def test_a_master_without_a_free_descriptor():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.allow("no descriptor is left for the control socket", "Too many open files")
        daemon.expect("READY=1")
        (address,), master = daemon.addresses(), daemon.process.pid
        daemon.status()  # whatever it opens once is open
        used = {int(fd) for fd in os.listdir(f"/proc/{master}/fd")}
        soft, hard = resource.prlimit(master, resource.RLIMIT_NOFILE)
        lines = daemon.log.count("\n")
        resource.prlimit(master, resource.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), hard))
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(connect(f"unix:{daemon.control}"))
            for _ in range(300):
                assert talk(address, b"x").endswith(b"x")
            assert daemon.log.count("\n") - lines <= 5
            resource.prlimit(master, resource.RLIMIT_NOFILE, (soft, hard))
            assert daemon.status()["state"] == "running"


def test_a_log_that_nobody_reads():
    server = {"kind": "aiohttp", "app": "app:create", "options": {"access_log": True}}
    # Opened for both by the daemon itself, it can be written to, until it is full.
    daemon = Daemon(pool(workers=1, server=server), {"app.py": HTTP}, command=in_shell('exec "$@" 2<>fifo'))
    os.mkfifo(daemon.folder / "fifo")
    with daemon:
        daemon.expect("READY=1")
        host, _, port = daemon.addresses()[0].rpartition(":")
        client = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        for _ in range(3000):
            client.request("GET", "/")
            assert client.getresponse().read() == b"here"
        client.close()


def test_a_worker_that_floods_its_channel():
    # So many, that the master has longer for a message than the worker.
    with Daemon(pool(workers=32, server={"grace": "1s"}), {"app.py": FLOOD}) as daemon:
        daemon.allow(
            "it is not heard any more", "flood", "killing worker", "was killed by SIGKILL", "Broken pipe|Reset"
        )
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]):  # nobody waits for its end: the flood leaves its own worker no time either
            daemon.until((daemon.folder / "begun").exists, "the flood has begun")
            assert daemon.status()["state"] in ("running", "degraded")
            assert not (daemon.folder / "over").exists()


def test_a_background_job_of_a_terminal_that_stops_writers():
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", TERMINAL, os.ttyname(theirs), sys.executable, "-P", "-c", PROGRAM]
    try:
        with Daemon(pool(), {"app.py": ECHO}, command=command) as daemon:
            daemon.expect("READY=1")
            status = daemon.status()
            assert int(talk(daemon.addresses()[0]).split()[0]) in daemon.workers()
            assert len(status["pools"]["web"]["workers"]) == 2
            os.kill(status["pid"], signal.SIGTERM)
            assert daemon.wait() == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_mold_that_gives_a_blank_reason():
    says = (
        "import os, socket\nfrom hourd import channel\n"
        "with socket.socket(fileno=os.dup(3)) as sock:\n    sock.send(channel._encode(channel.Refused('\\n', 75)))\n"
        "os._exit(3)\n"
    )
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.allow("refused")
        daemon.expect("READY=1")
        daemon.write("app.py", says)
        assert not daemon.reload().ok
        assert "reload refused" in daemon.expect("STATUS=running: 2 workers serve, generation 1; reload refused")

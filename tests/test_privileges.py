"""Started as root, user code runs as somebody else; only the master stays root."""

from __future__ import annotations

import grp
import json
import os
import re
import stat
from pathlib import Path

import pytest

from .daemon import ECHO, Daemon, connect, pool, talk

WHO = """
import json, os
IMPORTED_BY = os.getuid()

async def serve(reader, writer):
    with open("/dev/stderr", "a") as file:
        opened = file.writable()
    open("/proc/self/environ").close()  # not root's
    with open("/proc/self/status") as file:
        status = file.read()
    writer.write(json.dumps({
        "uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(), "imported": IMPORTED_BY,
        "stderr": opened, "user": os.environ["USER"], "home": os.environ["HOME"],
        "caps": [line.split()[1] for line in status.splitlines() if line.startswith("CapEff")],
    }).encode())
"""


def started_for(nobody, config, files) -> Daemon:
    # Groups of root that must not stay.
    program = "import os; os.setgroups([0, 1]); from hourd.cli import main; main()"
    command = (nobody.python, "-P", "-c", program)
    # A worker without rights could not write what coverage has measured.
    environment = {"PYTHONPATH": nobody.path, "COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}
    return Daemon(config, files, command=command, environment=environment)


@pytest.mark.parametrize("preload", [True, False])
def test_user_code_runs_as_the_user(nobody, preload):
    with started_for(nobody, {"user": nobody.name, **pool(preload=preload)}, {"app.py": WHO}) as daemon:
        daemon.expect("READY=1")
        who = json.loads(talk(daemon.addresses()[0]))
        assert who["uids"] == [nobody.uid] * 3
        assert who["gids"] == [nobody.gid] * 3
        assert set(who["groups"]) <= {nobody.gid}
        assert who["imported"] == nobody.uid
        assert who["caps"] == ["0" * 16]
        assert who["user"] == nobody.name
        for pid in (*daemon.workers(), *daemon.pool()["molds"]):
            assert os.stat(f"/proc/{pid}").st_uid == nobody.uid
            assert re.search(rf"^Groups:\t({nobody.gid})? *$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        assert os.stat(f"/proc/{daemon.process.pid}").st_uid == 0
        workers = daemon.workers()
        assert daemon.reload().ok
        assert not set(workers) & set(daemon.workers())


def test_what_root_may_bind_and_the_user_may_not(nobody):
    with started_for(nobody, {"user": nobody.name, **pool()}, {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        path = daemon.folder / "web.sock"  # in a folder of root
        access = {"mode": "0600", "owner": nobody.name, "group": grp.getgrgid(nobody.gid).gr_name}
        daemon.configure({"user": nobody.name, **pool(server={"bind": f"unix:{path}", "unix": access})})
        assert daemon.reload().ok
        status = path.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o600, nobody.uid, nobody.gid)
        with connect(f"unix:{path}") as sock:
            assert int(sock.recv(100).split()[0]) in daemon.workers()
    assert not path.exists()


def test_a_group_alone(nobody):
    with started_for(nobody, {"group": grp.getgrgid(nobody.gid).gr_name, **pool()}, {"app.py": WHO}) as daemon:
        daemon.expect("READY=1")
        for pid in daemon.workers():
            assert re.search(
                rf"^Gid:\t{nobody.gid}\t{nobody.gid}\t{nobody.gid}\t",
                Path(f"/proc/{pid}/status").read_text(),
                re.MULTILINE,
            )


def test_a_directory_that_the_user_may_not_enter(nobody):
    with started_for(nobody, {"user": nobody.name, **pool()}, {"app.py": ECHO}) as daemon:
        daemon.allow("cannot enter directory")
        daemon.expect("READY=1")
        workers = daemon.workers()
        closed = daemon.folder / "closed"
        closed.mkdir(mode=0o700)
        daemon.configure({"user": nobody.name, "directory": str(closed), **pool()})
        answer = daemon.reload()
        assert not answer.ok
        assert answer.error.startswith(f"cannot enter directory {closed}: Permission denied")
        assert daemon.workers() == workers


def test_a_user_that_is_not_there():
    with Daemon({"user": "no-such-user-here", **pool()}, {"app.py": ECHO}) as daemon:
        daemon.allow("no-such-user-here")
        assert daemon.wait() in (77, 78)

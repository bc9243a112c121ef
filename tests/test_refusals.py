"""What is refused, each with its reason and its exit code, and what is not touched then."""

from __future__ import annotations

import contextlib
import grp
import os
import re
import signal
import socket
import stat
import subprocess
import threading

import pytest
import yaml

from .daemon import ECHO, Daemon, pool, talk

GARBAGE = [
    b"garbage\n",
    b"\xff\xfe\xfd\n",
    b"[" * 5000 + b"\n",
    b"[]\n",
    b'{"ok": "yes"}\n',
    b'{"ok": true}\n',
    b'{"ok": true, "status": {"name": 3}}\n',
    b"no end",
    b"\n",
]
AS_SOMEBODY_LIMITED = """
import os, resource
os.environ.pop("NOTIFY_SOCKET")  # root's
os.setgroups([])
os.setgid({user})
os.setuid({user})
resource.setrlimit(resource.RLIMIT_NPROC, ({processes}, {processes}))
from hourd.cli import main
main()
"""


@pytest.mark.parametrize("taken", [True, False], ids=["taken address", "address of its own"])
def test_a_second_start_with_the_same_pid_file(taken, tmp_path):
    path = tmp_path / "test.pid"
    with Daemon({"pid_file": str(path), **pool()}, {"app.py": ECHO}) as first:
        first.expect("READY=1")
        before = path.stat()
        bind = first.addresses()[0] if taken else "127.0.0.1:0"
        with Daemon({"pid_file": str(path), **pool(server={"bind": bind})}, {"app.py": ECHO}) as second:
            second.allow(re.escape(str(path)), "cannot start", "another")
            assert second.wait(timeout=20) == 69
        after = path.stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        assert path.read_text() == f"{first.process.pid}\n"
        assert first.status()["state"] == "running"
    assert not path.exists()


def test_a_pid_file_of_one_that_was_killed_is_taken_over(tmp_path):
    path = tmp_path / "test.pid"
    for number in (signal.SIGKILL, signal.SIGTERM):
        with Daemon({"pid_file": str(path), **pool()}, {"app.py": ECHO}) as daemon:
            daemon.allow("the channel to the master ended", "the master is gone")
            daemon.expect("READY=1")
            assert path.read_text() == f"{daemon.process.pid}\n"
            daemon.signal(number)
            assert daemon.wait() == (0 if number == signal.SIGTERM else -number)
            daemon.wait_gone()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("key", "value"), [("name", "other"), ("control", "other.sock"), ("pid_file", "other.pid")])
def test_a_reload_that_needs_a_restart(key, value):
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.allow("reload refused")
        daemon.expect("READY=1")
        workers, files = daemon.workers(), set(os.listdir(daemon.folder))
        daemon.configure({**pool(), key: value if key == "name" else str(daemon.folder / value)})
        answer = daemon.reload()
        assert not answer.ok
        assert re.search(rf"\b{key}\b.*restart", answer.error)
        assert (daemon.workers(), daemon.status()["name"], daemon.status()["generation"]) == (workers, "test", 1)
        assert set(os.listdir(daemon.folder)) <= files
        daemon.configure(pool())
        assert daemon.reload().ok


def test_a_reload_changes_the_mode_of_a_socket():
    daemon = Daemon("")
    path = daemon.folder / "web.sock"

    def config(mode):
        return pool(server={"bind": f"unix:{path}", "unix": {"mode": mode}})

    daemon.write("app.py", ECHO)
    daemon.configure(config("0600"))
    with daemon:
        daemon.expect("READY=1")
        for mode in (0o600, 0o666, 0o660):
            daemon.configure(config(f"{mode:04o}"))
            assert daemon.reload().ok
            assert stat.S_IMODE(path.stat().st_mode) == mode
            assert talk(f"unix:{path}", b"x").endswith(b"\nx")


@pytest.mark.parametrize("answer", GARBAGE, ids=lambda answer: repr(answer[:12]))
def test_status_of_somebody_who_is_no_hourd(answer):
    with Daemon(pool(), arguments=["check", "-c", "hourd.yaml"]) as daemon, socket.socket(socket.AF_UNIX) as sock:
        daemon.allow("the configuration is right")
        place = str(daemon.folder / "kept-other.sock")
        sock.bind(place)
        sock.listen()
        thread = threading.Thread(target=answer_once, args=(sock, answer))
        thread.start()
        result = daemon.run("status", "--control", place)
        thread.join()
        assert (result.returncode, result.stdout) == (1, "")
        assert len(result.stderr.splitlines()) == 1
        assert place in result.stderr
        assert daemon.wait() == 0


def answer_once(sock: socket.socket, answer: bytes) -> None:
    client, _ = sock.accept()
    with client, contextlib.suppress(ConnectionError):
        client.recv(1000)
        client.sendall(answer)


@pytest.mark.parametrize("processes", [1, 2, 3], ids=["mold", "the one in between", "worker"])
def test_a_process_that_the_system_refuses(nobody, processes):
    # A user that nobody else is: its processes are counted.
    program = AS_SOMEBODY_LIMITED.format(user=20000 + os.getpid() % 40000, processes=processes)
    environment = {"PYTHONPATH": nobody.path, "COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}
    command = (nobody.python, "-P", "-c", program)
    with Daemon(pool(workers=1), {"app.py": ECHO}, command=command, environment=environment) as daemon:
        daemon.folder.chmod(0o777)
        reason = "cannot start: .*(Resource temporarily unavailable|the system refused)"
        daemon.allow(reason)
        assert daemon.wait() == 71
        assert re.search(reason, daemon.log)
        assert "Traceback" not in daemon.log


def test_a_group_that_the_user_only_has_besides_its_own(nobody):
    other = next(entry for entry in grp.getgrall() if entry.gr_gid not in (0, nobody.gid))
    own = grp.getgrgid(nobody.gid)
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        for group, code in ((other, 78), (own, 0)):
            daemon.configure(yaml.safe_dump({"group": group.gr_name, "directory": str(daemon.folder), **pool()}))
            result = subprocess.run(
                [nobody.python, "-P", "-c", "from hourd.cli import main; main()", "check", "-c", str(daemon.file)],
                user=nobody.uid, group=nobody.gid, extra_groups=[other.gr_gid], env={"PYTHONPATH": nobody.path},
                cwd=daemon.folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert result.returncode == code, result.stderr
            assert code == 0 or "group" in result.stderr


def test_a_factory_that_ends_its_process():
    code = "import sys\n\ndef create():\n    sys.exit('no database')\n"
    with Daemon(pool(server={"kind": "aiohttp", "app": "app:create"}), {"app.py": code}) as daemon:
        daemon.allow("cannot start: ", "no database", "killing worker web/. .*: it is stopped at once")
        assert daemon.wait() == 75
        assert re.search(r"cannot start: server main .*no database", daemon.log, re.DOTALL)

"""The control socket: whatever comes in, the daemon goes on and others are answered."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess

import pytest
import yaml

from hourd import errors

from .around import AT_GATE, GATE, Gate
from .daemon import ECHO, Daemon, connect, pool, talk

ASK_STATUS = b'{"command": "status"}\n'


@pytest.fixture
def daemon():
    with Daemon(pool(), {"app.py": ECHO}) as running:
        running.expect("READY=1")
        yield running


def answers(daemon: Daemon) -> bool:
    with contextlib.suppress(errors.RefusedError):
        return daemon.ask("status").ok
    return False


def raw(daemon: Daemon) -> socket.socket:
    return connect(f"unix:{daemon.control}")


def test_what_status_shows(daemon):
    talk(daemon.addresses()[0])
    status = daemon.status()
    assert (status["name"], status["pid"], status["state"]) == ("test", daemon.process.pid, "running")
    assert (status["generation"], status["last_reload"]) == (1, None)
    web = status["pools"]["web"]
    assert [slot["slot"] for slot in web["slots"]] == [0, 1]
    assert [slot["attended_by"] for slot in web["slots"]] == [[pid] for pid in daemon.workers()]
    for worker in web["workers"]:
        assert worker["state"] == "serving"
        assert worker["rss_bytes"] > worker["private_bytes"] > 0
        assert worker["uptime_s"] >= 0
    daemon.until(
        lambda: sum(worker["accepted"] for worker in daemon.pool()["workers"]) == 1, "the connection is counted"
    )


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"nonsense\n",
        b"[]\n",
        b'{"command": "dance"}\n',
        b'{"command": "stop", "then": 1}\n',
        b"\xff\xfe\n",
        b"[" * 60000 + b"\n",
    ],
)
def test_what_cannot_be_understood_is_answered(daemon, line):
    with raw(daemon) as sock:
        sock.sendall(line + ASK_STATUS)
        with sock.makefile() as answers:
            first, second = json.loads(answers.readline()), json.loads(answers.readline())
    assert first["ok"] is False
    assert first["error"].startswith("not understood: ")
    assert second["status"]["state"] == "running"


def test_a_request_without_end_is_cut(daemon):
    with raw(daemon) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(b"x" * 1_000_000)
        assert sock.recv(1) == b""
    assert daemon.status()["state"] == "running"


def test_requests_in_pieces_and_many_at_once(daemon):
    with raw(daemon) as slow, raw(daemon) as fast:
        slow.sendall(ASK_STATUS[:5])
        fast.sendall(ASK_STATUS * 20)
        with fast.makefile() as answers:
            assert all(json.loads(answers.readline())["ok"] for _ in range(20))
        slow.sendall(ASK_STATUS[5:])
        with slow.makefile() as answers:
            assert json.loads(answers.readline())["ok"]


def test_a_client_that_sends_all_and_half_closes_is_answered(daemon):
    assert json.loads(talk(f"unix:{daemon.control}", ASK_STATUS))["ok"]


def test_a_client_that_does_not_read(daemon):
    with raw(daemon) as sock:
        sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            for _ in range(10000):
                sock.sendall(ASK_STATUS)
        assert daemon.status()["state"] == "running"
        assert talk(daemon.addresses()[0], b"x").endswith(b"x")
    assert daemon.status()["state"] == "running"


def test_a_hundred_clients(daemon):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(raw(daemon)) for _ in range(100)]
        served = 0
        for client in clients:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(ASK_STATUS)
                served += bool(client.recv(100))
        assert served >= 32
    daemon.until(lambda: answers(daemon), "there is room again")
    assert daemon.reload().ok


def test_a_client_that_leaves_while_it_waits_for_a_reload(daemon):
    daemon.write("gate.py", GATE)
    with Gate(daemon.folder) as gate:
        daemon.write("app.py", AT_GATE)
        with raw(daemon) as sock:
            sock.sendall(b'{"command": "reload"}\n')
            _, held = gate.next()
        daemon.status()
        held.close()
        daemon.wait_until(lambda status: status["generation"] == 2)


def test_all_who_wait_for_a_reload_are_answered(daemon):
    daemon.write("gate.py", GATE)
    with Gate(daemon.folder) as gate, contextlib.ExitStack() as stack:
        daemon.write("app.py", AT_GATE)
        clients = [stack.enter_context(raw(daemon)) for _ in range(3)]
        for client in clients:
            client.sendall(b'{"command": "reload"}\n')
            _, held = gate.next()
            stack.enter_context(held)
        held.close()
        for client in clients:
            with client.makefile() as answers:
                answer = json.loads(answers.readline())
                assert (answer["ok"], answer["generation"]) == (True, 4)


def test_who_waits_for_a_reload_hears_of_a_stop(daemon):
    daemon.write("gate.py", GATE)
    with Gate(daemon.folder) as gate, raw(daemon) as sock:
        daemon.write("app.py", AT_GATE)
        sock.sendall(b'{"command": "reload"}\n')
        _, held = gate.next()
        daemon.signal(signal.SIGQUIT)
        with sock.makefile() as answers, held:
            answer = json.loads(answers.readline())
            assert (answer["ok"], answer["error"]) == (False, "hourd was stopped meanwhile")
        assert daemon.wait() == 0


def test_numbers_that_cannot_be_are_refused(daemon):
    before = daemon.workers()
    with raw(daemon) as sock, sock.makefile() as answers:
        for given, error in (
            ('"workers": 1', "there is no pool ; there is web"),
            ('"pool": "none", "workers": 1', "there is no pool none; there is web"),
            ('"pool": "web"', "pool web can have 1 to 1024 workers"),
            ('"pool": "web", "workers": -1', "pool web can have 1 to 1024 workers"),
            ('"pool": "web", "workers": 1025', "pool web can have 1 to 1024 workers"),
            ('"pool": "web", "workers": 1' + 100 * "0", "pool web can have 1 to 1024 workers"),
            ('"pool": "web", "workers": 1.5', "not understood: "),
            ('"pool": "web", "workers": "3"', "not understood: "),
            ('"pool": ["web"], "workers": 3', "not understood: "),
        ):
            sock.sendall(b'{"command": "scale", %s}\n' % given.encode())
            answer = json.loads(answers.readline())
            assert answer["ok"] is False
            assert answer["error"].startswith(error)
    assert daemon.workers() == before
    assert "workers wanted" not in daemon.log


def test_a_number_is_not_taken_while_stopping(daemon):
    with raw(daemon) as sock, sock.makefile() as answers, connect(daemon.addresses()[0]) as client:
        client.recv(100)
        daemon.signal(signal.SIGTERM)
        daemon.expect("STOPPING=1")
        sock.sendall(b'{"command": "scale", "pool": "web", "workers": 3}\n')
        assert json.loads(answers.readline()) == {"ok": False, "error": "hourd is stopping"}
    assert daemon.wait() == 0
    assert "workers wanted" not in daemon.log


def test_a_number_that_comes_during_a_reload_is_the_new_ones(daemon):
    daemon.write("gate.py", GATE)
    with Gate(daemon.folder) as gate, raw(daemon) as sock, sock.makefile() as answers:
        daemon.write("app.py", AT_GATE)
        sock.sendall(b'{"command": "reload"}\n')
        _, held = gate.next()
        with raw(daemon) as other, other.makefile() as other_answers:
            other.sendall(b'{"command": "scale", "pool": "web", "workers": 3}\n')
            assert json.loads(other_answers.readline()) == {"ok": True}
        held.close()
        assert json.loads(answers.readline())["generation"] == 2
        daemon.until(lambda: len(daemon.workers()) == 3, "three workers")


@pytest.mark.parametrize("now", [False, True])
def test_stop(daemon, now):
    assert daemon.ask("stop", now=now).ok
    assert daemon.wait() == 0


def test_without_a_place_for_the_socket_it_serves():
    text = yaml.safe_dump(pool())
    with Daemon(text, {"app.py": ECHO}, environment={"XDG_RUNTIME_DIR": "/proc/nowhere"}) as daemon:
        daemon.allow("no control socket at /proc/nowhere/hourd/hourd.sock: ")
        daemon.expect("READY=1")
        assert daemon.log.count("no control socket") == 1
        assert not os.path.exists(daemon.control)


def test_the_default_place():
    with Daemon(yaml.safe_dump(pool()), {"app.py": ECHO}, environment={"RUNTIME_DIRECTORY": "."}) as daemon:
        daemon.expect("READY=1")
        daemon.control = str(daemon.folder / "hourd.sock")
        assert daemon.status()["name"] == "hourd"
        assert daemon.run("status", "-c", str(daemon.file)).returncode == 0


def test_a_name_that_the_file_does_not_know():
    environment = {"RUNTIME_DIRECTORY": ".", "HOURD_NAME": "blue"}
    with Daemon(yaml.safe_dump(pool()), {"app.py": ECHO}, environment=environment) as daemon:
        daemon.expect("READY=1")
        daemon.control = str(daemon.folder / "blue.sock")
        assert daemon.status()["name"] == "blue"
        file = str(daemon.file)
        assert daemon.run("status", "-c", file).returncode == 0  # by HOURD_NAME
        assert daemon.run("status", "-c", file, "--name", "blue").returncode == 0
        other = daemon.run("status", "-c", file, "--name", "green")
        assert (other.returncode, "green.sock" in other.stderr) == (1, True)


def test_others_may_not_ask(nobody, daemon):
    code = f"""
import socket
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect({daemon.control!r})
    sock.sendall(b'{{"command": "stop"}}\\n')
    print(sock.recv(100))
except OSError as error:
    print(type(error).__name__)
"""
    ask = [nobody.python, "-c", code]
    assert (
        subprocess.run(ask, user=nobody.uid, check=True, capture_output=True, text=True).stdout == "PermissionError\n"
    )
    # Also where somebody has opened the file to all.
    os.chmod(daemon.control, 0o666)
    answer = subprocess.run(ask, user=nobody.uid, check=True, capture_output=True, text=True).stdout
    assert answer in ("b''\n", "BrokenPipeError\n", "ConnectionResetError\n")
    assert daemon.status()["state"] == "running"

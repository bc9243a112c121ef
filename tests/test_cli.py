"""The command line against a real daemon: what is printed, and how it exits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .daemon import ECHO, Daemon, connect, pool, talk


@pytest.fixture
def daemon():
    with Daemon(pool(), {"app.py": ECHO}) as running:
        running.expect("READY=1")
        yield running


def at_home(daemon: Daemon) -> tuple[str, str]:
    return ("-c", str(daemon.file))


def test_start_without_a_file():
    arguments = [
        "start",
        "app:serve",
        "--kind",
        "stream",
        "--bind",
        "127.0.0.1:0",
        "--workers",
        "1",
        "--control",
        "control.sock",
    ]
    with Daemon("", {"app.py": ECHO}, arguments=arguments) as daemon:
        daemon.expect("READY=1")
        (worker,) = daemon.workers("main")
        assert daemon.status()["name"] == "app"
        assert int(talk(daemon.addresses("main", "main")[0]).split()[0]) == worker


def test_the_command_line_goes_before_the_file():
    with Daemon(
        pool(workers=2), {"app.py": ECHO}, arguments=["start", "-c", "hourd.yaml", "--workers", "3", "--name", "mine"]
    ) as daemon:
        daemon.expect("READY=1")
        assert len(daemon.workers()) == 3
        assert daemon.status()["name"] == "mine"


def test_status(daemon):
    result = daemon.run("status", *at_home(daemon))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"test: running, generation 1, pid {daemon.process.pid}, ")
    for pid in daemon.workers():
        assert f" {pid} " in result.stdout
    as_json = json.loads(daemon.run("status", "--json", *at_home(daemon)).stdout)
    assert as_json["pools"].keys() == {"web"}
    assert json.loads(daemon.run("status", "--json", "--control", daemon.control).stdout)["pid"] == daemon.process.pid


def test_status_while_there_is_a_mistake_in_the_file(daemon):
    daemon.configure(f"control: {daemon.control}\nname: test\npools: {{}}\n")
    assert daemon.run("status", *at_home(daemon)).returncode == 0


def test_stop_waits_for_the_end(daemon):
    result = daemon.run("stop", *at_home(daemon))
    assert (result.returncode, result.stderr) == (0, "")
    assert daemon.process.poll() == 0
    assert daemon.wait() == 0


def test_stop_now(daemon):
    assert daemon.run("stop", "--now", *at_home(daemon)).returncode == 0
    assert daemon.wait() == 0


def test_scale(daemon):
    result = daemon.run("scale", "web", "3", *at_home(daemon))
    assert (result.returncode, result.stdout, result.stderr) == (0, "pool web: 3 workers wanted\n", "")
    daemon.until(lambda: len(daemon.workers()) == 3, "three workers")
    daemon.wait_log("scale asked: pool web to 3 workers")


def test_scale_that_is_refused(daemon):
    result = daemon.run("scale", "wbe", "3", *at_home(daemon))
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "there is no pool wbe; there is web\n")
    daemon.configure(pool(workers={"min": 1, "max": 2}))
    assert daemon.reload().ok
    result = daemon.run("scale", "web", "3", *at_home(daemon))
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "pool web can have 1 to 2 workers\n")
    with connect(daemon.addresses()[0]) as sock:
        sock.recv(100)
        daemon.signal(signal.SIGTERM)
        daemon.expect("STOPPING=1")
        result = daemon.run("scale", "web", "1", *at_home(daemon))
        assert (result.returncode, result.stdout, result.stderr) == (1, "", "hourd is stopping\n")
    assert daemon.wait() == 0


@pytest.mark.parametrize("command", [["status"], ["reload"], ["stop"], ["scale", "web", "2"]], ids=" ".join)
def test_no_daemon_is_there(daemon, command):
    place = str(daemon.folder / "none.sock")
    result = daemon.run(*command, "--control", place)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"no hourd runs with control socket {place}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["start", "app:serve", "-c", "hourd.yaml"],
        ["dance"],
        ["start"],
        ["reload", "--now"],
        ["status", "extra"],
        ["scale", "web"],
        ["scale", "web", "none"],
        ["scale", "web", "0"],
        ["scale", "web", "1025"],
    ],
    ids=" ".join,
)
def test_usage(arguments):
    result = hourd(*arguments)
    assert result.returncode == 2
    assert "Usage: " in result.stderr or "nothing to run" in result.stderr


def test_check(tmp_path: Path):
    with Daemon(pool(), {"app.py": ECHO}, arguments=["check", "-c", "hourd.yaml", "--import"]) as right:
        right.allow("the configuration is right")
        assert right.wait() == 0
        assert right.log == "the configuration is right\n"
    with Daemon(pool(), {"app.py": "1 / 0\n"}, arguments=["check", "-c", "hourd.yaml", "--import"]) as broken:
        broken.allow("server main")
        assert broken.wait() == 75
        assert "ZeroDivisionError" in broken.log
    with Daemon(pool(), {"app.py": "1 / 0\n"}, arguments=["check", "-c", "hourd.yaml"]) as unseen:
        unseen.allow("the configuration is right")
        assert unseen.wait() == 0
    (tmp_path / "wrong.yaml").write_text("pools: {web: {servers: {a: {kind: none}}}}\nlog: {level: loud}\n")
    wrong = hourd("check", "-c", str(tmp_path / "wrong.yaml"))
    assert wrong.returncode == 78
    assert all(line.startswith(f"{tmp_path}/wrong.yaml:") for line in wrong.stderr.splitlines())
    assert len(wrong.stderr.splitlines()) >= 3


@pytest.mark.parametrize(
    ("command", "text"), [("kinds", "stream"), ("schema", '"$schema"'), ("--version", "hourd"), ("--help", "reload")]
)
def test_what_needs_no_daemon(command, text):
    result = hourd(command)
    assert (result.returncode, result.stderr) == (0, "")
    assert text in result.stdout


def hourd(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from hourd.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )

"""The chaos tool: minutes of it over all kinds and faults, and that it sees what it is there to see."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from .around import find_processes

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SECONDS = int(os.environ.get("HOURD_TEST_CHAOS", "180"))
"""Of chaos; what depends on chance needs that once, and not on each version of Python."""
LIMIT = SECONDS + 420.0
"""Seconds after which the tool, which is bounded itself, is taken for hanging."""

APP = """
import asyncio, itertools, os
from aiohttp import web

numbers = itertools.count(1)

async def hello(request):
    return web.Response(text="hello")

async def loses(request):
    if next(numbers) % 20 == 0:
        request.transport.close()
        await asyncio.sleep(1)
    return web.Response(text="hello")

async def lies(request):
    return web.Response(status=500 if next(numbers) % 20 == 0 else 200)

async def thinks(request):
    await asyncio.sleep(0.5)
    return web.Response(text="hello")

def boots_twice():
    with open("boots", "a+") as file:
        file.write("x")
        file.seek(0)
        if len(file.read()) > 2:
            raise RuntimeError("enough")
    return create_app()

def create_app():
    app = web.Application()
    app.add_routes([web.get(f"/{each.__name__}", each) for each in (hello, loses, lies, thinks)])
    return app
"""


@dataclass
class Place:
    """A folder with a configuration and an application of somebody's."""

    folder: Path

    def configure(self, app: str = "app:create_app", **more: Any) -> None:
        http = {"kind": "aiohttp", "app": app, "bind": ["0.0.0.0:8080", "unix:/run/not-here/http.sock"], "grace": "10s"}
        restart = {"backoff": "50ms", "backoff_max": "200ms"}
        pool = {"workers": 2, "servers": {"http": http}, "restart": restart}
        (self.folder / "app.py").write_text(APP)
        (self.folder / "hourd.yaml").write_text(yaml.safe_dump({"directory": ".", "pools": {"web": {**pool, **more}}}))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(BENCHMARKS / "chaos.py"), "-c", str(self.folder / "hourd.yaml"), *arguments],
            env={**os.environ, "TMPDIR": str(self.folder)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *arguments: str) -> tuple[int, str, dict[str, Any]]:
        """Run the tool; returns its exit code, what it said, and its report if it made one."""
        report = self.folder / "report.json"
        process = self.start("--json", str(report), *arguments)
        said = finish(process)
        return process.returncode, said, json.loads(report.read_text()) if report.exists() else {}

    def processes(self) -> dict[int, str]:
        return dict(find_processes(-1, f"TMPDIR={self.folder}", str(self.folder)))


def finish(process: subprocess.Popen[str]) -> str:
    try:
        said, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        process.terminate()
        said, _ = process.communicate()
        pytest.fail(f"the tool did not end:\n{said}")
    return said


@pytest.fixture
def place():
    folder = Path(tempfile.mkdtemp(prefix="hourd-"))
    folder.chmod(0o755)
    yield Place(folder)
    shutil.rmtree(folder)


@pytest.fixture
def load(monkeypatch):
    """Provide what imports a module of the tool; they import each other by their plain names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


# --- hourd ----------------------------------------------------------------------------------------


def test_nothing_is_lost_in_chaos(place):
    report = place.folder / "report.json"
    process = subprocess.Popen(
        [sys.executable, str(BENCHMARKS / "chaos.py"), "--seconds", str(SECONDS), "--seed", "1", "--json", str(report)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = finish(process)
    print(said)
    assert process.returncode == 0, said
    found = json.loads(report.read_text())
    sorts = {"download", "echo", "fresh", "keep alive", "pipelined", "slow", "ssh", "upload", "websocket"}
    assert {sort for sort, tally in found["clients"].items() if tally["answered"]} == sorts


# --- the tool -------------------------------------------------------------------------------------


def test_a_configuration_of_somebody_else(place):
    place.configure()
    code, said, found = place.run(
        "--path", "/hello", "--faults", "kill,reload,bad-yaml", "--seconds", "6", "--seed", "1"
    )
    assert (code, found.get("problems")) == (0, []), said
    assert found["total"]["lost"] == 0
    assert found["windows"]
    assert not [name for name in os.listdir(place.folder) if name.startswith("hourd-chaos-")]


@pytest.mark.parametrize(("path", "outcome"), [("/loses", "ended"), ("/lies", "wrong")])
def test_a_loss_is_seen(place, path, outcome):
    place.configure()
    code, said, found = place.run("--path", path, "--faults", "reload", "--seconds", "2", "--seed", "1")
    assert code == 1, said
    assert found["problems"] == []
    assert found["total"]["lost"] > 0
    assert {record["outcome"] for record in found["lost"]} >= {outcome}
    assert f"{found['total']['lost']} requests lost" in said
    assert sum(found["total"][each] for each in ("answered", "killed", "away", "lost")) == found["total"]["requests"]
    assert list(place.folder.glob("hourd-chaos-*/log"))


def test_what_a_killed_worker_had_in_hand_is_not_lost(place):
    place.configure()
    code, said, found = place.run("--path", "/thinks", "--faults", "kill-all", "--seconds", "3", "--seed", "1")
    assert code == 0, said
    assert found["total"]["killed"] > 0
    assert found["total"]["lost"] == 0


def test_a_daemon_that_does_not_recover(place):
    place.configure("app:boots_twice")
    code, said, found = place.run(
        "--path", "/hello", "--faults", "kill", "--seconds", "6", "--seed", "1", "--patience", "5"
    )
    assert code == 1, said
    assert any("within 5s it did not come to this" in problem for problem in found["problems"])


def test_what_cannot_run_is_said(place):
    place.configure(workers=0)
    code, said, _ = place.run("--seconds", "1")
    assert (code, "workers" in said) == (2, True)
    place.configure("app:missing")
    code, said, _ = place.run("--seconds", "1")
    assert (code, "missing" in said) == (2, True)
    place.configure()
    code, said, _ = place.run("--seconds", "1", "--faults", "earthquake")
    assert (code, "no such fault: earthquake" in said) == (2, True)


def test_interrupted_it_leaves_nothing_behind(place):
    place.configure(timeouts={"slow": "500ms", "hung": "2s"})
    with place.start("--path", "/hello", "--faults", "freeze", "--seconds", "100") as process:
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        assert any("stopped everything" in line for line in lines)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 2
    assert place.processes() == {}
    assert not list(place.folder.glob("hourd-chaos-*"))


# --- its parts ------------------------------------------------------------------------------------


def test_a_seed_means_the_same_faults(load):
    faults = load("chaos_faults")

    def first(seed: int) -> list[tuple[str, float]]:
        return [
            (fault.name, chance.random()) for fault, chance in itertools.islice(faults.deal([*faults.FAULTS], seed), 60)
        ]

    assert first(1) == first(1) != first(2)
    assert len({name for name, _ in first(1)[: len(faults.FAULTS)]}) == len(faults.FAULTS)


def test_who_holds_a_connection(load):
    sockets = load("chaos_sockets")
    with tempfile.TemporaryDirectory(prefix="hourd-") as folder, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"{folder}/sock")
        unix.listen()
        for listening, address in ((socket.create_server(("127.0.0.1", 0)), None), (unix, f"{folder}/sock")):
            with listening, listening.dup() as kept, socket.socket(listening.family) as accepted:
                accepted.connect(address or kept.getsockname())
                server, _ = kept.accept()
                with server, socket.socket(listening.family) as queued:
                    queued.connect(address or kept.getsockname())
                    held = sockets.held(os.getpid())
                    assert sockets.name(accepted) in held
                    assert sockets.name(queued) not in held
                assert sockets.name(accepted) not in sockets.held(os.getpid())


def record(load, **facts: Any) -> Any:
    world = load("chaos_world")
    usual = {
        "sort": "fresh", "server": "web/http", "address": "127.0.0.1:1", "outcome": "ended", "started": 10.0, "ended": 12.0,
        "latency": 2.0, "connection": "127.0.0.1 5", "opened": 10.0, "connected": 10.1, "worker": 0,
    }  # fmt: skip
    return world.Record(**{**usual, **facts})


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        ({"outcome": "answered"}, "answered"),
        ({}, "killed"),
        ({"outcome": "timeout"}, "killed"),
        ({"connection": "127.0.0.1 6"}, "lost"),  # the victim did not hold it
        ({"opened": 11.5, "started": 11.5, "connected": 11.6}, "lost"),  # the port was used again
        ({"ended": 10.5}, "lost"),  # before anybody was killed
        ({"outcome": "refused", "connected": 0.0, "connection": ""}, "lost"),
        ({"outcome": "goodbye", "connection": ""}, "away"),
        ({"outcome": "refused", "connection": "", "connected": 0.0, "opened": 20.5, "started": 20.5, "ended": 20.5}, "away"),
        ({"outcome": "refused", "connection": "", "connected": 0.0, "opened": 40.0, "started": 40.0, "ended": 40.0}, "away"),
        ({"outcome": "refused", "connection": "", "connected": 0.0, "opened": 40.0, "started": 40.0, "ended": 40.0, "address": "127.0.0.1:2"}, "lost"),
        ({"opened": 20.5, "connected": 20.6, "started": 20.5, "ended": 20.7}, "away"),  # as good as refused
        ({"opened": 20.5, "connected": 20.6, "started": 20.5, "ended": 20.7, "worker": 7}, "lost"),  # somebody had begun
        ({"opened": 19.8, "connected": 19.9, "started": 19.8, "ended": 20.7}, "lost"),  # connected before
    ],
)  # fmt: skip
def test_who_is_to_blame(load, facts, verdict):
    stage, verdicts = load("chaos_stage"), load("chaos_verdict")
    death = stage.Death(1, "web", "SIGKILL", 11.0, frozenset({"127.0.0.1 5"}))
    down = stage.Down(20.0, 30.0, ["127.0.0.1:1"])
    assert verdicts.Judgement([death], [down], [], frozenset()).verdict(record(load, **facts)) == verdict


def test_tracebacks_of_hourd_itself(load):
    verdicts = load("chaos_verdict")
    head, own = "Traceback (most recent call last):", f'  File "{BENCHMARKS.parent}/hourd/master.py", line 1, in run'
    library, theirs = '  File "/usr/lib/python3.11/socket.py", line 2, in x', '  File "/srv/app.py", line 3, in y'
    assert list(verdicts.own_tracebacks(f"fine\n{head}\n{own}\n    x()\n{library}\nOSError: no\nfine"))
    assert not list(verdicts.own_tracebacks(f"{head}\n{own}\n    x()\n{theirs}\n    y()\nOSError: no"))


def test_in_whose_time_a_request_was(load):
    verdicts = load("chaos_verdict")
    windows = [verdicts.Window("kill", 10.0, 11.0, ""), verdicts.Window("stop", 12.0, 13.0, "")]
    judgement = verdicts.Judgement([], [], windows, frozenset())
    for started, ended, outcome, fault in (
        (9.0, 9.9, "answered", "(quiet)"),
        (9.0, 10.0, "answered", "kill"),
        (11.5, 11.9, "ended", "(quiet)"),
        (10.5, 12.5, "answered", "kill"),
        (10.5, 12.5, "ended", "stop"),
        (13.1, 14.0, "ended", "(quiet)"),
    ):
        judgement._add(record(load, started=started, ended=ended, outcome=outcome))
        tally = judgement.faults.pop(fault)
        assert (judgement.faults, tally.requests) == ({}, 1)

"""The chaos tool: minutes of it over all kinds and faults, and that it sees what it is there to see."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import io
import itertools
import json
import os
import random
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

async def repeats(request):
    again = b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n"
    asyncio.get_running_loop().call_later(0.005, request.transport.write, again)
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
    app.add_routes([web.get(f"/{each.__name__}", each) for each in (hello, loses, lies, thinks, repeats)])
    return app
"""


@dataclass
class Place:
    """A folder with a configuration and an application of somebody's."""

    folder: Path

    def configure(self, app: str = "app:create_app", *, grace: str = "20s", **more: Any) -> None:
        http = {"kind": "aiohttp", "app": app, "bind": ["0.0.0.0:8080", "unix:/run/not-here/http.sock"], "grace": grace}
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
    sorts = {"datagram", "download", "echo", "fresh", "keep alive", "pipelined", "slow", "ssh", "upload", "websocket"}
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


def test_a_short_grace_is_raised_and_said(place):
    place.configure(grace="1s")
    code, said, found = place.run("--path", "/hello", "--faults", "reload", "--seconds", "5", "--seed", "1")
    assert (code, found.get("problems")) == (0, []), said
    assert "grace is 15s instead for web/http (1s): " in said


@pytest.mark.parametrize(("path", "outcome"), [("/loses", "ended"), ("/lies", "wrong"), ("/repeats", "wrong")])
def test_a_loss_is_seen(place, path, outcome):
    place.configure()
    code, said, found = place.run("--path", path, "--faults", "reload", "--seconds", "2", "--seed", "1")
    assert code == 1, said
    assert found["problems"] == []
    assert found["total"]["lost"] > 0
    assert {record["outcome"] for record in found["lost"]} >= {outcome}
    assert {record["sort"] for record in found["lost"]} >= {"fresh", "keep alive", "pipelined"}
    assert f"{found['total']['lost']} requests lost" in said
    assert sum(found["total"][each] for each in ("answered", "killed", "away", "lost")) == found["total"]["requests"]
    assert list(place.folder.glob("hourd-chaos-*/log"))


def test_answers_that_prove_nothing_are_refused(place):
    place.configure()
    code, said, _ = place.run("--path", "/nope", "--faults", "reload", "--seconds", "1")
    assert (code, "GET /nope with 404, which would prove nothing" in said) == (2, True), said
    code, said, _ = place.run("--path", "/hello", "--expect", "404", "--faults", "reload", "--seconds", "1")
    assert (code, "GET /hello with 200, not 404" in said) == (2, True), said
    code, said, found = place.run("--path", "/nope", "--expect", "404", "--faults", "reload", "--seconds", "1")
    assert (code, found.get("problems")) == (0, []), said


def test_what_a_killed_worker_had_in_hand_is_not_lost(place):
    place.configure()
    code, said, found = place.run("--path", "/thinks", "--faults", "kill-all", "--seconds", "8", "--seed", "1")
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
        ({"outcome": "wrong"}, "lost"),  # who dies does not say something else
        ({"outcome": "wrong", "opened": 20.5, "connected": 20.6, "started": 20.5, "ended": 20.7}, "lost"),
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


@pytest.mark.parametrize(
    ("facts", "verdicts"),
    [
        ({}, ["killed", "lost", "lost"]),  # one for each who dies
        ({"server": "side/ask"}, ["lost"]),
        ({"started": 11.1}, ["lost"]),
        ({"started": 0.5}, ["lost"]),
        ({"outcome": "wrong"}, ["lost"]),
        ({"outcome": "refused", "ended": 12.0}, ["lost"]),
        ({"started": 20.5, "ended": 40.5}, ["away", "away"]),
        ({"started": 19.5, "ended": 39.5}, ["lost"]),
    ],
)
def test_who_is_to_blame_for_a_datagram(load, facts, verdicts):
    stage = load("chaos_stage")
    death = stage.Death(1, "web", "SIGKILL", 11.0, frozenset())
    judgement = load("chaos_verdict").Judgement([death], [stage.Down(20.0, 30.0, [])], [], frozenset())
    usual = {
        "sort": "datagram",
        "server": "web/ask",
        "outcome": "timeout",
        "connection": "udp 127.0.0.1 5",
        "ended": 30.0,
    }
    asked = record(load, **{**usual, **facts})
    assert [judgement.verdict(asked) for _ in verdicts] == verdicts


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
        (9.0, 9.9, "answered", "(between)"),
        (9.0, 10.0, "answered", "kill"),
        (11.5, 11.9, "ended", "(between)"),
        (10.5, 12.5, "answered", "kill"),
        (10.5, 12.5, "ended", "stop"),
        (13.1, 14.0, "ended", "(between)"),
    ):
        judgement._add(record(load, started=started, ended=ended, outcome=outcome))
        tally = judgement.faults.pop(fault)
        assert (judgement.faults, tally.requests) == ({}, 1)
    assert [loss.faults for loss in judgement.lost] == [(), ("kill", "stop"), ()]


def test_a_loss_names_all_faults_and_who_had_the_connection(load, capsys):
    stage, verdicts = load("chaos_stage"), load("chaos_verdict")
    windows = [verdicts.Window("kill", 10.0, 11.0, ""), verdicts.Window("stop", 11.5, 13.0, "")]
    spared = stage.Death(4711, "web", "", 11.0, frozenset({"127.0.0.1 5"}))
    judgement = verdicts.Judgement([], [], windows, frozenset(), [spared])
    judgement._add(record(load))
    judgement._add(record(load, worker=42))
    judgement.print_lost(0.0)
    first, second = capsys.readouterr().out.splitlines()
    assert "in kill and stop; " in first
    assert "worker 4711: " in first
    assert "worker 42: " in second


# --- slots ----------------------------------------------------------------------------------------

GONE, SERVING, SLOW, BOOTING = None, "serving", "slow", "booting"


@pytest.mark.parametrize(
    ("fault", "takes", "workers", "attended_by", "judged"),
    [
        ("", 0, [SERVING, GONE], [[1], []], True),
        ("reload", 0, [BOOTING, BOOTING], [[], []], True),  # it was to keep the old ones
        ("kill", 1, [BOOTING, BOOTING], [[], []], True),  # only one was killed
        ("kill-all", 1 << 30, [BOOTING, BOOTING], [[], []], False),
        ("kill-all", 1 << 30, [SERVING, BOOTING], [[1], []], True),  # from now on somebody could
        ("kill", 1, [BOOTING], [[]], False),  # it was the only one
        ("reload", 0, [BOOTING], [[]], True),
        ("stop", 1, [SERVING, SLOW], [[1], [2]], True),
        ("stop", 1, [SERVING, SLOW], [[1], [1, 2]], None),
        ("stop", 1, [SLOW, SLOW], [[1], [2]], None),  # nobody could do better
    ],
)  # fmt: skip
def test_a_slot_that_nobody_attends(load, fault, takes, workers, attended_by, judged):
    attendance = load("chaos_attendance").Attendance({"web": 0.5}, fault=fault, takes=takes)
    pool = {
        "workers": [{"pid": number, "state": state} for number, state in enumerate(workers, 1) if state],
        "slots": [{"slot": number, "attended_by": pids} for number, pids in enumerate(attended_by)],
    }
    wanted = {"web": (len(workers), len(workers))}
    for now in (10.0, 12.0, 15.4):
        attendance.look(now, {"web": pool}, wanted)
    assert list(attendance.problems()) == []  # 5.4 s are less than slow and 5 s
    attendance.look(15.6, {"web": pool}, wanted)
    problems, lines = list(attendance.problems()), "; ".join(attendance.lines())
    assert bool(problems) == bool(judged)
    assert all("5.60s" in each and "5.5s" in each and (fault or "no fault") in each for each in problems)
    assert ("none; " in lines) == (judged is None)
    assert "5.5s" in lines


def test_spells_that_are_not_one(load):
    attendance = load("chaos_attendance").Attendance({"web": 0.5})
    empty = {"web": {"workers": [{"pid": 1, "state": "serving"}], "slots": [{"slot": 0, "attended_by": []}]}}
    for between in (
        attendance.forget,  # everything was frozen
        lambda: attendance.look(15.0, {"web": {"workers": [], "slots": [{"slot": 0, "attended_by": [1]}]}}, {}),
        lambda: attendance.look(15.0, {"web": {"workers": [], "slots": []}}, {}),  # another daemon has fewer slots
    ):
        attendance.look(10.0, empty, {})
        between()
        attendance.look(20.0, empty, {})
        attendance.forget()
    assert list(attendance.problems()) == []


# --- clients --------------------------------------------------------------------------------------


async def say_twice(reader, writer):
    """Serve as the tool's own application does, and say everything twice."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            sizes = [int(line.partition(":")[2]) for line in lines if line.startswith("Content-Length:")]
            asked, path = await reader.readexactly(sum(sizes)), lines[0].split()[1]
            match path.split("/"):
                case ["", "sum"]:
                    body = hashlib.sha256(asked).hexdigest().encode()
                case ["", "bytes" | "pieces", size]:
                    body = bytes(int(size))
                case _:
                    body = asked or path.partition("n=")[2].encode()
            head = (
                f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nX-Sum: {hashlib.sha256(body).hexdigest()}\r\n\r\n"
            )
            for _ in range(2):
                writer.write(head.encode() + body)
                await writer.drain()
    writer.close()


@pytest.mark.parametrize("sort", ["fresh", "keep alive", "pipelined", "slow", "upload", "download"])
def test_answers_that_nobody_asked_for(load, sort):
    world, clients = load("chaos_world"), load("chaos_clients")
    records = io.StringIO()

    async def take_turns():
        server = await asyncio.start_server(say_twice, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        target = world.Target("web/http", "aiohttp", 0, f"{host}:{port}", known=True)
        here = world.World(world.Spec([(sort, target)], 1, 0, 10.0, 1.0), records)
        for seed in range(3):
            with contextlib.suppress(world.LostError):
                await clients.SORTS[sort].client(here, target, random.Random(seed)).turn()
        server.close()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})  # those who served have seen the end

    asyncio.run(take_turns())
    found = [world.Record.read(line) for line in records.getvalue().splitlines()]
    assert [each.outcome for each in found].count("wrong") >= 3


# --- configurations -------------------------------------------------------------------------------


def test_addresses_that_can_move(load, tmp_path):
    scenes, moves = load("chaos_scene"), load("chaos_moves")
    scene = scenes.Scene.of(BENCHMARKS / "chaos.yaml", tmp_path)
    possible = list(moves.possible(scene))
    assert {(move.source, move.target) for move in possible} == {
        (("web", "http"), ("side", "http")), (("side", "echo"), ("web", "echo")),
    }  # fmt: skip
    for move in possible:
        text, added = moves.moved(scene, move)
        pools = yaml.safe_load(text)["pools"]
        for (pool, server), there in ((move.source, False), (move.target, True)):
            assert (move.address in pools[pool]["servers"][server]["bind"]) == there
        assert len(added) == 2
        scene.write(text)
        assert scenes.run("check", "-c", str(scene.file)).returncode == 0

"""Faults in reloads: with something that is wrong, at a bad moment, or too many of them."""

from __future__ import annotations

import asyncio
import os
import signal
from random import Random
from typing import Any

import chaos_http
import chaos_moves
import measure
from chaos_daemon import EndedError
from chaos_stage import Down, GivenUpError, Stage
from chaos_wire import WrongError


def reload(stage: Stage, _chance: Random) -> str:
    """Reload."""
    answer = _ask_reload(stage)
    return f"reloaded in {answer['seconds']:.2f}s"


def upgrade(stage: Stage, _chance: Random) -> str:
    """Let the program that is installed take the place of the one that runs, which reloads."""
    answer = _ask_reload(stage, "upgrade")
    return f"upgraded in place, and reloaded in {answer['seconds']:.2f}s"


def slow_import(stage: Stage, chance: Random) -> str:
    """Reload, with an import that takes its time."""
    seconds = chance.uniform(1.0, 4.0)
    stage.scene.set_mood(f"slow {seconds:.2f}")
    try:
        answer = _ask_reload(stage)
    finally:
        stage.scene.set_mood("")
    return f"reloaded in {answer['seconds']:.2f}s, of which {seconds:.1f}s importing"


def bad_yaml(stage: Stage, chance: Random) -> str:
    """Ask for a reload with a configuration that is none."""
    text = chance.choice(("pools: [", "pools: {}\n", "nonsense: 1\n", ""))
    stage.scene.write(text)
    try:
        return _ask_bad_reload(stage, f"the configuration {text!r}")
    finally:
        stage.scene.restore()


def bad_import(stage: Stage, chance: Random) -> str:
    """Ask for a reload with an application that cannot be imported."""
    raises = chance.random() < 0.5
    if raises:
        stage.scene.set_mood("raise")
    else:
        stage.scene.break_application()
    try:
        return _ask_bad_reload(stage, "an import that raises" if raises else "a syntax error")
    finally:
        stage.scene.mend_application()


def storm(stage: Stage, chance: Random) -> str:
    """Send several HUPs; each takes the place of the one before."""
    before, number = stage.look()["generation"], chance.randint(2, 8)
    for _ in range(number):
        stage.daemon.signal(signal.SIGHUP)
        stage.daemon.rest(chance.choice((0.0, 0.01, 0.1, 0.5)))
    stage.until(lambda status: status["generation"] > before and status["state"] != "reloading", "a reload succeeds")
    return f"{number} HUPs, {stage.look()['generation'] - before} generations"


def kill_in_reload(stage: Stage, chance: Random) -> str:
    """Kill a worker while a reload goes on."""
    before = stage.look()["generation"]
    _begin_reload(stage, chance)
    with stage.stopped(chance, "SIGKILL") as victim:
        victim.send(signal.SIGKILL)
    stage.until(lambda status: status["generation"] > before, "a reload succeeds although a worker is killed meanwhile")
    return f"killed {victim} in a reload"


def restart(stage: Stage, chance: Random) -> str:
    """Tell the daemon to stop in the middle of a reload, and start another when it has ended."""
    addresses = [address for places in stage.addresses().values() for address in places]
    _begin_reload(stage, chance)
    told = measure.clock()
    stage.daemon.signal(signal.SIGTERM)
    code = stage.daemon.wait_end(stage.scene.patience)
    if code != 0:
        stage.problems.append(f"told to stop in a reload, the daemon ended with {code} instead of 0")
    if code is None or (left := stage.daemon.family()):
        raise GivenUpError(f"the daemon was told to stop and left {'itself' if code is None else left} behind")
    ended = measure.clock()
    try:
        stage.daemon.start()
    except EndedError as error:
        raise GivenUpError(str(error)) from None
    stage.move()
    stage.downs.append(Down(told, measure.clock(), addresses))
    stage.begin()
    return f"TERM in a reload; it ended after {ended - told:.1f}s and was started again"


def readdress(stage: Stage, chance: Random) -> str:
    """Let another pool have an address, and add an address and a server; then take it all back.

    Who connects to an address that stays configured is served, whoever has it; that is for the clients to see.
    """
    scene = stage.scene
    move = chance.choice(list(chaos_moves.possible(scene)))
    changed, added = chaos_moves.moved(scene, move)
    scene.write(changed)
    try:
        there = _ask_reload(stage)["seconds"]
        stage.recover()
        for server, path in added.items():
            for address in (path, *stage.addresses()[server]):
                _must_answer(stage, server, address)
        stage.pause(chance.uniform(0.5, 2.0))
    finally:
        scene.restore()
    back = _ask_reload(stage)["seconds"]
    if left := [path for path in added.values() if os.path.exists(path.removeprefix("unix:"))]:
        stage.problems.append(f"a reload that removes them left {left} behind")
    return f"moved {move} in {there:.2f}s, and back in {back:.2f}s"


def _must_answer(stage: Stage, server: str, address: str) -> None:
    try:
        status = asyncio.run(chaos_http.ask_status(address, "/?n=1", stage.scene.patience))
    except (OSError, EOFError, WrongError) as error:
        stage.problems.append(f"{server} at {address}, just added, does not answer: {error!r}")
    else:
        if status != 200:
            stage.problems.append(f"{server} at {address}, just added, answers with {status}")


def _begin_reload(stage: Stage, chance: Random) -> None:
    before = stage.look()["generation"]
    stage.daemon.signal(signal.SIGHUP)
    stage.until(lambda s: s["state"] == "reloading" or s["generation"] > before, "a reload begins", look=0.0)
    stage.daemon.rest(chance.uniform(0.0, 0.7))


def _ask_reload(stage: Stage, command: str = "reload") -> dict[str, Any]:
    answer = _answer(stage, command)
    if not answer["ok"]:
        raise GivenUpError(f"a reload was refused: {answer.get('error')}")
    return answer


def _ask_bad_reload(stage: Stage, what: str) -> str:
    before = stage.look()["generation"]
    if _answer(stage)["ok"] or stage.look()["generation"] != before:
        raise GivenUpError(f"a reload was not refused in spite of {what}")
    return f"a reload was refused: {what}"


def _answer(stage: Stage, command: str = "reload") -> dict[str, Any]:
    try:
        return stage.during(lambda: stage.daemon.ask(command, limit=stage.scene.patience))
    except EndedError as error:
        raise GivenUpError(str(error)) from None

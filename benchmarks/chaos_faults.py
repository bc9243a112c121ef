"""The faults: each does something bad, waits for its direct effect, and says what it did.

Those that need nothing of the application work on anybody's. Afterwards the tool waits until the daemon is well
again, whatever the fault was.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import chaos_moves
import chaos_reloads
import chaos_scene
from chaos_attendance import ALL, NONE, ONE
from chaos_daemon import send
from chaos_stage import GivenUpError, Stage

_SHORT = 1.5
"""Seconds for which a worker may stand still at most without being taken for hung."""
_GROWTH = 200
"""MiB."""
_FOREVER = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something bad."""

    name: str
    inject: Callable[[Stage, Random], str]
    needs: Callable[[Stage], bool]
    takes: int = NONE
    """So many workers of a pool cannot attend slots meanwhile; for others hourd has no excuse."""


def deal(faults: list[Fault], seed: int) -> Iterator[tuple[Fault, Random]]:
    """Yield faults without end, each with its own source of chance; all of them come before one comes again."""
    order = Random(f"{seed} faults")
    for turn in itertools.count():
        for fault in order.sample(faults, len(faults)):
            yield fault, Random(f"{seed} {turn} {fault.name}")


# --- workers --------------------------------------------------------------------------------------


def _kill(stage: Stage, chance: Random) -> str:
    with stage.stopped(chance, "SIGKILL") as victim:
        victim.send(signal.SIGKILL)
    return f"killed {victim}"


def _kill_all(stage: Stage, chance: Random) -> str:
    """Kill every worker of a pool in one moment: what waits in the queues waits for their successors."""
    pool = chance.choice(sorted(stage.scene.pools))
    victims = stage.stop_all(pool, "SIGKILL")
    for victim in victims:
        victim.send(signal.SIGKILL)
    return f"killed all {len(victims)} workers of {pool}"


def _segv(stage: Stage, chance: Random) -> str:
    with stage.stopped(chance, "SIGSEGV") as victim:
        victim.send(signal.SIGSEGV)
    stage.until_gone(victim, "it died of SIGSEGV")
    return f"SIGSEGV for {victim}"


def _exit(stage: Stage, chance: Random) -> str:
    code = chance.choice((0, 1, 3, 75, 255))
    with stage.ordered(chance, f"exit {code}", "os._exit") as victim:
        pass
    stage.until_gone(victim, "it exited")
    return f"os._exit({code}) in {victim}"


def _quit(stage: Stage, chance: Random) -> str:
    code = chance.choice((0, 1, 3))
    with stage.ordered(chance, f"quit {code}", "sys.exit") as victim:
        pass
    stage.until_gone(victim, "it exited")
    return f"sys.exit({code}) in {victim}"


def _terminate(stage: Stage, chance: Random) -> str:
    worker = stage.attempt(lambda: stage.pick(chance))
    send(worker["pid"], signal.SIGTERM)
    stage.until(_is_replaced(worker), "a worker that was sent SIGTERM is replaced")
    return f"SIGTERM for {worker['pool']}/{worker['slot']} pid={worker['pid']}"


def _stop(stage: Stage, chance: Random) -> str:
    pool = chance.choice(sorted(stage.scene.pools))
    with stage.stopped(chance, "", pool=pool) as victim:
        seconds = _short(stage, chance, pool)
        stage.pause(seconds)
    return f"stopped {victim} for {seconds:.1f}s"


def _hang(stage: Stage, chance: Random) -> str:
    pool = chance.choice([name for name in sorted(stage.scene.pools) if stage.scene.hung(name)])
    with stage.stopped(chance, "hung", pool=pool) as victim:
        stage.until_gone(victim, "a worker that stands still is killed (timeouts.hung)")
    return f"stopped {victim} until it was killed"


def _block(what: str) -> Callable[[Stage, Random], str]:
    def inject(stage: Stage, chance: Random) -> str:
        seconds = min(_short(stage, chance, name) for name in sorted(stage.scene.pools))
        with stage.ordered(chance, f"{what} {seconds}", "") as victim:
            pass
        stage.pause(seconds)
        return f"{what} for {seconds:.1f}s in {victim}"

    return inject


def _block_forever(what: str) -> Callable[[Stage, Random], str]:
    def inject(stage: Stage, chance: Random) -> str:
        with stage.ordered(chance, f"{what} {_FOREVER}", "hung") as victim:
            pass
        stage.until_gone(victim, "a worker whose loop does not turn is killed (timeouts.hung)")
        return f"{what} until it was killed in {victim}"

    return inject


def _grow(stage: Stage, chance: Random) -> str:
    pool = chance.choice([name for name in sorted(stage.scene.pools) if _recycles(stage, name)])

    def tell() -> Any:
        worker = stage.pick(chance, pool)
        stage.give_order(worker["pid"], f"grow {_GROWTH}")
        return worker

    worker = stage.attempt(tell)
    stage.until(_is_replaced(worker), "a worker that has grown is replaced (recycle.memory)")
    return f"{_GROWTH} MiB more in {worker['pool']}/{worker['slot']} pid={worker['pid']}"


def _is_replaced(worker: Any) -> Callable[[dict[str, Any]], bool]:
    def check(status: dict[str, Any]) -> bool:
        workers = status["pools"][worker["pool"]]["workers"]
        return all(each["state"] == "draining" for each in workers if each["pid"] == worker["pid"])

    return check


def _short(stage: Stage, chance: Random, pool: str) -> float:
    return round(chance.uniform(0.1, min(_SHORT, (stage.scene.hung(pool) or 10.0) / 2)), 2)


# --- the whole ------------------------------------------------------------------------------------


def _kill_mold(stage: Stage, chance: Random) -> str:
    pool = chance.choice(sorted(stage.scene.pools))
    stage.until(lambda status: any(status["pools"][pool]["molds"]), "there is a mold")
    mold = stage.look()["pools"][pool]["molds"][-1]
    send(mold, signal.SIGKILL)
    stage.until(lambda status: mold not in status["pools"][pool]["molds"], "a killed mold is forgotten")
    stage.until(lambda status: any(status["pools"][pool]["molds"]), "a killed mold is replaced")
    return f"killed the mold of {pool}"


def _freeze(stage: Stage, chance: Random) -> str:
    """Stop the whole tree, as a debugger or a suspended machine does: nobody is to be judged by that time."""
    longest = max(stage.scene.hung(pool) or 1.0 for pool in stage.scene.pools)
    seconds = chance.uniform(0.5, longest + 2.0)
    before = stage.pids()
    stage.send_all(signal.SIGSTOP)
    stage.daemon.rest(seconds)
    stage.send_all(signal.SIGCONT)
    stage.attendance.forget()
    stage.pause(1.0)
    if killed := stage.killed_by_daemon(before):
        stage.problems.append(f"after the whole tree had stood still for {seconds:.1f}s, hourd killed {killed}")
    return f"stopped everything for {seconds:.1f}s"


def _scale(stage: Stage, chance: Random) -> str:
    """Change the first pool by signals, and back."""
    pool = next(iter(stage.scene.pools))
    low, high = stage.wanted[pool]
    up, number = low == 1 or chance.choice((True, False)), chance.randint(1, 2)
    there, back = (signal.SIGTTIN, signal.SIGTTOU) if up else (signal.SIGTTOU, signal.SIGTTIN)
    number = number if up else min(number, low - 1)
    for one, change in ((there, number if up else -number), (back, 0)):
        for _ in range(number):
            stage.daemon.signal(one)
            stage.pause(chance.uniform(0.0, 0.3))  # two of a signal that come at once are one (signal(7))
        stage.wanted[pool] = low + change, high + change
        stage.recover()
    return f"{number} {there.name}, then {number} {back.name}"


def _scale_command(stage: Stage, chance: Random) -> str:
    pool = chance.choice(_fixed(stage))
    number, _ = stage.wanted[pool]
    other = chance.choice([each for each in range(max(1, number - 2), number + 3) if each != number])
    for wanted in (other, number):
        _command("scale", "--control", str(stage.scene.settings["control"]), pool, str(wanted))
        stage.wanted[pool] = wanted, wanted
        stage.recover()
    return f"scaled {pool} from {number} to {other} and back"


def _command(*arguments: str) -> None:
    """Run a command of hourd, which must succeed."""
    done = chaos_scene.run(*arguments)
    if done.returncode:
        raise GivenUpError(f"hourd {' '.join(arguments)}: exit code {done.returncode}: {done.stderr.strip()}")


# --- what there is --------------------------------------------------------------------------------


def _always(_stage: Stage) -> bool:
    return True


def _orders(stage: Stage) -> bool:
    return any(map(stage.scene.takes_orders, stage.scene.pools))


def _hung(stage: Stage) -> bool:
    return any(map(stage.scene.hung, stage.scene.pools))


def _recycles(stage: Stage, pool: str) -> bool:
    return stage.scene.takes_orders(pool) and stage.scene.recycles_memory(pool)


def _fixed(stage: Stage) -> list[str]:
    return [name for name in sorted(stage.scene.pools) if _has_number(stage, name)]


def _has_number(stage: Stage, pool: str) -> bool:
    low, high = stage.wanted[pool]
    return low == high


FAULTS = (
    Fault("kill", _kill, _always, ONE),
    Fault("kill-all", _kill_all, _always, ALL),
    Fault("segv", _segv, _always, ONE),
    Fault("exit", _exit, _orders, ONE),
    Fault("sys-exit", _quit, _orders, ONE),
    Fault("term", _terminate, _always, ONE),
    Fault("stop", _stop, _always, ONE),
    Fault("hang", _hang, _hung, ONE),
    Fault("block", _block("block"), _orders, ONE),
    Fault("block-forever", _block_forever("block"), lambda stage: _orders(stage) and _hung(stage), ONE),
    Fault("gil", _block("gil"), _orders, ONE),
    Fault("gil-forever", _block_forever("gil"), lambda stage: _orders(stage) and _hung(stage), ONE),
    Fault("memory", _grow, lambda stage: any(_recycles(stage, pool) for pool in stage.scene.pools)),
    Fault("kill-mold", _kill_mold, _always),
    Fault("freeze", _freeze, _always, ALL),
    Fault("scale", _scale, lambda stage: _has_number(stage, next(iter(stage.scene.pools)))),
    Fault("scale-command", _scale_command, lambda stage: chaos_scene.can("scale") and _fixed(stage) != []),
    Fault("reload", chaos_reloads.reload, _always),
    Fault("upgrade", chaos_reloads.upgrade, _always),
    Fault("slow-import", chaos_reloads.slow_import, _orders),
    Fault("bad-yaml", chaos_reloads.bad_yaml, _always),
    Fault("bad-import", chaos_reloads.bad_import, _orders),
    Fault("readdress", chaos_reloads.readdress, lambda stage: any(chaos_moves.possible(stage.scene))),
    Fault("storm", chaos_reloads.storm, _always),
    Fault("kill-in-reload", chaos_reloads.kill_in_reload, _always, ONE),
    Fault("restart", chaos_reloads.restart, _always, ALL),
)

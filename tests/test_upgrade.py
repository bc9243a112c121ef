"""Another hourd in the place of the one that runs: same process, same workers, same sockets."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

import hourd
from hourd import errors, state

from .daemon import ECHO, Daemon, connect, pool, talk
from .witness import WEB, KeepAlive, Witness, at_least, web

TREE = Path(hourd.__file__).parents[1]


def upgrade(daemon: Daemon) -> str:
    done = daemon.run("upgrade", "--control", daemon.control)
    assert done.returncode == 0, done.stderr
    return done.stdout


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_process_workers_and_connections_stay(tmp_path):
    tmp_path.chmod(0o755)
    configuration = {**pool(), "pid_file": str(tmp_path / "hourd.pid")}
    with Daemon(configuration, {"app.py": ECHO}, folder=tmp_path) as daemon:
        daemon.expect("READY=1")
        before, (address,) = daemon.status(), daemon.addresses()
        with connect(address) as held:
            old = int(held.recv(100).split()[0])
            assert "upgraded to hourd" in upgrade(daemon)
            held.sendall(b"still here")
            assert held.recv(100) == b"still here"
            after = daemon.status()
            assert (after["pid"], after["started_at"]) == (before["pid"], before["started_at"])
            assert after["generation"] == before["generation"] + 1
            (draining,) = [worker for worker in after["pools"]["web"]["workers"] if worker["pid"] == old]
            assert (draining["state"], draining["generation"]) == ("draining", before["generation"])
        assert daemon.addresses() == [address]
        assert Path(configuration["pid_file"]).read_text() == f"{before['pid']}\n"
        assert daemon.run("start", "-c", str(daemon.file)).returncode == 69, "its locks are still held"
        assert int(talk(address).split()[0]) in daemon.workers()


def test_nothing_is_lost_and_nothing_piles_up():
    with Daemon(pool(workers=2, server=web()), {"app.py": WEB}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        upgrade(daemon)
        daemon.wait_for_the_old()
        there = descriptors(daemon.process.pid)
        with Witness(daemon, at_least(2)), KeepAlive(address, 8) as kept, KeepAlive(address, 4, once=True) as fresh:
            for _ in range(4):
                upgrade(daemon)
            daemon.until(lambda: kept.answered > 200 and fresh.answered > 50, "many were answered")
        daemon.wait_for_the_old()
        daemon.until(lambda: descriptors(daemon.process.pid) <= there, "no descriptor is left over")
        (mold,) = daemon.pool()["molds"]
        assert descriptors(mold) <= 12, "nothing of the master's is open in a mold"


def test_what_was_open_at_the_start_is_known_afterwards():
    """Unix sockets, the descriptor store, several pools, a slot without a worker."""
    configuration = pool(workers=3)
    configuration["pools"]["side"] = {
        "workers": 1,
        "servers": {"main": {"kind": "stream", "app": "app:serve", "bind": "unix:@hourd-test-upgrade"}},
    }
    with Daemon(configuration, {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        assert daemon.run("scale", "--control", daemon.control, "web", "2").returncode == 0
        daemon.wait_until(lambda status: len(status["pools"]["web"]["workers"]) == 2)
        stored = {name: len(each) for name, each in daemon.manager.kept.items()}
        upgrade(daemon)
        assert {name: len(each) for name, each in daemon.manager.kept.items()} == stored
        assert talk("unix:@hourd-test-upgrade", b"x").endswith(b"x")
        assert all(slot["attended_by"] for slot in daemon.pool()["slots"])
        assert {int(talk(address).split()[0]) for _ in range(60)} == set(daemon.workers())


def test_signal_and_status():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        daemon.signal(signal.SIGUSR2)
        daemon.expect("RELOADING=1", "READY=1")
        daemon.wait_until(lambda status: status["generation"] == 2 and status["last_reload"]["ok"])


def test_a_stop_at_any_moment_is_obeyed():
    """Signals that come between two programs wait for the second."""
    for delay in range(12):
        with Daemon(pool(workers=1), {"app.py": ECHO}) as daemon:
            daemon.allow("upgrade refused")
            daemon.expect("READY=1")
            daemon.signal(signal.SIGUSR2)
            time.sleep(delay * 0.025)
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0


def test_while_a_reload_is_under_way_it_waits():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        daemon.write("app.py", "import time\ntime.sleep(2)\n" + ECHO)
        daemon.signal(signal.SIGHUP)
        daemon.expect("RELOADING=1")
        upgrade(daemon)
        assert daemon.status()["generation"] == 3


def test_a_wrong_configuration_leaves_the_old_one_running():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.allow("upgrade refused")
        daemon.expect("READY=1")
        workers, good = daemon.workers(), daemon.file.read_text()
        daemon.file.write_text(good + "\nno: 1\n")
        refused = daemon.run("upgrade", "--control", daemon.control)
        assert refused.returncode == 1
        assert "upgrade refused, the running hourd goes on" in refused.stderr
        assert re.search(r"hourd\.yaml:\d+: no: unknown key", refused.stderr)
        daemon.expect("STATUS=running: 2 workers serve, generation 1; upgrade refused: ")
        assert daemon.workers() == workers
        daemon.file.write_text(good)
        upgrade(daemon)


def test_an_application_that_fails_is_told_apart():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.allow("refused")
        daemon.expect("READY=1")
        workers = daemon.workers()
        daemon.write("app.py", "raise ValueError('no such thing')")
        refused = daemon.run("upgrade", "--control", daemon.control)
        assert refused.returncode == 1
        assert re.search(r"upgraded to hourd .*, but the reload failed", refused.stderr)
        assert "no such thing" in refused.stderr
        assert daemon.workers() == workers


def changed(code: str) -> tuple[str, ...]:
    """Return what executes hourd after some code; an upgrade executes the same."""
    return sys.executable, "-P", "-c", f"{code}\nfrom hourd.cli import main; main()"


def test_a_signal_that_comes_while_the_state_is_saved_is_heard():
    code = (
        "import os, signal, hourd.upgrade as module\nbefore = module._execute\n"
        "def execute(what):\n    os.kill(os.getpid(), signal.SIGTERM)\n    before(what)\nmodule._execute = execute\n"
    )
    with Daemon(pool(workers=1), {"app.py": ECHO}, command=changed(code)) as daemon:
        daemon.expect("READY=1")
        daemon.signal(signal.SIGUSR2)
        assert daemon.wait() == 0
        assert "the new program takes over" in daemon.log


def test_a_signal_that_comes_just_before_is_acted_on_first():
    code = (
        "import os, signal, hourd.upgrade as module\nbefore = module.Upgrade.execute\n"
        "def execute(self):\n    os.kill(os.getpid(), signal.SIGTERM)\n    before(self)\nmodule.Upgrade.execute = execute\n"
    )
    with Daemon(pool(workers=1), {"app.py": ECHO}, command=changed(code)) as daemon:
        daemon.allow("upgrade refused, hourd .* goes on: hourd was stopped meanwhile")
        daemon.expect("READY=1")
        daemon.signal(signal.SIGUSR2)
        assert daemon.wait() == 0
        assert "takes over" not in daemon.log


def test_while_the_first_start_is_under_way():
    with Daemon(pool(workers=1), {"app.py": "import time\ntime.sleep(2)\n" + ECHO}) as daemon:
        daemon.wait_log("starting: importing")
        daemon.signal(signal.SIGHUP)
        daemon.signal(signal.SIGUSR2)
        daemon.wait_log("the new program takes over")
        daemon.expect("READY=1")


@pytest.mark.parametrize(("name", "value"), [("HOURD_TRIAL", "1"), ("HOURD_STATE", "abc"), ("HOURD_STATE", "0")])
def test_variables_that_somebody_else_has_set_mean_nothing(name, value):
    with Daemon(pool(workers=1), {"app.py": ECHO}, environment={name: value}) as daemon:
        daemon.expect("READY=1")
        daemon.signal(signal.SIGUSR2)
        daemon.expect("RELOADING=1", "READY=1")


def test_a_trial_that_hangs_ends_with_the_master(tmp_path):
    tmp_path.chmod(0o755)
    mark = tmp_path / "hangs"
    code = (
        "import hourd.upgrade as module\n"
        f"module.say_yes = lambda: (open({str(mark)!r}, 'w').close(), __import__('time').sleep(1000))"
    )
    with Daemon(pool(workers=1), {"app.py": ECHO}, folder=tmp_path, command=changed(code)) as daemon:
        daemon.allow("the (channel to the master ended|master is gone)")
        daemon.expect("READY=1")
        daemon.signal(signal.SIGUSR2)
        daemon.until(mark.exists, "the trial hangs")
        daemon.signal(signal.SIGKILL)
        daemon.wait()
        daemon.wait_gone()


# --- other versions -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build this version, and a later one whose state knows more, as wheels."""
    built = {}
    for version in (hourd.__version__, "99.0"):
        source = tmp_path_factory.mktemp("source") / "hourd"
        wanted = ("hourd", "pyproject.toml", "README.md", "LICENSE")
        source.mkdir()
        for name in wanted:
            origin = TREE / name
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(origin, source / name, ignore=ignored) if origin.is_dir() else shutil.copy(origin, source)
        if version != hourd.__version__:
            for path, old, new in (
                ("__init__.py", f'"{hourd.__version__}"', f'"{version}"'),
                ("state.py", "    started: float\n", "    mood: str = 'good'\n    started: float\n"),
                ("state.py", "FORMAT = 1\n", "FORMAT = 2\n"),
                ("children.py", "    killed: bool = False\n", "    killed: bool = False\n    loved: bool = True\n"),
            ):
                text = (source / "hourd" / path).read_text()
                assert old in text
                (source / "hourd" / path).write_text(text.replace(old, new, 1))
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--outdir", source / "dist", source],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        (built[version],) = (source / "dist").glob("*.whl")
    return built


def install(wheel: Path, where: Path) -> None:
    """Install as pip does it over an older one: what was there goes."""
    shutil.rmtree(where, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", where, wheel], check=True)


def test_between_versions_and_back(wheels, tmp_path):
    """What the later one knows besides is unknown to the earlier one, and missing the other way round."""
    tmp_path.chmod(0o755)
    place = tmp_path / "installed"
    old, new = wheels
    install(wheels[old], place)
    environment = {"PYTHONPATH": str(place)}
    with Daemon(pool(workers=2, server=web()), {"app.py": WEB}, folder=tmp_path, environment=environment) as daemon:
        daemon.allow("upgrade refused")
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with KeepAlive(address, 8) as kept:
            for version in (new, old, new):
                install(wheels[version], place)
                assert f"upgraded to hourd {version};" in upgrade(daemon)
                assert daemon.status()["version"] == version
            seen = kept.answered
            daemon.until(lambda: kept.answered > seen + 50, "clients go on")
            (place / "hourd" / "units.py").write_text("raise ImportError('half an installation')")
            daemon.signal(signal.SIGUSR2)
            daemon.wait_log("half an installation")
            assert "half an installation" in daemon.expect("STATUS=running: 2 workers serve, generation 4; upgrade")
            assert daemon.status()["version"] == new
            install(wheels[new], place)
            upgrade(daemon)


def encoded(**changes: object) -> int:
    values: dict[str, object] = {
        "format": state.FORMAT, "needs": 1, "version": "9.9", "protocol": state.Head().protocol, "started": 0.0,
        "forgiven": 0.0, "generation": 1, "attempts": 1, "next_id": 1, "settings": {}, "committed": 1, "pools": [],
        "children": [], "bound": [], "places": [], **changes,
    }  # fmt: skip
    fd = os.memfd_create("test")
    os.write(fd, msgspec.msgpack.encode({key: value for key, value in values.items() if value is not None}))
    return fd


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"needs": state.FORMAT + 1}, "cannot go on in place from hourd 9.9; change to it by a restart"),
        ({"format": state.OLDEST - 1}, "cannot go on in place from hourd 9.9; change to it by a restart"),
        ({"protocol": 1}, "cannot go on in place from hourd 9.9; change to it by a restart"),
        ({"pools": None}, "does not understand the state of the daemon"),
        ({"pools": "many"}, "does not understand the state of the daemon"),
    ],
)
def test_a_state_that_cannot_be_read_is_refused(changes, why):
    fd = encoded(**changes)
    with pytest.raises(errors.RefusedError, match=re.escape(why)):
        state.read(fd)
    os.close(fd)


def test_what_is_unknown_is_passed_over():
    fd = encoded(format=state.FORMAT + 1, colour="blue")
    assert state.read(fd).generation == 1
    os.close(fd)

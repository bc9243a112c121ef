"""As PID 1 of a PID namespace, which is what a container is: the kernel treats that process like no other.

It adopts every orphan, hears only signals that it has a handler for, and its end takes everything along.
See pid_namespaces(7), cgroup_namespaces(7).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .daemon import ECHO, PATIENCE, PROGRAM, Daemon, connect, pool, talk

NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
UID = 12345
"""Of a user without an entry in /etc/passwd."""
LEAVES = """
import asyncio, subprocess

LEAVE = ["sh", "-c", "sleep 9876 & :"]
{at_import}

async def serve(reader, writer):
    if await reader.read() == b"leave":
        # The shell ends at once; what it started has no parent any more.
        await (await asyncio.create_subprocess_exec(*LEAVE)).wait()
    writer.write(b"done")
"""
LOGS = """
import logging

async def serve(reader, writer):
    logging.getLogger("mine").info((await reader.read()).decode())
    writer.write(b"logged")
"""
SIGNALLED = """
import os, signal, sys

class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Sender())
from hourd.cli import main
main()
"""
"""A hourd that gets a TERM when it is about to import a module."""


@pytest.fixture(scope="module", autouse=True)
def _can() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can enter the namespace of another process")
    if missing := [name for name in ("unshare", "nsenter", "setpriv") if not shutil.which(name)]:
        pytest.skip(f"{' and '.join(missing)} of util-linux: not here")
    tried = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"cannot make a namespace of processes here: {tried.stderr.strip()}")


def has_user_namespaces() -> bool:
    command = ["unshare", "--user", "--map-root-user", "true"]
    return not subprocess.run(command, capture_output=True, check=False).returncode


class Container(Daemon):
    """A daemon that is PID 1; what its starter sees is ``unshare``, which passes the exit code on."""

    def __init__(
        self, config, files: Mapping[str, str] = {}, *, setup="", before=(), unshare=(), program=PROGRAM, **more
    ):
        """Take the daemon.

        Args:
            config: as for a ``Daemon``.
            files: likewise.
            setup: commands of a shell in the namespaces, before it becomes hourd: mounts, redirections.
            before: what executes unshare.
            unshare: options of unshare(1) besides those.
            program: what executes hourd's command line.
            more: arguments of a ``Daemon``.
        """
        shell = ("sh", "-e", "-c", f'{setup}\nexec "$@"', "sh") if setup else ()
        command = [*before, *NAMESPACE, *unshare, *shell, *program]
        super().__init__(config, files, command=command, **more)

    @property
    def master(self) -> int:
        """Its pid outside."""
        (child,) = self.until(lambda: [*children(self.process.pid)], "the first process")
        return child

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.master, number)

    def signal_from_inside(self, number: signal.Signals) -> None:
        assert inner(self.master) == 1  # and not the machine's
        assert self.inside("sh", "-c", f"kill -{number.name.removeprefix('SIG')} 1").returncode == 0

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespaces, as ``docker exec`` does."""
        return subprocess.run(
            self.enter(*command), env=self._environment, capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    def enter(self, *command: str) -> list[str]:
        return ["nsenter", "--target", str(self.master), "--pid", "--mount", "--cgroup", *command]

    def hourd(self, where: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of hourd, inside or outside."""
        if where == "outside":
            return self.run(*arguments, "-c", str(self.file))
        return self.inside(*PROGRAM, *arguments, "-c", str(self.file))

    def zombies(self) -> list[int]:
        return [pid for pid, state in children(self.master).items() if state == "Z"]


def children(parent: int) -> dict[int, str]:
    """Return the children of a process and their states."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            state, its_parent, *_ = Path("/proc", entry, "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(its_parent) == parent:
                found[int(entry)] = state
    return found


@contextlib.contextmanager
def ended(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> Iterator[None]:
    """See that a process has ended, also when a test fails: to leave its own block would wait for it."""
    try:
        yield
    finally:
        process.kill()


def field(pid: int, name: str) -> list[str]:
    """Return a field of a process's status (proc(5))."""
    found = re.search(rf"^{name}:(.*)$", Path(f"/proc/{pid}/status").read_text(errors="replace"), re.MULTILINE)
    assert found
    return found[1].split()


def inner(pid: int) -> int:
    return int(field(pid, "NSpid")[-1])


# --- what it is -----------------------------------------------------------------------------------


def test_pids_are_those_of_the_namespace():
    with Container({"pid_file": "kept.pid", **pool()}, {"app.py": ECHO}) as daemon:
        for generation in (1, 2):
            daemon.expect("READY=1")
            status = daemon.status()
            assert status["pid"] == 1 == inner(daemon.master)
            assert "hourd: master" in daemon.processes()[daemon.master]
            assert (daemon.folder / "kept.pid").read_text() == "1\n"
            daemon.wait_for_the_old()
            daemon.until(lambda: len(children(daemon.master)) == 3, "the old mold has ended")
            molds, workers = daemon.pool()["molds"], daemon.workers()
            assert {inner(pid) for pid in children(daemon.master)} == {*molds, *workers}
            assert {int(talk(daemon.addresses()[0]).split()[0]) for _ in range(40)} == {*workers}
            assert all(worker["rss_bytes"] > 0 for worker in daemon.pool()["workers"])
            assert daemon.reload().generation == generation + 1


@pytest.mark.parametrize("config", ["pools: {}\n", pool(server={"bind": "{taken}"}), pool(server={"app": "app:other"})])
def test_the_exit_code_comes_out(config):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if isinstance(config, str):
            expected = 78
        elif config["pools"]["web"]["servers"]["main"]["bind"] == "{taken}":
            config, expected = pool(server={"bind": f"127.0.0.1:{taken.getsockname()[1]}"}), 69
        else:
            expected = 75
        with Container(config, {"app.py": ECHO}) as daemon:
            daemon.allow("")
            assert daemon.wait() == expected


# --- orphans --------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["worker", "mold", "visitor"])
def test_orphans_are_adopted_and_reaped(who):
    code = LEAVES.format(at_import="subprocess.run(LEAVE, check=True)" if who == "mold" else "")
    with Container(pool(), {"app.py": code}) as daemon:
        daemon.expect("READY=1")
        if who == "worker":
            assert talk(daemon.addresses()[0], b"leave") == b"done"
        elif who == "visitor":
            assert daemon.inside("sh", "-c", "sleep 9876 >/dev/null 2>&1 & :").returncode == 0
        (orphan,) = daemon.until(lambda: [pid for pid, title in daemon.processes().items() if title == "sleep 9876"])
        daemon.until(lambda: field(orphan, "PPid") == [str(daemon.master)], "it is adopted")
        os.kill(orphan, signal.SIGKILL)
        daemon.until(lambda: orphan not in children(daemon.master), "it is reaped")
        assert daemon.pool()["restarts"] == 0
        daemon.until(lambda: not daemon.zombies(), "those that have ended are reaped")


def test_thousands_of_orphans_during_reloads():
    number, at_once = 2000, 200
    # Each shell leaves another behind, which ends some time later; those with `cat` end together with the pipe.
    script = f"""
        exec 3<&0 </dev/null >/dev/null 2>&1
        i=0; while [ $i -lt {at_once} ]; do (cat <&3 &); i=$((i+1)); done
        i=0; while [ $i -lt {number} ]; do ( (exit 3) & ); i=$((i+1)); done
    """
    with Container({"log": {"level": "debug"}, **pool()}, {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        before = daemon.log.count("reaped foreign process")
        with subprocess.Popen(
            daemon.enter("sh", "-c", script), env=daemon._environment, stdin=subprocess.PIPE
        ) as shell:
            generation = 1
            while shell.poll() is None:
                assert daemon.reload().generation == (generation := generation + 1)
                assert talk(address, b"x").endswith(b"x")
            assert shell.returncode == 0
            assert generation > 1
            assert len(children(daemon.master)) >= at_once
        answer = daemon.reload()  # the pipe is closed: they end meanwhile
        assert answer.ok
        daemon.until(lambda: daemon.log.count("reaped foreign process") - before >= number + at_once, "all are reaped")
        daemon.wait_for_the_old()
        daemon.until(lambda: not daemon.zombies(), "those that have ended are reaped")
        assert daemon.pool()["restarts"] == 0


# --- signals --------------------------------------------------------------------------------------

FROM = pytest.mark.parametrize("send", [Container.signal, Container.signal_from_inside], ids=["outside", "inside"])


@FROM
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_graceful_stop_lets_what_is_open_finish(send, number):
    with Container(pool(server={"grace": "1h"}), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.recv(100)
            send(daemon, number)
            daemon.expect("STOPPING=1")
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
        assert daemon.wait() == 0


@FROM
@pytest.mark.parametrize(
    "numbers", [[signal.SIGQUIT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGQUIT]],
    ids=["QUIT", "INT twice", "TERM and QUIT"],
)  # fmt: skip
def test_stop_at_once(send, numbers):
    with Container(pool(server={"grace": "1h"}), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.recv(100)
            send(daemon, numbers[0])
            daemon.expect("STOPPING=1")
            for number in numbers[1:]:
                send(daemon, number)
            assert daemon.wait() == 0


@FROM
def test_signals_that_do_not_stop(send):
    handlers = {"file": {"class": "logging.FileHandler", "filename": "requests.log"}}
    loggers = {"mine": {"handlers": ["file"], "level": "INFO"}}
    config = {"log": {"config": {"version": 1, "handlers": handlers, "loggers": loggers}}, **pool()}
    with Container(config, {"app.py": LOGS}) as daemon:
        daemon.expect("READY=1")
        send(daemon, signal.SIGHUP)
        daemon.expect("RELOADING=1", "READY=1")
        assert daemon.status()["generation"] == 2
        for number, count in [(signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1)]:
            send(daemon, number)
            daemon.until(lambda: len(daemon.workers()) == count)  # noqa: B023, called at once
        daemon.wait_for_the_old()
        log = daemon.folder / "requests.log"
        log.rename(daemon.folder / "requests.log.1")
        send(daemon, signal.SIGUSR1)
        daemon.until(log.exists, "the file is opened anew")
        (worker,) = daemon.pool()["workers"]
        assert worker["state"] == "serving"
        assert talk(daemon.addresses()[0], b"hello") == b"logged"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_nobody_inside_can_kill_or_stop_it(number):
    with Container(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        daemon.signal_from_inside(number)
        assert daemon.reload().ok
        assert children(daemon.process.pid)[daemon.master] != "T"


def test_its_death_takes_everything_along():
    with Container(pool(server={"grace": "1h"}), {"app.py": ECHO}) as daemon:
        # unshare(1) is surprised; and workers may hear of it before they are killed.
        daemon.allow("unshare: ", "the (channel to the master ended|master is gone)")
        daemon.expect("READY=1")
        assert daemon.inside("sh", "-c", "sleep 9876 >/dev/null 2>&1 & :").returncode == 0
        with (
            connect(daemon.addresses()[0]) as sock,
            subprocess.Popen(daemon.enter("sleep", "9876"), env=daemon._environment) as visitor,
            ended(visitor),
        ):
            sock.recv(100)
            daemon.until(lambda: list(daemon.processes().values()).count("sleep 9876") == 2, "orphan and visitor")
            daemon.signal(signal.SIGKILL)
            assert daemon.wait() != 0
            assert visitor.wait(PATIENCE) in (-signal.SIGKILL, 128 + signal.SIGKILL)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(100) == b""
        daemon.wait_gone()
        os.unlink(daemon.control)  # nobody was left to do it


def test_a_signal_before_python_runs_is_lost():
    # The kernel drops what PID 1 has no handler for, and Python has none until it has begun.
    program = (sys.executable, "-P", "-c", f"import os; os.kill(os.getpid(), {signal.SIGTERM:d})\n{PROGRAM[-1]}")
    with Container(pool(), {"app.py": ECHO}, program=program) as daemon:
        daemon.expect("READY=1")
        assert "SIGTERM" not in daemon.log


@pytest.mark.parametrize("module", ["click", "hourd.master"])
def test_a_signal_while_hourd_is_imported_is_obeyed(module):
    program = (sys.executable, "-P", "-c", SIGNALLED.format(module=module))
    with Container(pool(), {"app.py": ECHO}, program=program) as daemon:
        daemon.until(lambda: "SIGTERM received" in daemon.log or daemon.heard("READY=1"), "it is obeyed, or lost")
        assert not daemon.heard("READY=1")
        assert daemon.wait() == 0


# --- commands -------------------------------------------------------------------------------------

WHERE = pytest.mark.parametrize("where", ["outside", "inside"])


@WHERE
def test_commands(where):
    with Container(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        assert "pid 1," in daemon.hourd(where, "status").stdout
        assert "reloaded to generation 2" in daemon.hourd(where, "reload").stdout
        assert daemon.hourd(where, "scale", "web", "3").returncode == 0
        daemon.until(lambda: len(daemon.workers()) == 3)
        daemon.write("app.py", "1 / 0\n")
        daemon.allow("ZeroDivisionError")
        refused = daemon.hourd(where, "reload")
        assert refused.returncode == 1
        assert "ZeroDivisionError" in refused.stderr


@WHERE
@pytest.mark.parametrize("now", [[], ["--now"]], ids=["", "now"])
def test_stop(where, now):
    with Container(pool(server={"grace": "1h"}), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.recv(100)
            if not now:
                sock.close()
            master = daemon.master
            stopped = daemon.hourd(where, "stop", *now)
        assert not stopped.stderr
        if where == "outside":
            assert stopped.returncode == 0
            assert children(daemon.process.pid).get(master, "Z") == "Z"
        else:  # who waits for the end of PID 1 in its namespace is killed by it, before it could see that
            assert stopped.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert daemon.wait() == 0


def test_stop_from_a_namespace_that_does_not_see_it():
    with Container(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        command = [*NAMESPACE, *PROGRAM, "stop", "-c", str(daemon.file)]
        stopped = subprocess.run(
            command, env=daemon._environment, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert (stopped.returncode, stopped.stderr) == (0, "")
        with pytest.raises(ConnectionRefusedError):
            connect(address)
        assert daemon.wait() == 0


def test_who_is_another_user_inside_is_refused(nobody):
    with Container(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        os.chmod(daemon.control, 0o666)  # so that the peer's credentials alone keep them out
        who = ("setpriv", f"--reuid={nobody.uid}", f"--regid={nobody.gid}", "--clear-groups")
        path = f"PYTHONPATH={nobody.path}"
        asked = daemon.inside(*who, "env", path, nobody.python, *PROGRAM[1:], "status", "--control", daemon.control)
        assert (asked.returncode, asked.stdout) == (1, "")
        assert daemon.control in asked.stderr


# --- CPUs -----------------------------------------------------------------------------------------


class Group:
    """A control group of the test, with what version it is of."""

    def __init__(self, mount: Path, version: int, folder: Path) -> None:
        self.mount = mount
        self.version = version
        self.folder = folder

    def allow(self, cpus: float | None) -> None:
        """Set the quota; ``None`` is none."""
        if self.version == 1:
            (self.folder / "cpu.cfs_period_us").write_text("100000")
            (self.folder / "cpu.cfs_quota_us").write_text("-1" if cpus is None else f"{cpus * 100_000:.0f}")
        else:
            (self.folder / "cpu.max").write_text("max" if cpus is None else f"{cpus * 100_000:.0f} 100000")

    def entered(self) -> tuple[str, ...]:
        """Return what executes a program in the group."""
        return ("sh", "-e", "-c", f'echo $$ >{self.folder}/cgroup.procs\nexec "$@"', "sh")

    def mounted(self) -> str:
        """Return commands that mount the hierarchy as the namespace of control groups has it."""
        what = "cgroup -o cpu" if self.version == 1 else "cgroup2"
        # The kernel refuses the same hierarchy on the same place.
        return f"mount -t tmpfs tmpfs /sys/fs/cgroup\nmkdir -p {self.mount}\nmount -t {what} cgroup {self.mount}"


@pytest.fixture
def group() -> Iterator[Group]:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("with one CPU no quota makes a difference")
    found, why = find_group()
    if found is None:
        pytest.skip(f"cannot make a control group with a quota of CPU time here: {why}")
    try:
        yield found
    finally:
        end = time.monotonic() + PATIENCE
        while (found.folder / "cgroup.procs").read_text():  # the kernel is about to take the last one out
            assert time.monotonic() < end
        found.folder.rmdir()


def find_group() -> tuple[Group | None, str]:
    """Make a group below the top of a hierarchy that has the CPU controller; or say why there is none."""
    why = "no hierarchy with the controller cpu is mounted"
    for _, place, kind, options, *_ in map(str.split, Path("/proc/self/mounts").read_text().splitlines()):
        if kind != "cgroup2" and (kind != "cgroup" or "cpu" not in options.split(",")):
            continue
        mount = Path(place)
        folder = mount / f"hourd-test-{secrets.token_hex(4)}"
        try:
            folder.mkdir()
            made = Group(mount, 2 if kind == "cgroup2" else 1, folder)
            if made.version == 1 or (folder / "cpu.max").exists():
                return made, ""
            folder.rmdir()
            why = f"the controller cpu is not enabled in {mount}"
        except OSError as error:
            why = str(error)
    return None, why


def on_two_cpus() -> tuple[str, ...]:
    return on_cpus(sorted(os.sched_getaffinity(0))[:2])


def on_cpus(cpus: list[int]) -> tuple[str, ...]:
    return (*PROGRAM[:-1], f"import os; os.sched_setaffinity(0, {cpus})\n{PROGRAM[-1]}")


def test_as_many_workers_as_the_quota_allows(group):
    config = pool(workers="auto")
    with Container(config, {"app.py": ECHO}, before=group.entered(), program=on_two_cpus()) as daemon:
        daemon.expect("READY=1")
        assert len(daemon.workers()) == 2
        for cpus, expected in [(1, 1), (1.5, 2), (0.5, 1), (16, 2), (0.9, 1), (None, 2)]:
            group.allow(cpus)
            assert daemon.reload().ok
            daemon.wait_for_the_old()
            assert len(daemon.workers()) == expected, cpus


@pytest.mark.parametrize(
    ("namespace", "setup", "expected"),
    [
        pytest.param(False, "", 1, id="as the host sees it"),
        pytest.param(True, "{mounted}", 1, id="as the root of a cgroup namespace"),
        pytest.param(True, "{mounted}\nmount -o remount,bind,ro {mount}", 1, id="read-only"),
        pytest.param(False, "mount --bind {folder} {mount}", 1, id="the host's path, only its own mounted"),
        pytest.param(True, "mount -t tmpfs -o ro tmpfs /sys/fs/cgroup", 2, id="not mounted"),
        pytest.param(True, "mount -t tmpfs -o ro tmpfs /sys", 2, id="no sys"),
    ],
)
def test_the_quota_is_found(group, namespace, setup, expected):
    group.allow(1)
    setup = setup.format(mounted=group.mounted(), mount=group.mount, folder=group.folder)
    with Container(
        pool(workers="auto"), {"app.py": ECHO}, before=group.entered(), setup=setup, program=on_two_cpus(),
        unshare=("--cgroup",) if namespace else (),
    ) as daemon:  # fmt: skip
        daemon.expect("READY=1")
        paths = {line.split(":", 2)[2] for line in daemon.inside("cat", "/proc/1/cgroup").stdout.splitlines()}
        assert (f"/{group.folder.name}" in paths) == (not namespace)
        assert len(daemon.workers()) == expected


@pytest.mark.parametrize("number", [1, 2])
def test_as_many_workers_as_the_affinity_allows(number):
    cpus = sorted(os.sched_getaffinity(0))[:number]
    with Container(pool(workers="auto"), {"app.py": ECHO}, program=on_cpus(cpus)) as daemon:
        daemon.expect("READY=1")
        assert len(daemon.workers()) == len(cpus)


# --- what a container may lack --------------------------------------------------------------------

NO_SHM = "if [ -d /dev/shm ]; then mount -t tmpfs -o ro tmpfs /dev/shm; fi"
READ_ONLY = 'here=$(pwd)\nmount --bind "$here" "$here"\nmount -o remount,bind,ro /'
BARE = {"HOME": "", "USER": "", "LOGNAME": "", "XDG_RUNTIME_DIR": ""}


@pytest.mark.parametrize(
    "setup",
    [
        pytest.param(NO_SHM, id="no shared memory"),
        pytest.param(READ_ONLY, id="read-only root"),
        pytest.param("exec <&-", id="no standard input"),
        pytest.param(f"{NO_SHM}\n{READ_ONLY}\nexec <&- >&-", id="nothing"),
    ],
)
def test_surroundings(setup):
    with Container(pool(), {"app.py": ECHO}, setup=setup, environment=BARE) as daemon:
        daemon.expect("READY=1")
        if "remount" in setup:
            assert "Read-only" in daemon.inside("touch", "/hourd-was-here").stderr
        if "shm" in setup and os.path.isdir("/dev/shm"):
            assert "Read-only" in daemon.inside("touch", "/dev/shm/hourd-was-here").stderr
        assert daemon.reload().ok
        daemon.wait_for_the_old()
        assert talk(daemon.addresses()[0], b"said").endswith(b"said")


def test_nowhere_to_write_at_all():
    setup = f'{READ_ONLY}\nmount -o remount,bind,ro "$here"\ncd "$here"'
    with Container(pool(), {"app.py": ECHO}, setup=setup, environment=BARE) as daemon:
        daemon.allow("no control socket at .*: Read-only file system")
        daemon.expect("READY=1")
        address = daemon.wait_log(r"listens at (\S+)")[1]
        daemon.signal(signal.SIGHUP)
        daemon.expect("RELOADING=1", "READY=1")
        assert talk(address, b"said").endswith(b"said")


def test_a_user_without_a_name(nobody):
    # A user without rights could not write what coverage has measured.
    environment = {**BARE, "PYTHONPATH": nobody.path, "COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}
    user = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs", "--bounding-set=-all")
    # The service manager's socket is root's.
    program = ("env", "--unset=NOTIFY_SOCKET", *user, nobody.python, *PROGRAM[1:])
    daemon = Container(pool(), {"app.py": ECHO}, environment=environment, program=program)
    os.chown(daemon.folder, UID, UID)
    with daemon:
        daemon.wait_log(" started in ")
        assert field(daemon.master, "Uid") == [str(UID)] * 4
        assert daemon.reload().generation == 2
        daemon.wait_for_the_old()
        assert talk(daemon.addresses()[0], b"said").endswith(b"said")
        for command in ("status", "reload"):
            asked = daemon.inside(*program, command, "-c", str(daemon.file))
            assert (asked.returncode, asked.stderr) == (0, "")


def test_a_log_that_goes_to_a_pipe():
    daemon = Container(pool(), {"app.py": ECHO}, setup="exec >kept-log 2>&1")
    os.mkfifo(daemon.folder / "kept-log")
    with (
        subprocess.Popen(["cat", "kept-log"], cwd=daemon.folder, stdout=subprocess.PIPE, text=True) as reader,
        ended(reader),
        daemon,
    ):
        daemon.expect("READY=1")
        assert daemon.reload().ok
        assert reader.stdout
        assert any(" reloaded to generation 2 " in line for line in reader.stdout)
        reader.terminate()  # nobody reads it any more
        reader.wait()
        assert daemon.reload().ok
        daemon.wait_for_the_old()
        assert talk(daemon.addresses()[0], b"said").endswith(b"said")


def test_root_of_a_user_namespace():
    if not has_user_namespaces():
        pytest.skip("cannot make a namespace of users here")
    before = () if os.getpriority(os.PRIO_PROCESS, 0) < 10 else ("nice", "-n", "-10")
    with Container(pool(), {"app.py": ECHO}, before=before, unshare=("--user", "--map-root-user")) as daemon:
        daemon.expect("READY=1")
        answer = daemon.reload()
        assert (answer.ok, answer.error) == (True, "")
        daemon.wait_for_the_old()
        assert len({os.getpriority(os.PRIO_PROCESS, pid) for pid in (daemon.master, *children(daemon.master))}) == 1

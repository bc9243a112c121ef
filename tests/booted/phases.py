"""What happens to the service while it serves. A transition begins once the load is answered, and more is answered after it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .load import PORT, measure
from .machine import until
from .rows import Row
from .service import SERVICE, SOCKET, Service
from .stage import Stage

EXPOSURE = 2.0
"""The most that `systemd-analyze security` may say."""
_BROKEN = "no-such-kind"
_CUT = re.compile(r"ended after|(receive|send): (Connection reset by peer|Broken pipe)$")
"""How the client puts it that somebody with a connection is there no more."""
_DYING = 1.0
"""Seconds after SIGKILL in which connections of the victim may still be there, on a busy machine, and be used again."""
_FROZEN = 5
"""Seconds after which a master that stands still is killed, where that is shown."""


class Phases(Stage):
    """All of them, one after the other, each of a service that serves."""

    def __init__(self, service: Service, packages: tuple[Path, Path]) -> None:
        """Take the service and the packages of two versions."""
        super().__init__(service)
        self._old, self._new = packages

    def run(self, *names: str) -> None:
        """Run all phases, or some; one that fails does not stop the others."""
        self.service.install(self._old)
        phases: list[Callable[[], None]] = [
            self.units, self.start, self.reload, self.reload_refused, self.worker_killed, self.master_killed,
            self.restart, self.upgrade, self.upgrade_refused, self.watchdog, self.stop, self.start_refused,
            self.socket_activation, self.socket_refused, self.template, self.as_root, self.purge,
        ]  # fmt: skip
        unknown = {*names} - {phase.__name__ for phase in phases}
        assert not unknown, f"no such phase: {', '.join(sorted(unknown))}"
        for phase in phases:
            if not names or phase.__name__ in names:
                self.play(phase)

    # --- without load -------------------------------------------------------------------------------

    def units(self) -> None:
        """systemd finds no fault with the units, and little that they leave open."""
        machine = self.service.machine
        units = [path.name for path in machine.outside("/usr/lib/systemd/system").glob("hourd*")]
        assert SERVICE in units, units
        # An instance of a template is what can be wrong.
        names = [name.replace("@.", "@proof.") for name in units if name.endswith((".service", ".socket"))]
        said = machine.run("systemd-analyze", "verify", "--man=no", *names)
        assert not said.strip(), said
        for name in names:
            if name.endswith(".service"):
                self._check_exposure(name)

    def _check_exposure(self, name: str) -> None:
        said = self.service.machine.run("systemd-analyze", "--no-pager", "security", name)
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
        assert found, said
        self.rows.append(Row(f"`systemd-analyze security {name}`", note=f"exposure {found[1]}"))
        left_open = re.findall(r"^✗ (\S+).* ([0-9.]+) *$", said, re.MULTILINE)
        told = ", ".join(f"{setting} ({weight})" for setting, weight in left_open)
        assert float(found[1]) <= EXPOSURE, f"the exposure of {name} is {found[1]}: {told}"

    def start_refused(self) -> None:
        """A broken configuration: the service fails with 78, and is not started again."""
        service = self.service
        service.systemctl("stop", SERVICE)
        service.configure(kind=_BROKEN)
        with self.timed("start with a broken configuration", "exit 78, not restarted"):
            assert service.machine.attempt("systemctl", "start", SERVICE).returncode
        # Who is to be restarted would be in "auto-restart" by now.
        found = service.machine.show(SERVICE, "ActiveState", "SubState", "ExecMainStatus", "NRestarts")
        assert found == ["failed", "failed", "78", "0"], found
        assert _BROKEN in service.journal(20), "the journal does not say why"

    def template(self) -> None:
        """Another daemon with a configuration of its own, beside the first."""
        service = self.service
        unit, port = "hourd@proof.service", PORT + 1
        service.configure("/etc/hourd/proof.yaml", bind=f"127.0.0.1:{port}", name="beside")
        with self.timed(f"start of {unit}, beside"):
            service.systemctl("start", unit)
        master = service.main_pid
        assert service.versions(port) == service.versions(), "they do not serve the same"
        service.systemctl("stop", unit)
        assert service.show("ActiveState", unit) == "inactive"
        assert service.main_pid == master, "the end of one was that of the other"
        assert service.versions(), "the end of one was that of the other"

    def socket_refused(self) -> None:
        """Who waits at a socket does not have a service that cannot start be started for ever."""
        service = self.service
        service.systemctl("stop", SERVICE)
        service.configure(kind=_BROKEN, bind="systemd:web")
        service.systemctl("start", SOCKET)
        try:
            service.machine.run("python3", "-c", _WAIT, str(PORT))
            until(lambda: service.show("ActiveState", SOCKET) == "failed", "the end of the attempts")
        finally:
            service.machine.run("systemctl", "stop", SOCKET, check=False)
            service.machine.run("systemctl", "reset-failed", SOCKET, SERVICE, check=False)

    def as_root(self) -> None:
        """The sample of a drop-in has what `user:` in the configuration needs."""
        service = self.service
        try:
            service.drop_in(SERVICE, "[Service]\n" + service.sample("User="))
            service.configure(name="proof\nuser: hourd")
            service.systemctl("restart", SERVICE)
            users = {service.machine.outside(f"/proc/{pid}").stat().st_uid for pid in service.workers()}
            assert 0 not in users, "the workers are root"
            assert service.machine.outside(f"/proc/{service.main_pid}").stat().st_uid == 0, "the master is not root"
        finally:
            service.configure()
            service.drop_in(SERVICE, "")

    def purge(self) -> None:
        """The package goes, and nothing of it stays; the configuration only when that is asked for."""
        service = self.service
        with self.timed("removal of the package"):
            service.machine.run("dpkg", "--remove", "hourd")
        assert service.machine.outside("/etc/hourd.yaml").exists(), "the configuration is gone"
        service.machine.run("dpkg", "--purge", "hourd")
        assert service.show("LoadState") == "not-found"
        assert not service.machine.pids(SERVICE), "processes are left"
        assert not service.machine.outside("/etc/hourd.yaml").exists(), "its configuration is left"

    # --- under load ---------------------------------------------------------------------------------

    def start(self) -> None:
        """From nothing: who asks before that is refused, so the load comes after it."""
        service = self.service
        service.systemctl("stop", SERVICE)
        began = measure.clock()
        service.systemctl("start", SERVICE)
        seconds = measure.clock() - began
        with self.transition("start", "asked from then on") as row:
            pass
        row.seconds = seconds
        row.assert_nothing_lost()

    def reload(self) -> None:
        """New code, and every connection from then on reaches it."""
        service = self.service
        master, version = service.main_pid, service.deploy()
        with self.transition("reload") as row:
            service.systemctl("reload", SERVICE)
            versions = service.versions()
        assert versions == version, f"after the reload {versions} answered, not only {version}"
        assert service.main_pid == master, "another master"
        row.assert_nothing_lost()

    def reload_refused(self) -> None:
        """A broken configuration is told, and changes nothing."""
        service = self.service
        pids = service.main_pid, *service.workers()
        service.configure(kind=_BROKEN)
        with self.transition("reload of a broken configuration", "refused, serves on") as row:
            service.machine.attempt("systemctl", "reload", SERVICE)  # Type=notify-reload knows no failure
            status = until(
                lambda: text if _BROKEN in (text := service.show("StatusText")) else "", "the reason in the status"
            )
        assert "refused" in status, status
        assert status in service.systemctl("status", "--full", SERVICE), "`systemctl status` does not say it"
        assert (service.main_pid, *service.workers()) == pids, "not the same processes"
        row.assert_nothing_lost()

    def worker_killed(self) -> None:
        """What it had read is lost with it, and nothing else."""
        service = self.service
        victim, other = service.workers()
        with self.transition("`kill -9` of a worker", "lost: what it had in its hands") as row:
            service.kill(victim, "KILL")
            killed = measure.clock()
            left = until(lambda: pids if victim not in (pids := service.workers()) else None, "its successor")
        assert other in left, "its sibling is gone too"
        # It accepts nothing once it was killed: a connection that came later was another's, and had to be answered.
        late = {True: killed, False: killed + _DYING}
        surprising = [loss for loss in row.losses if not _CUT.match(loss.why) or loss.sent > late[loss.fresh]]
        assert not surprising, surprising

    def master_killed(self) -> None:
        """Who waits in the queue finds its successor there."""
        self._kill_master("`kill -9` of the master")

    def _kill_master(self, name: str) -> None:
        service = self.service
        master = service.main_pid
        with self.transition(name) as row:
            service.systemctl("kill", "--kill-whom=main", "--signal=KILL", SERVICE)
            service.await_successor(master)
        row.assert_nothing_lost()

    def restart(self) -> None:
        """Nobody serves in between, and the queue is kept."""
        service = self.service
        master, version = service.main_pid, service.deploy()
        with self.transition("restart") as row:
            service.systemctl("restart", SERVICE)
            versions = service.versions()
        assert service.main_pid != master, "the same master"
        assert versions == version, f"after the restart {versions} answered, not only {version}"
        row.assert_nothing_lost()

    def upgrade(self) -> None:
        """The package of a higher version, and the older one again: the same process is another program then."""
        self._exchange("upgrade of the package", self._new)
        self._exchange("downgrade of the package", self._old)

    def _exchange(self, name: str, package: Path) -> None:
        service = self.service
        master, before = service.main_pid, service.status()
        with self.transition(name, "in place, the same MainPID") as row:
            service.install(package)
            after = until(lambda: status if _follows(status := service.status(), before) else None, "the new program")
        assert service.main_pid == master, "another master"
        assert after["version"] in service.machine.run("hourd", "--version"), "not the version that is installed"
        row.assert_nothing_lost()

    def upgrade_refused(self) -> None:
        """A version that cannot start: the running one says why, and goes on."""
        service = self.service
        pids = service.main_pid, *service.workers()
        with self.transition("upgrade to what cannot start", "refused, serves on") as row, service.broken(_BROKEN):
            service.systemctl("kill", "--kill-whom=main", "--signal=USR2", SERVICE)
            until(lambda: _BROKEN in service.show("StatusText"), "the reason in the status")
        assert (service.main_pid, *service.workers()) == pids, "not the same processes"
        row.assert_nothing_lost()
        self.pass_over_journal()  # it has the traceback

    def watchdog(self) -> None:
        """A master that stands still is killed, and its successor takes over from workers that have served on."""
        service = self.service
        service.drop_in(SERVICE, f"[Service]\nWatchdogSec={_FROZEN}s\n")
        try:
            service.systemctl("restart", SERVICE)
            master = service.main_pid
            with self.transition(f"master stands still, WatchdogSec={_FROZEN}s") as row:
                service.systemctl("kill", "--kill-whom=main", "--signal=STOP", SERVICE)
                service.await_successor(master)
        finally:
            service.drop_in(SERVICE, "")
        assert "Watchdog timeout" in service.journal(100), "it was not the watchdog"
        row.assert_nothing_lost()

    def stop(self) -> None:
        """What is under way is answered; who asks after that is refused, so nobody asks any more."""
        service = self.service
        service.deploy(delay=0.5)
        service.systemctl("restart", SERVICE)
        with self.loaded("stop") as (row, clients):
            clients.send_no_more()
            row.began = measure.clock()
            service.systemctl("stop", SERVICE)
            row.seconds = measure.clock() - row.began
        assert row.under_way(), "nothing was under way"
        row.note = f"{row.under_way()} requests under way"
        ended = service.machine.show(SERVICE, "ActiveState", "Result", "ExecMainStatus")
        assert ended == ["inactive", "success", "0"], ended
        row.assert_nothing_lost()

    def socket_activation(self) -> None:
        """systemd has the socket: a connection starts the service, and whoever comes in between waits."""
        service = self.service
        service.systemctl("stop", SERVICE)
        service.configure(bind="systemd:web")
        service.systemctl("start", SOCKET)
        try:
            self._activate()
        finally:
            service.machine.run("systemctl", "stop", SOCKET, check=False)

    def _activate(self) -> None:
        service = self.service
        assert not service.is_active(), "it runs before anybody has come"
        with self.transition("start by the first connection", answered=False) as row:
            until(service.is_active, "a service that is ready")
        row.assert_nothing_lost()
        with self.transition("stop, and start by the next connection") as row:
            master = service.main_pid
            service.systemctl("stop", SERVICE)
            service.await_successor(master)
        row.assert_nothing_lost()
        self._kill_master("`kill -9` of the master, systemd has the socket")


_WAIT = """
import contextlib, socket, sys
with contextlib.suppress(ConnectionResetError), socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    sock.recv(1)
"""
"""Connects, and waits for the end."""


def _follows(status: dict[str, Any], before: dict[str, Any]) -> bool:
    """Tell whether another version has reloaded, and nobody of an older generation is left."""
    generations = {worker["generation"] for worker in status["pools"]["web"]["workers"]}
    return (
        status["version"] != before["version"]
        and status["generation"] > before["generation"]
        and generations == {status["generation"]}
    )

"""A service manager: what it is told, in which order, and what it keeps and hands over. Here the test is it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .daemon import ECHO, PATIENCE, PROGRAM, Daemon, connect, pool, talk

HAND_OVER = """
import os, sys
names, fds, *command = sys.argv[1:]
numbers = [int(fd) for fd in fds.split(",")]
for number, fd in enumerate(numbers):
    os.dup2(fd, 100 + number)
for number, fd in enumerate(numbers):
    os.dup2(100 + number, 3 + number)
    os.set_inheritable(3 + number, True)
os.closerange(3 + len(numbers), 100 + len(numbers))
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(numbers)), LISTEN_FDNAMES=names)
os.execv(command[0], command)
"""
"""What a service manager does for sd_listen_fds(3): puts descriptors at 3 and says so to the process itself."""


def handing_over(sockets: dict[str, list[socket.socket]]) -> dict[str, object]:
    """Return arguments of ``Daemon`` that hand sockets over, by their names."""
    pairs = [(name, sock.fileno()) for name, each in sockets.items() for sock in each]
    names, fds = ":".join(name for name, _ in pairs), [fd for _, fd in pairs]
    return {"command": (sys.executable, "-c", HAND_OVER, names, ",".join(map(str, fds)), *PROGRAM), "fds": fds}


@contextlib.contextmanager
def listening(
    family: int = socket.AF_INET, where: object = ("127.0.0.1", 0), *, group: bool = False
) -> Iterator[socket.socket]:
    """Hold a socket that listens, as a socket unit does."""
    with socket.socket(family) as sock:
        if group:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(where)
        sock.listen(100)
        yield sock


def at(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{host}:{port}"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def queue_up(address: str) -> socket.socket:
    """Connect and send, for whoever accepts later."""
    sock = connect(address)
    sock.sendall(b"patience")
    sock.shutdown(socket.SHUT_WR)
    return sock


def answer(sock: socket.socket, *, datagram: bool = False) -> bytes:
    with sock:
        if datagram:
            return sock.recv(65536)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def take_kept(daemon: Daemon) -> dict[str, list[socket.socket]]:
    """Return what the manager keeps at this moment, as the test's own."""
    return {name: [sock.dup() for sock in each] for name, each in daemon.manager.kept.items()}


def listeners(port: int) -> int:
    """Return how many sockets listen at a port of 127.0.0.1, as the kernel says."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1] == f"0100007F:{port:04X}" and line.split()[3] == "0A" for line in lines)


def told(daemon: Daemon) -> list[str]:
    """Return everything it has told, without numbers that differ; what is repeated while something goes on, once."""
    lines: list[str] = []
    for message in daemon.manager.everything:
        text = re.sub(r"(MONOTONIC_USEC=)\d+|(127\.0\.0\.1_)\d+", r"\1\2N", message.replace("\n", " "))
        phase = max((n for n, line in enumerate(lines) if line.startswith(("RELOADING", "STOPPING"))), default=0)
        if not (text.startswith(("EXTEND", "WATCHDOG")) and text in lines[phase:]):
            lines.append(text)
    return lines


STARTED = [
    "FDSTORE=1 FDNAME=hourd/127.0.0.1_N FDPOLL=0",
    "STATUS=starting: 0 workers serve, generation 0",
    "WATCHDOG=1",
    "EXTEND_TIMEOUT_USEC=30000000",
    "STATUS=starting: 1 workers serve, generation 0",
    "READY=1",
    "STATUS=running: 1 workers serve, generation 1",
]
RELOADED = [
    "RELOADING=1 MONOTONIC_USEC=N",
    "STATUS=reloading: 1 workers serve, generation 1",
    "EXTEND_TIMEOUT_USEC=30000000",
    "STATUS=reloading: 2 workers serve, generation 1",
    "READY=1",
    "STATUS=running: 1 workers serve, generation 2",
]
REFUSED = [
    "RELOADING=1 MONOTONIC_USEC=N",
    "READY=1",
    "STATUS=running: 1 workers serve, generation 2; reload refused: hourd.yaml:1: no: unknown key",
]
STOPPED = ["STOPPING=1", "FDSTOREREMOVE=1 FDNAME=hourd/127.0.0.1_N", "STATUS=stopping: 0 workers serve, generation 2"]


def test_the_order_of_everything_that_is_told():
    """Start, reload, a reload that is refused, stop."""
    environment = {"WATCHDOG_USEC": "3600000000"}
    with Daemon(pool(workers=1), {"app.py": ECHO}, environment=environment) as daemon:
        daemon.allow("refused")
        daemon.expect("READY=1")
        assert daemon.reload().ok
        daemon.expect("READY=1", "STATUS=running: 1 workers serve, generation 2")
        configured = daemon.file.read_text()
        daemon.file.write_text(f"no: 1\n{configured}")
        assert not daemon.reload().ok
        daemon.expect("RELOADING=1", "READY=1", "STATUS=running")
        daemon.file.write_text(configured)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        daemon.manager.read()
        lines = told(daemon)
    assert lines[: len(STARTED)] == STARTED
    assert lines[len(STARTED) : len(STARTED) + len(RELOADED)] == RELOADED
    refused = lines[len(STARTED) + len(RELOADED) :][: len(REFUSED)]
    assert refused[:2] == REFUSED[:2]
    assert refused[2].startswith("STATUS=running: 1 workers serve, generation 2; reload refused: ")
    stopped = lines[len(STARTED) + len(RELOADED) + len(REFUSED) :][:3]
    assert [line.partition("; reload refused")[0] for line in stopped] == STOPPED


def test_a_degraded_pool_is_named():
    files = {"app.py": "import os\nasync def serve(reader, writer):\n    os._exit(3)\n"}
    settings = {"restart": {"backoff": "10ms", "giving_up": {"failures": 1, "within": "1h"}}}
    with Daemon(pool(workers=1, **settings), files) as daemon:
        daemon.allow("exited with code 3", "degraded")
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        for _ in range(2):
            with contextlib.suppress(OSError):  # reset, at whichever of its steps
                talk(address, b"x")
        assert "; web degraded" in daemon.expect("STATUS=degraded")


def test_the_watchdog_is_fed_by_the_process_that_it_watches_only():
    with Daemon(pool(), {"app.py": ECHO}, environment={"WATCHDOG_USEC": "200000"}) as daemon:
        daemon.expect("READY=1", *["WATCHDOG=1"] * 5)
    with Daemon(pool(), {"app.py": ECHO}, environment={"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}) as daemon:
        daemon.expect("READY=1")
        assert not [message for message in daemon.manager.everything if "WATCHDOG" in message]


def test_a_manager_that_does_not_read_is_told_the_latest():
    """Its queue holds a few messages; what has changed since is told once it reads again."""
    with Daemon(pool(), {"app.py": ECHO}, environment={"WATCHDOG_USEC": "100000"}) as daemon:
        daemon.expect("READY=1")
        with daemon.manager.deaf():
            before = len(daemon.manager.everything)
            for _ in range(10):
                assert daemon.reload().ok
        daemon.expect("STATUS=running: 2 workers serve, generation 11")
        heard = daemon.manager.everything[before:]
        assert sum(message.startswith("RELOADING=1") for message in heard) == 10
        assert len(heard) < 100


def test_a_status_is_one_line_of_bounded_length():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.allow("refused")
        daemon.expect("READY=1")
        daemon.write("app.py", "raise ValueError('\\t' + 'x' * 5000)")
        assert not daemon.reload().ok
        assert 700 < len(daemon.expect("STATUS=running: 2 workers serve, generation 1; reload refused: Value")) < 900


def test_a_long_drain_asks_for_time():
    with Daemon(pool(workers=1), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with connect(address) as held:
            held.recv(10)
            daemon.signal(signal.SIGTERM)
            daemon.expect("STOPPING=1", "EXTEND_TIMEOUT_USEC=30000000")
        assert daemon.wait() == 0


def test_every_slot_is_kept_as_long_as_it_is_wanted():
    with Daemon(pool(workers=2), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        kept = daemon.manager.kept
        daemon.until(lambda: [len(each) for each in kept.values()] == [2], "both slots are kept")
        assert {at(sock) for each in kept.values() for sock in each} == set(daemon.addresses())
        assert daemon.run("scale", "--control", daemon.control, "web", "3").returncode == 0
        daemon.until(lambda: [len(each) for each in kept.values()] == [3], "the third slot is kept too")
        before = set(kept)
        daemon.configure(pool(server={"bind": "127.0.0.2:0"}))
        assert daemon.reload().ok
        daemon.until(lambda: len(kept) == 1 and set(kept) != before, "the other address is kept instead")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        daemon.manager.read()
        assert kept == {}


@pytest.mark.parametrize("bind", ["127.0.0.1:{port}", "unix:{folder}/kept-1.sock", "unix:@hourd-test-{port}"])
def test_what_waits_when_the_master_is_killed_is_served_by_the_next(bind, tmp_path):
    tmp_path.chmod(0o755)
    configuration = pool(workers=2, server={"bind": bind.format(port=free_port(), folder=tmp_path)})
    with Daemon(configuration, {"app.py": ECHO}, folder=tmp_path) as first:
        first.allow("the (channel to the master ended|master is gone)")
        first.expect("READY=1")
        (address,) = first.addresses()
        first.until(lambda: first.manager.kept, "the sockets are kept")
        first.until(lambda: len(first.manager.kept[next(iter(first.manager.kept))]) == (1 if "unix" in bind else 2))
        first.signal(signal.SIGKILL)
        first.wait()
        first.wait_gone()
        kept = take_kept(first)
    waiting = [queue_up(address) for _ in range(20)]
    with Daemon(configuration, {"app.py": ECHO}, folder=tmp_path, **handing_over(kept)) as second:
        second.expect("READY=1")
        assert second.addresses() == [address]
        assert all(answer(sock).endswith(b"patience") for sock in waiting)
        assert talk(address, b"new").endswith(b"new")
        assert len(second.pool()["slots"]) == 2
    for sock in (sock for each in kept.values() for sock in each):
        sock.close()


DATAGRAMS = """
import asyncio, os

class Answer(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data + f" {os.getpid()}".encode(), address)
"""


def datagrams(bind: str, **settings: object) -> dict[str, object]:
    return pool(server={"kind": "datagram", "app": "app:Answer", "bind": bind}, **settings)


def send(sock: socket.socket) -> socket.socket:
    """Send a datagram, for whoever reads later."""
    client = socket.socket(sock.family, socket.SOCK_DGRAM)
    client.settimeout(PATIENCE)
    if sock.family == socket.AF_UNIX:
        client.bind("")
    client.sendto(b"patience", sock.getsockname())
    return client


@pytest.mark.parametrize("bind", ["127.0.0.1:{port}", "unix:{folder}/kept-1.sock"])
def test_datagrams_that_wait_when_the_master_is_killed_are_read_by_the_next(bind, tmp_path):
    tmp_path.chmod(0o755)
    configuration = datagrams(bind.format(port=free_port(), folder=tmp_path))
    with Daemon(configuration, {"app.py": DATAGRAMS}, folder=tmp_path) as first:
        first.allow("the (channel to the master ended|master is gone)")
        first.expect("READY=1")
        (address,) = first.addresses()
        slots = 1 if "unix" in bind else 2
        first.until(lambda: [len(each) for each in first.manager.kept.values()] == [slots])
        first.signal(signal.SIGKILL)
        first.wait()
        first.wait_gone()
        kept = take_kept(first)
    ((sock, *_),) = kept.values()
    waiting = [send(sock) for _ in range(8)]
    with Daemon(configuration, {"app.py": DATAGRAMS}, folder=tmp_path, **handing_over(kept)) as second:
        second.expect("READY=1")
        assert second.addresses() == [address]
        for client in [*waiting, *(send(sock) for _ in range(8))]:
            assert answer(client, datagram=True).startswith(b"patience ")
        assert second.reload().ok
        assert len(second.pool()["slots"]) == 2
        assert {len(each) for each in second.manager.kept.values()} == {slots}
    for sock in (sock for each in kept.values() for sock in each):
        sock.close()


@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
def test_a_socket_unit_may_have_both_sorts_under_one_name(group):
    with listening() as streams, socket.socket(type=socket.SOCK_DGRAM) as sock:
        if group:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        configuration = datagrams("systemd:dns", workers=3)
        other = {"kind": "stream", "app": "echo:serve", "bind": "systemd:dns"}
        configuration["pools"]["web"]["servers"]["other"] = other  # type: ignore[index]
        files = {"app.py": DATAGRAMS, "echo.py": ECHO}
        with Daemon(configuration, files, **handing_over({"dns": [streams, sock]})) as daemon:
            daemon.expect("READY=1")
            for _ in range(2):
                assert daemon.addresses() == [f"udp:{at(sock)}"]
                assert daemon.addresses(server="other") == [at(streams)]
                pids = {int(answer(send(sock), datagram=True).split()[1]) for _ in range(60)}
                assert pids == set(daemon.workers()) if group else pids <= set(daemon.workers())
                assert talk(at(streams), b"x").endswith(b"x")
                assert daemon.reload().ok
                daemon.wait_for_the_old()
        with send(sock):
            assert sock.recv(100) == b"patience"  # its maker goes on with it


def test_a_socket_unit_of_the_other_sort_is_refused():
    with listening() as streams:
        sockets = handing_over({"web": [streams]})
        with Daemon(datagrams("systemd:web"), {"app.py": DATAGRAMS}, **sockets) as daemon:
            daemon.allow("cannot start")
            assert daemon.wait() == 69
            assert "systemd:web: is no socket that datagrams come to" in daemon.log


def test_what_was_kept_of_an_address_that_is_not_wanted_any_more_is_let_go(tmp_path):
    tmp_path.chmod(0o755)
    with listening(group=True) as old:
        kept = {f"hourd/{at(old).replace(':', '_')}": [old]}
        with Daemon(pool(), {"app.py": ECHO}, folder=tmp_path, **handing_over(kept)) as daemon:
            daemon.expect("READY=1")
            daemon.until(
                lambda: any(
                    message == f"FDSTOREREMOVE=1\nFDNAME={next(iter(kept))}" for message in daemon.manager.everything
                ),
                "it is let go",
            )


def test_a_start_that_fails_leaves_what_was_kept_to_the_next_attempt(tmp_path):
    """An application may be able to boot later. What this start itself has bound goes."""
    tmp_path.chmod(0o755)
    with listening(group=True) as old:
        kept = {f"hourd/{at(old).replace(':', '_')}": [old]}
        waiting = queue_up(at(old))
        configuration = pool(server={"bind": [at(old), f"127.0.0.1:{free_port()}", f"unix:{tmp_path}/new.sock"]})
        with Daemon(configuration, {"app.py": "raise ValueError"}, folder=tmp_path, **handing_over(kept)) as first:
            first.allow("cannot start")
            assert first.wait() == 75
            first.manager.read()
            assert set(first.manager.kept) == set(kept)
            again = take_kept(first)
        with Daemon(configuration, {"app.py": ECHO}, folder=tmp_path, **handing_over(again)) as second:
            second.write("app.py", ECHO)
            second.expect("READY=1")
            assert answer(waiting).endswith(b"patience")
        for sock in (sock for each in again.values() for sock in each):
            sock.close()


def test_what_was_kept_is_served_as_a_part_of_a_wider_address(tmp_path):
    tmp_path.chmod(0o755)
    with listening(group=True) as old:
        kept = {f"hourd/{at(old).replace(':', '_')}": [old]}
        waiting = [queue_up(at(old)) for _ in range(10)]
        configuration = pool(server={"bind": f"0.0.0.0:{old.getsockname()[1]}"})
        with Daemon(configuration, {"app.py": ECHO}, folder=tmp_path, **handing_over(kept)) as daemon:
            daemon.expect("READY=1")
            waiting += [queue_up(at(old)) for _ in range(10)]
            assert all(answer(sock).endswith(b"patience") for sock in waiting)


def test_what_was_handed_over_and_is_bound_next_is_kept():
    with listening(where=("0.0.0.0", 0), group=True) as sock:
        files, handed = {"app.py": ECHO}, handing_over({"web": [sock]})
        with Daemon(pool(workers=2, server={"bind": "systemd:web"}), files, **handed) as daemon:
            daemon.expect("READY=1")
            name = f"hourd/{at(sock).replace(':', '_')}"
            daemon.until(lambda: len(daemon.manager.kept.get(name, [])) == 1, "the slot that joined is kept")
            daemon.configure(pool(workers=2, server={"bind": at(sock)}))
            assert daemon.reload().ok
            daemon.wait_for_the_old()
            daemon.wait_until(lambda _status: len(daemon.manager.kept.get(name, [])) >= 2, "both are kept")


def test_a_master_that_fails_leaves_its_sockets_to_the_next():
    code = (
        "import signal, hourd.master as module\nbefore = module.Master._on_signals\n"
        "def fail(self, mask):\n    assert signal.SIGUSR1 not in self._signals._came\n    before(self, mask)\n"
        "module.Master._on_signals = fail\nfrom hourd.cli import main; main()"
    )
    with Daemon(pool(), {"app.py": ECHO}, command=(sys.executable, "-P", "-c", code)) as daemon:
        daemon.allow("the (channel to the master ended|master is gone)", "AssertionError")
        daemon.expect("READY=1")
        daemon.until(lambda: [len(each) for each in daemon.manager.kept.values()] == [2])
        (address,) = daemon.addresses()
        daemon.signal(signal.SIGUSR1)
        assert daemon.wait() == 70
        daemon.wait_gone()
        daemon.manager.read()
        assert [len(each) for each in daemon.manager.kept.values()] == [2]
        connect(address).close()


def test_a_manager_that_is_not_there_is_missed_once():
    environment = {"NOTIFY_SOCKET": "/nonexistent/notify", "WATCHDOG_USEC": "20000"}
    with Daemon(pool(), {"app.py": ECHO}, environment=environment) as daemon:
        daemon.allow("cannot tell the service manager")
        daemon.wait_log("started in")
        assert daemon.reload().ok
        assert daemon.log.count("cannot tell the service manager") == 1


@pytest.mark.parametrize("limit", ["²", "-5", "x", "0", "1"])
def test_a_watchdog_that_makes_no_sense_does_not_keep_it_from_starting(limit):
    with Daemon(pool(), {"app.py": ECHO}, environment={"WATCHDOG_USEC": limit}) as daemon:
        daemon.expect("READY=1")


def test_a_stop_that_hands_over_leaves_the_queue_to_the_next(tmp_path):
    tmp_path.chmod(0o755)
    configuration = pool(server={"bind": f"127.0.0.1:{free_port()}"})
    with Daemon(configuration, {"app.py": ECHO}, folder=tmp_path) as first:
        first.expect("READY=1")
        (address,) = first.addresses()
        first.until(lambda: [len(each) for each in first.manager.kept.values()] == [2])
        assert first.run("stop", "--hand-over", "--control", first.control).returncode == 0
        assert first.wait() == 0
        first.manager.read()
        kept = take_kept(first)
        assert [len(each) for each in kept.values()] == [2]
    waiting = [queue_up(address) for _ in range(20)]
    with Daemon(configuration, {"app.py": ECHO}, folder=tmp_path, **handing_over(kept)) as second:
        second.expect("READY=1")
        assert all(answer(sock).endswith(b"patience") for sock in waiting)
    for sock in (sock for each in kept.values() for sock in each):
        sock.close()


def test_nothing_is_handed_over_where_nobody_keeps_it():
    with Daemon(pool(), {"app.py": ECHO}, environment={"NOTIFY_SOCKET": ""}) as daemon:
        daemon.wait_log("started in")
        refused = daemon.run("stop", "--hand-over", "--control", daemon.control)
        assert refused.returncode == 1
        assert "no service manager" in refused.stderr


@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
def test_a_socket_unit_is_bound_to_by_its_name(group):
    """It is shared by all workers, or, where its group may be joined, the first slot's; its maker goes on with it."""
    with listening(group=group) as sock:
        configuration = pool(workers=3, server={"bind": "systemd:web"})
        with Daemon(configuration, {"app.py": ECHO}, **handing_over({"web": [sock]})) as daemon:
            daemon.expect("READY=1")
            assert daemon.addresses() == [at(sock)]
            assert listeners(sock.getsockname()[1]) == (3 if group else 1)
            assert {talk(at(sock)).split()[0] for _ in range(60)} <= {b"%d" % pid for pid in daemon.workers()}
            assert daemon.reload().ok
            daemon.wait_for_the_old()
            assert talk(at(sock), b"again").endswith(b"again")
            assert daemon.addresses() == [at(sock)]
        assert listeners(sock.getsockname()[1]) == 1
        with queue_up(at(sock)), sock.accept()[0] as accepted:
            assert accepted.recv(100) == b"patience"


def test_a_unix_socket_of_a_socket_unit_stays(tmp_path):
    place = tmp_path / "kept-unit.sock"
    with listening(socket.AF_UNIX, str(place)) as sock:
        configuration = pool(server={"bind": "systemd:web"})
        with Daemon(configuration, {"app.py": ECHO}, **handing_over({"web": [sock]})) as daemon:
            daemon.expect("READY=1")
            assert talk(f"unix:{place}", b"x").endswith(b"x")
        assert place.exists()
        with queue_up(f"unix:{place}"), sock.accept()[0] as accepted:
            assert accepted.recv(100) == b"patience"


def test_several_sockets_of_one_name_and_some_of_numbers():
    with listening() as one, listening() as two, listening() as three:
        files = {"app.py": ECHO}
        configuration = pool(server={"bind": ["systemd:web", "fd:5"]})
        with Daemon(configuration, files, **handing_over({"web": [one, two], "other": [three]})) as daemon:
            daemon.expect("READY=1")
            assert daemon.addresses() == [at(one), at(two), at(three)]
            for sock in (one, two, three):
                assert talk(at(sock), b"x").endswith(b"x")


@pytest.mark.parametrize(
    ("bind", "why"),
    [
        ("systemd:wbe", "systemd:wbe: systemd has passed no socket of this name; these were passed: web; see"),
        ("fd:77", "fd:77: no socket was open at this number when hourd was started"),
    ],
)
def test_a_socket_that_was_not_passed_is_missed_by_name(bind, why):
    with listening() as sock:
        configuration = pool(server={"bind": bind})
        with Daemon(configuration, {"app.py": ECHO}, **handing_over({"web": [sock]})) as daemon:
            daemon.allow("cannot start")
            assert daemon.wait() == 69
            assert why in daemon.log


def test_a_socket_that_does_not_listen_is_refused():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        configuration = pool(server={"bind": "systemd:web"})
        with Daemon(configuration, {"app.py": ECHO}, **handing_over({"web": [sock]})) as daemon:
            daemon.allow("cannot start")
            assert daemon.wait() == 69
            assert "systemd:web: is no socket that listens for connections" in daemon.log


def test_workers_and_molds_have_nothing_that_was_handed_over_by_accident():
    with listening() as used, listening() as idle:
        configuration = pool(workers=1, server={"bind": "systemd:used"})
        sockets = {"used": [used], "idle": [idle]}
        with Daemon(configuration, {"app.py": ECHO}, **handing_over(sockets)) as daemon:
            daemon.expect("READY=1")
            inode = os.readlink(f"/proc/self/fd/{idle.fileno()}")
            for pid in [pid for pid in daemon.processes() if pid != daemon.process.pid]:
                links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
                assert inode not in links

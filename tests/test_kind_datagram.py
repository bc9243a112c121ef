"""``kind: datagram`` with plain sockets: who answers, and what is lost when: nothing but what a killed worker had read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import select
import signal
import socket
import threading

import pytest
import uvloop

from hourd.kinds.datagram_transport import Transport

from .around import GATE, Gate
from .daemon import PATIENCE, Daemon, pool, talk

APP = """
import asyncio
import os

import gate
from hourd import Worker


class Answer(asyncio.DatagramProtocol):
    # Says which slot and process it is of, and repeats what it gets.
    def connection_made(self, transport):
        self.transport = transport
        Worker.current().log.info("made %s", transport.get_extra_info("sockname"))
        self.tasks = {asyncio.get_running_loop().create_task(asyncio.sleep(3600))}

    def datagram_received(self, data, address):
        if data == b"fail":
            raise RuntimeError("received on purpose")
        if data == b"block":
            gate.wait_at_gate()
        if data == b"wait":
            self.tasks.add(asyncio.get_running_loop().create_task(self.answer_later(data, address)))
        elif data == b"sleep":
            self.tasks.add(asyncio.get_running_loop().create_task(asyncio.sleep(3600)))
            self.answer(data, address)
        else:
            self.answer(data, address)

    async def answer_later(self, data, address):
        await gate.at_gate()
        self.answer(data, address)

    def answer(self, data, address):
        self.transport.sendto(f"{Worker.current().slot} {os.getpid()} ".encode() + data, address)

    def connection_lost(self, error):
        Worker.current().log.info("lost %s with %r", self.transport.get_extra_info("sockname"), error)
        for task in self.tasks:
            task.cancel()


def make(worker):
    assert worker is Worker.current()
    return Answer()


class Closing(Answer):
    def datagram_received(self, data, address):
        if data == b"close":
            self.transport.close()
        else:
            super().datagram_received(data, address)


class Failing(Answer):
    def connection_made(self, transport):
        raise RuntimeError("made on purpose")


class Other:
    pass


async def coroutine():
    pass


async def serve(reader, writer):
    writer.write(b"stream")
    writer.close()
"""
OWN = """
import asyncio
import socket

import app
import hourd


class Kind(hourd.Kind):
    connections = 0

    async def listen(self, sock, backlog):
        if sock.type == socket.SOCK_STREAM:
            return await asyncio.start_server(app.serve, sock=sock, backlog=backlog)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(app.Answer, sock=sock)
        return transport

    async def close(self):
        pass
"""
FILES = {"app.py": APP, "gate.py": GATE}
LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
PLACES = {"ipv4": "127.0.0.1:0", "ipv6": "[::1]:0", "path": "unix:{folder}/s", "abstract": "unix:@hourd-{name}"}
MANY = 50


def datagram(app="Answer", **settings):
    return {"kind": "datagram", "app": f"app:{app}", "bind": "127.0.0.1:0", "grace": "20s", **settings}


def blockable(**settings):
    """Return a configuration whose workers may hang without being replaced."""
    return pool(server=datagram(), timeouts={"slow": "60s", "hung": "90s"}, **settings)


class Client:
    """A socket: always the same flow."""

    def __init__(self, address: str) -> None:
        if address.startswith("unix:"):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.sock.bind("")  # a name of its own, or nobody could answer
            self.sock.connect(address.removeprefix("unix:").replace("@", "\0", 1))
        else:
            host, _, port = address.removeprefix("udp:").rpartition(":")
            self.sock = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET, socket.SOCK_DGRAM)
            self.sock.connect((host.strip("[]"), int(port)))
        self.sock.settimeout(PATIENCE)

    def send(self, data: bytes = b"x") -> None:
        self.sock.send(data)

    def receive(self) -> tuple[int, int, bytes]:
        """Return the slot of who answers, its pid, and what it repeats."""
        slot, pid, data = self.sock.recv(65536).split(b" ", 2)
        return int(slot), int(pid), data

    def ask(self, data: bytes = b"x") -> tuple[int, int, bytes]:
        self.send(data)
        return self.receive()

    def is_refused(self) -> bool:
        """Tell whether nobody has the address: the kernel of the other end says so."""
        with contextlib.suppress(ConnectionRefusedError):
            self.send()
            return bool(select.select([self.sock], [], [], 0.05)[0]) and self.sock.recv(100) is None
        return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()


@contextlib.contextmanager
def clients(address, number=MANY):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(address)) for _ in range(number)]


@contextlib.contextmanager
def blocked(daemon, first):
    """Keep a worker's event loop from turning; yields its pid."""
    with Gate(daemon.folder) as gate:
        first.send(b"block")
        pid, held = gate.next()
        gate.remove()
        yield pid
        held.close()


@LOOPS
@pytest.mark.parametrize("place", PLACES)
def test_who_asks_is_answered(place, loop, tmp_path):
    tmp_path.chmod(0o755)
    bind = PLACES[place].format(folder=tmp_path, name=secrets.token_hex(4))
    with Daemon(pool(server=datagram("make", bind=bind), loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        assert address.startswith(("udp:127.0.0.1:", "udp:[::1]:", f"unix:{tmp_path}/s", "unix:@hourd-"))
        assert f"server main listens at {address}\n" in daemon.log
        with clients(address, 20) as asking:
            for client in asking:
                assert client.ask(b"hello")[2] == b"hello"
            assert asking[0].ask(b"")[2] == b""
            if not address.startswith("unix:"):
                assert asking[0].ask(b"x" * 60000)[2] == b"x" * 60000
            status = daemon.wait_until(lambda it: sum(w["requests"] for w in it["pools"]["web"]["workers"]) >= 20)
            workers = status["pools"]["web"]["workers"]
            assert {(each["accepted"], each["connections"], each["errors"]) for each in workers} == {(0, 0, 0)}
            assert daemon.reload().ok
            assert {client.ask(b"again")[2] for client in asking} == {b"again"}
            daemon.wait_for_the_old()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert daemon.log.count(" made ") == len(re.findall(r" lost .* with None", daemon.log)) >= 4


def test_tcp_and_udp_have_ports_of_their_own():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    bind = f"127.0.0.1:{port}"
    configuration = pool(server=datagram(bind=bind))
    configuration["pools"]["web"]["servers"]["other"] = {"kind": "stream", "app": "app:serve", "bind": bind}
    with Daemon(configuration, FILES) as daemon:
        daemon.expect("READY=1")
        assert daemon.addresses() == [f"udp:{bind}"]
        assert daemon.addresses(server="other") == [bind]
        for _ in range(2):
            with Client(f"udp:{bind}") as client:
                assert client.ask()[2] == b"x"
            assert talk(bind) == b"stream"
            assert daemon.reload().ok
        assert set(daemon.manager.kept) == {f"hourd/127.0.0.1_{port}", f"hourd/udp_127.0.0.1_{port}"}


def test_a_kind_of_ones_own_has_both_sorts_of_socket():
    """Each address says what it is, and the kind sees it by its socket."""
    server = {"kind": "own:Kind", "bind": ["127.0.0.1:0", "udp:127.0.0.1:0"]}
    with Daemon(pool(server=server), {**FILES, "own.py": OWN}) as daemon:
        daemon.expect("READY=1")
        for _ in range(2):
            tcp, udp = daemon.addresses()
            with Client(udp) as client:
                assert client.ask()[2] == b"x"
            assert talk(tcp) == b"stream"
            assert daemon.reload().ok


@pytest.mark.parametrize("option", [None, socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_an_address_that_another_process_has_is_refused(option):
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        if option is not None:
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        other.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        with Daemon(pool(server=datagram(bind=bind)), FILES) as daemon:
            daemon.allow("cannot start")
            assert daemon.wait() == 69
            assert f"cannot bind udp:{bind} for server main: Address already in use" in daemon.log


@pytest.mark.parametrize("option", [None, socket.SO_REUSEADDR])
def test_nobody_else_can_have_what_it_has(option):
    with Daemon(pool(server=datagram()), FILES) as daemon, socket.socket(type=socket.SOCK_DGRAM) as other:
        daemon.expect("READY=1")
        host, _, port = daemon.addresses()[0].removeprefix("udp:").rpartition(":")
        if option is not None:
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        with pytest.raises(OSError, match="Address already in use"):
            other.bind((host, int(port)))


@pytest.mark.parametrize("loop", ["uvloop"])
def test_a_flow_stays_on_its_slot(loop):
    with Daemon(pool(server=datagram(), workers=3, loop=loop), FILES) as daemon:
        daemon.allow("killed by SIGKILL")
        daemon.expect("READY=1")
        with clients(daemon.addresses()[0]) as asking:
            before = [client.ask() for client in asking]
            slots = [slot for slot, _, _ in before]
            assert set(slots) == {0, 1, 2}
            assert daemon.reload().ok
            daemon.wait_for_the_old()
            after = [client.ask() for client in asking]
            assert [slot for slot, _, _ in after] == slots
            assert not {pid for _, pid, _ in before} & {pid for _, pid, _ in after}
            for pid in daemon.workers():
                os.kill(pid, signal.SIGKILL)
            daemon.wait_until(lambda it: it["pools"]["web"]["restarts"] == 3)
            daemon.until(lambda: len(daemon.workers()) == 3)
            daemon.until(lambda: [client.ask()[0] for client in asking] == slots)


def test_only_slots_that_somebody_attends_get_datagrams():
    """``{max}`` slots could be had at once."""
    with Daemon(pool(server=datagram(), workers={"min": 1, "max": 4}), FILES) as daemon:
        daemon.expect("READY=1")
        with clients(daemon.addresses()[0]) as asking:
            assert {client.ask()[0] for client in asking} == {0}


def test_a_flow_stays_where_it_is_while_the_number_of_slots_does():
    with Daemon(pool(server=datagram(), workers=3), FILES) as daemon:
        daemon.expect("READY=1")
        with clients(daemon.addresses()[0]) as asking:
            assert {client.ask()[0] for client in asking} == {0, 1, 2}
            three = [client.ask()[0] for client in asking]
            assert daemon.run("upgrade", "--control", daemon.control).returncode == 0
            assert [client.ask()[0] for client in asking] == three
            assert daemon.run("scale", "--control", daemon.control, "web", "1").returncode == 0
            daemon.wait_until(lambda it: len(it["pools"]["web"]["workers"]) == 1)
            assert {client.ask()[0] for client in asking} == {0}
            assert daemon.run("scale", "--control", daemon.control, "web", "3").returncode == 0
            daemon.until(lambda: [client.ask()[0] for client in asking] == three)


@pytest.mark.parametrize("loop", ["asyncio"])
def test_what_a_killed_worker_had_not_read_is_answered(loop):
    with Daemon(blockable(loop=loop), FILES) as daemon:
        daemon.allow("killed by SIGKILL")
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with Client(address) as first, clients(address) as waiting:
            with blocked(daemon, first) as pid:
                for client in waiting:
                    client.send()
                os.kill(pid, signal.SIGKILL)
            assert {client.receive()[2] for client in waiting} == {b"x"}
            first.sock.settimeout(0.1)
            with pytest.raises(TimeoutError):
                first.receive()
            first.sock.settimeout(PATIENCE)
            assert first.ask()[2] == b"x"


@pytest.mark.parametrize("loop", ["uvloop"])
def test_siblings_read_what_a_worker_that_hangs_does_not(loop):
    configuration = pool(server=datagram(), loop=loop, timeouts={"slow": "200ms", "hung": "60s"})
    with Daemon(configuration, FILES) as daemon:
        daemon.allow("is slow")
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with Client(address) as first, clients(address) as waiting:
            with blocked(daemon, first) as pid:
                answers = [client.ask() for client in waiting]
                assert pid not in {pid for _, pid, _ in answers}
            assert first.receive()[1:] == (pid, b"block")
            daemon.wait_log("is well again")
            daemon.until(lambda: pid in {client.ask()[1] for client in waiting})


@LOOPS
def test_what_was_begun_is_finished_after_a_reload(loop):
    """And what ``connection_made`` has begun is not waited for."""
    with Daemon(pool(server=datagram(), workers=1, loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        with Client(daemon.addresses()[0]) as first, Client(daemon.addresses()[0]) as second:
            with Gate(daemon.folder) as gate:
                first.send(b"wait")
                old, held = gate.next()
                gate.remove()
                assert daemon.reload().ok
                (new,) = daemon.workers()
                daemon.until(lambda: all(second.ask()[1] == new for _ in range(MANY)), "the old one reads no more")
                daemon.wait_until(
                    lambda it: (
                        ("draining", 1) in [(w["state"], w["connections"]) for w in it["pools"]["web"]["workers"]]
                    )
                )
                held.close()
            assert first.receive()[1:] == (old, b"wait")
            daemon.wait_for_the_old()
            assert first.ask()[1] == new
        assert f"worker web/0 gen=1 pid={old} ended" in daemon.log
        assert re.search(rf"\[{old}\] lost .* with None", daemon.log)


def test_what_is_not_finished_after_the_grace_is_cut():
    with Daemon(pool(server=datagram(grace="200ms"), workers=1), FILES) as daemon:
        daemon.allow("cut 1 connection")
        daemon.expect("READY=1")
        with Client(daemon.addresses()[0]) as client:
            _, old, _ = client.ask(b"sleep")
            assert daemon.reload().ok
            daemon.wait_log(r"hourd\.server\.web\.main\[\d+\] cut 1 connection")
            daemon.wait_log(f"pid={old} ended")


@LOOPS
def test_what_waits_when_it_is_stopped_is_answered(loop):
    with Daemon(blockable(loop=loop, workers=1), FILES) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with Client(address) as first, clients(address) as waiting:
            with blocked(daemon, first):
                for client in waiting:
                    client.send()
                daemon.signal(signal.SIGTERM)
                daemon.expect("STOPPING=1")
            assert {client.receive()[2] for client in (first, *waiting)} == {b"block", b"x"}
            assert daemon.wait() == 0
            assert first.is_refused()


@LOOPS
@pytest.mark.parametrize("place", ["ipv4", "path"])
def test_what_waits_at_what_a_reload_removes_is_answered(place, loop, tmp_path):
    tmp_path.chmod(0o755)
    goes = PLACES[place].format(folder=tmp_path)
    before, after = (blockable(loop=loop, workers=1) for _ in range(2))
    before["pools"]["web"]["servers"]["other"] = datagram(bind=goes)
    with Daemon(before, FILES) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses(server="other")
        daemon.configure(after)
        with Client(address) as first, clients(address, 5) as waiting:
            with blocked(daemon, first):
                for client in waiting:
                    client.send()
                assert daemon.reload().ok
            assert {client.receive()[2] for client in (first, *waiting)} == {b"block", b"x"}
            daemon.until(first.is_refused)
            daemon.configure(before)
            assert daemon.reload().ok
        with Client(daemon.addresses(server="other")[0]) as again:
            assert again.ask()[2] == b"x"


@contextlib.contextmanager
def load(address):
    """Ask all the time, each client once more when it was answered; yields what was lost, and who has answered."""
    lost, answered, done = [], [], threading.Event()

    def ask_on():
        with Client(address) as client:
            number = 0
            client.sock.settimeout(2)
            while not done.is_set():
                number += 1
                try:
                    _, pid, data = client.ask(b"%d" % number)
                    while int(data) != number:
                        _, pid, data = client.receive()
                    answered.append(pid)
                except TimeoutError:
                    lost.append(number)

    threads = [threading.Thread(target=ask_on) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        yield lost, answered
    finally:
        done.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("loop", ["uvloop"])
def test_nothing_is_lost_over_reloads(loop):
    with Daemon(pool(server=datagram(), loop=loop), FILES) as daemon:
        daemon.expect("READY=1")
        with load(daemon.addresses()[0]) as (lost, answered):
            for _ in range(2):
                assert daemon.reload().ok
            assert daemon.run("upgrade", "--control", daemon.control).returncode == 0
            so_far = len(answered)
            daemon.until(lambda: len(answered) > so_far + MANY)
        assert (lost, len(set(answered))) == ([], 8)  # two workers each: at first, after each reload, and upgraded


def test_only_what_a_killed_worker_had_read_is_lost_under_load():
    with Daemon(pool(server=datagram()), FILES) as daemon:
        daemon.allow("killed by SIGKILL")
        daemon.expect("READY=1")
        with load(daemon.addresses()[0]) as (lost, answered):
            for kill in range(3):
                daemon.until(lambda: len(daemon.workers()) == 2)
                os.kill(daemon.workers()[kill % 2], signal.SIGKILL)
                so_far = len(answered)
                daemon.until(lambda so_far=so_far: len(answered) > so_far + MANY)
        # Each client of the killed worker had one question under way, mostly none that was read just then.
        assert len(lost) <= 3 * 8 / 2


def test_what_the_application_raises_ends_nothing():
    with Daemon(pool(server=datagram(), workers=1), FILES) as daemon:
        daemon.allow("received on purpose")
        daemon.expect("READY=1")
        with Client(daemon.addresses()[0]) as client:
            client.send(b"fail")
            assert client.ask(b"still here")[2] == b"still here"
        daemon.wait_log(r"hourd\.server\.web\.main\[\d+\] datagram_received failed\n.*received on purpose|on purpose")
        daemon.wait_until(lambda it: it["pools"]["web"]["workers"][0]["errors"] == 1)


def test_a_worker_whose_application_closes_its_transport_is_replaced():
    with Daemon(pool(server=datagram("Closing"), workers=1), FILES) as daemon:
        daemon.allow("cannot go on: the application has closed its transport")
        daemon.expect("READY=1")
        with Client(daemon.addresses()[0]) as client:
            _, first, _ = client.ask()
            client.send(b"close")
            slot, second, _ = client.ask()
        assert slot == 0
        assert second != first


@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("Other", "expected an asyncio.DatagramProtocol"),
        ("__name__", "expected an asyncio.DatagramProtocol class or a factory of such"),
        ("coroutine", "expected an asyncio.DatagramProtocol class or a factory of such"),
        ("Failing", "RuntimeError('made on purpose') when it was to take a socket"),
    ],
)
def test_what_serves_no_datagrams_is_refused(app, why):
    with Daemon(pool(server=datagram(app)), FILES) as daemon:
        daemon.allow("expected an asyncio.DatagramProtocol", "it is stopped at once", "on purpose")
        assert daemon.wait() == 75
        assert why in daemon.log


def test_as_many_datagrams_wait_as_the_backlog_says():
    with Daemon(blockable(workers=1), FILES) as daemon, contextlib.ExitStack() as stack:
        daemon.expect("READY=1")
        room = re.search(r"about (\d+) datagrams, not 2048, can wait", daemon.log)
        number = min(int(room[1]) if room else 2048, 2048)
        (address,) = daemon.addresses()
        first, client = (stack.enter_context(Client(address)) for _ in range(2))
        with blocked(daemon, first):
            for _ in range(number):
                client.send()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, number * 1024)
        assert first.receive()[2] == b"block"
        daemon.wait_until(lambda it: it["pools"]["web"]["workers"][0]["requests"] == number + 1)


class Recorder(asyncio.DatagramProtocol):
    """Notes what its transport calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.called = asyncio.Event()

    def __getattribute__(self, name):
        if name not in ("connection_lost", "datagram_received", "error_received", "pause_writing", "resume_writing"):
            return super().__getattribute__(name)

        def note(*arguments):
            self.calls.append((name, *arguments))
            self.called.set()

        return note

    async def until(self, name):
        async with asyncio.timeout(PATIENCE):
            while name not in [call[0] for call in self.calls]:
                self.called.clear()
                await self.called.wait()


def in_loop(loop, test):
    """Run a test with a transport, its protocol, and the other end."""

    async def main():
        with contextlib.ExitStack() as stack:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            stack.enter_context(theirs)
            ours.setblocking(False)
            protocol, failures, ended = Recorder(), [], []
            transport = Transport(
                ours, protocol, failed=lambda what, error: failures.append((what, error)), ended=ended.append
            )
            transport.start_reading()
            await test(transport, protocol, theirs)
            transport.abort()
            await protocol.until("connection_lost")
            assert protocol.calls[-1] == ("connection_lost", None)
            assert (failures, ended, ours.fileno()) == ([], [transport], -1)
            transport.sendto(b"too late")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop) as runner:
        runner.run(main())


@LOOPS
def test_a_transport_asks_to_pause_and_to_resume(loop):
    async def test(transport, protocol, theirs):
        transport.set_write_buffer_limits(high=3000)
        assert transport.get_write_buffer_limits() == (750, 3000)
        sent = 0
        while not protocol.calls:
            transport.sendto(b"x" * 1000)
            sent += 1
        assert protocol.calls == [("pause_writing",)]
        assert transport.get_write_buffer_size() == 3 * 1008
        transport.close()
        assert transport.is_closing()
        for _ in range(sent):
            await asyncio.get_running_loop().run_in_executor(None, theirs.recv, 2000)
        await protocol.until("connection_lost")
        assert protocol.calls[1:] == [("resume_writing",), ("connection_lost", None)]

    in_loop(loop, test)


@LOOPS
def test_what_was_not_sent_is_dropped_by_abort(loop):
    async def test(transport, protocol, theirs):
        while not transport.get_write_buffer_size():
            transport.sendto(b"x" * 1000)
        transport.close()
        await asyncio.sleep(0)
        assert protocol.calls == []

    in_loop(loop, test)


@LOOPS
def test_errors_of_the_system_are_told(loop):
    async def test(transport, protocol, theirs):
        theirs.close()
        transport.sendto(b"nobody is there")
        ((name, error),) = protocol.calls
        assert (name, type(error)) == ("error_received", ConnectionRefusedError)
        with pytest.raises(TypeError, match="bytes-like"):
            transport.sendto("text")
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_write_buffer_limits(1, 2)

    in_loop(loop, test)


@LOOPS
def test_a_transport_that_stopped_to_read_still_answers(loop):
    async def test(transport, protocol, theirs):
        theirs.send(b"one")
        await protocol.until("datagram_received")
        transport.stop_reading()
        theirs.send(b"two")
        for _ in range(5):
            await asyncio.sleep(0)
        assert [data for _, data, *_ in protocol.calls] == [b"one"]
        transport.sendto(b"answer")
        assert theirs.recv(100) == b"answer"
        assert transport.get_extra_info("sockname") == transport.get_extra_info("socket").getsockname()

    in_loop(loop, test)

"""What the benchmarks conclude from: the strict client's verdicts, and which latency counts where."""

from __future__ import annotations

import contextlib
import importlib
import re
import socket
import struct
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NUMBER = re.compile(rb"Number: (\d{10})")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n%b\r\n%b"
ENOUGH = 40


@pytest.fixture
def programs(monkeypatch):
    """The benchmarks as modules, which import each other by their plain names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("measure", "openloop", "standstill", "reload")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        del sys.modules[name]


# --- the client -----------------------------------------------------------------------------------


class Server:
    """Serves HTTP as badly as it is told to: ``answer(number, how_many_before)`` returns what is sent."""

    def __init__(self, answer):
        self._answer = answer
        self._asked = 0
        self._lock = threading.Lock()
        self.connections = 0
        self.enough = threading.Event()
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._sock.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._sock.close()

    def _accept(self):
        with contextlib.suppress(OSError):  # it was shut down
            while True:
                connection, _ = self._sock.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection):
        with connection, contextlib.suppress(ConnectionError):
            while request := connection.recv(1000):
                assert request.endswith(b"\r\n\r\n")
                with self._lock:
                    before, self._asked = self._asked, self._asked + 1
                if self._asked >= ENOUGH:
                    self.enough.set()
                said = self._answer(NUMBER.search(request)[1], before)
                if said is RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                for part in said:
                    connection.sendall(part)
                if b"close" in b"".join(said) + request or not said:
                    return


RESET = object()


def good(number, _before):
    return [OK % (b"", number)]


def once(bad):
    """Answer the 11th request badly."""
    return lambda number, before: bad(number) if before == 10 else good(number, before)


def drive(programs, server, fresh):
    load = programs.openloop.Load(port=server.port, rate=1000, fresh=fresh, connections=4)
    with programs.openloop.driven(load) as driver:
        assert server.enough.wait(30)
        driver.stop()
        answered = {fresh: list(driver.requests(fresh=fresh)) for fresh in (False, True)}
    assert driver.begun == driver.answered + driver.lost >= ENOUGH
    assert driver.unsent == 0
    assert sum(map(len, answered.values())) == driver.answered
    assert all(0 <= request.late <= request.latency for each in answered.values() for request in each)
    return driver, answered


@pytest.mark.parametrize("fresh", [0, 0.25, 1])
def test_every_request_is_answered_once(programs, fresh):
    with Server(good) as server:
        driver, answered = drive(programs, server, fresh)
    assert (driver.lost, driver.unasked, driver.losses) == (0, 0, [])
    assert len(answered[True]) == int(fresh * driver.begun)
    assert 0 <= server.connections - len(answered[True]) <= 4


def test_a_connection_whose_server_says_close_is_replaced(programs):
    with Server(lambda number, _: [OK % (b"Connection: close\r\n", number)]) as server:
        driver, _ = drive(programs, server, 0)
    assert (driver.lost, driver.unasked) == (0, 0)
    assert server.connections == driver.begun


def test_a_response_in_pieces_is_one(programs):
    with Server(lambda number, _: [b"HTTP/1.1 200 OK\r\nX: y\r", b"\n\r\n", number[:5], number[5:]]) as server:
        driver, _ = drive(programs, server, 0.5)
    assert (driver.lost, driver.unasked) == (0, 0)


BAD = {
    "reset": (lambda _: RESET, "receive: Connection reset by peer"),
    "ended": (lambda _: [], "ended after b''"),
    "half": (lambda number: [OK % (b"X: close\r\n", number[:5])], "ended after b'HTTP/1.1 200 OK"),
    "another's": (lambda number: [OK % (b"", b"%010d" % (int(number) + 1))], "answered b'HTTP/1.1 200 OK"),
    "an error": (lambda number: [OK.replace(b"200 OK", b"503 No") % (b"", number)], "answered b'HTTP/1.1 503 No"),
    "two": (lambda number: [2 * (OK % (b"", number))], "answered b'HTTP/1.1 200 OK"),
}


@pytest.mark.parametrize("fresh", [0, 1])
@pytest.mark.parametrize("how", BAD)
def test_what_is_not_one_good_answer_is_lost(programs, how, fresh):
    bad, why = BAD[how]
    with Server(once(bad)) as server:
        driver, _ = drive(programs, server, fresh)
    assert (driver.lost, driver.unasked) == (1, 0)
    (loss,) = driver.losses
    assert loss.why.startswith(why)
    assert loss.fresh == bool(fresh)


def ask_twice(programs, port):
    """Be the client: ask on a fresh connection and on one that is kept."""
    client = programs.openloop.Client(programs.openloop.Load(port=port, rate=1, fresh=0, connections=1))
    now = programs.measure.clock()
    client._open(now, fresh=True)
    client._waiting += [now, now]
    client._finish()
    return client


def test_who_refuses_loses_every_request(programs):
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens there
        client = ask_twice(programs, taken.getsockname()[1])
    assert (client._begun, client._lost, client._answered) == (3, 3, 0)
    assert all("Connection refused" in loss.why for loss in client._losses)


def test_who_does_not_answer_loses_them(programs, monkeypatch):
    monkeypatch.setattr(programs.openloop, "PATIENCE", 0.1)
    monkeypatch.setattr(programs.openloop, "_LAST", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = ask_twice(programs, silent.getsockname()[1])
    assert (client._begun, client._lost, client._answered) == (3, 3, 0)
    silence = "no answer within 0.1s"
    assert [loss.why for loss in client._losses] == [silence] * 3


def test_what_never_finds_a_free_connection_is_not_sent(programs, monkeypatch):
    monkeypatch.setattr(programs.openloop, "PATIENCE", 0.2)
    monkeypatch.setattr(programs.openloop, "_LAST", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = ask_twice(programs, silent.getsockname()[1])
    assert (client._begun, client._lost, client._answered, len(client._waiting)) == (2, 2, 0, 1)


# --- latencies ------------------------------------------------------------------------------------


def witnesses(programs, *spans):
    found = programs.standstill.Witnesses([])
    found.hear()
    found.spans = list(spans)
    found._ends = [end for _, end in spans]
    return found


def test_a_standstill_does_not_count(programs):
    judge = witnesses(programs, (10.0, 11.0), (20.0, 21.0)).judge
    assert judge(5.0, 1.0) == 1.0
    assert judge(9.0, 1.0) == 1.0
    assert judge(10.5, 0.2) is None
    assert judge(9.9, 0.5) is None
    assert judge(8.0, 4.0) == 3.0
    assert judge(8.0, 14.0) == 12.0
    assert judge(21.0, 5.0) == 5.0


def test_spans_that_overlap_are_one(programs):
    joined = programs.standstill._joined
    assert list(joined([])) == []
    assert list(joined([(1, 3), (2, 4), (4, 5), (7, 8), (7.5, 7.6)])) == [(1, 5), (7, 8)]


def cycle(programs, quiet):
    used = programs.reload.Used(0, 0, 0, 0)
    master = programs.reload.Master(0, 0, 0)
    return programs.reload.Cycle(quiet, quiet + 1, quiet + 2, quiet + 3, "", (used, used), master)


def test_requests_are_sorted_into_spells(programs):
    cycles = [cycle(programs, 10), cycle(programs, 20)]
    spells = programs.reload.Spells(cycles, witnesses(programs))
    for due, answered, spell, number in (
        (9.9, 10.1, None, 0),  # before the first quiet spell
        (10.1, 10.2, "quiet", 0),
        (10.9, 11.1, "in reloads", 0),  # was under way when it was asked for
        (11.5, 11.6, "in reloads", 0),
        (11.9, 13.5, "in reloads", 0),
        (12.1, 12.2, "draining", 0),
        (13.5, 13.6, None, 0),  # settling
        (19.9, 20.1, None, 0),
        (20.1, 20.2, "quiet", 1),
        (21.1, 21.2, "in reloads", 1),
        (23.5, 23.6, None, 0),
    ):
        before = {name: [each.count for each in found] for name, found in spells.found.items()}
        spells.add([programs.openloop.Request(due, 0.0, answered - due)])
        after = {name: [each.count for each in found] for name, found in spells.found.items()}
        if spell:
            before[spell][number] += 1
        assert before == after
    assert spells.answered == 3


def test_percentiles(programs):
    latencies = programs.reload.Latencies()
    for number in range(1, 1001):
        latencies.add(number / 1000)
    assert latencies.count == 1000
    assert latencies.worst == 1.0
    for share in (0.5, 0.99, 0.999):
        assert latencies.percentile(share) == pytest.approx(share, rel=0.025)
    low, high = programs.reload._interval([latencies] * 3, [latencies] * 3)
    assert (low, high) == (1.0, 1.0)


def test_the_interval_holds_the_ratio(programs):
    def spells(scale):
        found = [programs.reload.Latencies() for _ in range(60)]
        for number, each in enumerate(found):
            for step in range(1, 200):
                each.add(scale * (1 + number % 7) * step / 1000)
        return found

    low, high = programs.reload._interval(spells(1), spells(3))
    assert low <= 3.05
    assert high >= 2.95
    assert high - low < 1.5

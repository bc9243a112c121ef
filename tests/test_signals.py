"""What each signal to the master means, also in the middle of something else."""

from __future__ import annotations

import logging
import signal

import pytest

from .around import AT_GATE, GATE, Gate
from .daemon import ECHO, Daemon, connect, pool, talk

HELD = {"app.py": AT_GATE, "gate.py": GATE}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_graceful_stop(number):
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        daemon.signal(number)
        daemon.expect("STOPPING=1")
        assert daemon.wait() == 0
        assert f"{number.name} received" in daemon.log


@pytest.mark.parametrize(
    "numbers", [[signal.SIGQUIT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM, signal.SIGQUIT]],
    ids=["QUIT", "INT twice", "TERM and QUIT"],
)  # fmt: skip
def test_stop_at_once(numbers):
    with Daemon(pool(server={"grace": "1h"}), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.recv(100)
            daemon.signal(numbers[0])
            daemon.expect("STOPPING=1")
            for number in numbers[1:]:
                daemon.signal(number)
            assert daemon.wait() == 0


def test_term_twice_still_lets_connections_finish():
    with Daemon(pool(server={"grace": "1h"}), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.recv(100)
            daemon.signal(signal.SIGTERM)
            daemon.expect("STOPPING=1")
            daemon.signal(signal.SIGTERM)
            daemon.until(lambda: daemon.log.count("SIGTERM received") == 2)
            sock.sendall(b"still here")
            assert sock.recv(100) == b"still here"
        assert daemon.wait() == 0


def test_hup_reloads():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        before = daemon.workers()
        daemon.signal(signal.SIGHUP)
        daemon.expect("RELOADING=1", "READY=1")
        assert daemon.status()["generation"] == 2
        assert not set(before) & set(daemon.workers())


def test_hup_during_a_reload_starts_it_anew():
    with Daemon(pool(), {"app.py": ECHO, "gate.py": GATE}) as daemon:
        daemon.expect("READY=1")
        with Gate(daemon.folder) as gate:
            daemon.write("app.py", AT_GATE)
            daemon.signal(signal.SIGHUP)
            _, held = gate.next()
            daemon.write("app.py", "async def serve(reader, writer):\n    writer.write(b'newest')\n")
            daemon.signal(signal.SIGHUP)
            daemon.wait_until(lambda status: status["generation"] == 3)
            held.close()
        daemon.wait_for_the_old()
        assert talk(daemon.addresses()[0]) == b"newest"


def test_hup_during_the_start_starts_it_anew():
    with Daemon(pool(), HELD) as daemon:
        with Gate(daemon.folder) as gate:
            _, held = gate.next()
            daemon.write("app.py", "async def serve(reader, writer):\n    writer.write(b'newest')\n")
            daemon.signal(signal.SIGHUP)
            daemon.expect("READY=1")
            held.close()
        daemon.wait_for_the_old()
        assert talk(daemon.addresses()[0]) == b"newest"
        assert daemon.status()["state"] == "running"


def test_many_hups_end_in_a_running_daemon():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        for _ in range(50):
            daemon.signal(signal.SIGHUP)
            assert talk(daemon.addresses()[0], b"x").endswith(b"x")
        daemon.wait_until(lambda status: status["state"] == "running" and len(status["pools"]["web"]["workers"]) == 2)
        assert daemon.status()["last_reload"]["ok"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=lambda number: number.name)
def test_stop_during_a_reload(number):
    with Daemon(pool(), {"app.py": ECHO, "gate.py": GATE}) as daemon, Gate(daemon.folder) as gate:
        daemon.expect("READY=1")
        daemon.write("app.py", AT_GATE)
        daemon.signal(signal.SIGHUP)
        _, held = gate.next()
        with held:
            daemon.signal(number)
            assert daemon.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
@pytest.mark.parametrize("place", ["import", "lifespan"])
def test_stop_during_the_start(number, place):
    config = pool() if place == "import" else pool(lifespan="gate:lifespan")
    files = HELD if place == "import" else {"app.py": ECHO, "gate.py": GATE}
    with Daemon(config, files) as daemon, Gate(daemon.folder) as gate:
        _, held = gate.next()
        with held:
            daemon.signal(number)
            assert daemon.wait() == 0
        assert not daemon.heard("READY=1")


def test_ttin_and_ttou_change_the_first_pool():
    config = {"pools": {**pool("web")["pools"], **pool("other")["pools"]}}
    with Daemon(config, {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        for number, count in [
            (signal.SIGTTIN, 3),
            (signal.SIGTTOU, 2),
            (signal.SIGTTOU, 1),
            (signal.SIGTTOU, 1),
            (signal.SIGTTIN, 2),
        ]:
            before = daemon.log.count(f"{number.name} received")
            daemon.signal(number)
            daemon.until(lambda: daemon.log.count(f"{number.name} received") > before)  # noqa: B023, called at once
            daemon.until(lambda: len(daemon.workers()) == count)  # noqa: B023, called at once
            assert talk(daemon.addresses()[0], b"x").endswith(b"x")
        assert len(daemon.workers("other")) == 2


def test_usr1_reopens_log_files_and_loses_no_line():
    code = """
import logging, os
async def serve(reader, writer):
    data = await reader.read()
    logging.getLogger("mine").info("%s:%d", data.decode(), os.getpid())
    writer.write(data)
"""
    handlers = {"file": {"class": "logging.FileHandler", "filename": "requests.log", "delay": False}}
    config = {
        "log": {
            "config": {
                "version": 1,
                "handlers": handlers,
                "loggers": {"mine": {"handlers": ["file"], "level": logging.INFO}},
            }
        },
        **pool(),
    }
    with Daemon(config, {"app.py": code}) as daemon:
        daemon.expect("READY=1")
        (address,), workers = daemon.addresses(), daemon.workers()
        current, sent = daemon.folder / "requests.log", []
        for rotation in range(5):
            sent += [f"{rotation}.{each}" for each in range(20)]
            for line in sent[-20:]:
                talk(address, line.encode())
            current.rename(daemon.folder / f"requests.log.{rotation}")
            daemon.signal(signal.SIGUSR1)
            daemon.until(current.exists, "the file is opened anew")

        def all_write_there() -> bool:
            sent.append(f"last.{len(sent)}")
            talk(address, sent[-1].encode())
            return {int(line.partition(":")[2]) for line in current.read_text().split()} == set(workers)

        daemon.until(all_write_there, "every worker writes to the new file")
        logged = [
            line.partition(":")[0] for path in daemon.folder.glob("requests.log*") for line in path.read_text().split()
        ]
        assert sorted(logged) == sorted(sent)
        assert daemon.workers() == workers

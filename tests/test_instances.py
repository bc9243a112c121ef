"""Two that want the same place: the first one keeps it, the second one takes nothing and exits with 69."""

from __future__ import annotations

import os
import signal
import socket
import stat

import yaml

from .daemon import ECHO, Daemon, connect, pool, talk


def test_a_second_instance_on_the_same_address():
    with Daemon(pool(), {"app.py": ECHO}) as first:
        first.expect("READY=1")
        (address,) = first.addresses()
        workers = set(first.workers())
        with Daemon(pool(server={"bind": address}), {"app.py": ECHO}) as second:
            second.allow("cannot start")
            while second.process.poll() is None:
                assert int(talk(address).split()[0]) in workers
            assert second.wait() == 69
            assert f"cannot bind {address} for server main: Address already in use" in second.log
        assert {int(talk(address).split()[0]) for _ in range(40)} <= workers


def test_a_second_instance_of_the_same_name():
    with Daemon(pool(), {"app.py": ECHO}) as first:
        first.expect("READY=1")
        inode = os.stat(first.control).st_ino
        with Daemon({"control": first.control, **pool()}, {"app.py": ECHO}) as second:
            second.allow("another instance runs")
            assert second.wait() == 69
            assert "another process listens there" in second.log
        assert os.stat(first.control).st_ino == inode
        assert first.status()["state"] == "running"


def test_a_pid_file_that_cannot_be_written():
    with Daemon({"pid_file": "/proc/test.pid", **pool()}, {"app.py": ECHO}) as daemon:
        daemon.allow("cannot write pid_file /proc/test.pid: ")
        assert daemon.wait() in (71, 78)


def test_the_pid_file_holds_the_master():
    with Daemon(
        "pid_file: test.pid\n" + yaml.safe_dump(pool()), {"app.py": ECHO}, environment={"XDG_RUNTIME_DIR": "/proc/none"}
    ) as daemon:
        daemon.allow("no control socket")
        daemon.expect("READY=1")
        path = daemon.folder / "test.pid"
        assert int(path.read_text()) == daemon.process.pid
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert not path.exists()


def test_an_address_of_another_process():
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        with Daemon(pool(server={"bind": address}), {"app.py": ECHO}) as daemon:
            daemon.allow("cannot start")
            assert daemon.wait() == 69
            assert f"cannot bind {address}" in daemon.log


def test_an_address_of_another_process_that_shares_its_port():
    # SO_REUSEPORT would let both take it, and each would get a part of the connections.
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as foreign:
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        with Daemon(pool(server={"bind": address}), {"app.py": ECHO}) as daemon:
            daemon.allow("cannot start")
            assert daemon.wait() == 69


def test_one_taken_address_of_two_takes_none():
    with Daemon(pool(), {"app.py": ECHO}) as first:
        first.expect("READY=1")
        path = first.folder / "two.sock"
        with Daemon(pool(server={"bind": [f"unix:{path}", *first.addresses()]}), {"app.py": ECHO}) as second:
            second.allow("cannot start")
            assert second.wait() == 69
        assert not path.exists()


def test_a_stale_unix_socket_is_replaced():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        path = daemon.folder / "web.sock"
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(path))
        daemon.configure(pool(server={"bind": f"unix:{path}", "unix": {"mode": "0640"}}))
        assert daemon.reload().ok
        assert talk(f"unix:{path}", b"x").endswith(b"x")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not path.exists()


def test_a_living_unix_socket_is_refused():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.allow("another process listens there")
        daemon.expect("READY=1")
        path = daemon.folder / "kept-foreign.sock"
        with socket.socket(socket.AF_UNIX) as living:
            living.bind(str(path))
            living.listen()
            with Daemon(pool(server={"bind": f"unix:{path}"}), {"app.py": ECHO}) as second:
                second.allow("another process listens there")
                assert second.wait() == 69
            daemon.configure(pool(server={"bind": f"unix:{path}"}))
            assert "another process listens there" in daemon.reload().error
            with connect(f"unix:{path}"):
                living.accept()[0].close()


def test_a_file_in_the_place_of_a_unix_socket_is_kept():
    with Daemon(pool(), {"app.py": ECHO}) as daemon:
        daemon.allow("there is a file that is no socket")
        daemon.expect("READY=1")
        path = daemon.write("precious", "text")
        with Daemon(pool(server={"bind": f"unix:{path}"}), {"app.py": ECHO}) as second:
            second.allow("there is a file that is no socket")
            assert second.wait() == 69
        daemon.configure(pool(server={"bind": f"unix:{path}"}))
        assert not daemon.reload().ok
        assert path.read_text() == "text"


def test_abstract_unix_sockets():
    name = f"unix:@hourd-test-{os.getpid()}"
    with Daemon(pool(server={"bind": name}), {"app.py": ECHO}) as daemon:
        daemon.expect("READY=1")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect("\0" + name.removeprefix("unix:@"))
            assert int(sock.recv(100).split()[0]) in daemon.workers()
        with Daemon(pool(server={"bind": name}), {"app.py": ECHO}) as second:
            second.allow("cannot start")
            assert second.wait() == 69

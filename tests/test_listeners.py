"""Real sockets: who may take an address, and what each slot gets."""

import os
import socket
import stat

import pytest

from hourd import errors, unix
from hourd.inherited import Inherited
from hourd.listeners import Listeners
from hourd.settings import Pool, Server, Settings, UnixSocket
from hourd.systemd import Manager


def settings(backlog: int = 1024, **binds: str) -> Settings:
    servers = {name: Server(kind="stream", app="a:b", bind=(bind,), backlog=backlog) for name, bind in binds.items()}
    return Settings(name="test", directory="/", pools={"web": Pool(workers=2, servers=servers)})


def port(listeners: Listeners, wanted: Settings, server: str = "http") -> int:
    return int(listeners.actual(wanted, "web")[server][0].rpartition(":")[2])


@pytest.fixture
def listeners():
    held = Listeners(Manager({}), Inherited())
    yield held
    held.close()


def test_every_slot_has_its_own_socket_and_all_get_connections(listeners):
    wanted = settings(http="127.0.0.1:0")
    listeners.prepare(wanted)
    slots = [next(iter(listeners.lend(wanted, "web", slot, own=True))).socket for slot in range(4)]
    number = port(listeners, wanted)
    clients = [socket.create_connection(("127.0.0.1", number)) for _ in range(400)]
    taken = [0] * 4
    for index, sock in enumerate(slots):
        sock.setblocking(False)
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                break
            taken[index] += 1
    assert sum(taken) == 400
    assert min(taken) / max(taken) >= 0.4  # 0.6 is expected; what must not be is a slot that starves
    for client in clients:
        client.close()


@pytest.mark.parametrize("reuse", [True, False])
def test_an_address_that_is_taken_is_refused(listeners, reuse: bool):
    with socket.socket() as other:
        if reuse:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = other.getsockname()[1]
        with pytest.raises(errors.UnavailableError, match=f"cannot bind 127.0.0.1:{number} for server http"):
            listeners.prepare(settings(http=f"127.0.0.1:{number}"))


def test_a_second_daemon_is_refused_at_every_moment(listeners):
    wanted = settings(http="127.0.0.1:0")
    listeners.prepare(wanted)
    taken = settings(http=f"127.0.0.1:{port(listeners, wanted)}")
    for slots in (1, 2, 3):
        for slot in range(slots):
            list(listeners.lend(wanted, "web", slot, own=True))
        with pytest.raises(errors.UnavailableError):
            Listeners(Manager({}), Inherited()).prepare(taken)


def test_all_or_nothing(listeners):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            number = free.getsockname()[1]
        both = settings(http=f"127.0.0.1:{number}", other=taken)
        with pytest.raises(errors.UnavailableError):
            listeners.prepare(both)
        with socket.socket() as again:
            again.bind(("127.0.0.1", number))  # it was let go


def test_the_backlog_is_as_configured_in_every_slot(listeners):
    wanted = settings(backlog=77, http="127.0.0.1:0")
    listeners.prepare(wanted)
    for slot in range(3):
        (lent,) = listeners.lend(wanted, "web", slot, own=True)
        info = lent.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        # tcpi_sacked of a listener is its backlog (tcp_get_info() in the kernel's net/ipv4/tcp.c)
        assert int.from_bytes(info[28:32], "little") == 77
        assert lent.backlog == 77


def test_what_stays_in_the_configuration_is_not_touched(listeners):
    first = settings(http="127.0.0.1:0", other="127.0.0.1:0")
    listeners.prepare(first)
    (http, other) = listeners.lend(first, "web", 0, own=True)
    second = settings(http="127.0.0.1:0")
    listeners.prepare(second)
    listeners.keep(second)
    (still,) = listeners.lend(second, "web", 0, own=True)
    assert still.socket is http.socket
    assert other.socket.fileno() == -1


def test_ipv4_and_ipv6_are_two_addresses(listeners):
    wanted = settings(http="localhost:0")
    listeners.prepare(wanted)
    assert {address.rpartition(":")[0] for address in listeners.actual(wanted, "web")["http"]} == {"127.0.0.1", "[::1]"}


def test_a_unix_socket_is_one_and_goes_with_the_seat(listeners, tmp_path):
    path = tmp_path / "http.sock"
    server = Server(kind="stream", app="a:b", bind=(f"unix:{path}",), unix=UnixSocket(mode=0o640))
    wanted = Settings(name="test", directory="/", pools={"web": Pool(workers=2, servers={"http": server})})
    listeners.prepare(wanted)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (first,) = listeners.lend(wanted, "web", 0, own=True)
    (second,) = listeners.lend(wanted, "web", 1, own=True)
    assert first.socket is second.socket
    assert list(listeners.lend(wanted, "web", 1, own=False)) == []
    with pytest.raises(errors.UnavailableError, match="another process listens there"):
        Listeners(Manager({}), Inherited()).prepare(wanted)
    assert path.exists()
    listeners.close()
    assert not path.exists()


def test_a_stale_file_is_replaced_and_other_files_are_kept(tmp_path):
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(stale))
    sock, file = unix.listen(str(stale), mode=0o600, backlog=1)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(stale))
    sock.close()
    regular = tmp_path / "regular"
    regular.write_text("precious")
    with pytest.raises(errors.UnavailableError, match="no socket"):
        unix.listen(str(regular), mode=0o600, backlog=1)
    assert regular.read_text() == "precious"
    os.rename(regular, stale)
    file.unlink()
    assert stale.read_text() == "precious"  # it is not ours any more


@pytest.mark.parametrize("wrong", [{"uid": 1 << 40}, {"backlog": 1 << 40}], ids=str)
def test_no_file_stays_of_what_cannot_be_listened_on(tmp_path, wrong):
    path = tmp_path / "http.sock"
    with pytest.raises(OverflowError):  # raised where the system would refuse, which it does not do to root
        unix.listen(str(path), **{"mode": 0o600, "backlog": 1, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_a_removed_file_is_made_again_for_who_comes_next(listeners, tmp_path):
    path = tmp_path / "http.sock"
    first, second, third = (settings(http=f"unix:{path}") for _ in range(3))
    listeners.prepare(first)
    (old,) = listeners.lend(first, "web", 0, own=True)
    listeners.prepare(second)
    (same,) = listeners.lend(second, "web", 0, own=True)
    assert same.socket is old.socket
    path.unlink()
    listeners.prepare(third)
    (new,) = listeners.lend(third, "web", 0, own=True)
    assert connects_to(path, new.socket)
    (still,) = listeners.lend(second, "web", 0, own=True)
    assert still.socket is old.socket
    listeners.keep(second)  # the third was refused
    assert not path.exists()
    assert (old.socket.fileno() == -1, new.socket.fileno() == -1) == (False, True)
    listeners.prepare(third)
    (new,) = listeners.lend(third, "web", 0, own=True)
    listeners.keep(third)
    assert old.socket.fileno() == -1
    assert connects_to(path, new.socket)


def test_a_file_that_took_the_place_of_ours_is_kept(listeners, tmp_path):
    path = tmp_path / "http.sock"
    first, second = (settings(http=f"unix:{path}") for _ in range(2))
    listeners.prepare(first)
    (lent,) = listeners.lend(first, "web", 0, own=True)
    path.unlink()
    path.write_text("precious")
    with pytest.raises(errors.UnavailableError, match="there is a file that is no socket"):
        listeners.prepare(second)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(errors.UnavailableError, match="another process listens there"):
            listeners.prepare(second)
        assert lent.socket.fileno() != -1
        listeners.close()
        assert path.exists()


@pytest.mark.parametrize("family", ["inet", "inet6"])
@pytest.mark.parametrize("first", ["wide", "narrow"])
def test_an_address_and_one_that_it_is_a_part_of(listeners, family: str, first: str):
    narrow, wide = {"inet": ("127.0.0.1", "0.0.0.0"), "inet6": ("[::1]", "[::]")}[family]
    before = settings(http=f"{narrow}:0")
    listeners.prepare(before)
    number = port(listeners, before)
    listeners.keep()
    binds = {"narrow": f"{narrow}:{number}", "wide": f"{wide}:{number}"}
    both = settings(**{name: binds[name] for name in sorted(binds, key=lambda name: name != first)})
    listeners.prepare(both)
    lent = {each.server: each.socket for each in listeners.lend(both, "web", 0, own=True)}
    with socket.create_connection((narrow.strip("[]"), number)):
        lent["narrow"].accept()[0].close()
    with pytest.raises(errors.UnavailableError):
        Listeners(Manager({}), Inherited()).prepare(both)


def test_what_becomes_a_part_of_another_is_lent_with_it(listeners):
    narrow = settings(http="127.0.0.1:0")
    listeners.prepare(narrow)
    number = port(listeners, narrow)
    (old, more) = (next(iter(listeners.lend(narrow, "web", slot, own=True))).socket for slot in range(2))
    for _ in range(2):
        wide = settings(other=f"0.0.0.0:{number}")
        listeners.prepare(wide)
        listeners.keep(wide)
        assert listeners.actual(wide, "web") == {"other": [f"0.0.0.0:{number}"]}
        assert listeners.slots(wide, "web") == 2
        for slot, sock in enumerate((old, more)):
            (new, part) = listeners.lend(wide, "web", slot, own=True)
            assert (new.server, part.server) == ("other", "other")
            assert part.socket is sock
    again = settings(http=f"127.0.0.1:{number}")
    listeners.prepare(again)
    listeners.keep(again)
    assert new.socket.fileno() == -1
    with socket.create_connection(("127.0.0.1", number)):
        pass


def datagrams(**binds: str) -> Settings:
    servers = {name: Server(kind="datagram", app="a:b", bind=(bind,)) for name, bind in binds.items()}
    return Settings(name="test", directory="/", pools={"web": Pool(workers=2, servers=servers)})


def take(sockets) -> list[int]:
    """Read everything; returns how many datagrams each had."""
    return [len(list(iter(lambda sock=sock: read(sock), None))) for sock in sockets]


def read(sock) -> bytes | None:
    try:
        return sock.recv(100)
    except BlockingIOError:
        return None


def test_udp_slots_that_nobody_attends_get_no_datagrams(listeners):
    wanted = datagrams(dns="127.0.0.1:0")
    listeners.prepare(wanted)
    listeners.reserve([wanted], "web", 4, 0)
    assert (listeners.reserved(wanted, "web"), listeners.slots(wanted, "web")) == (4, 1)
    number = port(listeners, wanted, "dns")
    slots = [next(iter(listeners.lend(wanted, "web", slot, own=True))).socket for slot in (0, 2)]
    clients = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(400)]
    for client in clients:
        client.sendto(b"x", ("127.0.0.1", number))
    taken = take(slots)
    assert sum(taken) == 400
    assert min(taken) / max(taken) >= 0.4
    assert listeners.slots(wanted, "web") == 3
    assert listeners.waiting(wanted, "web", 1) == 0
    listeners.keep(wanted)
    assert len({sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for sock in slots}) == 1
    for client in clients:
        client.close()


@pytest.mark.parametrize("option", [None, socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_udp_address_is_had_by_one(listeners, option):
    wanted = datagrams(dns="127.0.0.1:0")
    listeners.prepare(wanted)
    number = port(listeners, wanted, "dns")
    with pytest.raises(errors.UnavailableError, match=f"cannot bind udp:127.0.0.1:{number} for server dns"):
        Listeners(Manager({}), Inherited()).prepare(datagrams(dns=f"127.0.0.1:{number}"))
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        if option is not None:
            other.setsockopt(socket.SOL_SOCKET, option, 1)
        other.bind(("127.0.0.1", 0))
        with pytest.raises(errors.UnavailableError):
            listeners.prepare(datagrams(dns=f"127.0.0.1:{other.getsockname()[1]}"))


@pytest.mark.parametrize("before", ["stream", "datagram"])
def test_a_unix_socket_of_another_sort_is_not_replaced(listeners, before: str, tmp_path):
    after = {"stream": datagrams, "datagram": settings}[before]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM if before == "stream" else socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "s"))
        if before == "stream":
            other.listen()
        with pytest.raises(errors.UnavailableError, match="there is a socket of another sort"):
            listeners.prepare(after(log=f"unix:{tmp_path}/s"))
    wanted = after(log=f"unix:{tmp_path}/s")
    listeners.prepare(wanted)  # nobody has it any more
    (lent,) = listeners.lend(wanted, "web", 0, own=True)
    assert lent.socket.type == (socket.SOCK_DGRAM if before == "stream" else socket.SOCK_STREAM)


def connects_to(path, listener) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        listener.accept()[0].close()
    return True


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind every port")
def test_a_privileged_port_is_a_matter_of_permission(listeners):
    with pytest.raises(errors.NoPermissionError, match=r"cannot bind 127\.0\.0\.1:80"):
        listeners.prepare(settings(http="127.0.0.1:80"))

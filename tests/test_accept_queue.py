"""Queues of listening sockets: who waits, and keeping others out without losing those."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct

import pytest

from hourd import accept_queue

SYN_SENT, ESTABLISHED = 2, 1

families = pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["ipv4", "ipv6"]
)


def begin(listener):
    """Begin to connect; on this machine it is decided at once."""
    sock = socket.socket(listener.family)
    sock.setblocking(False)
    assert sock.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    return sock


def state(sock):
    return struct.unpack_from("B", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1))[0]


@families
def test_who_waits_stays_and_nobody_new_comes(family, host):
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((host, 0), family=family))
        listener.setblocking(False)
        assert accept_queue.is_empty(listener)
        waiting = [stack.enter_context(begin(listener)) for _ in range(3)]
        for copy in (listener, stack.enter_context(listener.dup())):
            accept_queue.shut(copy)
        late = stack.enter_context(begin(listener))
        assert [state(sock) for sock in (*waiting, late)] == [ESTABLISHED] * 3 + [SYN_SENT]
        assert accept_queue.length(listener) == 3
        for sock in waiting:
            accepted, _ = listener.accept()
            with accepted:
                sock.send(b"asked" * 1000)
                accepted.sendall(b"answered" * 1000)
                assert select.select([accepted], [], [], 10)[0]
                assert accepted.recv(5) == b"asked"
        assert accept_queue.is_empty(listener)
        accept_queue.open_again(listener)
        assert state(stack.enter_context(begin(listener))) == ESTABLISHED
        assert select.select([], [late], [], 10)[1]  # it was asked for again
        assert state(late) == ESTABLISHED


def test_what_was_not_shut_can_be_opened():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accept_queue.open_again(listener)


def test_a_unix_socket_has_a_queue_too(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        assert accept_queue.is_empty(listener)
        client.connect(str(tmp_path / "s"))
        assert not accept_queue.is_empty(listener)


@families
def test_datagrams_that_wait_stay_and_no_new_ones_come(family, host):
    with socket.socket(family, socket.SOCK_DGRAM) as sock, socket.socket(family, socket.SOCK_DGRAM) as client:
        sock.bind((host, 0))
        sock.setblocking(False)
        client.connect(sock.getsockname())
        assert (accept_queue.is_empty(sock), accept_queue.length(sock)) == (True, 0)
        for _ in range(50):
            client.send(b"x" * 1000)
        assert 25 <= accept_queue.length(sock) <= 200
        accept_queue.shut(sock)
        client.send(b"late" * 100)
        for _ in range(50):
            assert sock.recv(2000) == b"x" * 1000
        assert (accept_queue.is_empty(sock), accept_queue.length(sock)) == (True, 0)
        accept_queue.open_again(sock)
        client.send(b"again")
        assert sock.recv(2000) == b"again"


def test_room_for_datagrams_is_limited_by_the_system():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        assert accept_queue.make_room(sock, 50) == 50
        assert 0 < accept_queue.make_room(sock, 65535) <= 65535


def test_a_closed_socket_has_no_queue():
    listener = socket.create_server(("127.0.0.1", 0))
    listener.close()
    assert accept_queue.is_empty(listener)

"""Messages, descriptors and process ids across real socket pairs and forks."""

import os
import socket
import subprocess
import sys

import msgspec
import pytest

from hourd import channel


def both() -> tuple[channel.MasterEnd, channel.ChildEnd]:
    ours, theirs = channel.pair()
    return ours, channel.ChildEnd(theirs)


def flood(master: channel.MasterEnd) -> None:
    while True:
        master.send(channel.Release(0))


def test_a_message_arrives_whole_with_its_descriptors():
    master, child = both()
    read, write = os.pipe()
    master.send(channel.Attend(3, [("http", 128)]), (read,))
    packet = child.receive()
    assert packet is not None
    assert packet.message == channel.Attend(3, [("http", 128)])
    os.write(write, b"through")
    assert os.read(packet.fds[0], 100) == b"through"
    assert not os.get_inheritable(packet.fds[0])
    for fd in (read, write, *packet.fds):
        os.close(fd)
    master.close()
    child.close()


def test_the_kernel_says_who_sent():
    master, theirs = channel.pair()
    code = "import socket, sys; from hourd import channel; channel.ChildEnd(socket.socket(fileno=int(sys.argv[1]))).send(channel.Hello())"
    with theirs:
        child = subprocess.Popen([sys.executable, "-c", code, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    assert child.wait(60) == 0
    packet = master.receive()
    assert packet is not None
    assert packet.pid == child.pid
    assert master.receive() is None  # the end of the child is the end of the channel
    master.close()


def test_the_master_never_waits():
    master, child = both()
    with pytest.raises(BlockingIOError):
        master.receive()
    with pytest.raises(BlockingIOError):
        flood(master)
    child.close()
    master.close()


@pytest.mark.parametrize(
    "sent",
    [b"\xff\xff", msgspec.msgpack.encode(["Attend", 1, []]), msgspec.msgpack.encode(["Attends", "x"]), b"x" * 100_000],
    ids=["no msgpack", "a message of the master's", "a wrong type", "too long"],
)
def test_a_child_may_send_only_its_own_messages(sent: bytes):
    master, theirs = channel.pair()
    theirs.send(sent)
    with pytest.raises(channel.ProtocolError):
        master.receive()
    theirs.close()
    master.close()


def test_the_master_takes_no_descriptors():
    master, theirs = channel.pair()
    before = len(os.listdir("/proc/self/fd"))
    extra = [os.dup(0) for _ in range(20)]
    socket.send_fds(theirs, [msgspec.msgpack.encode(["Ready"])], extra)
    for fd in extra:
        os.close(fd)
    packet = master.receive()
    assert packet is not None
    assert packet.message == channel.Ready()
    assert len(os.listdir("/proc/self/fd")) == before
    theirs.close()
    master.close()


def test_last_words_of_a_child_that_has_not_read_everything_are_heard():
    master, child = both()
    master.send(channel.Drain())
    child.refuse("cannot import app", 75)
    child.close()
    packet = master.receive()
    assert packet is not None
    assert packet.message == channel.Refused("cannot import app", 75)
    assert master.receive() is None
    assert master.receive() is None
    master.close()


def test_long_reasons_are_shortened_and_kept_at_both_ends():
    master, child = both()
    child.refuse("first" + "é" * 200_000 + "last", 75)
    packet = master.receive()
    assert packet is not None
    assert packet.message.exit_code == 75
    assert packet.message.reason.startswith("first")
    assert packet.message.reason.endswith("last")
    child.close()
    master.close()


def test_a_reason_that_nobody_hears_goes_to_standard_error(capfd: pytest.CaptureFixture[str]):
    master, child = both()
    master.close()
    child.refuse("it broke", 75)
    assert capfd.readouterr().err == "it broke\n"
    child.close()

"""The shared page of a worker."""

import os

import pytest

from hourd import scoreboard


def test_what_is_written_is_read_in_another_mapping():
    fd = scoreboard.create()
    reader = scoreboard.Board(os.dup(fd), writable=False)
    writer = scoreboard.Board(fd, writable=True)
    assert reader.read() == scoreboard.Record()
    record = scoreboard.Record(beat=1.5, lag=0.25, connections=3, accepted=10, requests=2**40, errors=1)
    writer.write(record)
    assert reader.read() == record
    with pytest.raises(TypeError):
        reader.write(record)
    reader.close()
    writer.close()


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_a_worker_cannot_take_the_page_away(size: int):
    fd = scoreboard.create()
    with pytest.raises(PermissionError):
        os.ftruncate(fd, size)
    os.close(fd)

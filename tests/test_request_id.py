"""The id of a request: where it comes from, who sees it."""

from __future__ import annotations

import asyncio
import contextvars
import os

import pytest

from hourd import request_id


def in_context(function, *arguments):
    return contextvars.Context().run(function, *arguments)


@pytest.mark.parametrize("given", ["a", "A-1_b.c~d+e/f=g:h@i", "f" * 128])
def test_a_valid_one_is_kept(given):
    def run():
        request_id.begin(given)
        return request_id.current(), request_id.current()

    assert in_context(run) == (given, given)


@pytest.mark.parametrize("given", [None, "", "f" * 129, "a b", "a\n", "a\x1b[0m", '"', "é", "a,b"])
def test_another_is_replaced(given):
    def run():
        request_id.begin(given)
        return request_id.current(), request_id.current()

    first, second = in_context(run)
    assert first == second != given
    assert len(first) == 28


def test_each_request_has_its_own():
    def run():
        request_id.begin("a")
        request_id.begin()
        return request_id.current()

    assert in_context(run) != "a"
    assert len({in_context(request_id.current) for _ in range(1000)}) == 1000


def test_tasks_and_threads_of_a_request_have_its_id():
    async def run():
        request_id.begin()
        first = await asyncio.to_thread(request_id.current)
        second = await asyncio.create_task(asyncio.to_thread(request_id.current))
        return {first, second, request_id.current()}

    assert len(in_context(asyncio.run, run())) == 1


def test_a_forked_process_makes_others():
    first = request_id.make()
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writer, request_id.make().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    theirs = os.read(reader, 100).decode()
    for fd in (reader, writer):
        os.close(fd)
    assert len(theirs) == len(first)
    assert theirs[:16] != first[:16] == request_id.make()[:16]

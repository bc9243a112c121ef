"""Threads for what may block. They never keep a process alive that is to end.

``concurrent.futures`` has its threads joined at the exit, and there is no way to be rid of one that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Threads:
    """Up to a number of threads, begun as they are needed, and a queue of work in front of them."""

    def __init__(self, number: int, name: str) -> None:
        self.most = number
        self._name = name
        self._begun = 0
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.unfinished = 0
        """Work that is being done or waits."""

    @property
    def busy(self) -> int:
        """How many threads have something to do."""
        return min(self.unfinished, self.most)

    @property
    def waiting(self) -> int:
        """How much work waits for a thread."""
        return max(0, self.unfinished - self.most)

    def submit(self, work: Callable[[], None]) -> None:
        """Have something done; it must not raise. To be called by the event loop's thread.

        Raises:
            RuntimeError: there is no thread, and none can be begun.
        """
        with self._lock:
            self.unfinished += 1
        if self._begun < min(self.unfinished, self.most):
            try:
                self._begin()
            except Exception:
                if not self._begun:
                    with self._lock:
                        self.unfinished -= 1
                    raise
                # Those that there are do it; the next one is tried with the next work.
        self._queue.put(work)

    def _begin(self) -> None:
        threading.Thread(target=self._work, name=f"{self._name}-{self._begun + 1}", daemon=True).start()
        self._begun += 1

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Have a function called; returns its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = function(*arguments)
            except Exception as error:  # noqa: BLE001, it is the caller's
                tell(loop, _fail, future, error)
            else:
                tell(loop, _succeed, future, result)

        self.submit(work)
        return await future

    def _work(self) -> None:
        while True:
            self._queue.get()()
            with self._lock:
                self.unfinished -= 1


def tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: Any) -> None:
    """Call something in the event loop, from another thread; when the loop is closed, nobody wants to know."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)

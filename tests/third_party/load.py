"""Clients in a loop while workers come and go: what every server has to stand."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from ..daemon import Daemon

CLIENTS = 3
_WANTED = 15
"""Answers after each change, so that the load is on before the next."""


class Load:
    """Clients that each open what they need and call again and again.

    A client is a generator: each step is a call that was answered; what it raises is a call that failed, and it
    begins anew then.
    """

    def __init__(self, client: Callable[[str], Iterator[Any]], address: str) -> None:
        self.answered = 0
        self.failures: list[BaseException] = []
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(client, address)) for _ in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: Callable[[str], Iterator[Any]], address: str) -> None:
        while not self._done.is_set():
            try:
                with contextlib.closing(client(address)) as calls:  # type: ignore[type-var]
                    for _ in calls:
                        with self._lock:
                            self.answered += 1
                        if self._done.is_set():
                            break
            except Exception as error:  # noqa: BLE001, whatever it is, the call was not answered
                with self._lock:
                    self.failures.append(error)


def prove(daemon: Daemon, client: Callable[[str], Iterator[Any]], *, grace: float = 10.0) -> None:
    """Assert that reloads lose nothing, that a killed worker loses what it had in its hands, and that a stop is in time.

    Args:
        daemon: with pool ``web``, server ``main``, two workers.
        client: see ``Load``.
        grace: seconds that the server's connections have.
    """
    daemon.expect("READY=1")
    (address,) = daemon.addresses()
    with Load(client, address) as load:
        more(daemon, load)
        for _ in range(2):
            answer = daemon.reload()
            assert answer.ok, answer.error
            more(daemon, load)
        assert load.failures == []
        daemon.allow("SIGKILL")
        os.kill(daemon.workers()[0], signal.SIGKILL)
        daemon.wait_until(lambda status: status["pools"]["web"]["restarts"] == 1)
        daemon.wait_until(lambda _: len(daemon.workers()) == 2)
        more(daemon, load)
    assert len(load.failures) <= CLIENTS, load.failures
    begun = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert time.monotonic() - begun < grace + 5


def more(daemon: Daemon, load: Load) -> None:
    count = load.answered
    daemon.until(lambda: load.answered >= count + _WANTED, f"answers; {load.failures}")

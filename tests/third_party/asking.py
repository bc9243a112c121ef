"""A client that asks a framework's application, which all have the same pages."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from ..around import PATIENCE
from ..daemon import Daemon

APPS = Path(__file__).with_name("apps")
LINES = "".join(f"line {number}\n" for number in range(1000))
UPLOAD = bytes(range(256)) * 12_000
"""More than is kept in memory."""
_QUIET = 0.8
"""Seconds after which an idle connection may be closed while its next request is on its way."""


def ask_every_page(base: str, module: str) -> None:
    """Ask for everything that an application of ``apps`` offers, as a browser would."""
    with httpx.Client(base_url=base, timeout=PATIENCE) as client:
        assert client.get("/json").json() == {"hello": "world", "numbers": [1, 2, 3]}
        assert client.get("/hello/J%C3%BCrg?q=%E2%82%AC").text == "hello Jürg €"
        assert client.get("/stream").text == LINES
        uploaded = client.post("/upload", files={"file": ("some name.bin", UPLOAD)}).json()
        assert uploaded == {"name": "some name.bin", "sha": hashlib.sha256(UPLOAD).hexdigest()}
        assert client.get("/whoami").text == "nobody"
        assert client.post("/login", data={"user": "Ada"}, follow_redirects=True).text == "Ada"
        assert client.get("/file").text == (APPS / f"{module}.py").read_text()
        assert client.head("/json").content == b""
        assert client.get("/nowhere").status_code == 404


class Loop(threading.Thread):
    """Asks for ``/pid`` again and again on one connection, as long as that is kept."""

    def __init__(self, base: str) -> None:
        super().__init__(daemon=True)
        self._base = base
        self.answered = 0
        self.failures: list[str] = []
        self.ended = False

    def run(self) -> None:
        with httpx.Client(base_url=self._base, timeout=PATIENCE) as client:
            heard = time.monotonic()
            while not self.ended:
                idle = time.monotonic() - heard
                try:
                    response = client.get("/pid")
                    response.raise_for_status()
                    int(response.text)
                except (httpx.HTTPError, ValueError) as error:
                    # Who lets a connection rest may find it closed (RFC 9112, 9.3.1); nothing was lost on it.
                    if not (isinstance(error, httpx.RemoteProtocolError | httpx.ReadError) and idle > _QUIET):
                        self.failures.append(f"{error!r}, {idle:.3f}s after the answer before")
                else:
                    self.answered += 1
                heard = time.monotonic()


def reload_and_kill_under_load(daemon: Daemon, base: str, number: int = 4) -> None:
    """Have clients ask while the daemon reloads, and while a worker is killed, which may cost what it was asked."""
    loops = [Loop(base) for _ in range(number)]

    def wait_for_more() -> None:
        aims = [(loop, loop.answered + 5) for loop in loops]
        daemon.until(lambda: all(loop.answered >= aim for loop, aim in aims), "answers")

    for loop in loops:
        loop.start()
    try:
        wait_for_more()
        assert daemon.reload().ok
        wait_for_more()
        failures = [each for loop in loops for each in loop.failures]
        assert not failures, failures
        killed = daemon.workers()[0]
        os.kill(killed, signal.SIGKILL)
        daemon.wait_until(lambda status: _has_a_successor(status, killed))
        wait_for_more()
    finally:
        for loop in loops:
            loop.ended = True
        for loop in loops:
            loop.join()
    # At most the one request that each client had in flight then.
    assert max(len(loop.failures) for loop in loops) <= 1, [loop.failures for loop in loops]


def _has_a_successor(status: dict[str, Any], killed: int) -> bool:
    serving = [each["pid"] for each in status["pools"]["web"]["workers"] if each["state"] == "serving"]
    return len(serving) == 2 and killed not in serving

"""The kind of ``contrib/examples/kind``, installed by pip as its own package and found by its entry point."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .daemon import Daemon, connect, pool

TREE = Path(__file__).parents[1]
APP = """
import os

async def answer(line):
    if line == b"fail":
        raise RuntimeError("on purpose")
    return line.upper() + b" " + str(os.getpid()).encode()

def plain(line):
    return line
"""


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """Install the package where the daemons of this module find it."""
    source = tmp_path_factory.mktemp("source") / "kind"
    shutil.copytree(TREE / "contrib/examples/kind", source)
    target = tmp_path_factory.mktemp("target")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(target), os.environ.get("PYTHONPATH")))))
        yield


def lines(app="answer", **options):
    server = {"kind": "lines", "app": f"app:{app}", "bind": "127.0.0.1:0", "grace": "10s", "options": options}
    return Daemon(pool(workers=2, server=server), {"app.py": APP})


def test_the_docs_show_it_as_it_is():
    source = (
        (TREE / "contrib/examples/kind/hourd_lines.py").read_text().rstrip().removeprefix('"""').partition('"""\n\n')[2]
    )
    docs = (TREE / "docs/kinds.md").read_text()
    assert f"```python\n{source}\n```\n" in docs
    count = f" in {sum(map(bool, source.splitlines()))} lines"
    assert count in docs
    assert count in (TREE / "README.md").read_text()


def test_it_is_listed_and_serves():
    with lines() as daemon:
        daemon.expect("READY=1")
        assert "from hourd-lines" in daemon.run("kinds").stdout
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as answers:
            sock.sendall(b"hello\nyou\n")
            assert answers.readline().startswith(b"HELLO ")
            assert answers.readline().startswith(b"YOU ")
        daemon.wait_until(lambda status: sum(each["requests"] for each in status["pools"]["web"]["workers"]) == 2)


def test_a_failure_is_shown_with_its_server():
    with lines() as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose")
        with connect(daemon.addresses()[0]) as sock:
            sock.sendall(b"fail\n")
            assert sock.recv(100) == b""
        daemon.wait_log(
            r"hourd\.server\.web\.main\[\d+\] a conversation failed\nTraceback[^$]*RuntimeError: on purpose"
        )


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"longset": 3}, "unknown longset; allowed: goodbye, longest"),
        ({"longest": 0}, "Expected `int` >= 1 - at `$.longest`"),
        ({"goodbye": "two\nlines"}, "Expected `str` matching regex"),
    ],
)
def test_its_options_are_checked(options, why):
    with lines(**options) as daemon:
        daemon.allow("options of server main")
        assert daemon.wait() == 78
        assert f"options of server main (kind lines): {why}" in daemon.log


def test_another_application_is_refused():
    with lines("plain") as daemon:
        daemon.allow("expected a coroutine function", "it is stopped at once")
        assert daemon.wait() == 75
        assert "server main (kind lines) failed to open" in daemon.log


def test_reloads_under_load_lose_no_line():
    with lines(goodbye="come again") as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        done, answered, goodbyes, lost = threading.Event(), [], [], []

        def talk_on():
            while not done.is_set():
                with connect(address) as sock, sock.makefile("rb") as answers:
                    told = False
                    while not (told or done.is_set()):
                        sock.sendall(b"hello\n")
                        answer = answers.readline()
                        if told := answer == b"come again\n":
                            goodbyes.append(answer)
                            answer = answers.readline()
                        (answered if answer.startswith(b"HELLO ") else lost).append(answer)

        threads = [threading.Thread(target=talk_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            count = len(answered)
            assert daemon.reload().ok
            daemon.wait_for_the_old()
            daemon.until(lambda count=count: len(answered) > count + 100)
        done.set()
        for thread in threads:
            thread.join()
        assert lost == []
        assert len(goodbyes) >= 4
        assert len({answer.split()[1] for answer in answered}) >= 4  # of each generation, one or both

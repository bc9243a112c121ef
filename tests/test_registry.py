"""Kinds of other packages: by entry point, by ``module:Class``, and registered by code."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

from hourd import Kind, kinds, register

from .daemon import Daemon, pool, talk

KIND = '''
import asyncio

from msgspec import Struct

import hourd


class Options(Struct, forbid_unknown_fields=True):
    greeting: str = "hello"


class Greeter(hourd.Kind):
    """Greets and closes."""

    Options = Options
    connections = 0

    async def listen(self, sock, backlog):
        return await asyncio.start_server(self.greet, sock=sock, backlog=backlog)

    async def greet(self, reader, writer):
        self.accepted += 1
        writer.write(f"{self.context.options.greeting} from {self.context.server}".encode())
        writer.close()

    async def close(self):
        pass


class Other:
    pass
'''
WHEEL = {
    "greeter.py": KIND,
    "hourd_greeter-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: hourd-greeter\nVersion: 1\n",
    "hourd_greeter-1.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "hourd_greeter-1.dist-info/entry_points.txt": "[hourd.kinds]\ngreeter = greeter:Greeter\nbroken = greeter:missing\n",
    "hourd_greeter-1.dist-info/RECORD": "",
}
"""A package, built by hand: a build backend would have to be downloaded."""


def greeter(kind, **options):
    main = {"kind": kind, "bind": "127.0.0.1:0", "options": options}
    return {"pools": {"web": {"workers": 2, "servers": {"main": main}}}}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a folder with a package that offers kinds, as pip installs it."""
    wheel = tmp_path_factory.mktemp("source") / "hourd_greeter-1-py3-none-any.whl"
    target = tmp_path_factory.mktemp("target")
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in WHEEL.items():
            archive.writestr(name, text)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
    ]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(target), before)))
    yield target
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.mark.parametrize("preload", [True, False])
def test_an_installed_kind_serves_and_takes_its_options(installed, preload):
    config = greeter("greeter", greeting="good day")
    config["pools"]["web"]["preload"] = preload
    with Daemon(config) as daemon:
        daemon.expect("READY=1")
        assert talk(daemon.addresses()[0]) == b"good day from main"
        assert daemon.reload().ok
        daemon.wait_for_the_old()
        assert talk(daemon.addresses()[0]) == b"good day from main"
        daemon.wait_until(lambda status: sum(each["accepted"] for each in status["pools"]["web"]["workers"]) == 1)
        listed = daemon.run("kinds").stdout
        assert "greeter" in listed
        assert "from hourd-greeter" in listed


def test_wrong_options_of_an_installed_kind_are_refused(installed):
    with Daemon(greeter("greeter", greting="hi")) as daemon:
        daemon.allow("greting")
        assert daemon.wait() == 78
        assert "options of server main (kind greeter): unknown greting; allowed: greeting" in daemon.log


def test_a_kind_that_is_not_there_is_told(installed):
    with Daemon(greeter("broken")) as daemon:
        daemon.allow("broken")
        assert daemon.wait() == 75
        assert "cannot import kind broken" in daemon.log
        assert "has no attribute 'missing'" in daemon.log


def test_a_kind_of_the_application_needs_no_registry():
    with Daemon(greeter("mine:Greeter"), {"mine.py": KIND}) as daemon:
        daemon.expect("READY=1")
        assert talk(daemon.addresses()[0]) == b"hello from main"


def test_what_is_no_kind_is_refused():
    with Daemon(greeter("mine:Other"), {"mine.py": KIND}) as daemon:
        daemon.allow("mine:Other")
        assert daemon.wait() == 75
        assert "expected a subclass of hourd.Kind" in daemon.log


def test_an_unknown_kind_is_refused_before_anything_starts():
    with Daemon(pool(server={"kind": "streem"})) as daemon:
        daemon.allow("streem")
        assert daemon.wait() == 78
        assert "stream" in daemon.log


@pytest.fixture
def forget():
    before = dict(kinds._registered)
    yield
    kinds._registered.clear()
    kinds._registered.update(before)


def test_register(forget):
    @register("mine")
    class Mine(Kind):
        """Does nothing.

        Really.
        """

    entry = kinds.find("mine")
    assert entry is not None
    assert (entry.summary, entry.options) == ("Does nothing.", kinds.NoOptions)
    assert kinds.load("mine") is Mine
    assert "mine" in kinds.names()
    for name in ("mine", "aiohttp"):
        with pytest.raises(ValueError, match="registered already"):
            register(name)(Mine)


def test_built_in_kinds_are_what_they_are_said_to_be():
    for name in kinds.names():
        kind, entry = kinds.load(name), kinds.find(name)
        assert entry is not None
        assert issubclass(kind, Kind)
        assert kind.Options is entry.options
    with pytest.raises(LookupError, match="there is no kind 'none'; there are aiohttp, "):
        kinds.load("none")

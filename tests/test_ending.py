"""How processes end: in order, as any Python program does, and while others serve."""

from __future__ import annotations

import json
import os

import pytest

from .daemon import PROGRAM, Daemon, pool, talk
from .test_privileges import started_for

FAREWELL = """
import atexit, os, sys, threading, time


def note(text):
    with open("notes", "a") as file:
        file.write(f"{os.getpid()} {text}\\n")


def say_farewell():
    note("said farewell")
    sys.stdout.write(f"{os.getpid()} flushed\\n")


def think():
    time.sleep(0.5)
    note("thought")


async def serve(reader, writer):
    atexit.register(say_farewell)
    threading.Thread(target=think).start()
    writer.write(f"{os.getpid()}".encode())
"""
NICE = """
import json, os

IMPORTED = os.getpriority(os.PRIO_PROCESS, 0)

async def serve(reader, writer):
    writer.write(json.dumps([IMPORTED, os.getpriority(os.PRIO_PROCESS, 0)]).encode())
"""


def test_a_worker_waits_for_threads_says_farewell_and_flushes():
    with Daemon(pool(workers=1), {"app.py": FAREWELL}) as daemon:
        daemon.allow("flushed")
        daemon.expect("READY=1")
        pid = int(talk(daemon.addresses()[0]))
        assert daemon.reload().ok
        daemon.wait_log(f"worker web/0 gen=1 pid={pid} ended")
        assert (daemon.folder / "notes").read_text().splitlines() == [f"{pid} thought", f"{pid} said farewell"]
        daemon.wait_log(f"{pid} flushed")


def test_what_a_farewell_raises_is_shown():
    code = FAREWELL.replace('note("said farewell")', 'raise RuntimeError("on purpose")')
    with Daemon(pool(workers=1), {"app.py": code}) as daemon:
        daemon.allow("on purpose")
        daemon.expect("READY=1")
        pid = int(talk(daemon.addresses()[0]))
        assert daemon.reload().ok
        daemon.wait_log(f"worker web/0 gen=1 pid={pid} ended")
        daemon.wait_log(r"Traceback(.*\n)+RuntimeError: on purpose")


def test_an_import_leaves_the_cpu_to_those_that_serve(nobody):
    with started_for(nobody, {"user": nobody.name, **pool()}, {"app.py": NICE}) as daemon:
        daemon.expect("READY=1")
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert json.loads(talk(daemon.addresses()[0])) == [own, own]
        assert daemon.reload().ok
        daemon.wait_for_the_old()
        assert json.loads(talk(daemon.addresses()[0])) == [min(19, own + 5), own]


def test_who_may_not_return_does_not_become_nicer():
    if os.geteuid() != 0:
        pytest.skip("only root has a capability to lose")
    own = os.getpriority(os.PRIO_PROCESS, 0)
    command = ("setpriv", "--bounding-set=-sys_nice", *PROGRAM)
    with Daemon(pool(), {"app.py": NICE}, command=command) as daemon:
        daemon.expect("READY=1")
        assert daemon.reload().ok
        daemon.wait_for_the_old()
        assert json.loads(talk(daemon.addresses()[0])) == [own, own]

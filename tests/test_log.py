"""What operators see, in each format, and that a reader who does not read stops nobody."""

import json
import logging
import os
import subprocess
import sys

from hourd import log
from hourd.settings import Log

SAY = """
import logging, sys
from hourd import log
from hourd.settings import Log
log.set_up(Log(format=sys.argv[1], level="info"))
logging.getLogger("hourd").debug("hidden")
logging.getLogger("hourd").info("worker %d", 1)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("hourd").exception("broke")
"""


def said(form: str) -> list[str]:
    result = subprocess.run([sys.executable, "-c", SAY, form], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == ""
    return result.stderr.splitlines()


def test_text():
    first, second, *traceback = said("text")
    assert first.endswith("worker 1")
    assert " info    hourd[" in first
    assert " error   hourd[" in second
    assert traceback[-1] == "ZeroDivisionError: division by zero"


def test_json_is_one_object_a_line():
    first, second = map(json.loads, said("json"))
    assert (first["level"], first["message"], first["logger"]) == ("info", "worker 1", "hourd")
    assert second["traceback"].endswith("ZeroDivisionError: division by zero")


def test_the_journal_gets_a_priority_on_each_line():
    lines = said("journal")
    assert lines[0] == "<6>hourd: worker 1"
    assert all(line.startswith("<3>") for line in lines[1:])
    assert len(lines) > 3


def test_a_full_pipe_drops_lines_and_says_how_many():
    code = """
import logging, os, sys
from hourd import log
from hourd.settings import Log
log.set_up(Log())
for number in range(2000):
    logging.getLogger("hourd").info("%d %s", number, "x" * 200)
os.write(1, b"done\\n")
sys.stdin.readline()
logging.getLogger("hourd").info("again")
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1)
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == b"done\n"  # it was not stopped by a pipe that nobody has read
    full = os.read(child.stderr.fileno(), 1 << 20)
    assert child.stdin is not None
    child.stdin.write(b"\n")
    child.stdin.close()
    rest = child.stderr.read().decode()
    assert full.count(b"\n") < 2000
    assert "log lines were dropped" in rest
    assert rest.endswith("again\n")
    child.stdout.close()
    child.stderr.close()
    assert child.wait(60) == 0


def test_reopen_follows_a_rename(tmp_path):
    path = tmp_path / "app.log"
    handler = logging.FileHandler(path)
    logger = logging.getLogger("test.reopen")
    logger.addHandler(handler)
    logger.error("one")
    path.rename(tmp_path / "app.log.1")
    logger.error("two")
    log.reopen()
    logger.error("three")
    logger.removeHandler(handler)
    handler.close()
    assert (tmp_path / "app.log.1").read_text() == "one\ntwo\n"
    assert path.read_text() == "three\n"


def test_every_level_and_format_of_the_settings_is_known():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        for level in ("debug", "info", "warning", "error"):
            for form in ("text", "json", "journal"):
                log.set_up(Log(level=level, format=form))  # type: ignore[arg-type]
                assert root.level == getattr(logging, level.upper())
    finally:
        root.handlers[:], root.level = before

"""Applications of WSGI frameworks, unchanged, through ``hourd start``."""

from __future__ import annotations

import signal
import time

import httpx
import pytest

from ..daemon import Daemon, pool
from .asking import APPS, ask_every_page, reload_and_kill_under_load

INLINE, THREADS = {"inline": True}, {"threads": 4}
FRAMEWORKS = [
    ("flask_app", "app", THREADS),
    ("flask_app", "create_app", INLINE),
    ("bottle_app", "app", THREADS),
    ("falcon_wsgi", "app", INLINE),
    ("django_wsgi", "application", THREADS),
]
FILES = {path.name: path.read_text() for path in APPS.glob("*.py")}
GRACE = 5.0
FORGIVING = {"PYTHONWARNINGS": ""}
"""A framework may leave a file to the garbage collector."""


@pytest.mark.parametrize(("module", "attribute", "options"), FRAMEWORKS)
def test_a_framework(module, attribute, options):
    server = {"kind": "wsgi", "app": f"{module}:{attribute}", "options": options, "grace": f"{GRACE:g}s"}
    with Daemon(pool(server=server), FILES, environment=FORGIVING) as daemon:
        daemon.allow("RuntimeError: on purpose", "killed|SIGKILL|signal 9", "django.request.*Not Found")
        daemon.expect("READY=1")
        base = f"http://{daemon.addresses()[0]}"
        ask_every_page(base, module)
        assert httpx.get(f"{base}/fail").status_code == 500
        reload_and_kill_under_load(daemon, base)
        began = time.monotonic()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert time.monotonic() - began < GRACE
        assert "cut" not in daemon.log

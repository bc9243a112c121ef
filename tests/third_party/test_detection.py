"""The kind of what real frameworks make is told from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OBJECTS = """
import django.conf
django.conf.settings.configure(ROOT_URLCONF="x", SECRET_KEY="x", ALLOWED_HOSTS=["*"], MIDDLEWARE=[])

import aiosmtpd.handlers, aiosmtpd.smtp, asgiref.wsgi, asyncssh, bottle, dnslib, falcon, falcon.asgi, fastapi, flask, functools
import quart, sanic, starlette.applications, starlette.middleware.cors, a2wsgi, aiohttp.web
import django.core.asgi, django.core.wsgi

flask_app = flask.Flask("x")
bottle_app = bottle.Bottle()
bottle_default = bottle.default_app()
falcon_app = falcon.App()
falcon_asgi = falcon.asgi.App()
django_wsgi = django.core.wsgi.get_wsgi_application()
django_asgi = django.core.asgi.get_asgi_application()
starlette_app = starlette.applications.Starlette()
wrapped = starlette.middleware.cors.CORSMiddleware(starlette_app)
fastapi_app = fastapi.FastAPI()
quart_app = quart.Quart("x")
sanic_app = sanic.Sanic("x")
to_asgi = asgiref.wsgi.WsgiToAsgi(flask_app)
a2wsgi_asgi = a2wsgi.WSGIMiddleware(flask_app)
a2wsgi_wsgi = a2wsgi.ASGIMiddleware(starlette_app)
aiohttp_app = aiohttp.web.Application()
smtp = aiosmtpd.smtp.SMTP

def smtp_factory() -> aiosmtpd.smtp.SMTP:
    return aiosmtpd.smtp.SMTP(aiosmtpd.handlers.Sink())

def make_flask():
    return flask_app
"""
KINDS = {
    "flask_app": "wsgi",
    "bottle_app": "wsgi",
    "bottle_default": "wsgi",
    "falcon_app": "wsgi",
    "django_wsgi": "wsgi",
    "a2wsgi_wsgi": "wsgi",
    "falcon_asgi": "asgi",
    "django_asgi": "asgi",
    "starlette_app": "asgi",
    "wrapped": "asgi",
    "fastapi_app": "asgi",
    "quart_app": "asgi",
    "sanic_app": "asgi",
    "to_asgi": "asgi",
    "a2wsgi_asgi": "asgi",
    "aiohttp_app": "aiohttp",
    "smtp": "protocol",
    "smtp_factory": "protocol",
    "make_flask": None,
}


@pytest.fixture(scope="module")
def told():
    """Return what is told of each object, in a process of its own: some frameworks may be set up once only."""
    program = f"{OBJECTS}\nfrom hourd.kinds.detection import detect\nfor name in {list(KINDS)}:\n"
    program += (
        "    found = detect(globals()[name])\n    print(name, found.kind if found else None, found and found.why)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
    )
    assert result.returncode == 0, result.stderr
    return dict(line.split(" ", 1) for line in result.stdout.splitlines())


@pytest.mark.parametrize("name", KINDS)
def test_the_kind_of(name, told):
    assert told[name].split(" ", 1)[0] == str(KINDS[name])


def test_nothing_is_imported_for_it():
    program = "import sys; from hourd.kinds import detection; detection.detect(lambda environ, start_response: 0);"
    program += "sys.exit(' '.join({'aiohttp', 'asyncssh', 'uvicorn', 'flask'} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])

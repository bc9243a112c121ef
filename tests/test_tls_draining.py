"""The kinds that speak HTTP, with TLS, while their worker drains: what holds without TLS holds with it."""

from __future__ import annotations

import ssl
from types import SimpleNamespace

import pytest

from . import test_http_draining as plain
from . import test_kind_aiohttp, test_kind_asgi
from .certificates import client, issue
from .daemon import Daemon, connect
from .test_kind_aiohttp import FILES, GET, LOOPS, config

CASES = [
    ("uvloop", "TLSv1.3", plain.test_a_request_in_flight_is_answered_and_asks_to_close),
    ("asyncio", "TLSv1.2", plain.test_a_connection_that_has_not_asked_yet_is_answered),
    ("uvloop", "TLSv1.3", plain.test_a_file_is_sent_whole),
    ("asyncio", "TLSv1.3", plain.test_a_file_is_sent_whole),
    ("uvloop", "TLSv1.2", plain.test_a_connection_that_was_closed_is_not_reset),
    ("asyncio", "TLSv1.3", plain.test_a_connection_that_was_closed_is_not_reset),
]
LAST = """
from aiohttp import web

from hourd.kinds.aiohttp import WORKER


async def last(request):
    await request.app[WORKER].draining.wait()
    return web.FileResponse("app.py")


def make():
    app = web.Application()
    app.router.add_get("/", last)
    return app
"""
_LARGE = 4_000_000
"""Bytes of a file. What an application gives in one piece is encrypted in one, and the loop stands still meanwhile."""


@pytest.mark.parametrize("kind", [test_kind_aiohttp, test_kind_asgi], ids=["aiohttp", "asgi"])
@pytest.mark.parametrize(("loop", "version", "case"), CASES)
def test_as_without_tls(loop, case, version, kind, monkeypatch, tmp_path):
    tmp_path.chmod(0o755)
    files = {name: str(tmp_path / file) for name, file in issue(tmp_path).items()}
    context = client()
    context.maximum_version = ssl.TLSVersion[version.replace(".", "_")]

    def encrypted(address, **more):
        return context.wrap_socket(connect(address, **more), server_hostname="localhost")

    def with_tls(server=None, **more):
        return kind.config(server={**(server or {}), "tls": files}, **more)

    monkeypatch.setattr(plain, "connect", encrypted)
    monkeypatch.setattr(plain, "LARGE", _LARGE)
    case(loop, SimpleNamespace(config=with_tls, FILES=kind.FILES))


@LOOPS
def test_a_response_that_is_cut_does_not_look_whole(loop, tmp_path):
    tmp_path.chmod(0o755)
    files = {kind: str(tmp_path / name) for kind, name in issue(tmp_path).items()}
    with Daemon(config(workers=1, loop=loop, server={"grace": "100ms", "tls": files}), FILES) as daemon:
        daemon.allow("open after its grace")
        daemon.expect("READY=1")
        sock = connect(daemon.addresses()[0])
        # Python would hide it: of such ends, many clients do not know what TLS says of them.
        with client().wrap_socket(sock, server_hostname="localhost", suppress_ragged_eofs=False) as encrypted:
            encrypted.sendall(GET.replace(b"/ ", b"/forever ").replace(b"1.1", b"1.0"))
            assert encrypted.recv(10)
            assert daemon.reload().ok
            with encrypted.makefile("rb") as rest, pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
                rest.read()


@pytest.mark.parametrize("loop", ["asyncio"])
def test_a_file_whose_turn_comes_while_the_worker_drains(loop, tmp_path):
    tmp_path.chmod(0o755)
    files = {kind: str(tmp_path / name) for kind, name in issue(tmp_path).items()}
    with Daemon(config(workers=1, loop=loop, server={"tls": files}, lifespan=None), {"app.py": LAST}) as daemon:
        daemon.expect("READY=1")
        with client().wrap_socket(connect(daemon.addresses()[0]), server_hostname="localhost") as sock:
            sock.sendall(GET)
            daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["requests"] == 1)
            assert daemon.reload().ok
            with sock.makefile("rb") as reply:
                assert reply.read().endswith(LAST.encode())

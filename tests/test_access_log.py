"""The access log: what its lines say, that nobody forges one, and that nobody waits for who reads it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import os
import re
import signal
import socket
import types

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hourd.kinds.access_log import AccessLog
from hourd.line_writer import LINE_MAX, LineWriter

from .daemon import PATIENCE, Daemon, connect, pool

APP = """
import asyncio
import os
import time

from aiohttp import web

from hourd import request_id


async def hello(request):
    return web.Response(text="hello")


async def who(request):
    return web.json_response([request.remote, request.scheme, request.host, str(request.url), request_id.current(),
                              request.clone(rel_url="/x").remote])


async def busy(request):
    time.sleep(0.2)
    return web.Response(text="done")


async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"x" * 1000)
    await response.write(b"y" * 1000)
    return response


async def fail(request):
    raise RuntimeError("on purpose")


async def fail_late(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"x")
    raise RuntimeError("on purpose")


async def forever(request):
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 1000)
        await asyncio.sleep(0.01)


async def file(request):
    return web.FileResponse(__file__)


async def socket(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(request.remote)
    return ws


def make():
    app = web.Application()
    app.add_routes([web.get("/", hello), web.get("/who", who), web.get("/busy", busy), web.get("/stream", stream),
                    web.get("/fail", fail), web.get("/fail_late", fail_late), web.get("/forever", forever),
                    web.get("/file", file), web.get("/socket", socket)])
    return app


async def asgi(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        if scope["path"] == "/no":
            return await send({"type": "websocket.close"})
        await send({"type": "websocket.accept"})
        await receive()
        await send({"type": "websocket.send", "text": scope["client"][0]})
        await receive()
        return
    if scope["path"] == "/fail":
        raise RuntimeError("on purpose")
    if scope["path"] == "/busy":
        time.sleep(0.2)
    headers = dict(scope["headers"])
    client = scope["client"][0] if scope["client"] else None
    body = str([client, scope["scheme"], headers[b"host"].decode()]).encode()
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b"."})
"""
FILES = {"app.py": APP}
COMBINED = re.compile(
    r'(?P<client>\S+) - - \[(?P<time>\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000)\] '
    r'"(?P<method>\S+) (?P<target>\S+) (?P<protocol>\S+)" (?P<status>\d{3}) (?P<bytes>\d+|-)'
    r'(?: "(?P<referer>[^"]*)" "(?P<user_agent>[^"]*)")?'
)  # fmt: skip
KINDS = pytest.mark.parametrize(("kind", "app"), [("aiohttp", "app:make"), ("asgi", "app:asgi")])
KEYS = ["time", "client", "method", "target", "protocol", "status", "bytes", "duration", "referer", "user_agent",
        "request_id", "pool", "server", "worker", "generation", "pid"]  # fmt: skip


def config(kind="aiohttp", app="app:make", workers=1, bind="127.0.0.1:0", grace="10s", log=None, **options):
    options = {"access_log": "json", "access_log_file": "access.log", **options}
    options = {name: value for name, value in options.items() if value is not None}
    server = {"kind": kind, "app": app, "bind": bind, "grace": grace, "options": options}
    return {**pool(workers=workers, server=server), **({"log": log} if log else {})}


def lines(daemon, count, name="access.log"):
    """Wait for so many lines, and return them."""
    path = daemon.folder / name
    return daemon.until(
        lambda: found if path.exists() and len(found := path.read_text().splitlines()) >= count else None,
        f"{count} lines",
    )


def request(address, target="/", method="GET", **headers):
    host, _, port = address.rpartition(":")
    client = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
    with contextlib.closing(client):
        client.request(method, target, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return client.getresponse().read().decode()


# --- what is in a line ----------------------------------------------------------------------------


@KINDS
def test_json(kind, app):
    with Daemon(config(kind, app), FILES) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        request(address, "/?a=b", Referer="http://r/", User_Agent="me")
        request(address, "/", "HEAD")
        request(address, "/busy")
        first, head, busy = map(json.loads, lines(daemon, 3))
        assert list(first) == KEYS
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
        told = {name: first[name] for name in ("client", "method", "target", "protocol", "referer", "user_agent")}
        assert told == {"client": "127.0.0.1", "method": "GET", "target": "/?a=b", "protocol": "HTTP/1.1",
                        "referer": "http://r/", "user_agent": "me"}  # fmt: skip
        own = {name: first[name] for name in ("pool", "server", "worker", "generation", "pid")}
        assert own == {"pool": "web", "server": "main", "worker": 0, "generation": 1, "pid": daemon.workers()[0]}
        assert first["bytes"] == {"aiohttp": 5, "asgi": len(str(["127.0.0.1", "http", address])) + 1}[kind]
        assert (head["method"], head["bytes"], head["referer"]) == ("HEAD", 0, "")
        assert 0 <= first["duration"] < 0.2 <= busy["duration"] < PATIENCE
        assert len({each["request_id"] for each in (first, head, busy)}) == 3
        assert os.stat(daemon.folder / "access.log").st_mode & 0o777 == 0o640


@KINDS
@pytest.mark.parametrize("form", ["common", "combined"])
def test_apache_formats(kind, app, form):
    with Daemon(config(kind, app, access_log=form), FILES) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        request(address, "/?a=b", Referer="http://r/", User_Agent="me")
        request(address, "/", "HEAD", User_Agent="")
        first, second = (COMBINED.fullmatch(line).groupdict() for line in lines(daemon, 2))
        assert (first["client"], first["target"], first["protocol"]) == ("127.0.0.1", "/?a=b", "HTTP/1.1")
        said = (first["referer"], first["user_agent"])
        assert said == (("http://r/", "me") if form == "combined" else (None, None))
        assert (second["method"], second["bytes"]) == ("HEAD", "-")


@pytest.mark.parametrize(("log", "begin"), [("text", "127.0.0.1 - - ["), ("json", '{"time":')])
def test_true_looks_like_the_log_and_goes_to_standard_error(log, begin):
    settings = config(access_log=True, access_log_file=None, log={"format": log})
    with Daemon(settings, FILES) as daemon:
        daemon.allow(".")  # lines of an access log are no records
        daemon.expect("READY=1")
        request(daemon.addresses()[0], "/?this")
        found = daemon.until(lambda: [line for line in daemon.log.splitlines() if "/?this" in line])
        assert found[0].startswith(begin)


def test_each_end_of_aiohttp():
    with Daemon(config(), FILES) as daemon:
        daemon.allow("on purpose", "400|Bad", "closing transport")
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        size = len(APP.encode())
        assert len(request(address, "/stream")) == 2000
        assert len(request(address, "/file")) == size
        request(address, "/missing")
        request(address, "/fail")
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            request(address, "/fail_late")
        with connect(address) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nno header\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.0 400"
        with connect(address) as sock:
            sock.sendall(b"GET /forever HTTP/1.1\r\nHost: x\r\n\r\n")
            sock.recv(100)
        found = {each["target"]: each for each in map(json.loads, lines(daemon, 7))}
        statuses = {target: each["status"] for target, each in found.items()}
        assert statuses == {"/stream": 200, "/file": 200, "/missing": 404, "/fail": 500, "/fail_late": 500, "-": 400,
                            "/forever": 499}  # fmt: skip
        assert 2000 <= found["/stream"]["bytes"] < 2050
        assert found["/file"]["bytes"] == size
        assert found["/forever"]["bytes"] > 1000
        assert found["-"]["method"] == "-"


@KINDS
def test_who_is_cut_at_the_end_has_a_line(kind, app):
    with Daemon(config(grace="100ms"), FILES) as daemon:
        daemon.allow("cut 1 connections")
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.sendall(b"GET /forever HTTP/1.1\r\nHost: x\r\n\r\n")
            sock.recv(100)
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
        (line,) = lines(daemon, 1)
        assert json.loads(line)["status"] == 499


@KINDS
def test_websockets(kind, app):
    with Daemon(config(kind, app, trusted_proxies=["127.0.0.1"]), FILES) as daemon:
        daemon.expect("READY=1")

        async def talk():
            headers = {"X-Forwarded-For": "192.0.2.7"}
            url = f"http://{daemon.addresses()[0]}"
            async with aiohttp.ClientSession() as session:
                async with session.ws_connect(f"{url}/socket", headers=headers) as websocket:
                    await websocket.send_str("?")
                    assert await websocket.receive_str() == "192.0.2.7"
                if kind == "asgi":
                    with pytest.raises(aiohttp.WSServerHandshakeError):
                        await session.ws_connect(f"{url}/no")

        asyncio.run(talk())
        found = [json.loads(line) for line in lines(daemon, 2 if kind == "asgi" else 1)]
        assert [each["status"] for each in found] == [101, 403][: len(found)]
        assert (found[0]["client"], found[0]["target"], found[0]["bytes"]) == ("192.0.2.7", "/socket", 0)


GONE = """
import asyncio


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while (await receive())["type"] != "http.disconnect":
        pass
    await send({"type": "http.response.body", "body": b"x"})


async def reads(scope, receive, send):
    scope["raw_path"] = scope["client"] = None  # what an application does with it is its own affair
    while (message := await receive())["type"] != "http.disconnect" and message.get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body"})


def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [environ["wsgi.input"].read()]
"""


def test_a_client_that_goes_during_its_response():
    with Daemon(config("asgi", "app:app", lifespan="off"), {"app.py": GONE}) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.sendall(b"GET /left HTTP/1.1\r\nHost: x\r\n\r\n")
            sock.recv(12)
        (line,) = map(json.loads, lines(daemon, 1))
        assert (line["status"], line["bytes"]) == (499, 0)


UPLOAD = b"POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(("kind", "app"), [("asgi", "app:reads"), ("wsgi", "app:wsgi")])
def test_requests_that_are_refused_have_a_line(kind, app):
    asked = {
        b"GET /a HTTP/1.1\r\n\r\n": (400, "/a"),
        b"GET /b HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n": (400, "-"),
        b"GET /" + b"c" * 300 + b" HTTP/1.1\r\nHost: x\r\n\r\n": (414, "/" + "c" * 300),
        b"POST /d HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n": (413, "/d"),
        UPLOAD + b"b\r\nhello world\r\n": (413, "/up"),
        UPLOAD + b"5\r\nhello": (408, "/up"),
        b"GET /e HTT": (408, "-"),
    }
    limits = {"lifespan": "off"} if kind == "asgi" else {}
    limits |= {"client_max_size": "10B", "line_max_size": "256B", "head_timeout": "200ms", "body_timeout": "200ms"}
    with Daemon(config(kind, app, **limits), {"app.py": GONE}) as daemon:
        daemon.expect("READY=1")
        for number, (data, (status, target)) in enumerate(asked.items(), 1):
            with connect(daemon.addresses()[0]) as sock:
                sock.sendall(data)
                assert sock.recv(12) == b"HTTP/1.1 %d" % status
            line = json.loads(lines(daemon, number)[-1])
            assert (line["status"], line["target"], line["client"]) == (status, target, "127.0.0.1")


def test_an_asgi_application_that_fails():
    with Daemon(config("asgi", "app:asgi"), FILES) as daemon:
        daemon.allow("on purpose")
        daemon.expect("READY=1")
        request(daemon.addresses()[0], "/fail")
        (line,) = lines(daemon, 1)
        assert (json.loads(line)["status"], json.loads(line)["bytes"]) == (500, len("Internal Server Error"))


@KINDS
def test_unix_sockets(kind, app, tmp_path):
    with Daemon(config(kind, app, bind=f"unix:{tmp_path}/s", trusted_proxies=["unix"]), FILES) as daemon:
        daemon.expect("READY=1")
        for header in ("", "X-Forwarded-For: 2001:db8::7\r\n"):
            with connect(f"unix:{tmp_path}/s") as sock:
                sock.sendall(f"GET /who HTTP/1.1\r\nHost: x\r\n{header}Connection: close\r\n\r\n".encode())
                while sock.recv(1000):
                    pass
        assert [json.loads(line)["client"] for line in lines(daemon, 2)] == ["unix", "2001:db8::7"]


# --- trusted proxies ------------------------------------------------------------------------------


TOLD = {"X_Forwarded_For": "6.6.6.6, 192.0.2.7", "X_Forwarded_Proto": "https", "X_Forwarded_Host": "evil",
        "X_Request_ID": "abc"}  # fmt: skip


NAMED = ["x-forwarded-for", "x-forwarded-proto", "x-request-id"]


@KINDS
@pytest.mark.parametrize("trusted", [["127.0.0.0/8"], ["10.0.0.0/8"], []])
def test_the_client_behind_a_proxy(kind, app, trusted):
    with Daemon(config(kind, app, trusted_proxies=trusted, forwarded_headers=NAMED), FILES) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        body = request(address, "/who", **TOLD)
        (line,) = map(json.loads, lines(daemon, 1))
        believed = trusted == ["127.0.0.0/8"]
        client, scheme = ("192.0.2.7", "https") if believed else ("127.0.0.1", "http")
        assert line["client"] == client
        assert (line["request_id"] == "abc") == believed
        if kind == "asgi":
            assert body == f"{[client, scheme, address]}."
        else:
            url = f"{scheme}://{address}/who"
            assert json.loads(body) == [client, scheme, address, url, line["request_id"], client]


@KINDS
def test_each_request_of_a_connection_is_for_itself(kind, app):
    with Daemon(config(kind, app, trusted_proxies=["127.0.0.1"], forwarded_headers=NAMED), FILES) as daemon:
        daemon.expect("READY=1")
        host, _, port = daemon.addresses()[0].rpartition(":")
        client = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        with contextlib.closing(client):
            for headers in (
                {"X-Forwarded-For": "192.0.2.7", "X-Request-ID": "abc"},
                {},
                {"X-Forwarded-For": "192.0.2.8"},
            ):
                client.request("GET", "/who", headers=headers)
                client.getresponse().read()
        found = [json.loads(line) for line in lines(daemon, 3)]
        assert [each["client"] for each in found] == ["192.0.2.7", "127.0.0.1", "192.0.2.8"]
        assert found[0]["request_id"] == "abc"
        assert len({each["request_id"] for each in found}) == 3


@KINDS
def test_each_request_of_a_connection_has_an_id_without_proxies_too(kind, app):
    with Daemon(config(kind, app), FILES) as daemon:
        daemon.expect("READY=1")
        host, _, port = daemon.addresses()[0].rpartition(":")
        client = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        with contextlib.closing(client):
            for _ in range(3):
                client.request("GET", "/who")
                client.getresponse().read()
        assert len({json.loads(line)["request_id"] for line in lines(daemon, 3)}) == 3


@KINDS
def test_forwarded_with_a_host(kind, app):
    settings = config(kind, app, trusted_proxies=["127.0.0.1"], forwarded_headers="forwarded")
    with Daemon(settings, FILES) as daemon:
        daemon.expect("READY=1")
        value = 'for=6.6.6.6, for="[2001:db8::7]:99";proto=https;host="shop.example:8443"'
        body = request(daemon.addresses()[0], "/who", Forwarded=value, X_Forwarded_For="5.5.5.5")
        if kind == "asgi":
            assert body == f"{['2001:db8::7', 'https', 'shop.example:8443']}."
        else:
            url = "https://shop.example:8443/who"
            assert json.loads(body)[:4] == ["2001:db8::7", "https", "shop.example:8443", url]


def test_the_client_stays_while_a_worker_drains():
    with Daemon(config(trusted_proxies=["127.0.0.1"]), FILES) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            ask = b"GET /who HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\n"
            sock.sendall(ask)  # the rest comes when the worker drains
            daemon.signal(signal.SIGTERM)
            daemon.wait_log("stopping")
            daemon.until(lambda: daemon.status()["pools"]["web"]["workers"][0]["state"] == "draining")
            sock.sendall(b"\r\n")
            assert b'["192.0.2.7", "http"' in replies.read()
        assert daemon.wait() == 0


# --- nobody forges a line -------------------------------------------------------------------------


@KINDS
def test_injection(kind, app):
    agent = b'x"\\\x1b[31m\xff\xc3\xa9\x7f\xc2\x9b" 200 1 "'
    for form in ("json", "combined"):
        with Daemon(config(kind, app, access_log=form), FILES) as daemon:
            daemon.allow("400|Bad|Invalid")
            daemon.expect("READY=1")
            with connect(daemon.addresses()[0]) as sock:
                ask = b'GET /?"\\q HTTP/1.1\r\nHost: x\r\nReferer: ' + b"r" * 5000 + b"\r\nUser-Agent: "
                sock.sendall(
                    ask + agent.replace(b"\x1b", b"\t").replace(b"\x7f", b"") + b"\r\nConnection: close\r\n\r\n"
                )
                assert sock.recv(12).endswith((b"200", b"201"))
            (line,) = lines(daemon, 1)
            assert line.isascii()
            assert line.isprintable()
            if form == "json":
                found = json.loads(line)
                assert found["user_agent"] == 'x"\\\t[31m\\xffé\x9b" 200 1 "'
            else:
                found = COMBINED.fullmatch(line).groupdict()
                assert found["user_agent"] == r"x\x22\x5C\x09[31m\xFF\xC3\xA9\xC2\x9B\x22 200 1 \x22"
            assert found["referer"] == "r" * 800 + "..."


def shaped(form, described):
    """Return a line of a request as it is described."""
    worker = types.SimpleNamespace(pool="p" * 64, slot=1023, generation=10**9)
    options = types.SimpleNamespace(access_log=form, access_log_file=None)
    context = types.SimpleNamespace(server="s" * 64, options=options, worker=worker, log=logging.getLogger())
    kept = []

    def writer(_path, shape, _what, _log):
        return types.SimpleNamespace(add=lambda item: kept.append(shape(item)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hourd.kinds.access_log.LineWriter", writer)
        log = AccessLog(context, lambda subject: subject)
    for _ in range(2):  # the second time, some of it is known
        log.note(described, 200, 10**12, 10.0**6, ["i" * 128])
    assert kept[0].count('"') == kept[1].count('"')
    return kept


TEXT = st.one_of(
    st.text(max_size=30),
    st.text().map(lambda text: text * 500),
    st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")),
)


@pytest.mark.parametrize("form", ["common", "combined", "json"])
@given(st.tuples(TEXT, TEXT, TEXT), TEXT, st.one_of(st.none(), st.binary(), TEXT))
def test_a_line_of_anything_is_one_line(form, texts, referer, agent):
    client, method, target = texts
    for line in shaped(form, (target, (client, method, "HTTP/1.1", referer, agent))):
        assert len(line.encode("ascii")) <= LINE_MAX
        assert line.endswith("\n")
        assert line[:-1].isprintable()
        if form == "json":
            assert list(json.loads(line)) == KEYS
        else:
            assert line.count('"') == {"common": 2, "combined": 6}[form]


def test_requests_in_one_piece_have_ids_of_their_own():
    app = """
from hourd import request_id
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"29")]})
    await send({"type": "http.response.body", "body": request_id.current().encode() + b"\\n"})
"""
    with Daemon(config("asgi", "app:app", access_log=False), {"app.py": app}) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
            ids = (line for line in replies if re.fullmatch(rb"[0-9a-f]{28}\n", line))
            assert len({next(ids) for _ in range(3)}) == 3


# --- files, and who does not read -----------------------------------------------------------------


def test_lines_of_workers_never_mix_and_rotation_loses_none():
    with Daemon(config(workers=2), FILES) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        total, rotated = 3000, []

        async def run():
            sent = 0

            async def ask(session, number):
                nonlocal sent
                agent = {"User-Agent": "x" * (number % 500)}
                async with session.get(f"http://{address}/?{number}", headers=agent) as response:
                    await response.read()
                sent += 1
                if sent % 700 == 0:
                    name = f"access.log.{len(rotated)}"
                    os.rename(daemon.folder / "access.log", daemon.folder / name)
                    rotated.append(name)
                    daemon.signal(signal.SIGUSR1)
                    # The next rotation comes once each worker has the new file.
                    await asyncio.to_thread(daemon.until, (daemon.folder / "access.log").exists)

            connector = aiohttp.TCPConnector(limit=20, force_close=True)
            async with aiohttp.ClientSession(connector=connector) as session:
                for start in range(0, total, 20):
                    await asyncio.gather(*(ask(session, number) for number in range(start, start + 20)))

        asyncio.run(run())

        def everything():
            names = [name for name in [*rotated, "access.log"] if (daemon.folder / name).exists()]
            return [line for name in names for line in (daemon.folder / name).read_text().splitlines()]

        found = daemon.until(lambda: all_ if len(all_ := everything()) >= total else None, "all lines")
        assert len(rotated) == 4
        parsed = [json.loads(line) for line in found]
        assert sorted(int(each["target"][2:]) for each in parsed) == list(range(total))
        assert len({each["pid"] for each in parsed}) == 2


def test_a_deleted_file_is_made_anew():
    with Daemon(config(), FILES) as daemon:
        daemon.allow("the file was deleted; another was made")
        daemon.expect("READY=1")
        request(daemon.addresses()[0], "/?1")
        lines(daemon, 1)
        (daemon.folder / "access.log").unlink()
        request(daemon.addresses()[0], "/?2")
        (line,) = lines(daemon, 1)
        assert json.loads(line)["target"] == "/?2"
        daemon.wait_log("the file was deleted")


@pytest.mark.parametrize("obstacle", ["link", "fifo", "folder", "hard link"])
def test_what_is_no_file_of_ours_is_refused(obstacle):
    daemon = Daemon(config(), FILES)
    path, other = daemon.folder / "access.log", daemon.folder / "other"
    other.write_text("")
    {"link": lambda: path.symlink_to(other), "fifo": lambda: os.mkfifo(path), "folder": path.mkdir,
     "hard link": lambda: path.hardlink_to(other)}[obstacle]()  # fmt: skip
    with daemon:
        daemon.allow("cannot open access.log for the access log of server main")
        assert daemon.wait() != 0
        assert "cannot open access.log for the access log of server main: " in daemon.log
    assert other.read_text() == "" if other.exists() else True


@pytest.mark.parametrize("where", ["/dev/stdout", None])
def test_a_pipe_that_nobody_reads_stops_nobody(where):
    daemon = Daemon(config(access_log_file=where, access_log="combined"), FILES)
    fifo = daemon.folder / "pipe"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    redirect = 'exec "$@" 1>pipe' if where else 'exec "$@" 2>pipe'
    daemon._command = ["sh", "-c", redirect, "sh", *daemon._command]
    try:
        with daemon:
            daemon.expect("READY=1")
            (pid,) = daemon.workers()
            host, _, port = daemon.addresses()[0].rpartition(":")
            client = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
            with contextlib.closing(client):
                for number in range(4000):
                    client.request("GET", f"/?{number}", headers={"User-Agent": "x" * 450})
                    client.getresponse().read()
            assert daemon.workers() == [pid]
            if where:
                daemon.allow("lines were dropped")
            # It is told when there is room again, so that everything has to be read.
            said = r"access log of server main \((/dev/stdout|standard error)\): \d+ lines were dropped"
            first = read_all(daemon, reader, lambda data: re.search(said, daemon.log + data.decode()))
            access = [line for line in first.splitlines() if b"GET /?" in line and b"Z " not in line[:30]]
            assert 100 < len(access) < 4000
            assert all(COMBINED.fullmatch(line.decode()) for line in access)
    finally:
        os.close(reader)


def read_all(daemon, reader, is_all):
    """Read a pipe until what has come is all, and nothing more comes."""
    data = b""

    def more():
        nonlocal data
        with contextlib.suppress(BlockingIOError):
            if got := os.read(reader, 1 << 20):
                data += got
                return False
        return is_all(data)

    daemon.until(more, "the pipe")
    return data


class Told(logging.Handler):
    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.fixture
def told():
    handler, logger = Told(), logging.getLogger("test.access_log")
    logger.addHandler(handler)
    yield handler.texts
    logger.removeHandler(handler)


LOGGER = logging.getLogger("test.access_log")


def test_a_full_disk_is_told_once_and_does_not_stop_it(told):
    async def run():
        # A device is no file, and is opened here in its place.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hourd.line_writer._open", lambda _: os.open("/dev/full", os.O_WRONLY))
            writer = LineWriter("file", bytes.decode, "log", LOGGER)
        for _ in range(5):
            writer.add(b"line\n")
            await asyncio.sleep(0.15)
        await writer.close()

    asyncio.run(run())
    assert told == ["log (file): No space left on device; lines are lost", "log (file): 5 lines were dropped"]


def test_the_last_lines_are_waited_for_but_not_for_long(told):
    async def run(read):
        reader, end = os.pipe()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hourd.line_writer._INHERITED", {"it": end})
            writer = LineWriter("it", bytes.decode, "log", LOGGER)
        os.close(end)
        for _ in range(50):
            writer.add(b"x" * 4000 + b"\n")
        loop = asyncio.get_running_loop()
        if read:
            count = 0
            closing = asyncio.create_task(writer.close())
            while data := await asyncio.to_thread(os.read, reader, 1 << 20):
                count += data.count(b"\n")
            await closing
            assert count == 50
            assert told == []
        else:
            start = loop.time()
            await writer.close()
            assert 0.9 < loop.time() - start < PATIENCE
            assert told == ["log (it): the last lines were not taken within 1s"]
        os.close(reader)

    asyncio.run(run(read=True))
    asyncio.run(run(read=False))


def test_a_description_that_somebody_made_non_blocking(told):
    async def run():
        reader, end = os.pipe()
        os.set_blocking(end, False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hourd.line_writer._INHERITED", {"it": end})
            writer = LineWriter("it", bytes.decode, "log", LOGGER)
        os.close(end)
        for _ in range(100):
            writer.add(b"x" * 3000 + b"\n")
        closing = asyncio.create_task(writer.close())
        count = 0
        while data := await asyncio.to_thread(os.read, reader, 1 << 20):
            count += data.count(b"\n")
        await closing
        os.close(reader)
        assert count == 100

    asyncio.run(run())
    assert told == []


def test_a_socket_as_the_journal_has_it(told):
    ours, theirs = socket.socketpair()

    async def run():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hourd.line_writer._INHERITED", {"it": theirs.fileno()})
            writer = LineWriter("it", bytes.decode, "log", LOGGER)
        writer.add(b"one\n")
        writer.add(b"two\n")
        await writer.close()

    asyncio.run(run())
    theirs.close()
    assert ours.recv(100) == b"one\ntwo\n"
    assert theirs.fileno() == -1
    ours.close()
    assert told == []

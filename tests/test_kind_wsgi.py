"""``kind: wsgi``: all of PEP 3333, in threads and in the event loop."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import re
import threading
from pathlib import Path

import pytest

from hourd.kinds.wsgi_threads import Threads

from .around import GATE, PATIENCE, Gate, connect
from .daemon import Daemon, pool
from .witness import KeepAlive

APP = Path(__file__).with_name("wsgi_app.py").read_text()
LARGE = bytes(range(256)) * 4096
MODES = ("inline", "threads")
ON_PURPOSE = (
    r"Exception in ASGI application.*on purpose", r"after its response.*on purpose", r"Content-Length says", r"not call start_response",
    r"expected bytes", r"called again without exc_info",
)  # fmt: skip


def wsgi(app="app", **options):
    return {"kind": "wsgi", "app": f"app:{app}", "bind": "127.0.0.1:0", "grace": "10s", "options": options}


def one(app="app", *, workers=1, grace="10s", **options):
    return pool(workers=workers, server={**wsgi(app, **options), "grace": grace})


@pytest.fixture(scope="module")
def daemon():
    servers = {"inline": wsgi(inline=True), "threads": wsgi(threads=4)}
    config = {"pools": {"web": {"workers": 1, "servers": servers}}}
    with Daemon(config, {"app.py": APP, "gate.py": GATE}) as daemon:
        (daemon.folder / "large").write_bytes(LARGE)
        daemon.expect("READY=1")
        yield daemon


@pytest.fixture(params=MODES)
def address(request, daemon):
    address = daemon.addresses(server=request.param)[0]
    ask(address, "/notes?clear")
    return address


@pytest.fixture(params=["", "/checked"], ids=["plain", "checked"])
def prefix(request):
    return request.param


def ask(address, path, method="GET", body=None):
    """Ask once; returns the response, with what it holds as ``body``."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body)
        response = connection.getresponse()
        response.body = response.read()
        return response


def notes(address):
    return json.loads(ask(address, "/notes").body)


def talk(address, request):
    """Send bytes and return all that comes back until the end."""
    with connect(address) as sock:
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def said(address, request):
    """Send a request as it is and return the body of the response."""
    with connect(address) as sock:
        sock.sendall(request)
        with contextlib.closing(http.client.HTTPResponse(sock)) as response:
            response.begin()
            return response.read()


def get(path, *headers, method="GET", version="1.1"):
    lines = [f"{method} {path} HTTP/{version}", "Host: example.org:81", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def test_an_environ_is_complete(daemon, address):
    headers = ("Content-Type: text/x", "X-Two: a", "X-Two: b", "Cookie: a=1", "Cookie: b=2", "X_Forwarded_For: evil",
               "Content_Length: 7", "Umlaut: \xe4")  # fmt: skip
    environ = json.loads(said(address, get("/checked/a%2Fb%20%E9%C3%A9?q=%20&x=%FF", *headers)))
    host, _, port = address.rpartition(":")
    wanted = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/checked/a/b \xe9\xc3\xa9",
        "QUERY_STRING": "q=%20&x=%FF",
        "REQUEST_URI": "/checked/a%2Fb%20%E9%C3%A9?q=%20&x=%FF",
        "CONTENT_TYPE": "text/x",
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "example.org:81",
        "HTTP_X_TWO": "a,b",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_UMLAUT": "\xe4",
        "wsgi.version": [1, 0],
        "wsgi.url_scheme": "http",
        "wsgi.multithread": address == daemon.addresses(server="threads")[0],
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert {name: environ[name] for name in wanted} == wanted
    assert int(environ["REMOTE_PORT"]) > 0
    assert not {"HTTP_X_FORWARDED_FOR", "CONTENT_LENGTH", "HTTP_CONTENT_TYPE"} & set(environ)


@pytest.mark.parametrize("root", ["", "/shop"])
def test_a_root_path_and_a_unix_socket(root, tmp_path):
    config = one(**({"root_path": root} if root else {}))
    config["pools"]["web"]["servers"]["main"]["bind"] = f"unix:{tmp_path}/s"
    with Daemon(config, {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        environ = json.loads(said(daemon.addresses()[0], get("/shop/a%20b")))
        assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (root, "/shop/a b")
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"], environ["REMOTE_ADDR"]) == ("example.org", "81", "")


@pytest.mark.parametrize(
    ("path", "length", "body", "noted"),
    [
        ("pieces", "13", b"one two three", []),
        ("many", "200000", b"x" * 200_000, []),
        ("empty", "0", b"", []),
        ("stream", None, b"one two three", ["closed stream"]),
        ("late", None, b"late", ["after the last part"]),
        ("exact", "5", b"exact", ["after the length"]),
        ("write", None, b"one two three", ["closed write"]),
        ("write-much", None, b"x" * 4_000_000, []),
        ("file", str(len(LARGE)), LARGE, ["closed file"]),
        ("rest-of-file", "20", LARGE[10:30], []),
        ("file-like", None, b"like a file" * 1000, []),
    ],
)
def test_responses(daemon, address, prefix, path, length, body, noted):
    for method in ("GET", "HEAD"):
        response = ask(address, f"{prefix}/{path}", method)
        assert response.status in (200, 206)
        assert response.body == (body if method == "GET" else b"")
        if method == "GET" and not prefix:  # which hides what it is from the server
            assert response.headers["Content-Length"] == length
            assert (response.headers["Transfer-Encoding"] == "chunked") == (length is None)
        daemon.until(lambda: notes(address) == noted)
        ask(address, "/notes?clear")


def test_the_length_of_what_was_left_out_for_head_is_not_made_up(address):
    assert ask(address, "/pieces", "HEAD").headers["Content-Length"] == "13"
    assert ask(address, "/empty", "HEAD").headers["Content-Length"] is None


@pytest.mark.parametrize("path", ["no-content", "not-modified"])
def test_statuses_without_a_body_keep_the_connection(daemon, address, path):
    reply = talk(address, get(f"/{path}").replace(b"Connection: close\r\n", b"") + get("/pid"))
    first, second, body = reply.split(b"\r\n\r\n")
    assert b"content-length" not in first
    assert b"chunked" not in first
    assert second.startswith(b"HTTP/1.1 200 OK")
    assert int(body) in daemon.workers()
    daemon.until(lambda: notes(address) == [f"closed {path.replace('-', ' ')}"])


def chunked(size):
    return (b"x" * 60_000 for _ in range(size // 60_000))


@pytest.mark.parametrize("size", [0, 60_000, 6_000_000])
def test_request_bodies(daemon, address, prefix, size):
    assert ask(address, f"{prefix}/echo", "POST", b"y" * size).body == b"y" * size
    for body in (b"x" * size, chunked(size)):
        assert ask(address, f"{prefix}/count", "POST", body).body == b"%d %d" % (size, size)


def test_a_body_is_read_by_lines(address, prefix):
    assert json.loads(ask(address, f"{prefix}/lines", "POST", b"a\nb\nc").body) == ["a\n", "b\n", "c"]


def test_a_client_that_waits_to_be_asked_for_its_body_is(address):
    with connect(address) as sock, sock.makefile("rb") as replies:
        sock.sendall(get("/echo", "Content-Length: 4", "Expect: 100-continue", method="POST"))
        assert replies.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert replies.readline() == b"\r\n"
        sock.sendall(b"body")
        assert replies.read().endswith(b"\r\n\r\nbody")


def test_large_bodies_are_not_kept_in_memory(daemon, address):
    def memory():
        return Path(f"/proc/{daemon.workers()[0]}/status").read_text().split("VmHWM:")[1].split()[0]

    ask(address, "/count", "POST", chunked(6_000_000))
    before = int(memory())
    assert ask(address, "/count", "POST", chunked(60_000_000)).body == b"60000000 60000000"
    assert int(memory()) - before < 20_000


def test_exc_info_replaces_what_was_not_sent(daemon, address, prefix):
    response = ask(address, f"{prefix}/replaced")
    assert (response.status, response.body) == (503, b"sorry")
    assert (response.headers["X-First"], response.headers["X-Second"]) == (None, "yes")
    daemon.until(lambda: notes(address) == ["closed replaced"])


@pytest.mark.parametrize("path", ["too-late", "fails-on-the-way", "short"])
def test_what_fails_on_its_way_is_seen_to_be_incomplete(daemon, address, path):
    daemon.allow(*ON_PURPOSE)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        ask(address, f"/{path}")
    daemon.until(lambda: notes(address) == [f"closed {path.split('-on')[0].replace('-', ' ')}"])


def test_to_write_more_than_the_length_is_an_error(daemon, address):
    daemon.allow(*ON_PURPOSE)
    before = len(re.findall("ValueError: write.. was given more", daemon.log))
    response = ask(address, "/write-past")
    # In the event loop nothing can be sent while the application runs.
    inline = address == daemon.addresses(server="inline")[0]
    assert (response.status, response.body) == ((500, b"Internal Server Error") if inline else (200, b"four"))
    daemon.until(lambda: len(re.findall("ValueError: write.. was given more", daemon.log)) == before + 1)


@pytest.mark.parametrize("path", ["fail", "leaves", "twice", "no-start", "no-bytes", "nothing-of-ten"])
def test_what_fails_before_is_an_error(daemon, address, path):
    daemon.allow(*ON_PURPOSE)
    before = len(re.findall("Exception in ASGI", daemon.log))
    response = ask(address, f"/{path}")
    assert (response.status, response.body) == (500, b"Internal Server Error")
    assert len(re.findall("Exception in ASGI", daemon.log)) == before + 1


def test_what_fails_afterwards_is_logged(daemon, address):
    daemon.allow(*ON_PURPOSE)
    before = len(re.findall("after its response", daemon.log))
    assert ask(address, "/fails-to-close").body == b"good"
    daemon.until(lambda: len(re.findall("after its response", daemon.log)) == before + 1)


def test_no_more_is_sent_than_the_length(daemon, address):
    assert ask(address, "/long").body == b"long"
    daemon.until(lambda: notes(address) == ["closed long"])


@pytest.mark.parametrize(
    "answer",
    [
        ["200 OK", [["X", "a\r\nSet-Cookie: b=c"]]],
        ["200 OK", [["X", "a\nb"]]],
        ["200 OK", [["X\r\nY", "a"]]],
        ["200 OK", [["X Y", "a"]]],
        ["200 OK", [["", "a"]]],
        ["200 OK", [["X", "\u20ac"]]],
        ["200 OK", [["X", 3]]],
        ["200 OK", [["Transfer-Encoding", "chunked"]]],
        ["200 OK", [["Upgrade", "h2c"]]],
        ["200 OK", [["Content-Length", "-1"]]],
        ["200 OK", [["Content-Length", "4"], ["Content-Length", "5"]]],
        ["200 OK\r\nX: y", []],
        ["OK", []],
        ["99 Low", []],
        ["101 Switching Protocols", []],
        ["600 High", []],
        [200, []],
    ],
)
def test_what_cannot_be_sent_is_refused(daemon, address, answer):
    daemon.allow("(?:header|status|Content-Length|codec).*")
    assert ask(address, "/odd", "POST", json.dumps(answer).encode()).status == 500


def test_what_can_be_sent_is(address):
    headers = [["X-Umlaut", "\xe4\tb"], ["Set-Cookie", "a=1"], ["Set-Cookie", "b=2"]]
    response = ask(address, "/odd", "POST", json.dumps(["299 \xc4ny", headers]).encode())
    assert (response.status, response.body, response.headers["X-Umlaut"]) == (299, b"good", "\xe4\tb")
    assert response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]


@pytest.mark.parametrize(("said", "heard"), [("keep-alive, X-Mine", None), ("Close, X-Mine", "close")])
def test_of_the_connection_only_its_end_is_the_application_s_to_say(address, said, heard):
    headers = [["X-Mine", "1"], ["Connection", said], ["Keep-Alive", "timeout=5"]]
    response = ask(address, "/odd", "POST", json.dumps(["200 OK", headers]).encode())
    assert (response.status, response.body, response.headers["X-Mine"]) == (200, b"good", "1")
    assert (response.headers["Connection"], response.headers["Keep-Alive"]) == (heard, None)


def test_the_error_stream_is_the_log(daemon, address):
    records = [r"error +hourd.*first line\nsecond line\nthird line\n", r"error +hourd.*without a flush\n"]
    daemon.allow(*records)
    before = [len(re.findall(each, daemon.log)) for each in records]
    assert ask(address, "/checked/error-stream").body == b"good"
    daemon.until(lambda: [len(re.findall(each, daemon.log)) for each in records] == [each + 1 for each in before])


def test_context_variables_are_the_request_s(address):
    assert [ask(address, "/context").body for _ in range(3)] == [b"nobody somebody"] * 3


def test_a_client_that_does_not_read_holds_the_application_up(daemon, address):
    with connect(address) as sock:
        sock.sendall(get("/endless"))
        seen = [-1]

        def has_stopped():
            seen.append(len(notes(address)))
            threading.Event().wait(0.05)
            return len(seen) > 4 and len(set(seen[-4:])) == 1 and seen[-1]

        assert daemon.until(has_stopped) * 65536 < 32_000_000
    daemon.until(lambda: notes(address)[-1] == "closed endless")


@pytest.mark.parametrize("path", ["endless", "drip", "file"])
def test_a_client_that_leaves_ends_the_response(daemon, address, path):
    if path == "file":
        (daemon.folder / "large").write_bytes(LARGE * 40)
    with connect(address) as sock:
        sock.sendall(get(f"/{path}"))
        sock.recv(1000)
    daemon.until(lambda: notes(address)[-1:] == [f"closed {path}"])
    (daemon.folder / "large").write_bytes(LARGE)


def test_a_client_that_leaves_in_the_middle_of_its_body_is_forgotten(daemon, address):
    with connect(address) as sock:
        sock.sendall(get("/stream", "Content-Length: 1000000", method="POST") + b"x" * 100)
        daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["connections"] == 1)
    daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["connections"] == 0)
    assert notes(address) == []  # it was not called


def test_threads_run_at_the_same_time(daemon):
    address = daemon.addresses(server="threads")[0]
    answers = []
    asking = [threading.Thread(target=lambda: answers.append(ask(address, "/together").body)) for _ in range(4)]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    assert len(set(answers)) == 4


def test_threads_that_cannot_be_begun_are_not_counted(monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    threads, done, gate = Threads(2, "test"), queue.SimpleQueue(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            threads.submit(gate.wait)
    assert not threads.unfinished
    threads.submit(gate.wait)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        threads.submit(lambda: done.put("by the one that there is"))
    gate.set()
    assert done.get(timeout=PATIENCE) == "by the one that there is"
    both = threading.Barrier(3, timeout=PATIENCE)
    for _ in range(2):
        threads.submit(lambda: done.put(threading.current_thread().name) or both.wait())
    both.wait()
    assert {done.get(timeout=PATIENCE) for _ in range(2)} == {"test-1", "test-2"}


def test_a_thread_that_waits_holds_up_neither_the_loop_nor_uploads():
    with Daemon({**one(threads=1)}, {"app.py": APP, "gate.py": GATE}) as daemon:
        daemon.allow("2 requests wait for one of 1 threads")
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with (
            Gate(daemon.folder) as gate,
            connect(address) as first,
            connect(address) as second,
            connect(address) as third,
        ):
            first.sendall(get("/gate"))
            _, waiting = gate.next()
            second.sendall(get("/echo", "Content-Length: 3000000", method="POST") + b"x" * 3_000_000)
            third.sendall(get("/stream"))
            daemon.wait_log("2 requests wait for one of 1 threads")
            assert daemon.status()["pools"]["web"]["workers"][0]["state"] == "serving"
            third.close()
            daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["connections"] == 2)
            waiting.close()
            assert receive_all(first).endswith(b"\r\n\r\nthrough")
            assert receive_all(second).endswith(b"\r\n\r\n" + b"x" * 3_000_000)
            assert notes(address) == ["at the gate"]


def receive_all(sock):
    return b"".join(iter(lambda: sock.recv(65536), b""))


def test_a_slow_upload_holds_no_thread():
    with Daemon(one(threads=1), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with connect(address) as slow:
            slow.sendall(get("/echo", "Content-Length: 4", method="POST") + b"sl")
            assert ask(address, "/pid").status == 200
            slow.sendall(b"ow")
            assert receive_all(slow).endswith(b"\r\n\r\nslow")


def test_a_slow_download_of_a_file_holds_no_thread():
    with Daemon(one(threads=1), {"app.py": APP}) as daemon:
        (daemon.folder / "large").write_bytes(LARGE * 20)
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with connect(address) as slow:
            slow.sendall(get("/file"))
            slow.recv(100)
            assert ask(address, "/pid").status == 200
            assert len(receive_all(slow)) > len(LARGE) * 19


def test_a_reload_waits_for_a_thread():
    with Daemon(one(), {"app.py": APP, "gate.py": GATE}) as daemon:
        daemon.expect("READY=1")
        with Gate(daemon.folder) as gate, connect(daemon.addresses()[0]) as sock:
            sock.sendall(get("/gate"))
            pid, waiting = gate.next()
            assert daemon.reload().ok
            assert pid not in daemon.workers()
            waiting.close()
            assert receive_all(sock).endswith(b"\r\n\r\nthrough")
            daemon.wait_for_the_old()


@pytest.mark.parametrize("path", ["gate", "gate-at-close"])
def test_a_thread_whose_client_is_gone_has_its_time_too(path):
    with Daemon(one(), {"app.py": APP, "gate.py": GATE}) as daemon:
        daemon.expect("READY=1")
        with Gate(daemon.folder) as gate:
            with connect(daemon.addresses()[0]) as sock:
                sock.sendall(get(f"/{path}"))
                pid, waiting = gate.next()
            assert daemon.reload().ok
            threading.Event().wait(1)  # which is longer than nobody has a grace
            assert "draining" in {each["state"] for each in daemon.pool()["workers"] if each["pid"] == pid}
            waiting.close()
            daemon.wait_for_the_old()


def test_a_thread_that_never_ends_does_not_keep_its_worker():
    with Daemon(one(grace="500ms"), {"app.py": APP}) as daemon:
        daemon.allow("cut 1 connections", "1 calls of the application did not end")
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            sock.sendall(get("/forever"))
            daemon.until(lambda: notes(daemon.addresses()[0]) == ["forever"])
            assert daemon.reload().ok
            daemon.wait_for_the_old()
            assert "did not end" in daemon.log
            assert "killed" not in daemon.log


@pytest.mark.parametrize("mode", MODES)
def test_a_client_with_keep_alive_sees_no_error_over_reloads(mode):
    options = {"inline": True} if mode == "inline" else {}
    with Daemon(one(workers=2, **options), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        with KeepAlive(daemon.addresses()[0], 8) as clients:
            for _ in range(3):
                clients.wait_for(50)
                assert daemon.reload().ok
            clients.wait_for(50)


@pytest.mark.parametrize(
    ("app", "body"),
    [("Class", b"class"), ("instance", b"object"), ("make", b"object"), ("make_configured", b"object"),
     ("make_async", b"object"), ("make_with", b"object")],
)  # fmt: skip
def test_each_form_of_application(app, body):
    with Daemon(one(app, inline=app != "make"), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        assert ask(daemon.addresses()[0], "/").body == body


@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("asgi", "expected a WSGI application, or a factory of one"),
        ("makes_nothing", "made None, expected a WSGI application"),
        ("NOTES", r"app is \[\], expected a WSGI application"),
    ],
)
def test_what_is_no_application_does_not_start(app, why):
    with Daemon(one(app), {"app.py": APP}) as daemon:
        daemon.allow("server main")
        assert daemon.wait() == 75
        assert re.search(why, daemon.log)


def test_threads_and_inline_exclude_each_other():
    with Daemon(one(inline=True, threads=2), {"app.py": APP}) as daemon:
        daemon.allow("inline")
        assert daemon.wait() == 78
        assert "web.servers.main.options: inline: true calls the application in no thread" in daemon.log


@pytest.mark.parametrize("mode", MODES)
def test_a_body_that_is_too_large_is_refused(mode):
    options = {"inline": True} if mode == "inline" else {}
    with Daemon(one(client_max_size="1MiB", **options), {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        assert ask(address, "/count", "POST", b"x" * 1024 * 1024).status == 200
        for more in ("Content-Length: 1048577", "Transfer-Encoding: chunked"):
            with connect(address) as sock:
                sock.sendall(get("/count", more, method="POST"))
                if "chunked" in more:
                    sock.sendall((b"10000\r\n" + b"x" * 65536 + b"\r\n") * 16 + b"1\r\nx\r\n")
                assert sock.recv(1000).startswith(b"HTTP/1.1 413 ")

"""A WSGI application that does all that one may do, for ``test_kind_wsgi.py``; copied into the daemon's folder."""

import contextvars
import io
import json
import os
import sys
import threading
from wsgiref.validate import validator

NOTES = []
WHO = contextvars.ContextVar("who", default="nobody")
BARRIER = threading.Barrier(4)
TEXT = [("Content-Type", "text/plain")]


class Part:
    """An iterable that notes that it is closed."""

    def __init__(self, name, parts):
        self.name, self.parts = name, iter(parts)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.parts)

    def close(self):
        NOTES.append(f"closed {self.name}")


def echo(environ, start_response):
    length = int(environ["CONTENT_LENGTH"])
    body = environ["wsgi.input"].read(length)
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(body)))])
    return [body]


def count(environ, start_response):
    size = 0
    while data := environ["wsgi.input"].read(65536):
        size += len(data)
    start_response("200 OK", TEXT)
    return [f"{size} {environ['CONTENT_LENGTH']}".encode()]


def lines(environ, start_response):
    start_response("200 OK", TEXT)
    return [json.dumps([line.decode() for line in environ["wsgi.input"]]).encode()]


def show(environ, start_response):
    start_response("200 OK", TEXT)
    return [json.dumps(environ, default=repr).encode()]


def notes(environ, start_response):
    start_response("200 OK", TEXT)
    body = json.dumps(NOTES).encode()
    if environ["QUERY_STRING"] == "clear":
        NOTES.clear()
    return [body]


def pieces(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"one ", b"", b"two ", b"three"]


def many(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"x" * 50_000] * 4


def empty(environ, start_response):
    start_response("200 OK", TEXT)
    return []


def stream(environ, start_response):
    start_response("200 OK", TEXT)
    return Part("stream", [b"one ", b"", b"two ", b"three"])


def late(environ, start_response):
    """Calls start_response() when it is asked for the first part only."""
    start_response("200 OK", TEXT)
    yield b"late"
    NOTES.append("after the last part")


def exact(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "5")])
    yield b"exact"
    NOTES.append("after the length")


def write(environ, start_response):
    put = start_response("200 OK", TEXT)
    put(b"one ")
    put(b"two ")
    return Part("write", [b"three"])


def write_much(environ, start_response):
    put = start_response("200 OK", TEXT)
    for _ in range(40):
        put(b"x" * 100_000)
    return []


def write_past(environ, start_response):
    put = start_response("200 OK", [*TEXT, ("Content-Length", "4")])
    put(b"four")
    put(b"five")
    return []


def replaced(environ, start_response):
    start_response("200 OK", [*TEXT, ("X-First", "yes")])
    try:
        raise RuntimeError("replaced on purpose")
    except RuntimeError:
        start_response("503 Later", [*TEXT, ("X-Second", "yes")], sys.exc_info())
    return Part("replaced", [b"sorry"])


def too_late(environ, start_response):
    start_response("200 OK", TEXT)
    return Part("too late", _too_late(start_response))


def _too_late(start_response):
    yield b"begun"
    try:
        raise RuntimeError("too late on purpose")
    except RuntimeError:
        start_response("500 Error", TEXT, sys.exc_info())
    yield b"never"


def twice(environ, start_response):
    start_response("200 OK", TEXT)
    start_response("200 OK", TEXT)
    return []


def fail(environ, start_response):
    raise RuntimeError("failed on purpose")


def leaves(environ, start_response):
    sys.exit("left on purpose")


def fails_on_the_way(environ, start_response):
    start_response("200 OK", TEXT)
    return Part("fails", _fails())


def _fails():
    yield b"begun"
    raise RuntimeError("on the way on purpose")


def fails_to_close(environ, start_response):
    start_response("200 OK", TEXT)
    return FailsToClose("fails to close", [b"good"])


class FailsToClose(Part):
    def close(self):
        raise RuntimeError("close on purpose")


def no_start(environ, start_response):
    return [b"body"]


def no_bytes(environ, start_response):
    start_response("200 OK", TEXT)
    return "text"


def short(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "10")])
    return Part("short", [b"short"])


def nothing_of_ten(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "10")])
    return []


def long(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "4")])
    return Part("long", [b"lo", b"ng and ", b"longer"])


def no_content(environ, start_response):
    start_response("204 No Content", [])
    return Part("no content", [])


def not_modified(environ, start_response):
    start_response("304 Not Modified", [("Content-Length", "10"), ("ETag", '"1"')])
    return Part("not modified", [b"not to be sent"])


def odd(environ, start_response):
    """Takes status and headers from the request."""
    status, headers = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    start_response(status, [tuple(each) for each in headers])
    return [b"good"]


def file(environ, start_response):
    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](Noting("large", "rb"))


class Noting(io.FileIO):
    def close(self):
        if not self.closed:
            NOTES.append("closed file")
        super().close()


def rest_of_file(environ, start_response):
    opened = open("large", "rb")
    opened.seek(10)
    start_response("206 Partial Content", [*TEXT, ("Content-Length", "20")])
    return environ["wsgi.file_wrapper"](opened, 8)


def file_like(environ, start_response):
    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](io.BytesIO(b"like a file" * 1000), 100)


def endless(environ, start_response):
    start_response("200 OK", TEXT)
    return Part("endless", _endless())


def _endless():
    while True:
        NOTES.append(len(NOTES))
        yield b"x" * 65536


def drip(environ, start_response):
    """Small parts without an end."""
    start_response("200 OK", TEXT)
    return Part("drip", iter(lambda: b"drop", None))


def error_stream(environ, start_response):
    print("first line", file=environ["wsgi.errors"])
    environ["wsgi.errors"].writelines(["second line\n", "third line\n"])
    environ["wsgi.errors"].flush()
    print("without a flush", file=environ["wsgi.errors"])
    start_response("200 OK", TEXT)
    return [b"good"]


def context(environ, start_response):
    before = WHO.get()
    WHO.set("somebody")
    start_response("200 OK", TEXT)
    yield f"{before} {WHO.get()}".encode()


def together(environ, start_response):
    """Comes to its end when four do it at the same time."""
    BARRIER.wait(30)
    start_response("200 OK", TEXT)
    return [threading.current_thread().name.encode()]


def pid(environ, start_response):
    body = b"%d" % os.getpid()
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(body)))])
    return [body]


def gate(environ, start_response):
    from gate import wait_at_gate

    NOTES.append("at the gate")
    wait_at_gate()
    start_response("200 OK", TEXT)
    return [b"through"]


def gate_at_close(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "5")])
    return Waiting("gate", [b"early"])


class Waiting(Part):
    def close(self):
        from gate import wait_at_gate

        wait_at_gate()


def forever(environ, start_response):
    NOTES.append("forever")
    threading.Event().wait()


def find(environ):
    name = environ["PATH_INFO"].strip("/").removeprefix("checked/").replace("-", "_") or "pid"
    return globals().get(name, show)


def dispatch(environ, start_response):
    return find(environ)(environ, start_response)


checked = validator(dispatch)


def app(environ, start_response):
    """What begins with /checked is looked at by wsgiref's validator."""
    if environ["PATH_INFO"].startswith("/checked/"):
        return checked(environ, start_response)
    return dispatch(environ, start_response)


class Class:
    """Itself an application, as PEP 3333 has an example of."""

    def __init__(self, environ, start_response):
        self.start = start_response

    def __iter__(self):
        self.start("200 OK", TEXT)
        yield b"class"


class Object:
    def __call__(self, environ, start_response):
        start_response("200 OK", TEXT)
        return [b"object"]


instance = Object()


def make():
    return instance


def make_configured(config=None, debug=False):
    return instance


async def make_async():
    return instance


def make_with(worker):
    assert worker.slot == 0
    return instance


async def asgi(scope, receive, send):
    raise AssertionError


def makes_nothing():
    return None

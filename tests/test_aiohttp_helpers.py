"""``hourd.aiohttp``: answers, request ids and environments, in applications that hourd serves."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import datetime as dt
import decimal
import enum
import json
import logging
import math
import re
import sqlite3
import types
import uuid

import aiohttp
import asyncpg
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

import hourd.aiohttp
from hourd import Worker, request_id
from hourd.aiohttp import HTML, JSON, Environment, HTMLError, JSONError, RequestIdFilter, dumps, environment

from .daemon import Daemon, connect, pool

APP = """
import asyncio
import logging

import msgspec
from aiohttp import web

from hourd import engines, request_id
from hourd.aiohttp import HTML, JSON, HTMLError, JSONError, add_request_id, environment

log = logging.getLogger("app")


class Note(msgspec.Struct):
    text: str
    stars: int = 0


async def shown(request):
    return JSON({"a": "é</script>", "n": 2**60}, status=201, headers={"X-Own": "1"})


async def page(request):
    return HTML("<p>é</p>")


async def refused(request):
    raise JSONError(409, {"error": "no"}, headers={"X-Own": "1"})


async def refused_page(request):
    raise HTMLError(404, "<p>é</p>")


async def unknown(request):
    return JSON({"items": [{"price": object()}]})


async def fail(request):
    log.info("before")
    raise RuntimeError("on purpose")


async def said(request):
    log.info("said")
    return web.Response(text=request_id.current())


@environment(json=True)
async def echo(request, env):
    return JSON([env.json, env.connection])


@environment(json=Note)
async def note(request, env):
    return JSON(env.json)


class View(web.View):
    @environment(json=list[int])
    async def post(self, env):
        return JSON([self.request.method, sum(env.json)])


class Handlers:
    @environment(json=True)
    async def echo(self, request, env):
        return JSON([type(self).__name__, env.json])


# --- with a database


async def insert(request, env):
    await env.connection.execute("INSERT INTO noted VALUES ($1)", request.match_info["how"])


@environment(transaction="db")
async def write(request, env):
    await insert(request, env)
    match request.match_info["how"]:
        case "returned":
            return JSON({})
        case "returned_redirect":
            return web.Response(status=303, headers={"Location": "/"})
        case "raised_redirect":
            raise web.HTTPSeeOther("/")
        case "returned_400":
            return JSON({}, status=400)
        case "raised_400":
            raise JSONError(400, {})
        case "raised":
            raise RuntimeError("on purpose")
        case "caught":
            try:
                await env.connection.execute("SELECT 1/0")
            except Exception:
                return JSON({})
        case "nested":
            try:
                async with env.connection.transaction():
                    await env.connection.execute("SELECT 1/0")
            except Exception:
                return JSON({})
        case "cut":
            try:
                await env.connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            except Exception:
                raise JSONError(418, {})
        case "nothing":
            return None
        case "deferred":
            await env.connection.execute("INSERT INTO child VALUES (1)")
            return JSON({})


@environment(transaction="db")
async def slow(request, env):
    # Until the test says so, or for ever.
    await insert(request, env)
    open("writing", "w").close()
    while not gone(request):
        await asyncio.sleep(0.01)
    return JSON({})


@environment(transaction="db")
async def stream(request, env):
    await insert(request, env)
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"all there is")
    open("writing", "w").close()
    while not gone(request):
        await asyncio.sleep(0.01)
    return response


@environment(transaction="db")
async def stuck(request, env):
    await insert(request, env)
    open("writing", "w").close()
    await env.connection.execute("SELECT pg_sleep(3600)")


def gone(request):
    return request.transport is None


@environment(json=Note, transaction="db")
async def both(request, env):
    await env.connection.execute("INSERT INTO noted VALUES ($1)", env.json.text)
    return JSON(await env.connection.fetch("SELECT what FROM noted WHERE what = $1", env.json.text))


@environment(transaction="nothing")
async def misnamed(request, env):
    return JSON({})


def make():
    app = web.Application()
    app.add_routes([
        web.get("/json", shown), web.get("/html", page), web.get("/refused", refused), web.get("/refused_page", refused_page),
        web.get("/unknown", unknown), web.get("/fail", fail), web.get("/said", said), web.post("/echo", echo),
        web.post("/note", note), web.view("/view", View), web.post("/method", Handlers().echo), web.post("/both", both),
        web.post("/slow/{how}", slow), web.post("/stream/{how}", stream), web.post("/stuck/{how}", stuck), web.post("/misnamed", misnamed), web.post("/write/{how}", write),
    ])
    return app


def with_ids():
    app = make()
    add_request_id(app)
    return app


def with_trusted_ids():
    app = make()
    add_request_id(app, trusted=["127.0.0.0/8"])
    return app


def with_ids_of_unix():
    app = make()
    add_request_id(app, trusted=["unix"])
    return app


lifespan = engines.compose(db=engines.postgresql("$TEST_DB", max_size=2))
"""
JSON_TYPE = "application/json; charset=utf-8"


def config(app="make", *, options=None, **settings):
    return pool(server={"kind": "aiohttp", "app": f"app:{app}", "options": options or {}}, **{"workers": 1, **settings})


async def ask(address, method, path, **options):
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{address}{path}", allow_redirects=False, **options) as response,
    ):
        return response.status, response.headers, await response.text()


def request(daemon, method, path, *, server="main", **options):
    return asyncio.run(ask(daemon.addresses(server=server)[0], method, path, **options))


@pytest.fixture(scope="module")
def daemon():
    """Provide one daemon for all tests that leave it as it is."""
    settings = config(options={"client_max_size": "1KiB"})
    servers = settings["pools"]["web"]["servers"]
    servers["large"] = {**servers["main"], "options": {"client_max_size": "1MiB"}}
    with Daemon(settings, {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("on purpose", "cannot be JSON")
        daemon.allow(
            "Can not decode content-encoding", "Invalid character in chunk size"
        )  # aiohttp tells of both itself
        yield daemon


# --- answers


class Hooked:
    def __json__(self):
        return '"injected"'

    def toDict(self):  # noqa: N802, the name that ujson would call
        return {}


class OnlyKeys:
    def keys(self):
        return ["a"]


class OddKeys:
    keys = ("a",)

    def __getitem__(self, key):
        return key


class Color(enum.Enum):
    RED = "red"
    ODD = object()


class Point(msgspec.Struct):
    x: int


class Renamed(msgspec.Struct):
    a: int | msgspec.UnsetType
    name: list = msgspec.field(name="shown")


@dataclasses.dataclass
class Size:
    width: int


class Name(str):
    __slots__ = ()


def row():
    """Return what sqlite3 gives for a row: it has keys, and is no Mapping."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.row_factory = sqlite3.Row
        return database.execute("SELECT 1 AS a").fetchone()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None, True, "é"]}, '{"a":[1,2.5,null,true,"é"]}'),
        (2**70, "1180591620717411303424"),
        (0.1, "0.1"),
        (decimal.Decimal("1.234567890123456789012345"), '"1.234567890123456789012345"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC), '"2026-01-31T12:00:00Z"'),
        (dt.date(2026, 1, 31), '"2026-01-31"'),
        ([Color.RED, Point(1), Size(2), (3,), {4}], '["red",{"x":1},{"width":2},[3],[4]]'),
        ({1: 2}, '{"1":2}'),
        (Name("x"), '"x"'),
        (types.MappingProxyType({"a": 1}), '{"a":1}'),
        ([row()], '[{"a":1}]'),
        ("a/b</script>", '"a/b</script>"'),
    ],
)
def test_what_json_can_say(value, text):
    assert dumps(value) == text


def test_what_stands_in_a_page_does_not_end_its_script():
    text = dumps({"a": "</script><!-- & \u2028"}, html_safe=True)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!-- & \u2028"}


CIRCLE: list = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"items": [{}, {"price": object()}]}, "$.items[1].price is a object"),
        ([1, math.nan], "$[1] is nan"),
        ({"a": math.inf}, "$.a is inf"),
        (b"secret", "$ is a bytes"),
        ({"a": {(1, 2): 3}}, "$.a has a key that is a tuple"),
        ({None: 3}, "$ has a key that is a NoneType"),
        (["\ud800"], "$[0] is text with half a surrogate pair"),
        (Hooked(), "$ is a Hooked"),
        (CIRCLE, "nested too deeply, or within itself"),
        (Point(math.nan), "$.x is nan"),
        ({"a": {1, Hooked}}, "$.a[...] is a type"),
        ([Size({"b": b""})], "$[0].width.b is a bytes"),
        (Renamed(msgspec.UNSET, [b""]), "$.shown[0] is a bytes"),
        (Color.ODD, "$ is a object"),
        (OnlyKeys(), "$ is a OnlyKeys"),
        ([OddKeys()], "$[0] is a OddKeys"),
    ],
)
def test_what_json_cannot_say_is_named_and_not_shown(value, message):
    with pytest.raises(TypeError) as caught:
        dumps(value)
    assert str(caught.value) == f"cannot be JSON: {message}"


def test_answers_and_errors_have_status_type_and_headers(daemon):
    status, headers, text = request(daemon, "GET", "/json")
    assert (status, headers["Content-Type"], headers["X-Own"]) == (201, JSON_TYPE, "1")
    assert text == '{"a":"é</script>","n":1152921504606846976}'
    assert request(daemon, "GET", "/html")[1]["Content-Type"] == "text/html; charset=utf-8"
    assert request(daemon, "GET", "/html")[2] == "<p>é</p>"
    status, headers, text = request(daemon, "GET", "/refused")
    assert (status, headers["Content-Type"], headers["X-Own"], text) == (409, JSON_TYPE, "1", '{"error":"no"}')
    status, headers, text = request(daemon, "GET", "/refused_page")
    assert (status, headers["Content-Type"], text) == (404, "text/html; charset=utf-8", "<p>é</p>")


def test_an_answer_that_cannot_be_json_is_an_error_that_says_where(daemon):
    assert request(daemon, "GET", "/unknown")[0] == 500
    daemon.wait_log(r"TypeError: cannot be JSON: \$\.items\[0\]\.price is a object")


def test_errors_are_exceptions_of_aiohttp():
    for error in (JSONError(503, {}, reason="Later"), HTMLError(400, "")):
        assert isinstance(error, web.HTTPError)
    assert JSONError(503, {}, reason="Later").reason == "Later"
    for status in (200, 302, 600):
        with pytest.raises(ValueError, match="no status of an error"):
            JSONError(status, {})
    assert not isinstance(JSON({}), web.HTTPException)
    assert not isinstance(HTML(""), web.HTTPException)


# --- bodies


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "answer"),
    [
        ("/echo", '{"a": [1]}', "application/json", 200, [{"a": [1]}, None]),
        ("/echo", '"é"', "application/vnd.api+json; charset=UTF-8", 200, ["é", None]),
        ("/echo", "null", "application/json", 200, [None, None]),
        ("/echo", "", "application/json", 400, "the body is empty, expected JSON"),
        ("/echo", "{", "application/json", 400, "Input data was truncated"),
        ("/echo", "[1 2]", "application/json", 400, "JSON is malformed: expected ',' or ']' (byte 3)"),
        ("/echo", "[NaN]", "application/json", 400, "JSON is malformed: invalid character (byte 1)"),
        ("/echo", b'"\xff"', "application/json", 400, None),
        ("/echo", b'"\\ud800"', "application/json", 400, None),
        ("/echo", "[" * 500 + "]" * 500, "application/json", 200, None),
        ("/echo", "{}", "text/plain", 415, "the body has to be application/json, not text/plain"),
        ("/echo", "{}", "application/x-www-form-urlencoded", 415, None),
        ("/echo", "{}", "application/json; charset=utf-16", 415, "the body has to be in UTF-8, not utf-16"),
        ("/echo", " " * 1025, "application/json", 413, "Maximum request body size 1024 exceeded."),
        ("/note", '{"text": "x"}', "application/json", 200, {"text": "x", "stars": 0}),
        ("/note", '{"text": "x", "stars": "many"}', "application/json", 422, "Expected `int`, got `str` - at `$.stars`"),
        ("/note", "{}", "application/json", 422, "Object missing required field `text`"),
        ("/note", '{"text": "x"', "application/json", 400, "Input data was truncated"),
        ("/view", "[1, 2]", "application/json", 200, ["POST", 3]),
        ("/view", '["1"]', "application/json", 422, "Expected `int`, got `str` - at `$[0]`"),
        ("/method", "1", "application/json", 200, ["Handlers", 1]),
    ],
)  # fmt: skip
def test_a_body(daemon, path, body, kind, status, answer):
    got, headers, text = request(daemon, "POST", path, data=body, headers={"Content-Type": kind})
    assert (got, headers["Content-Type"]) == (status, JSON_TYPE), text
    if status == 200:
        assert answer is None or json.loads(text) == answer
    else:
        assert list(json.loads(text)) == ["error"]
        assert answer is None or json.loads(text)["error"] == answer


def test_a_body_nested_too_deeply(daemon):
    body = "[" * 100_000 + "]" * 100_000
    status, _, text = request(
        daemon, "POST", "/echo", server="large", data=body, headers={"Content-Type": "application/json"}
    )
    assert (status, json.loads(text)) == (400, {"error": "JSON is nested too deeply"})


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n\r\n",
    ],
)
def test_a_body_that_breaks_off_is_the_clients_fault(daemon, body):
    with connect(daemon.addresses()[0]) as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + body)
        assert re.fullmatch(rb"HTTP/1\.[01] 400", sock.recv(12))


def test_an_environment_without_anything_is_a_mistake():
    with pytest.raises(TypeError, match="asked for nothing"):
        environment()


def test_a_handler_keeps_its_name_and_is_a_coroutine_function():
    @environment(json=dict[str, int])
    async def add(request: web.Request, env: Environment[dict[str, int]]) -> web.Response:
        return JSON(sum(env.json.values()))

    assert add.__name__ == "add"
    assert asyncio.iscoroutinefunction(add)
    with pytest.raises(JSONError) as caught:
        asyncio.run(add(make_mocked_request("POST", "/")))
    assert caught.value.status == 415


# --- request ids


def test_each_request_has_an_id_in_its_answer_and_in_logs():
    log = {"level": "info", "format": "json"}
    with Daemon({**config("with_ids"), "log": log}, {"app.py": APP}) as daemon:
        daemon.allow(".*")  # its lines are JSON
        daemon.expect("READY=1")

        async def talk():
            async with aiohttp.ClientSession() as session:
                url = f"http://{daemon.addresses()[0]}"
                for path, status in (
                    ("/said", 200),
                    ("/fail", 500),
                    ("/refused", 409),
                    ("/missing", 404),
                    ("/said", 200),
                ):
                    async with session.get(url + path, headers={"X-Request-ID": "forged"}) as response:
                        assert response.status == status
                        found = response.headers.getall("X-Request-ID")
                        assert path != "/said" or [await response.text()] == found
                        yield path, *found

        async def all_of_it():
            return [each async for each in talk()]

        found = asyncio.run(all_of_it())
        ids = [each for _, each in found]
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch("[0-9a-f]{28}", each) for each in ids)
        records = [json.loads(line) for line in daemon.log.splitlines()]
        of = {path: [each["message"] for each in records if each.get("request_id") == found] for path, found in found}
        assert of["/said"] == ["said"]
        assert of["/fail"] == ["before", "Error handling request from 127.0.0.1"]  # with the traceback
        assert not [
            each
            for each in records
            if each["logger"].startswith("hourd") and "request_id" in each and "listens" in each["message"]
        ]


def test_an_id_is_taken_from_who_is_trusted_if_it_is_one(tmp_path):
    bind = ["127.0.0.1:0", f"unix:{tmp_path}/s"]
    settings = config(loop="asyncio")
    settings["pools"]["web"]["servers"] = {
        "tcp": {"kind": "aiohttp", "app": "app:with_trusted_ids", "bind": bind},
        "unix": {"kind": "aiohttp", "app": "app:with_ids_of_unix", "bind": [bind[0], f"{bind[1]}2"]},
        "none": {"kind": "aiohttp", "app": "app:with_ids", "bind": bind[0]},
    }
    given = {"abc-123": True, "a" * 128: True, "a" * 129: False, "a b": False, "": False}
    cases = [("tcp", 0, text, taken) for text, taken in given.items()]
    cases += [("tcp", 1, "abc-123", False), ("unix", 0, "abc-123", False), ("unix", 1, "abc-123", True)]
    cases += [("none", 0, "abc-123", False)]
    with Daemon(settings, {"app.py": APP}) as daemon:
        daemon.expect("READY=1")
        for server, address, text, taken in cases:
            with connect(daemon.addresses(server=server)[address]) as sock:
                ask = f"GET /said HTTP/1.1\r\nHost: x\r\nX-Request-ID: {text}\r\nConnection: close\r\n\r\n"
                sock.sendall(ask.encode())
                head, _, body = b"".join(iter(lambda: sock.recv(4096), b"")).partition(b"\r\n\r\n")
            assert b"X-Request-ID: " + body in head.splitlines()
            assert (body == text.encode()) == taken, (server, address, text)


def test_a_filter_gives_records_the_id():
    record = logging.makeLogRecord({})
    assert contextvars.Context().run(RequestIdFilter().filter, record)
    assert record.request_id == "-"

    def within():
        request_id.begin("mine")
        return RequestIdFilter().filter(record)

    assert contextvars.copy_context().run(within)
    assert record.request_id == "mine"


# --- transactions


@pytest.fixture
def database(postgresql):
    postgresql.sql("DROP TABLE IF EXISTS noted, child, parent")
    postgresql.sql("CREATE TABLE noted (what text); CREATE TABLE parent (id int PRIMARY KEY)")
    postgresql.sql("CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    return postgresql


@contextlib.contextmanager
def serving(database, **settings):
    with Daemon(
        config(lifespan="app:lifespan", **settings), {"app.py": APP}, environment={"TEST_DB": database.url()}
    ) as daemon:
        daemon.expect("READY=1")
        yield daemon


def noted(database):
    return database.sql("SELECT what FROM noted ORDER BY what").split()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_what_the_answer_is_decides_about_the_transaction(database, loop):
    with serving(database, loop=loop) as daemon:
        daemon.allow(
            "on purpose", "rolled back instead of committed", "violates foreign key", "Missing return statement"
        )
        wanted = {
            "returned": 200,
            "returned_redirect": 303,
            "raised_redirect": 303,
            "nested": 200,
            "returned_400": 400,
            "raised_400": 400,
            "raised": 500,
            "caught": 500,  # PostgreSQL rolls back what has failed, whatever the application thinks
            "deferred": 500,  # it fails when it is committed
            "cut": 418,
            "nothing": 500,
        }
        assert {how: request(daemon, "POST", f"/write/{how}")[0] for how in wanted} == wanted
        assert noted(database) == ["nested", "raised_redirect", "returned", "returned_redirect"]
        assert database.sql("select count(*) from pg_stat_activity where state like 'idle in%'") == "0"


def test_a_body_is_checked_before_the_transaction(database):
    with serving(database) as daemon:
        json_type = {"Content-Type": "application/json"}
        assert request(daemon, "POST", "/both", data='{"text": 1}', headers=json_type)[0] == 422
        assert request(daemon, "POST", "/both", data='{"text": "x"}', headers=json_type)[2] == '[{"what":"x"}]'
        assert noted(database) == ["x"]


def send(daemon, path):
    sock = connect(daemon.addresses()[0])
    sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    daemon.until((daemon.folder / "writing").exists)
    return sock


@pytest.mark.parametrize(("path", "left"), [("/slow/gone", []), ("/stream/answered", ["answered"])])
def test_a_client_that_is_gone_unanswered_has_changed_nothing(database, path, left):
    with serving(database) as daemon:
        send(daemon, path).close()
        request(daemon, "POST", "/write/returned")
        daemon.until(lambda: database.sql("select count(*) from pg_stat_activity where state like 'idle in%'") == "0")
        assert noted(database) == [*left, "returned"]


def test_what_outlasts_the_grace_is_rolled_back(database):
    settings = config(lifespan="app:lifespan")
    settings["pools"]["web"]["servers"]["main"]["grace"] = "200ms"
    with Daemon(settings, {"app.py": APP}, environment={"TEST_DB": database.url()}) as daemon:
        daemon.expect("READY=1")
        daemon.allow("cut 1 connections")
        with send(daemon, "/stuck/x"):
            daemon.ask("stop")
            assert daemon.wait() == 0
        assert noted(database) == []
        assert "was not closed within" not in daemon.log
    assert database.connections() == 0


def test_without_a_database_the_answer_is_503_until_it_is_back(database):
    with serving(database) as daemon:
        daemon.allow("no connection to db for a request", "is down")
        assert request(daemon, "POST", "/write/returned")[0] == 200
        database.kill()
        status, headers, text = request(daemon, "POST", "/write/lost")
        assert (status, headers["Content-Type"]) == (503, JSON_TYPE)
        assert json.loads(text) == {"error": "the database cannot be reached"}
        assert "Traceback" not in daemon.log
        database.start()
        assert request(daemon, "POST", "/write/returned")[0] == 200
        assert noted(database) == ["returned", "returned"]


@pytest.fixture
def answers(monkeypatch):
    """Return what asks a handler once with each pool, and returns what it raises."""
    monkeypatch.setattr(hourd.aiohttp, "_told", {})

    @environment(transaction="db")
    async def handler(request, env):
        return JSON({})

    async def talk(pools):
        for each in pools:
            worker = Worker(name="x", pool="x", slot=0, generation=1, log=logging.getLogger(), state={"db": each})
            monkeypatch.setattr(Worker, "_current", worker)
            try:
                await handler(make_mocked_request("GET", "/"))
            except Exception as error:  # noqa: BLE001, to see which
                yield error

    async def all_of_it(pools):
        return [each async for each in talk(pools)]

    return lambda *pools: asyncio.run(all_of_it(pools))


class Failing:
    def __init__(self, error):
        self.error = error

    async def acquire(self, **_):
        raise self.error


def test_only_what_tells_of_the_database_makes_an_answer_503(answers):
    errors = (OSError(), TimeoutError(), asyncpg.InterfaceError(""), asyncpg.TooManyConnectionsError(""))
    assert [getattr(each, "status", each) for each in answers(*map(Failing, errors))] == [503] * 4
    mistakes = [KeyError("on purpose"), AttributeError("on purpose")]
    assert answers(*map(Failing, mistakes)) == mistakes
    (wrong,) = answers(object())
    assert str(wrong) == "transaction='db': worker.state has a object there, expected the pool of a database"


class Stale:
    """Lends connections that the server has ended; stands for one of them, and for its transaction."""

    def __init__(self, error):
        self.error = error
        self.lent = 0

    async def acquire(self, **_):
        self.lent += 1
        return self

    async def release(self, _):
        self.lent -= 1

    def transaction(self):
        return self

    async def start(self):
        raise self.error


def test_a_connection_that_has_ended_unnoticed_makes_an_answer_503(answers):
    # asyncpg, after it has read that the server ends the connection, and before it has read the end.
    pools = [Stale(asyncpg.InternalClientError("cannot switch to state 15")), Stale(asyncpg.AdminShutdownError(""))]
    assert [getattr(each, "status", each) for each in answers(*pools)] == [503, 503]
    assert [each.lent for each in pools] == [0, 0]


def test_requests_without_a_connection_are_not_told_one_by_one(answers, caplog, monkeypatch):
    answers(*[Failing(TimeoutError())] * 50)
    assert caplog.messages == ["no connection to db for a request: none within 5s (told every 10s at most)"]
    monkeypatch.setattr(hourd.aiohttp, "_TELL_EVERY", 0)
    answers(Failing(OSError("down")))
    assert len(caplog.messages) == 2


def test_more_requests_than_connections_wait_for_their_turn(database):
    with serving(database) as daemon:

        async def talk():
            address = daemon.addresses()[0]
            return await asyncio.gather(*(ask(address, "POST", "/write/returned") for _ in range(50)))

        assert {status for status, _, _ in asyncio.run(talk())} == {200}
        assert len(noted(database)) == 50
        assert database.connections() <= 2


def test_a_name_that_the_state_does_not_have_is_told(database):
    with serving(database) as daemon:
        daemon.allow("worker.state has no nothing")
        assert request(daemon, "POST", "/misnamed")[0] == 500
        daemon.wait_log("transaction='nothing': worker.state has no nothing")


def test_reloads_under_load_lose_no_transaction_and_no_connection(database):
    with serving(database, workers=2) as daemon:
        address = daemon.addresses()[0]
        before = database.connections()
        assert before == 2
        done = 0

        async def write(session, end):
            nonlocal done
            while not end.is_set():
                async with session.post(f"http://{address}/write/returned") as response:
                    assert response.status == 200
                    done += 1
                await asyncio.sleep(0.02)  # the reloads need CPUs too

        async def load():
            end = asyncio.Event()
            async with aiohttp.ClientSession() as session:
                writers = [asyncio.create_task(write(session, end)) for _ in range(3)]
                for _ in range(6):
                    answer = await asyncio.to_thread(daemon.reload)
                    assert answer.ok, answer.error
                end.set()
                await asyncio.gather(*writers)

        asyncio.run(load())
        daemon.wait_for_the_old()
        assert len(noted(database)) == done > 20
        daemon.until(lambda: database.connections() <= 4)  # max_size of each worker

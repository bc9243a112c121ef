"""Engines: ready lifespans, against real servers."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
import traceback
import types

import aiohttp
import pytest

from hourd import Worker, engines, errors
from hourd.engines import urls

from .daemon import Daemon, pool, talk
from .servers import ENCODED, PASSWORD

APP = """
import asyncio

from aiohttp import web

from hourd import Worker, engines
from hourd.aiohttp import JSON

lifespan = engines.compose(
    db=engines.postgresql("$TEST_DB", server_settings={"application_name": "pool"}),
    cache=engines.redis("$TEST_REDIS", decode_responses=True),
    http=engines.client_session(),
)
tasks = []


async def ask(request):
    state = Worker.current().state
    async with state.db.acquire(timeout=2) as connection:
        backend = await connection.fetchval("SELECT pg_backend_pid()")
    await state.cache.set("seen", backend)
    async with state.http.get(f"http://{request.host}/health") as response:
        return JSON({"backend": backend, "cached": await state.cache.get("seen"), "status": response.status})


async def late(request):
    # The worker drains meanwhile, and this still uses everything.
    open("arrived", "w").close()
    await Worker.current().draining.wait()
    await asyncio.sleep(0.2)
    state = Worker.current().state
    value = await state.db.fetchval("SELECT 42")
    await state.cache.set("late", value)
    return JSON({"late": await state.cache.get("late"), "open": not state.http.closed})


async def keep(request):
    # A task that nobody waits for holds a connection beyond the end.
    async def hold():
        async with Worker.current().state.db.acquire():
            open("held", "w").close()
            await asyncio.sleep(3600)
    tasks.append(asyncio.create_task(hold()))
    return web.Response()


async def release(request):
    tasks.pop().cancel()
    return web.Response()


async def health(request):
    found = Worker.current().health
    return JSON({name: [each.ok, each.reason, each.since] for name, each in found.items()})


app = web.Application()
app.add_routes([web.get("/", ask), web.get("/late", late), web.get("/keep", keep), web.get("/release", release), web.get("/health", health)])
"""
OWN = """
import asyncio
import contextlib

from hourd import engines


class Mine(engines.Engine):
    where = "mine"

    async def open(self):
        return {open}

    async def check(self):
        pass

    async def close(self):
        {close}


opened = engines.compose(mine=Mine())


@contextlib.asynccontextmanager
async def lifespan(worker):
    async with opened(worker) as state:
        state.mine += 1
        yield state


async def serve(reader, writer, worker):
    writer.write(repr((worker.state, worker.health["mine"].ok)).encode())
    writer.close()
"""


def config(**settings):
    server = {"kind": "aiohttp", "app": "app:app", "grace": "10s"}
    return pool(server=server, **{"workers": 2, "lifespan": "app:lifespan", **settings})


def started(postgresql, redis, *, environment=(), **settings):
    urls = {"TEST_DB": postgresql.url(), "TEST_REDIS": redis.url()}
    return Daemon(config(**settings), {"app.py": APP}, environment={**urls, **dict(environment)})


async def fetch(address, path=""):
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}/{path}") as response:
        return response.status, await response.json(content_type=None) if response.status == 200 else None


def get(daemon, path=""):
    return asyncio.run(fetch(daemon.addresses()[0], path))


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_they_are_open_before_readiness_and_gone_after_the_end(postgresql, redis, loop):
    with started(postgresql, redis, loop=loop) as daemon:
        daemon.expect("READY=1")
        assert postgresql.connections() == 2  # one of each worker, none of the mold, before any request
        status, answer = get(daemon)
        assert status == 200
        assert answer["cached"] == str(answer["backend"])
        assert answer["status"] == 200
        _, health = get(daemon, "health")
        assert {name: each[:2] for name, each in health.items()} == {
            name: [True, ""] for name in ("db", "cache", "http")
        }
    assert postgresql.connections() == 0


def test_they_are_closed_after_the_last_request(postgresql, redis):
    with started(postgresql, redis, workers=1) as daemon:
        daemon.expect("READY=1")
        address = daemon.addresses()[0]

        async def talk():
            request = asyncio.create_task(fetch(address, "late"))
            await asyncio.to_thread(daemon.until, (daemon.folder / "arrived").exists)
            await asyncio.to_thread(daemon.ask, "stop")
            return await request

        assert asyncio.run(talk()) == (200, {"late": "42", "open": True})
        assert daemon.wait() == 0


def test_a_connection_that_is_kept_is_cut(postgresql, redis):
    with started(postgresql, redis, workers=1) as daemon:
        daemon.expect("READY=1")
        get(daemon, "keep")
        daemon.until((daemon.folder / "held").exists)
        daemon.allow("engine db: was not closed within 3s, so it is cut")
        daemon.ask("stop")
        assert daemon.wait() == 0
        daemon.wait_log("engine db: was not closed")
    assert postgresql.connections() == 0


@pytest.mark.parametrize(
    ("variable", "url", "code", "message"),
    [
        ("TEST_DB", "postgresql://owner:wr0ng@/postgres?host={db}", 75,
         'engine db: cannot open PostgreSQL at {db}/postgres: password authentication failed for user "owner"'),
        ("TEST_DB", f"postgresql://owner:{ENCODED}@/none?host={{db}}", 75,
         'engine db: cannot open PostgreSQL at {db}/none: database "none" does not exist'),
        ("TEST_DB", "postgresql://owner:wr0ng@/x?host=/nowhere", 75, "engine db: cannot open PostgreSQL at /nowhere/x: "),
        ("TEST_DB", "postgresql://owner:wr0ng@127.0.0.1:1/x", 75, "engine db: cannot open PostgreSQL at 127.0.0.1:1/x: "),
        ("TEST_DB", "postgresql://owner:wr0ng/x@127.0.0.1/x", 78, "engine db: its URL (postgresql://...) is malformed; "),
        ("TEST_DB", "", 78, "engine db: the environment has no TEST_DB; "),
        ("TEST_REDIS", "unix://:wr0ng@{redis}/redis.sock", 75, "engine cache: cannot open Redis at {redis}/redis.sock: "),
        ("TEST_REDIS", "redis://:wr0ng@127.0.0.1:1", 75, "engine cache: cannot open Redis at 127.0.0.1:1: "),
        ("TEST_REDIS", "http://x:wr0ng@y", 78, "engine cache: its URL has to begin with redis:// or rediss:// or unix://"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened_is_told_without_the_password(
    postgresql, redis, monkeypatch, variable, url, code, message
):
    places = {"db": postgresql.folder, "redis": redis.folder}
    for name, value in {"TEST_DB": postgresql.url(), "TEST_REDIS": redis.url()}.items():
        monkeypatch.setenv(name, url.format(**places) if name == variable else value)
    lifespan = engines.compose(
        db=engines.postgresql("$TEST_DB"), cache=engines.redis("$TEST_REDIS"), http=engines.client_session()
    )
    worker = Worker(name="test", pool="web", slot=0, generation=1, log=logging.getLogger("test"))

    async def enter():
        async with lifespan(worker):
            pytest.fail("it was opened")

    with pytest.raises(errors.HourdError) as caught:
        asyncio.run(enter())
    assert caught.value.exit_code == code
    assert str(caught.value).startswith(message.format(**places))
    assert "wr0ng" not in "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in str(caught.value)
    assert postgresql.connections() == 0


@pytest.mark.parametrize(
    ("password", "code", "message"),
    [
        ("wr0ng", 75, 'password authentication failed for user "owner"'),
        ("wr0/ng", 78, "its URL (postgresql://...) is malformed"),
    ],
)
def test_a_wrong_password_refuses_the_start(postgresql, redis, password, code, message):
    url = postgresql.url(password).replace("@/", "@localhost/") if code == 78 else postgresql.url(password)
    with started(postgresql, redis, environment={"TEST_DB": url}, workers=1) as daemon:
        daemon.allow("engine", "it is stopped at once")
        assert daemon.wait() == code
        assert "lifespan: engine db: " in daemon.log
        assert message in daemon.log
        assert "wr0" not in daemon.log
        assert "Traceback" not in daemon.log
    assert postgresql.connections() == 0


def test_a_reload_that_cannot_open_them_is_refused_and_the_old_serve_on(postgresql, redis):
    with started(postgresql, redis, workers=1) as daemon:
        daemon.expect("READY=1")
        daemon.allow("engine db")
        daemon.configure({**config(workers=1), "environment": {"TEST_DB": postgresql.url("wr0ng")}})
        answer = daemon.reload()
        assert not answer.ok
        assert "engine db: cannot open PostgreSQL at " in answer.error
        assert get(daemon)[0] == 200


def test_a_server_that_dies_is_told_once_and_again_when_it_is_back(postgresql, redis):
    with started(postgresql, redis, workers=1) as daemon:
        daemon.expect("READY=1")
        daemon.allow("is down", "Error handling request")  # the latter by the application, which catches nothing
        workers = daemon.workers()
        postgresql.kill()
        redis.kill()
        assert get(daemon)[0] == 500
        assert get(daemon, "health")[0] == 200
        daemon.wait_log(r"error +hourd\.worker\[\d+\] engine db: PostgreSQL at \S+ is down: ")
        daemon.wait_log(r"engine cache: Redis at \S+ is down: ")
        health = get(daemon, "health")[1]
        assert [health[name][0] for name in ("db", "cache", "http")] == [False, False, True]
        assert health["db"][1]
        postgresql.start()
        redis.start()
        daemon.wait_log(r"info +hourd\.worker\[\d+\] engine db: PostgreSQL at \S+ is up again after \d+\.\d+s")
        daemon.wait_log(r"engine cache: Redis at \S+ is up again")
        assert get(daemon)[0] == 200
        assert get(daemon, "health")[1]["db"][:2] == [True, ""]
        assert daemon.log.count("is down") == daemon.log.count("is up again") == 2
        assert daemon.workers() == workers


def test_a_server_that_is_silent_is_down_and_holds_nothing_up(postgresql, redis):
    with started(postgresql, redis, workers=1) as daemon:
        daemon.expect("READY=1")
        daemon.allow("is down", "was not closed within")
        backends = [
            int(pid) for pid in postgresql.sql("select pid from pg_stat_activity where application_name='pool'").split()
        ]
        os.kill(redis.process.pid, signal.SIGSTOP)
        for pid in (postgresql.process.pid, *backends):
            os.kill(pid, signal.SIGSTOP)
        try:
            daemon.wait_log("engine db: PostgreSQL at .* is down: no answer within 3s")
            daemon.wait_log("engine cache: Redis at .* is down: ")
            assert get(daemon, "health")[1]["http"][0]
            daemon.ask("stop")
            assert daemon.wait() == 0  # though nobody says good-bye
        finally:
            for pid in (redis.process.pid, postgresql.process.pid, *backends):
                os.kill(pid, signal.SIGCONT)


def test_a_pool_whose_connections_are_all_in_use_is_busy_and_not_down(postgresql, redis):
    app = APP.replace('"$TEST_DB"', '"$TEST_DB", max_size=1')
    urls = {"TEST_DB": postgresql.url(), "TEST_REDIS": redis.url()}
    with Daemon(config(workers=1), {"app.py": app}, environment=urls) as daemon:
        daemon.expect("READY=1")
        daemon.allow("is busy")
        get(daemon, "keep")
        daemon.wait_log(r"warning +hourd\.worker\[\d+\] engine db: .* is busy: all 1 connections are in use")
        assert get(daemon, "health")[1]["db"][:2] == [True, ""]
        get(daemon, "release")
        daemon.wait_log("engine db: .* is busy no more")


class Told(engines.Engine):
    """Each check notes how the engine is thought to be, and finds what comes next."""

    def __init__(self, worker, *found):
        self.worker = worker
        self.found = iter(found)
        self.health = []
        self.done = asyncio.Event()

    async def open(self):
        return self

    async def close(self):
        pass

    async def check(self):
        self.health.append(self.worker.health["db"].ok)
        if error := next(self.found, None):
            raise error
        if len(self.health) > 7:
            self.done.set()


def test_that_an_engine_is_busy_tells_nothing_of_what_it_talks_to(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("hourd.engines.lifespan._CHECK_EVERY", 0)
    worker = Worker(name="test", pool="web", slot=0, generation=1, log=logging.getLogger("test"))
    busy, down = engines.BusyError("all in use"), OSError("refused")
    told = Told(worker, busy, busy, down, busy, None, busy, None)

    async def enter():
        async with engines.compose(db=told)(worker):
            await told.done.wait()

    asyncio.run(enter())
    assert told.health[:8] == [True, True, True, False, False, True, True, True]
    assert [re.sub(" after .*", "", message) for message in caplog.messages] == [
        f"engine db: it is {how}"
        for how in ("busy: all in use", "down: refused", "up again", "busy: all in use", "busy no more")
    ]


def own(*, opening="41", closing="pass"):
    return {"app.py": OWN.replace("{open}", opening).replace("{close}", closing)}


def test_an_engine_and_a_lifespan_of_ones_own():
    with Daemon(pool(workers=1, lifespan="app:lifespan"), own()) as daemon:
        daemon.expect("READY=1")
        assert talk(daemon.addresses()[0]) == b"(State(mine=42), True)"


def test_a_mistake_in_an_engine_is_shown_with_its_traceback():
    with Daemon(pool(workers=1, lifespan="app:lifespan"), own(opening="1 / 0")) as daemon:
        daemon.allow("lifespan", "it is stopped at once")
        assert daemon.wait() == 75
        assert "Traceback" in daemon.log
        assert "ZeroDivisionError" in daemon.log


def test_an_engine_that_fails_to_close_is_told():
    with Daemon(pool(workers=1, lifespan="app:lifespan"), own(closing="1 / 0")) as daemon:
        daemon.expect("READY=1")
        daemon.allow("engine mine: failed to close")
        daemon.ask("stop")
        assert daemon.wait() == 0
        assert daemon.log.count("engine mine: failed to close") == 1


def test_what_is_no_engine_is_refused():
    with pytest.raises(TypeError, match=r"db is 'postgresql://', expected an engine"):
        engines.compose(db="postgresql://")


@pytest.mark.parametrize(("function", "module"), [(engines.postgresql, "asyncpg"), (engines.redis, "redis")])
def test_a_missing_library_is_named(monkeypatch, function, module):
    for name in ("hourd.engines.asyncpg_pool", "hourd.engines.redis_client"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {module}: pip install 'hourd\["):
        function("x")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql:///hello", "/hello"),
        ("postgresql://user:secret@db.example:5432/hello?sslmode=require&password=secret", "db.example:5432/hello"),
        ("postgresql://user:se%40cret@[::1]:5432/hello", "[::1]:5432/hello"),
        ("postgresql://user@a:1,b:2/hello", "a:1,b:2/hello"),
        ("postgresql://us@er:secret@a/hello", "a/hello"),
        ("postgres://user:secret@/hello?host=/run/postgresql", "/run/postgresql/hello"),
    ],
)
def test_a_place_is_shown_without_secrets(url, place):
    assert urls.place(url, ("postgresql", "postgres")) == place


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:secret/x@host/hello",
        "postgresql://user:secret?x@host/hello",
        "postgresql://user:secret#x@host/hello",
        "postgresql://user:123/x@host/hello",
        "postgresql://user:123?x@host/hello",
        "postgresql://user:secret",
        "postgresql://[secret/x",
    ],
)
def test_what_may_be_a_secret_in_the_wrong_place_is_not_shown(url):
    with pytest.raises(errors.ConfigError) as caught:
        urls.place(url, ("postgresql",))
    assert "secret" not in str(caught.value)
    assert "123" not in str(caught.value)


def test_a_url_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_URL", "redis://x")
    assert urls.read("$SOME_URL") == urls.read("redis://x") == "redis://x"


def test_what_compose_yields_is_a_plain_namespace():
    assert issubclass(engines.State, types.SimpleNamespace)

"""The sample configuration and the examples as they stand, at free ports, driven by real clients."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import aiohttp
import asyncssh
import pytest
from msgspec import Struct, inspect, json

from hourd.kinds import options
from hourd.settings import Settings

from .daemon import Daemon, connect

TREE = Path(__file__).parents[1]
KINDS_OPTIONS = [each for each in vars(options).values() if isinstance(each, type) and issubclass(each, Struct)]


def started(example, tmp_path, sample=None):
    """Return a daemon that runs an example's own YAML, with only its ports, its place and its control socket changed."""
    source = TREE / "contrib/examples" / example
    text = (TREE / sample if sample else source / "hourd.yaml").read_text()
    folder = tmp_path / example
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("ssh_host_*", "typed.txt", "__pycache__"))
    text = re.sub(r"bind: 127\.0\.0\.1:\d+", "bind: 127.0.0.1:0", text)
    text = re.sub(r"^directory: \S+", f"directory: {folder}", text, flags=re.MULTILINE)
    text = re.sub(r"^control: \S+", "control: control.sock", text, flags=re.MULTILINE)
    return Daemon(text)


def ssh(address, **options):
    host, _, port = address.rpartition(":")
    return asyncssh.connect(
        host, int(port), username="demo", known_hosts=None, config=None, client_keys=None, **options
    )


async def shell(address, *lines, **options):
    """Type lines into an SSH session and return what it says until its end."""
    async with ssh(address, **options) as connection:
        done = await connection.run(input="".join(f"{line}\n" for line in lines), check=True)
        return done.stdout


async def get(address, path=""):
    """Ask over HTTP on a connection of its own."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}/{path}") as response:
        assert response.status == 200
        return await response.text(), response.headers


def test_demo(tmp_path):
    with started("demo", tmp_path, "etc/hourd.yaml") as daemon:
        daemon.expect("READY=1")
        http, console, echo = (daemon.addresses("main", name)[0] for name in ("http", "shell", "echo"))

        async def talk():
            said = await shell(console, "say good morning", "read", "who", "status", "nothing", "exit", password="demo")
            assert "hello, demo" in said
            assert "good morning\n> demo\n> worker " in said
            assert "nothing: no such command" in said
            assert "ssh 1" in said
            assert "http 1" in (await get(http))[0]
            assert '"messages": ' in (await get(http, "messages"))[0]
            with pytest.raises(asyncssh.PermissionDenied):
                await shell(console, "exit", password="wrong")
            assert daemon.run("status", "-c", str(daemon.file)).returncode == 0

        asyncio.run(talk())
        with connect(echo) as sock, sock.makefile("rb") as replies:
            sock.sendall(b"hello\n")
            assert replies.readline() == b"hello\n"
            assert daemon.reload().ok
            assert replies.read() == b""


def test_demo_tells_its_sessions_of_a_reload(tmp_path):
    with started("demo", tmp_path, "etc/hourd.yaml") as daemon:
        daemon.expect("READY=1")

        async def talk():
            async with ssh(daemon.addresses("main", "shell")[0], password="demo") as connection:
                session = await connection.create_process()
                await session.stdout.readuntil("> ")
                assert (await asyncio.to_thread(daemon.reload)).ok
                assert "please connect again" in await session.stdout.read()

        asyncio.run(talk())


def test_demo_has_one_board_for_http_and_ssh(tmp_path):
    config = started("demo", tmp_path, "etc/hourd.yaml")
    config.file.write_text(config.file.read_text().replace("workers: 2", "workers: 1"))
    with config as daemon:
        daemon.expect("READY=1")
        http = daemon.addresses("main", "http")[0]

        async def talk():
            url = f"http://{http}/messages"
            async with aiohttp.ClientSession() as session, session.post(url, data="posted") as response:
                assert response.status == 201
            assert "posted\n" in await shell(daemon.addresses("main", "shell")[0], "read", "exit", password="demo")

        asyncio.run(talk())


def test_all_in_one(tmp_path):
    with started("all_in_one", tmp_path) as daemon:
        daemon.expect("READY=1")
        http, words = (daemon.addresses("main", name)[0] for name in ("http", "words"))
        with connect(words) as sock, sock.makefile("rb") as replies:
            sock.sendall(b"one two three\nfo")
            assert replies.readline() == b"3\n"
            sock.sendall(b"ur five\n\n")
            assert [replies.readline(), replies.readline()] == [b"2\n", b"0\n"]
            counts = [json.decode(asyncio.run(get(http))[0]) for _ in range(20)]
            assert {(each["lines"], each["words"]) for each in counts} <= {(0, 0), (3, 5)}
            assert daemon.reload().ok
            assert replies.read() == b"bye\n"
        with connect(words) as sock:
            sock.sendall(b"x" * 2000)
            assert sock.makefile("rb").read() == b"bye\n"


def test_http_shows_what_is_typed_over_ssh_whichever_worker_is_asked(tmp_path):
    with started("http_ssh", tmp_path) as daemon:
        daemon.expect("READY=1")
        http, console = (daemon.addresses("main", name)[0] for name in ("http", "shell"))

        async def type_all(start):
            typed = [f"line {start}.{number}" for number in range(5)]
            said = await shell(console, *typed)
            assert said.count(" characters") == 5
            return typed

        async def talk():
            typed = [line for lines in await asyncio.gather(*map(type_all, range(12))) for line in lines]
            shown = [await get(http) for _ in range(30)]
            assert all(sorted(text.splitlines()) == sorted(typed) for text, _ in shown)
            assert len({headers["X-Worker"] for _, headers in shown}) > 1
            async with ssh(console) as connection:
                session = await connection.create_process()
                await session.stdout.readline()
                assert (await asyncio.to_thread(daemon.reload)).ok
                session.stdin.write("after the reload")
                session.stdin.write_eof()
                await session.wait_closed()
            text, _ = await get(http)
            assert text.endswith("after the reload\n")
            assert len(text.splitlines()) == len(typed) + 1

        asyncio.run(talk())


def test_the_sample_has_every_key():
    text = (TREE / "etc/hourd.yaml").read_text()
    hidden = {"places", "where"}
    known = names(Settings).union(*map(names, KINDS_OPTIONS)) - hidden
    assert not sorted(name for name in known if not re.search(rf"\b{name}:", text))


def test_the_docs_have_every_option_about_http():
    text = (TREE / "docs/http.md").read_text()
    assert not sorted(name for name in names(options.HttpOptions) if f"`{name}`" not in text)


def names(struct):
    """Return the names of all fields, nested ones included."""

    def walk(type_):
        if isinstance(type_, inspect.StructType):
            for field in type_.fields:
                yield field.encode_name
                yield from walk(field.type)
        for name in ("type", "value_type", "item_type"):
            if hasattr(type_, name) and not isinstance(type_, inspect.CustomType):
                yield from walk(getattr(type_, name))
        for each in getattr(type_, "types", ()):
            yield from walk(each)

    return set(walk(inspect.type_info(struct)))


def test_the_readmes_say_what_there_is():
    for example in ("all_in_one", "http_ssh"):
        readme = (TREE / "contrib/examples" / example / "README.md").read_text()
        config = (TREE / "contrib/examples" / example / "hourd.yaml").read_text()
        for port in re.findall(r"127\.0\.0\.1[: ](\d+)|-p (\d+)", readme):
            assert f"127.0.0.1:{''.join(port)}" in config


def test_notes(tmp_path, postgresql, redis, monkeypatch):
    postgresql.sql("DROP TABLE IF EXISTS notes")
    monkeypatch.setenv("NOTES_DB", postgresql.url())
    monkeypatch.setenv("NOTES_REDIS", redis.url())
    with started("notes", tmp_path) as daemon:
        daemon.expect("READY=1")
        daemon.allow("is down", "no connection to db for a request")

        async def talk():
            url = f"http://{daemon.addresses('web', 'http')[0]}"
            async with aiohttp.ClientSession() as session:
                async with session.post(url, json={"text": "hello"}) as response:
                    assert response.status == 201
                    number = (await response.json())["id"]
                async with session.post(url, json={"text": 1}) as response:
                    assert response.status == 422
                for cached in (False, True):
                    async with session.get(f"{url}/{number}") as response:
                        assert await response.json() == {"text": "hello", "cached": cached}
                        assert response.headers["X-Request-ID"]
                async with session.get(f"{url}/999") as response:
                    assert response.status == 404
                async with session.get(f"{url}/health") as response:
                    assert {name: each["ok"] for name, each in (await response.json()).items()} == {
                        "db": True,
                        "cache": True,
                    }

                # A server that is down is said to be so, in answers too.
                postgresql.kill()
                async with session.get(f"{url}/999") as response:
                    assert response.status == 503
                redis.kill()
                async with session.get(f"{url}/{number}") as response:
                    assert (response.status, await response.json()) == (503, {"error": "the cache cannot be reached"})
                await asyncio.to_thread(daemon.until, lambda: daemon.log.count("is down") == 4)  # of two workers
                async with session.get(f"{url}/health") as response:
                    assert response.status == 503

        asyncio.run(talk())

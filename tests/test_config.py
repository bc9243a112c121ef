"""YAML to settings, and every mistake on its line."""

from __future__ import annotations

import datetime as dt
import enum
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hourd import __version__, config, errors, kinds
from hourd.config import Loaded, Overrides, document
from hourd.config.printing import to_yaml
from hourd.config.schema import json_schema
from hourd.settings import Settings

LATER = f"is not available yet in hourd {__version__}"
SECRET = "swordfish-7719"

MINIMAL = "pools: {web: {servers: {http: {kind: aiohttp, app: 'a:b', bind: ':1'}}}}\n"
"""One line, so that what is put before it moves nothing else."""

FULL = """\
name: hello
directory: app
environment: {HELLO_DB: postgresql:///hello, NUMBER: 0x10, FLAG: yes, EMPTY: }
control: run/hello.sock
pid_file: /run/hello.pid
log: {level: info, format: text}

pools:
  web:
    workers: 4
    preload: true
    loop: uvloop
    lifespan: hello:lifespan
    servers:
      http:
        kind: aiohttp
        app: hello.web:create_app
        bind: 0.0.0.0:8080
        grace: 30s
        options: {access_log: true}
      shell:
        kind: ssh
        app: hello.shell:Session
        bind: [127.0.0.1:8022, "[::1]:8022", "unix:/run/hello.sock", "unix:@hello", ":0", "localhost:0"]
        unix: {mode: 0660}
        options: {host_keys: [/etc/hello/ssh_host_key]}
    timeouts: {boot: 60s}
    restart: {backoff: 100ms, backoff_max: 30s, giving_up: {failures: 5, within: 60s}}
  more:
    workers: auto
    servers:
      echo: {kind: stream, app: "a:b", bind: ":7", options: {limit: 1.5KiB}}
      own: {kind: "mine:Kind", bind: ":8", options: {any: [1, 2.5, yes, ~, text, 2020-01-01, {deep: 1}]}}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app").mkdir()
    monkeypatch.chdir(tmp_path)


def load(text: str | bytes, environ: Mapping[str, str] | None = None, **overrides: Any) -> Loaded:
    Path("hourd.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return config.load("hourd.yaml", environ=environ or {}, overrides=Overrides(**overrides))


def mistakes(text: str | bytes, environ: Mapping[str, str] | None = None, **overrides: Any) -> list[str]:
    with pytest.raises(errors.ConfigError) as caught:
        load(text, environ, **overrides)
    return str(caught.value).splitlines()


def without_places(loaded: Loaded) -> Any:
    """Return the settings as builtins, less what names lines."""
    value = msgspec.to_builtins(loaded.settings)
    for pool in value["pools"].values():
        for server in pool["servers"].values():
            del server["where"]
            for each in (server["tls"], *server["tls"]["sni"].values()) if server["tls"] else ():
                del each["places"]
    return value


def server(line: str, kind: str = "aiohttp") -> str:
    """Return a file whose line 7 is about a server."""
    app = "" if line.startswith("app:") else "app: a:b\n        "
    bind = "" if line.startswith("bind:") else "bind: :1\n        "
    return f"pools:\n  web:\n    servers:\n      http:\n        kind: {kind}\n        {app}{bind}{line}\n"


class TestGood:
    def test_full(self, tmp_path: Path) -> None:
        loaded = load(FULL).settings
        assert loaded.directory == str(tmp_path / "app")
        assert loaded.control == str(tmp_path / "run/hello.sock")
        assert loaded.environment == {
            "HELLO_DB": "postgresql:///hello",
            "NUMBER": "0x10",
            "FLAG": "yes",
            "EMPTY": "",
        }
        web, more = loaded.pools["web"], loaded.pools["more"]
        assert (web.workers, more.workers) == (4, "auto")
        assert web.servers["http"].grace == 30.0
        assert web.servers["http"].bind == ("0.0.0.0:8080",)
        assert web.servers["http"].options == {
            "access_log": True,
            "access_log_file": None,
            "trusted_proxies": [],
            "forwarded_headers": ["x-forwarded-for", "x-forwarded-proto"],
            "body_timeout": 30.0,
            "send_timeout": 60.0,
            "head_timeout": 20.0,
            "line_max_size": 8192,
            "max_headers": 128,
            "keepalive_timeout": 75.0,
            "client_max_size": None,
        }
        assert web.servers["http"].where == "hourd.yaml:20"
        assert web.servers["shell"].unix.mode == 0o660
        assert web.servers["shell"].options["host_keys"] == ["/etc/hello/ssh_host_key"]
        assert web.restart.backoff == pytest.approx(0.1)
        assert more.servers["echo"].options == {"limit": 1536}
        assert more.servers["own"].options == {"any": [1, 2.5, True, None, "text", "2020-01-01", {"deep": 1}]}

    def test_defaults(self, tmp_path: Path) -> None:
        loaded = load(MINIMAL).settings
        assert (loaded.name, loaded.directory) == ("hourd", str(tmp_path))
        assert loaded.pools["web"].servers["http"].where == "hourd.yaml:1"

    def test_paths_start_at_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "sub" / "app").mkdir(parents=True)
        (tmp_path / "sub" / "x.yml").write_text(f"directory: app\n{MINIMAL}")
        loaded = config.load("sub/x.yml", environ={}).settings
        assert (loaded.directory, loaded.name) == (str(tmp_path / "sub/app"), "x")

    def test_anchors_aliases_and_merge_keys(self) -> None:
        text = """\
pools:
  a: &pool
    workers: 2
    servers:
      http: &http {kind: aiohttp, app: "a:b", bind: ":1"}
  b:
    <<: *pool
    workers: 3
    servers:
      http: {<<: [{bind: ":2"}, *http], grace: 1s}
"""
        pools = load(text).settings.pools
        assert (pools["a"].workers, pools["b"].workers) == (2, 3)
        assert pools["b"].servers["http"].bind == (":2",)
        assert pools["b"].servers["http"].grace == 1.0
        assert pools["b"].servers["http"].where == "hourd.yaml:10"

    def test_what_an_alias_stands_for_is_where_the_alias_is(self) -> None:
        text = """\
pools:
  a: {servers: {x: {kind: aiohttp, app: "a:b", bind: ":1", options: &o {access_log: true}}}}
  b:
    servers:
      y:
        kind: aiohttp
        app: "a:b"
        bind: ":2"
        options: *o
"""
        assert load(text).settings.pools["b"].servers["y"].where == "hourd.yaml:9"

    def test_byte_order_mark_and_explicit_tags(self) -> None:
        assert load(b"\xef\xbb\xbfname: !!str 12\n" + MINIMAL.encode()).settings.name == "12"

    def test_the_same_free_port_twice(self) -> None:
        load(server("bind: [':0', '0.0.0.0:0', 'localhost:0']"))

    def test_null_where_nothing_is_a_value(self) -> None:
        assert load(f"user:\ngroup: ~\n{MINIMAL}").settings.user is None

    def test_repr_shows_no_settings(self) -> None:
        assert repr(load(MINIMAL)) == "Loaded('hourd', file='hourd.yaml')"


SERVER = "hourd.yaml:8: pools.web.servers.http."
DURATION = "a duration such as 250ms, 30s, 5m or 12h"
NAME = "letters, digits and _ . -, at most 64, the first a letter or digit"

TABLE = [
    # The file as such
    ("", "hourd.yaml:1: the file is empty; it needs at least the key pools"),
    ("# nothing\n---\n", "hourd.yaml:1: the file is empty; it needs at least the key pools"),
    ("- a\n", "hourd.yaml:1: the file is no mapping of keys to values; it needs at least the key pools"),
    ("just text", "hourd.yaml:1: the file is no mapping of keys to values; it needs at least the key pools"),
    (b"a: 1\nb: \xff\n", "hourd.yaml:2: the byte 0xff is not UTF-8"),
    (b"\xef\xbb\xbfa: 1\nb: \xff\n", "hourd.yaml:2: the byte 0xff is not UTF-8"),
    ("a: 1\nb: \x07\n", "hourd.yaml:2: the character U+0007 may not stand in a YAML file"),
    ("pools:\n\tweb: 1\n", "hourd.yaml:2: a tab indents; YAML wants spaces"),
    (f"{MINIMAL}---\n{MINIMAL}", "hourd.yaml:2: a second document begins; one file holds one"),
    (f"{MINIMAL}name: *x\n", "hourd.yaml:2: the alias *x has no complete anchor before it"),
    ("pools: &x\n  a: *x\n", "hourd.yaml:2: the alias *x has no complete anchor before it"),
    ("a: " + "[" * 500_000, "hourd.yaml:1: nested deeper than 50 levels"),
    ("x" * (1024 * 1024 + 1), "hourd.yaml: is larger than 1024 KiB; expected a YAML file"),
    # Keys
    (f"{MINIMAL}nme: x\n", "hourd.yaml:2: nme: unknown key, did you mean 'name'?"),
    (
        f"{MINIMAL}xyz: 1\n",
        (
            "hourd.yaml:2: xyz: unknown key; allowed are control, directory, environment, group, log, name, pid_file, "
            "pools, user"
        ),
    ),
    (
        f'{MINIMAL}"a\\nb": 1\n',
        (
            "hourd.yaml:2: 'a\\nb': unknown key; allowed are control, directory, environment, "
            "group, log, name, pid_file, pools, user"
        ),
    ),
    (f"{MINIMAL}name: a\nname: b\n", "hourd.yaml:3: name: is there twice; the first is in line 2"),
    (f"{MINIMAL}[a]: b\n", "hourd.yaml:2: a key must be text, not a list or mapping"),
    (f"{MINIMAL}<<: 3\n", "hourd.yaml:2: <<: expected a mapping or a list of mappings to merge"),
    ("name: x\n", "hourd.yaml:1: pools: is missing; expected a mapping of keys to values"),
    (
        server("where: x"),
        f"{SERVER}where: unknown key; allowed are app, backlog, bind, grace, kind, options, proxy_protocol, tls, unix",
    ),
    (server("tls: {}"), f"{SERVER}tls.certificate: is missing; expected the path of a file"),
    (
        server("tls: {certificate: hourd.yaml, key: key.pem}"),
        f"{SERVER}tls.key: 'key.pem' cannot be read: No such file or directory",
    ),
    (server("tls: {certificate: /}"), f"{SERVER}tls.certificate: '/' is no regular file"),
    (
        server("tls: {certificate: hourd.yaml, client_certificates: optional}"),
        f"{SERVER}tls.client_certificates: goes with client_ca, which says whose certificates are taken",
    ),
    (
        server("tls: {certificate: hourd.yaml, sni: {'*.x.*': {certificate: hourd.yaml}}}"),
        f"{SERVER}tls.sni.*.x.*: the key '*.x.*' is not allowed; expected a host name in ASCII, or *. and one",
    ),
    (
        server("proxy_protocol: true"),
        f"{SERVER}proxy_protocol: expected a mapping with from, got true",
    ),
    (
        server("proxy_protocol: {from: [10.0.0.1/8]}"),
        f"{SERVER}proxy_protocol.from[0]: '10.0.0.1/8' is an address in 10.0.0.0/8; write that, or 10.0.0.1 for it alone",
    ),
    (f"{MINIMAL}'pools ': 1\n", "hourd.yaml:2: pools : unknown key, did you mean 'pools'?"),
    # Types
    ("pools: 3\n", "hourd.yaml:1: pools: expected a mapping of keys to values, got 3"),
    ("pools:\n", "hourd.yaml:1: pools: expected a mapping of keys to values, got nothing"),
    ("pools: {}\n", "hourd.yaml:1: pools: expected at least one entry, got an empty mapping"),
    (MINIMAL.replace("web", "'a b'"), f"hourd.yaml:1: pools.a b: the key 'a b' is not allowed; expected {NAME}"),
    (f"{MINIMAL}name: [a]\n", f"hourd.yaml:2: name: expected {NAME}, got a list"),
    (f'{MINIMAL}name: "a\\n"\n', f"hourd.yaml:2: name: expected {NAME}, got the text 'a\\n'"),
    (f"{MINIMAL}name: 12\n", f"hourd.yaml:2: name: expected {NAME}, got 12; write it in quotes: '12'"),
    (f"{MINIMAL}user: 12\n", "hourd.yaml:2: user: expected text, got 12; write it in quotes: '12'"),
    (f'{MINIMAL}name: "a\\0"\n', "hourd.yaml:2: name: has a NUL character"),
    (f"{MINIMAL}name: !x a\n", "hourd.yaml:2: name: the tag !x is unknown; leave it out"),
    (f"{MINIMAL}log: !x {{}}\n", "hourd.yaml:2: log: the tag !x is unknown; leave it out"),
    (server("backlog: 0"), f"{SERVER}backlog: expected a whole number from 1 to 65535, got 0"),
    (server("backlog: 010"), f"{SERVER}backlog: expected a whole number from 1 to 65535, got 010"),
    (server("backlog: 1.5"), f"{SERVER}backlog: expected a whole number from 1 to 65535, got 1.5"),
    (server("backlog: " + "9" * 5000), f"{SERVER}backlog: expected a whole number from 1 to 65535, got " + "9" * 5000),
    (
        server("backlog: '3'"),
        f"{SERVER}backlog: expected a whole number from 1 to 65535, got the text '3'; leave the quotes out",
    ),
    (server("grace: 30"), f"{SERVER}grace: expected {DURATION}, got 30"),
    (server("grace: []"), f"{SERVER}grace: expected {DURATION}, got a list"),
    (server("grace:"), f"{SERVER}grace: expected {DURATION}, got nothing"),
    (server("grace: 99999999d"), f"{SERVER}grace: expected at most 3650d, got the text '99999999d'"),
    (server(f"grace: {'9' * 400}s"), f"{SERVER}grace: expected {DURATION}, got the text '{'9' * 60}...'"),
    (server("unix: {mode: 999}"), f"{SERVER}unix.mode: expected permission bits in octal such as 0660, got 999"),
    (
        server("app: a.b", "stream"),
        (
            "hourd.yaml:7: pools.web.servers.http.app: expected module:object such as "
            "hello.web:create_app, got the text 'a.b'"
        ),
    ),
    # Kinds and options
    (
        server("grace: 1s", "aiohtp"),
        ("hourd.yaml:5: pools.web.servers.http.kind: there is no kind aiohtp, did you mean 'aiohttp'?"),
    ),
    (
        server("grace: 1s", "qqq"),
        (
            "hourd.yaml:5: pools.web.servers.http.kind: there is no kind qqq; allowed are "
            "aiohttp, asgi, auto, callable, container, datagram, protocol, ssh, stream, wsgi, or module:object of your own"
        ),
    ),
    (server("grace: 1s", "console"), f"hourd.yaml:5: pools.web.servers.http.kind: kind console {LATER}"),
    (server("options: {acess_log: true}"), f"{SERVER}options.acess_log: unknown key, did you mean 'access_log'?"),
    (
        server("options: {client_max_size: 1k}"),
        (f"{SERVER}options.client_max_size: expected a size such as 64KiB, 512MiB or 2GiB, got the text '1k'"),
    ),
    (
        server("options: {client_max_size: 9999999999999GiB}"),
        (f"{SERVER}options.client_max_size: expected at most {2**63 - 1}B, got the text '9999999999999GiB'"),
    ),
    (
        server("options: {access_log: jsn}"),
        (
            f"{SERVER}options.access_log: expected true or false or combined, common or json, got the text 'jsn', "
            "did you mean 'json'?"
        ),
    ),
    (
        server("options: {trusted_proxies: [10.0.0.0/8, 10.0.0.1/8]}"),
        (
            f"{SERVER}options.trusted_proxies[1]: '10.0.0.1/8' is an address in 10.0.0.0/8; write that, or 10.0.0.1 for it "
            "alone"
        ),
    ),
    (
        server("options: {trusted_proxies: proxy}"),
        (
            f"{SERVER}options.trusted_proxies: expected an IP address, a network such as 10.0.0.0/8 or fd00::/8, or unix, "
            "got the text 'proxy'"
        ),
    ),
    (
        server("options: {forwarded_headers: [x-forwarded-for, forwarded]}"),
        (
            f"{SERVER}options.forwarded_headers: expected forwarded or x-forwarded-for, x-forwarded-host, x-forwarded-port, "
            "x-forwarded-proto or x-request-id, or a list of such, got a list"
        ),
    ),
    (server("options: 3"), f"{SERVER}options: expected a mapping of keys to values, got 3"),
    (server("options: {a: 1}", "protocol"), f"{SERVER}options.a: unknown key; no key is allowed here"),
    (server("options: {a: .inf}", "'a:b'"), f"{SERVER}options.a: '.inf' is no finite number"),
    (server("options: {a: !!int x}", "'a:b'"), f"{SERVER}options.a: 'x' is no valid int"),
    (
        server(f"options: {{a: [{2**64}]}}", "'a:b'"),
        (f"{SERVER}options.a[0]: '{2**64}' is too large; a number has at most 64 bits"),
    ),
    # What was broken before the options are read is one mistake, however deep in them it is.
    (
        server("options: {config: {deep: [{password: '${UNSET}'}]}}", "container"),
        (
            f"{SERVER}options.config.deep[0].password: the environment variable UNSET is not set; "
            "${UNSET:-default} gives a default"
        ),
    ),
    (
        server("options: {cfg: {a: !!binary aGk=}}", "container"),
        f"{SERVER}options.cfg.a: the tag tag:yaml.org,2002:binary is unknown; leave it out",
    ),
    (server('options: {config: {a: ["\\0"]}}', "container"), f"{SERVER}options.config.a[0]: has a NUL character"),
    (
        server("options: {keepalive_timeout: '${UNSET}'}"),
        f"{SERVER}options.keepalive_timeout: the environment variable UNSET is not set; ${{UNSET:-default}} gives a default",
    ),
    (server("options: !x {}"), f"{SERVER}options: the tag !x is unknown; leave it out"),
    (
        server("grace: 1s", "ssh"),
        ("hourd.yaml:4: pools.web.servers.http.options.host_keys: is missing; expected text, or a list of such"),
    ),
    (server("options: {host_keys: []}", "ssh"), f"{SERVER}options.host_keys: expected at least one, got an empty list"),
    (
        "pools: {web: {servers: {http: {kind: stream, bind: ':1'}}}}\n",
        ("hourd.yaml:1: pools.web.servers.http.app: is missing; kind stream needs an application, module:object"),
    ),
    # Across keys
    (f"{MINIMAL}directory: nowhere\n", "hourd.yaml:2: directory: 'nowhere' does not exist; expected a directory"),
    (f"{MINIMAL}directory: hourd.yaml\n", "hourd.yaml:2: directory: 'hourd.yaml' is no directory"),
    (f"{MINIMAL}directory: ''\n", "hourd.yaml:2: directory: expected a path, got an empty text"),
    (
        f"{MINIMAL}directory: /etc/.\n",
        (
            "hourd.yaml:2: directory: '/etc/.' would stand on sys.path, and / and /etc must "
            "not; set directory to the application's own"
        ),
    ),
    (
        f"{MINIMAL}control: /{'x' * 107}\n",
        ("hourd.yaml:2: control: is too long; a socket's absolute path has at most 107 bytes"),
    ),
    (f"{MINIMAL}user: no-such-user\n", "hourd.yaml:2: user: 'no-such-user' is no user of this system"),
    (f"{MINIMAL}group: no-such-group\n", "hourd.yaml:2: group: 'no-such-group' is no group of this system"),
    (server("unix: {owner: no-such}"), f"{SERVER}unix.owner: 'no-such' is no user of this system"),
    (
        f"{MINIMAL}environment: {{1A: x}}\n",
        ("hourd.yaml:2: environment.1A: '1A' is no name of an environment variable; expected letters, digits and _"),
    ),
    (f"{MINIMAL}environment: {{A: [x]}}\n", "hourd.yaml:2: environment.A: expected text, got a list"),
    (f"{MINIMAL}environment: 3\n", "hourd.yaml:2: environment: expected a mapping of keys to values, got 3"),
    (
        f"{MINIMAL}log: {{config: {{}}}}\n",
        ("hourd.yaml:2: log.config.version: expected version: 1, which logging.config.dictConfig asks for"),
    ),
    (
        f"{MINIMAL}log: {{config: x}}\n",
        ("hourd.yaml:2: log.config: expected a mapping of keys to values, got the text 'x'"),
    ),
    (
        f"{MINIMAL}log: {{config: {{version: true}}}}\n",
        ("hourd.yaml:2: log.config.version: expected version: 1, which logging.config.dictConfig asks for"),
    ),
    (
        f"{MINIMAL}log: {{level: inf}}\n",
        ("hourd.yaml:2: log.level: expected debug, error, info or warning, got the text 'inf', did you mean 'info'?"),
    ),
    *(
        (
            server(f"tls: {{certificate: hourd.yaml, alpn: [h2, {name}]}}"),
            (
                f"{SERVER}tls.alpn[1]: expected a protocol's name such as http/1.1: ASCII without spaces, at most 255, "
                f"got {found}"
            ),
        )
        for name, found in [("''", "the text ''"), ("ü", "the text 'ü'"), ("a b", "the text 'a b'")]
    ),
    (
        server("options: {access_log: true, access_log_file: ''}"),
        f"{SERVER}options.access_log_file: expected the path of a file, got the text ''",
    ),
    # Addresses
    (server("bind: []"), "hourd.yaml:7: pools.web.servers.http.bind: expected at least one, got an empty list"),
    (
        server("bind: example.com:80"),
        (
            "hourd.yaml:7: pools.web.servers.http.bind: 'example.com:80' is a name; write an "
            "IP address, localhost, or leave the host out for every interface"
        ),
    ),
    (
        server("bind: 8080"),
        (
            "hourd.yaml:7: pools.web.servers.http.bind: '8080' has no port; expected HOST:PORT, "
            "[IPv6]:PORT, :PORT, unix:/path, unix:@name, systemd:NAME, fd:N, or udp: before one with a port"
        ),
    ),
    (
        server("bind: ['udp:unix:/a', ':5']"),
        ("hourd.yaml:7: pools.web.servers.http.bind[0]: 'udp:unix:/a' has udp: before what has no port; leave it out"),
    ),
    (
        server("bind: [':5', 'udp::5']"),
        (
            "hourd.yaml:7: pools.web.servers.http.bind[1]: 'udp::5' is for datagrams, and kind aiohttp serves "
            "connections; leave out udp:"
        ),
    ),
    (
        server("bind: [':1', 'fd:1']"),
        (
            "hourd.yaml:7: pools.web.servers.http.bind[1]: 'fd:1' needs the number of an open descriptor, 3 or more: "
            "fd:N"
        ),
    ),
    (
        server("bind: [':5', '[::0]:5']"),
        (
            "hourd.yaml:7: pools.web.servers.http.bind[1]: '[::0]:5' is an address of "
            "pools.web.servers.http.bind[0] as well (hourd.yaml:7)"
        ),
    ),
    # Substitution
    (
        f"{MINIMAL}name: ${{NOPE}}\n",
        ("hourd.yaml:2: name: the environment variable NOPE is not set; ${NOPE:-default} gives a default"),
    ),
    (f"{MINIMAL}name: ${{NOPE\n", "hourd.yaml:2: name: ${ has no closing }; write $${ for a literal ${"),
    (
        f"{MINIMAL}name: ${{a b}}\n",
        (
            "hourd.yaml:2: name: '${a b}' is no substitution; allowed are ${NAME}, "
            "${NAME:-default}, ${file:/path} and ${credential:NAME}; $${ stands for a literal ${"
        ),
    ),
    (
        f"{MINIMAL}name: ${{file:nope}}\n",
        ("hourd.yaml:2: name: the file '{here}/nope' cannot be read: No such file or directory"),
    ),
    (f"{MINIMAL}name: ${{file:app}}\n", "hourd.yaml:2: name: the file '{here}/app' is no regular file"),
    (
        f"{MINIMAL}name: ${{credential:x}}\n",
        ("hourd.yaml:2: name: there is no credential 'x': systemd has not set CREDENTIALS_DIRECTORY"),
    ),
    (
        f"{MINIMAL}name: ${{credential:../x}}\n",
        ("hourd.yaml:2: name: '../x' is no name of a credential; it may have neither / nor .."),
    ),
]


@pytest.mark.parametrize(("text", "line"), TABLE, ids=[line[:70] for _, line in TABLE])
def test_mistake(text: str | bytes, line: str, tmp_path: Path) -> None:
    assert mistakes(text) == [line.replace("{here}", str(tmp_path))]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "workers: atuo",
            (
                "workers: expected a whole number from 1 to 1024 or auto or a mapping with min and max, got the text 'atuo', did you mean 'auto'?"
            ),
        ),
        ("workers: 0", "workers: expected a whole number from 1 to 1024 or auto or a mapping with min and max, got 0"),
        ("workers: {min: 8, max: 2}", "workers.min: min is more than max; expected at most as many"),
        ("workers: {min: 2}", "workers.max: is missing; expected a whole number from 1 to 1024"),
        ("worker: 2", "worker: unknown key, did you mean 'workers'?"),
        ("preload: 'true'", "preload: expected true or false, got the text 'true'; leave the quotes out"),
        ("loop: uvlop", "loop: expected asyncio or uvloop, got the text 'uvlop', did you mean 'uvloop'?"),
        ("recycle: {age: 0s}", "recycle.age: expected more than 0; leave it out for no limit"),
        ("recycle: {jitter: 110%}", "recycle.jitter: expected a share such as 0%, 10% or 100%, got the text '110%'"),
        ("recycle: {requests: 0}", "recycle.requests: expected a whole number from 1, got 0"),
        ("timeouts: {slow: 31s}", "timeouts.slow: slow is longer than hung; expected at most as long"),
        ("timeouts: {hung: 500ms}", "timeouts.hung: slow is longer than hung; expected at most as long"),
        (
            "timeouts: {slow: 50ms}",
            "timeouts.slow: expected at least 100ms: workers give their signs of life more seldom",
        ),
        ("timeouts: {boot: 0}", "timeouts.boot: expected at least 100ms"),
        ("timeouts: {boot: 99ms}", "timeouts.boot: expected at least 100ms"),
        ("restart: {backoff: 0}", "restart.backoff: expected at least 10ms: nothing would slow down what always fails"),
        (
            "restart: {backoff: 9.9ms}",
            "restart.backoff: expected at least 10ms: nothing would slow down what always fails",
        ),
        (
            "restart: {giving_up: {within: 0}}",
            "restart.giving_up.within: expected at least 100ms: who served for longer has not failed",
        ),
        (
            "restart: {giving_up: {failures: 1000001}}",
            "restart.giving_up.failures: expected a whole number from 1 to 1000000, got 1000001",
        ),
        ("restart: {backoff: 1m}", "restart.backoff: backoff is longer than backoff_max; expected at most as long"),
        (
            "restart: {backoff_max: 0}",
            ("restart.backoff_max: backoff is longer than backoff_max; expected at most as long"),
        ),
        ("servers: 1", "servers: is there twice; the first is in line 3"),
    ],
)
def test_mistake_of_a_pool(line: str, said: str) -> None:
    text = f"pools:\n  web:\n    servers: {{http: {{kind: aiohttp, app: 'a:b', bind: ':1'}}}}\n    {line}\n"
    assert mistakes(text) == [f"hourd.yaml:4: pools.web.{said}"]


class TestMany:
    def test_all_at_once_sorted_by_line(self) -> None:
        text = "pools:\n  web:\n    loop: x\n    servers:\n      http:\n        kind: nope\n        bind: x:1\nlog: 3\n"
        lines = mistakes(text, workers="x", name="a b")
        assert [line.split(": ")[0] for line in lines] == [
            "--workers",
            "--name",
            "hourd.yaml:3",
            "hourd.yaml:6",
            "hourd.yaml:7",
            "hourd.yaml:8",
        ]

    def test_the_same_address_in_two_servers(self) -> None:
        text = """\
pools:
  a: {servers: {x: {kind: aiohttp, app: "a:b", bind: "localhost:80"}}}
  b: {servers: {y: {kind: aiohttp, app: "a:b", bind: "127.0.0.1:80"}}}
"""
        assert mistakes(text) == [
            (
                "hourd.yaml:3: pools.b.servers.y.bind: '127.0.0.1:80' is an address of pools.a.servers.x.bind as well "
                "(hourd.yaml:2)"
            )
        ]

    def test_tcp_and_udp_have_ports_of_their_own(self) -> None:
        text = """\
pools:
  a: {servers: {x: {kind: datagram, app: "a:b", bind: [":53", "systemd:dns", "unix:/run/x"]}}}
  b: {servers: {y: {kind: stream, app: "a:b", bind: [":53", "systemd:dns"]}}}
"""
        load(text)
        assert mistakes(
            text
            + """\
  c: {servers: {x: {kind: "my:Kind", bind: ["udp:127.0.0.1:54", "udp:[::]:53", "systemd:dns"]}}}
  d: {servers: {y: {kind: datagram, app: "a:b", bind: "127.0.0.1:54"}}}
  e: {servers: {y: {kind: stream, app: "a:b", bind: "unix:/run/x"}}}
"""
        ) == [
            (
                "hourd.yaml:4: pools.c.servers.x.bind[1]: 'udp:[::]:53' is an address of pools.a.servers.x.bind[0] as well "
                "(hourd.yaml:2)"
            ),
            (
                "hourd.yaml:4: pools.c.servers.x.bind[2]: 'systemd:dns' is an address of pools.b.servers.y.bind[1] as well "
                "(hourd.yaml:3)"
            ),
            (
                "hourd.yaml:5: pools.d.servers.y.bind: '127.0.0.1:54' is an address of pools.c.servers.x.bind[0] as well "
                "(hourd.yaml:4)"
            ),
            (
                "hourd.yaml:6: pools.e.servers.y.bind: 'unix:/run/x' is an address of pools.a.servers.x.bind[2] as well "
                "(hourd.yaml:2)"
            ),
        ]

    def test_too_many_addresses(self) -> None:
        addresses = [f":{port}" for port in range(1, 102)]
        assert mistakes(server(f"bind: {addresses}")) == [
            "hourd.yaml:2: pools.web: has 202 addresses; allowed are 200 in one pool"
        ]
        load(server(f"bind: {addresses[1:]}"))

    def test_a_syntax_error_has_its_line(self) -> None:
        (line,) = mistakes(f"{MINIMAL}name: [a\nx: ]\n")
        assert line.startswith("hourd.yaml:3: is not valid YAML: ")

    @pytest.mark.parametrize(
        "inner", ["[*{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}, *{0}]", "{{<<: [*{0}, *{0}], a{0}: *{0}, b{0}: *{0}}}"]
    )
    def test_billion_laughs(self, inner: str) -> None:
        lines = ["a0: &x0 {a: b}"] + [f"a{n}: &x{n} {inner.format(f'x{n - 1}')}" for n in range(1, 30)]
        (line,) = mistakes("\n".join(lines))
        assert line.endswith("more than 100000 values, aliases counted in full")

    def test_aliases_do_not_nest_deeper(self) -> None:
        lines = ["a0: &x0 {a: b}"] + [f"a{n}: &x{n} [*x{n - 1}]" for n in range(1, 60)]
        assert mistakes("\n".join(lines)) == ["hourd.yaml:50: nested deeper than 50 levels"]


class TestFile:
    def test_missing(self) -> None:
        with pytest.raises(errors.ConfigError, match=r"^nope.yaml: there is no such file$"):
            config.load("nope.yaml", environ={})

    def test_directory(self) -> None:
        with pytest.raises(errors.ConfigError, match=r"^app: is no regular file; expected a YAML file$"):
            config.load("app", environ={})

    def test_a_pipe_that_nobody_writes_to(self) -> None:
        os.mkfifo("pipe.yaml")
        with pytest.raises(errors.ConfigError, match=r"^pipe.yaml: is no regular file"):
            config.load("pipe.yaml", environ={})

    def test_unreadable(self, unprivileged: None) -> None:
        del unprivileged
        with pytest.raises(errors.NoPermissionError, match=r"^closed/x.yaml: cannot be read: Permission denied$"):
            config.load("closed/x.yaml", environ={})

    def test_the_stem_is_no_name(self) -> None:
        Path("my file.yaml").write_text(MINIMAL)
        with pytest.raises(
            errors.ConfigError, match=r"my file.yaml:1: name: is missing, and 'my file' cannot be one; "
        ):
            config.load("my file.yaml", environ={})

    @pytest.mark.parametrize("folder", ["/", "/etc"])
    def test_started_where_nothing_may_be_imported_from(self, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        path = Path("hourd.yaml").absolute()
        path.write_text(MINIMAL)
        monkeypatch.chdir(folder)
        with pytest.raises(
            errors.ConfigError, match=f":1: directory: '{folder}' would stand on sys.path.*set directory"
        ):
            config.load(str(path), environ={})

    def test_started_in_a_folder_that_is_gone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "hourd.yaml").write_text(MINIMAL)
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir("gone")
        (tmp_path / "gone").rmdir()
        with pytest.raises(errors.ConfigError, match="directory: the current directory does not exist any more"):
            config.load(str(tmp_path / "hourd.yaml"), environ={})


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[None]:
    """Run the test as a user that may not look into ``closed``."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "x.yaml").write_text(MINIMAL)
    (tmp_path / "closed").chmod(0)
    before = os.geteuid()
    if before == 0:
        tmp_path.chmod(0o755)
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    yield
    os.seteuid(before)
    (tmp_path / "closed").chmod(0o700)


class TestAccounts:
    def test_only_root_becomes_somebody_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
        monkeypatch.setattr(os, "getegid", lambda: 54321)
        monkeypatch.setattr(os, "getgroups", lambda: [54321])
        assert mistakes(f"{MINIMAL}user: root\ngroup: root\n") == [
            "hourd.yaml:2: user: 'root' is another user than hourd's own, nobody; only root may set one",
            "hourd.yaml:3: group: 'root' is another group than hourd's own; only root may set one",
        ]
        assert load(f"{MINIMAL}user: nobody\n").settings.user == "nobody"

    def test_root_becomes_anybody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert load(f"{MINIMAL}user: nobody\n").settings.user == "nobody"


class TestKinds:
    def test_what_it_needs_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        text = server("options: {host_keys: x}", "ssh")
        assert mistakes(text) == [
            "hourd.yaml:5: pools.web.servers.http.kind: kind ssh needs asyncssh: pip install 'hourd[ssh]'"
        ]

    def test_nothing_is_imported(self, tmp_path: Path) -> None:
        (tmp_path / "x.yaml").write_text(FULL)
        program = (
            "import sys; from hourd import config; config.load('x.yaml', environ={});"
            "new = set(sys.modules) - before;"
            "sys.exit(' '.join({'asyncio', 'aiohttp', 'asyncssh', 'difflib', 'inspect'} & new) or 0)"
        )
        program = f"import sys, msgspec, yaml, hourd.kinds; before = set(sys.modules); {program}"
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, env=environ)
        assert (run.returncode, run.stderr) == (0, "")


class Colour(enum.Enum):
    RED = "red"


class Nested(msgspec.Struct, frozen=True):
    size: int = 0


class OwnOptions(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """What a kind that code registers may take."""

    ratio: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    most: Annotated[int, msgspec.Meta(le=3)] = 0
    names: list[str] = []
    codes: set[int] = set()
    colour: Colour = Colour.RED
    one_or_more: int | list[int] | Nested = 1
    word: Annotated[str, msgspec.Meta(min_length=2, max_length=3)] = "ab"
    when: dt.date | None = None


class TestRegisteredKind:
    """A kind of other code may use any type that msgspec knows."""

    @pytest.fixture(autouse=True)
    def _own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Own(kinds.Kind):
            """A kind."""

            Options = OwnOptions

        monkeypatch.setitem(kinds._registered, "own", Own)

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            ("ratio: 0.25", {"ratio": 0.25}),
            ("names: [a, b]", {"names": ["a", "b"]}),
            ("codes: [1]", {"codes": [1]}),
            ("one-or-more: [1, 2]", {"one-or-more": [1, 2]}),
            ("one-or-more: 2", {"one-or-more": 2}),
            ("one-or-more: {size: 2}", {"one-or-more": {"size": 2}}),
            ("word: abc", {"word": "abc"}),
            ("when: 2020-01-01", {"when": "2020-01-01"}),
        ],
    )
    def test_good(self, written: str, read: dict[str, Any]) -> None:
        loaded = load(server(f"options: {{{written}}}", "own"))
        options = loaded.settings.pools["web"].servers["http"].options
        assert options == {**msgspec.json.decode(msgspec.json.encode(OwnOptions())), **read}
        assert without_places(load(to_yaml(loaded))) == without_places(loaded)

    def test_schema(self) -> None:
        schema = jsonschema.Draft202012Validator(json_schema())
        schema.validate(yaml.safe_load(server("options: {ratio: 0.5, names: [a], codes: [1], colour: red}", "own")))
        assert not schema.is_valid(yaml.safe_load(server("options: {ratio: 2}", "own")))

    @pytest.mark.parametrize(
        ("written", "said"),
        [
            ("ratio: 1", ".ratio: expected a number above 0 below 1, got 1"),
            ("ratio: a", ".ratio: expected a number above 0 below 1, got the text 'a'"),
            ("most: 4", ".most: expected a whole number up to 3, got 4"),
            ("names: a", ".names: expected a list, got the text 'a'"),
            ("one-or-more: x", (".one-or-more: expected a whole number or a list or a mapping of keys to values, "
             "got the text 'x'")),
            ("one-or-more: {sise: 1}", ".one-or-more.sise: unknown key, did you mean 'size'?"),
            ("word: abcd", ".word: expected text, got the text 'abcd'"),
            ("colour: blue", ": Invalid enum value 'blue' - at `$.colour`"),
        ],
    )  # fmt: skip
    def test_bad(self, written: str, said: str) -> None:
        assert mistakes(server(f"options: {{{written}}}", "own")) == [f"{SERVER}options{said}"]

    def test_no_secret_is_quoted(self) -> None:
        Path("secret").write_text(SECRET)
        assert mistakes(server('options: {colour: "${file:secret}"}', "own")) == [
            f"{SERVER}options: a value is not allowed"
        ]


class TestSubstitution:
    @pytest.mark.parametrize(
        ("written", "environ", "value"),
        [
            ("${N}", {"N": "x"}, "x"),
            ("a${N}b${M}c", {"N": "x", "M": ""}, "axbc"),
            ("${N:-d}", {}, "d"),
            ("${N:-d}", {"N": ""}, "d"),
            ("${N:-d}", {"N": "x"}, "x"),
            ("${N:-}", {}, None),
            ("'${N:-}'", {}, ""),
            ("${N}", {"N": "4"}, 4),
            ("'${N}'", {"N": "4"}, "4"),
            ("${N}", {"N": "true"}, True),
            ("$${N}", {}, "${N}"),
            ("$N $$ $", {}, "$N $$ $"),
            ("${N}", {"N": "${M}"}, "${M}"),
            ("${file:secret}", {}, SECRET),
            ("${file:number}", {}, 7),
            ("'${file:number}'", {}, "7"),
            ("${file:lines}", {}, "a\n"),
            ("${credential:token}", {"CREDENTIALS_DIRECTORY": "credentials"}, SECRET),
        ],
    )
    def test_value(self, written: str, environ: dict[str, str], value: object) -> None:
        _write_secrets()
        loaded = load(
            server(f"options: {{}}\n        # \n{' ' * 8}grace: 1s", "'a:b'").replace(
                "options: {}", f"options:\n          key: {written}"
            ),
            environ,
        )
        assert loaded.settings.pools["web"].servers["http"].options == {"key": value}

    def test_keys_are_left_alone(self) -> None:
        text = server("options: {'${N}': 1}", "'a:b'")
        assert load(text).settings.pools["web"].servers["http"].options == {"${N}": 1}

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"x" * (64 * 1024 + 1), "is larger than 64 KiB"),
            (b"\xff", "is not UTF-8"),
            (b"a\0b", "has a NUL character"),
        ],
    )
    def test_unfit_file(self, content: bytes, why: str, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(content)
        assert mistakes(f"{MINIMAL}name: ${{file:f}}\n") == [f"hourd.yaml:2: name: the file '{tmp_path}/f' {why}"]

    def test_unfit_variable(self) -> None:
        assert mistakes(f"{MINIMAL}name: ${{N}}\n", {"N": "\udcff"}) == [
            "hourd.yaml:2: name: the value of the environment variable N is not valid Unicode"
        ]


def _write_secrets() -> None:
    Path("credentials").mkdir()
    for name, content in {
        "secret": f"{SECRET}\n",
        "number": "7\n",
        "lines": "a\n\n",
        "credentials/token": SECRET,
    }.items():
        Path(name).write_text(content)


PLACES = """\
name: X
directory: X
user: X
group: X
control: X
environment: {A: X, B: [X], C: {d: X}}
log: {level: X, format: X, config: {version: X}}
pools:
  web:
    workers: X
    preload: X
    loop: X
    lifespan: X
    servers:
      http: {kind: X, app: X, bind: [X, X], backlog: X, grace: X, unix: {mode: X, owner: X, group: X}, tls: X, proxy_protocol: X}
      more: {kind: aiohttp, app: X, bind: X, options: {access_log: X, keepalive_timeout: X, other: X}}
    restart: {backoff: X, giving_up: {failures: X, within: X}}
"""


class TestSecrets:
    @pytest.mark.parametrize("text", [SECRET, "infoo", "4 5", "99999999", "http://x:1", "fd:x", "deubg", "x.com:1"])
    @pytest.mark.parametrize("form", ['"${file:secret}"', '"${credential:secret}"', '"a${file:secret}"'])
    def test_in_no_mistake(self, text: str, form: str) -> None:
        Path("secret").write_text(text)
        said = "\n".join(mistakes(PLACES.replace("X", form), {"CREDENTIALS_DIRECTORY": "."}))
        assert text.strip() not in said
        assert "did you mean" not in said
        assert form.strip('"').replace("${file:", f"${{file:{Path.cwd()}/") in said

    def test_in_no_mistake_of_an_address_taken_twice(self) -> None:
        Path("secret").write_text("127.0.0.7:77")
        said = mistakes(server("bind: ['${file:secret}', '127.0.0.7:77', '${file:secret}']"))
        assert "127.0.0.7" not in said[1]
        assert len(said) == 2

    def test_in_nothing_printed(self, tmp_path: Path) -> None:
        _write_secrets()
        text = FULL.replace("postgresql:///hello", '"pg://${USER}:${file:secret}@x/$${y}"')
        text = text.replace("workers: 4", "workers: ${file:number}").replace("text, 2020", "'${file:number}', 2020")
        text = text.replace("0.0.0.0:8080", "[':${file:number}7']")
        loaded = load(text, {"USER": "me"})
        assert loaded.settings.environment["HELLO_DB"] == f"pg://me:{SECRET}@x/${{y}}"
        printed = to_yaml(loaded)
        assert SECRET not in printed
        assert f"'pg://me:${{file:{tmp_path}/secret}}@x/$${{y}}'" in printed
        assert f"workers: ${{file:{tmp_path}/number}}" in printed
        assert SECRET not in repr(loaded)
        assert SECRET not in repr(loaded.secrets)
        assert without_places(load(printed)) == without_places(loaded)


class TestOverrides:
    def test_precedence(self, tmp_path: Path) -> None:
        loaded = load(
            FULL.replace("workers: 4", "workers: ${UNSET}"),
            name="other",
            workers=9,
            log_level="debug",
            log_format="json",
            control="c.sock",
            directory="/usr",
        ).settings
        assert (loaded.name, loaded.directory, loaded.control) == ("other", "/usr", str(tmp_path / "c.sock"))
        assert (loaded.log.level, loaded.log.format) == ("debug", "json")
        assert [pool.workers for pool in loaded.pools.values()] == [9, "auto"]

    def test_bind_of_the_only_server(self) -> None:
        loaded = load(MINIMAL, bind=(":5", "unix:@x"), workers="auto").settings
        assert loaded.pools["web"].servers["http"].bind == (":5", "unix:@x")

    def test_bind_of_several_servers(self) -> None:
        assert mistakes(FULL, bind=(":5",)) == [
            "--bind: there are several servers (web.http, web.shell, more.echo, more.own); set bind of each in the file"
        ]

    def test_nothing_is_substituted(self) -> None:
        (line,) = mistakes(MINIMAL, {"N": "x"}, name="${N}")
        assert line == f"--name: expected {NAME}, got the text '${{N}}'"

    def test_mistakes_name_the_option(self) -> None:
        assert mistakes(MINIMAL, workers="0", log_level="inf", bind=("x:1",)) == [
            "--bind: 'x:1' is a name; write an IP address, localhost, or leave the host out for every interface",
            "--workers: expected a whole number from 1 to 1024 or auto or a mapping with min and max, got 0",
            "--log-level: expected debug, error, info or warning, got the text 'inf', did you mean 'info'?",
        ]

    @pytest.mark.parametrize("text", ["pools: 3", "pools: {}", "pools: {a: 3}", "log: 3", "pools: {a: {servers: 3}}"])
    def test_a_file_without_the_place(self, text: str) -> None:
        assert not any(line.startswith("--") for line in mistakes(text, workers=3, bind=(":1",), log_level="info"))


class TestWithoutFile:
    def test_good(self, tmp_path: Path) -> None:
        loaded = config.from_app("hello.web:app", environ={}, overrides=Overrides(bind=(":8080",), workers="4"))
        assert loaded.file is None
        assert (loaded.settings.name, loaded.settings.directory) == ("hello", str(tmp_path))
        pool = loaded.settings.pools["main"]
        assert (pool.workers, pool.servers["main"].kind, pool.servers["main"].bind) == (4, "auto", (":8080",))
        assert without_places(load(to_yaml(loaded))) == without_places(loaded)

    def test_mistakes(self) -> None:
        with pytest.raises(errors.ConfigError) as caught:
            config.from_app("hello", environ={}, kind="strem")
        assert str(caught.value).splitlines() == [
            "--bind: is missing; write where to listen, such as --bind 127.0.0.1:8080",
            "--kind: there is no kind strem, did you mean 'stream'?",
            "APP: expected module:object such as hello.web:create_app, got the text 'hello'",
        ]


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({}, "/run/hourd/x.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/1"}, "/run/user/1/hourd/x.sock"),
        ({"XDG_RUNTIME_DIR": "/run/user/1", "RUNTIME_DIRECTORY": "/run/a:/run/b"}, "/run/a/x.sock"),
        ({"XDG_RUNTIME_DIR": "", "RUNTIME_DIRECTORY": ""}, "/run/hourd/x.sock"),
    ],
)
def test_control_path(environ: dict[str, str], path: str) -> None:
    assert config.control_path(load(f"name: x\n{MINIMAL}").settings, environ) == path
    assert config.control_path(load(f"control: /c\n{MINIMAL}").settings, environ) == "/c"


def test_a_daemon_is_found_while_its_file_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text("control: ${WHERE}/x.sock\npols: {}\nuser: nobody-of-this-name\n")
    assert config.identify(str(file), environ={"WHERE": "run"}) == ("shop", f"{tmp_path}/run/x.sock")
    file.write_text("name: other\npools: 5\n")
    assert config.identify(str(file), environ={}) == ("other", None)
    file.write_text("name: [a]\n")
    with pytest.raises(errors.ConfigError, match=r"shop\.yaml:1: name: expected a text"):
        config.identify(str(file), environ={})
    file.write_text("name: [a\n")
    with pytest.raises(errors.ConfigError, match=r"shop\.yaml:"):
        config.identify(str(file), environ={})


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 2**63, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
durations = st.sampled_from(["0", "1.5ms", "0.1234567s", "250ms", "90s", "30.0000000001s", "1d"])
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
configurations = st.fixed_dictionaries(
    {
        "name": names,
        "environment": st.dictionaries(st.from_regex(r"[A-Z_]{1,9}", fullmatch=True), texts, max_size=3),
        "log": st.fixed_dictionaries({"level": st.sampled_from(["debug", "info"])}),
    }
)


class TestRoundTrip:
    def test_full(self) -> None:
        loaded = load(FULL)
        assert without_places(load(to_yaml(loaded))) == without_places(loaded)

    def test_what_looks_like_a_substitution(self) -> None:
        loaded = load(server('bind: "unix:/a$${B}"\n        options: {key: "$${C}"}', "'a:b'"))
        assert without_places(load(to_yaml(loaded))) == without_places(loaded)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(configurations, names, plain, durations, st.integers(1, 1024), st.integers(0, 0o7777))
    def test_any(self, root: dict[str, Any], pool: str, options: Any, grace: str, workers: int, mode: int) -> None:
        server = {
            "kind": "mine:Kind",
            "bind": [":1"],
            "grace": grace,
            "unix": {"mode": f"{mode:04o}"},
            "options": {"any": options},
        }
        data = {**root, "pools": {pool: {"workers": workers, "servers": {pool: server}}}}
        written = yaml.safe_dump(data, allow_unicode=True).replace("${", "$${")
        loaded = load(written)
        again = load(to_yaml(loaded))
        assert without_places(again) == without_places(loaded)


class TestAnything:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.binary(max_size=200))
    def test_bytes(self, content: bytes) -> None:
        _survives(content)

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        st.lists(
            st.sampled_from(
                [*"[]{}:-?!&*|>%@`'\"#,\n\t \\ax0", "${", "<<: ", "\n  ", "pools: ", "&a ", "*a", "--- ", "!!int "]
            )
        )
    )
    def test_tokens(self, tokens: list[str]) -> None:
        _survives("".join(tokens).encode())

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.data())
    def test_a_good_file_with_one_value_changed(self, data: st.DataObject) -> None:
        tree: Any = yaml.safe_load(FULL)
        holder, key = data.draw(st.sampled_from(list(_slots(tree))))
        holder[key] = data.draw(plain)
        _survives(yaml.safe_dump(tree, allow_unicode=True).encode())

    def test_the_python_loader_does_as_well(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(document, "_Loader", yaml.SafeLoader)
        assert without_places(load(FULL))["name"] == "hello"
        assert mistakes(r'name: "\UFFFFFFFF"') != []
        assert mistakes("a: " + "[" * 5000) == ["hourd.yaml:1: nested deeper than 50 levels"]


def _slots(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a tree with each of its keys."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from _slots(tree[key])


def _survives(content: bytes) -> None:
    """Check that the file is taken, or refused in lines that each name the file."""
    try:
        loaded: Settings = load(content).settings
    except errors.HourdError as error:
        lines = str(error).split("\n")
        assert lines
        assert all(line.startswith("hourd.yaml:") and line.isprintable() for line in lines)
    else:
        assert loaded.pools


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_a_largest_body_of_0_is_no_limit(kind):
    assert msgspec.convert({"client_max_size": 0}, kinds.find(kind).options).client_max_size is None

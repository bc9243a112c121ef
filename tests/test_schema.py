"""What an editor says of a file agrees with what hourd says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from hourd import config, errors
from hourd.config.schema import DIALECT, json_schema

MINIMAL = "pools: {web: {servers: {http: {kind: aiohttp, app: 'a:b', bind: ':1'}}}}\n"

FULL = """\
name: hello
directory: app
environment: {HELLO_DB: postgresql:///hello}
control: /run/hourd/hello.sock
pid_file: /run/hourd/hello.pid
log: {level: info, format: text}

pools:
  web:
    workers: auto
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
        bind: [127.0.0.1:8022, "[::1]:8022", "unix:/run/hello.sock", "unix:@hello", ":0"]
        unix: {mode: 0660}
        options: {host_keys: [/etc/hello/ssh_host_key]}
    timeouts: {boot: 60s}
    restart: {backoff: 100ms, backoff_max: 30s, giving_up: {failures: 5, within: 60s}}
"""


LIMITS = """\
pools:
  web:
    servers: {http: {kind: aiohttp, app: 'a:b', bind: ':1'}}
    timeouts: {boot: "X", slow: "X", hung: 20d}
    restart: {backoff: "Y", backoff_max: 20d, giving_up: {within: "X"}}
"""
"""Where durations have a least value: X of 100 ms, Y of 10 ms."""


def server(line: str, kind: str = "aiohttp") -> str:
    """Return a file with one server that has a line more."""
    app = "" if line.startswith("app:") else "app: a:b\n        "
    bind = "" if line.startswith("bind:") else "bind: :1\n        "
    return f"pools:\n  web:\n    servers:\n      http:\n        kind: {kind}\n        {app}{bind}{line}\n"


GOOD = {
    "full": FULL,
    "minimal": MINIMAL,
    "substituted": """\
name: ${NAME}
user: ${NOBODY:-}
environment: {A: 1, B: true, C: 1.5, D: , E: "${NAME}"}
log: {level: "${LEVEL:-info}", config: {version: 1}}
pools:
  web:
    workers: ${WORKERS:-4}
    preload: ${PRELOAD:-no}
    loop: ${LOOP:-uvloop}
    servers:
      http:
        kind: ${KIND:-aiohttp}
        app: ${APP:-a:b}
        bind: ${HOST:-127.0.0.1}:${PORT:-80}
        backlog: ${BACKLOG:-5}
        grace: ${GRACE:-5s}
        unix: {mode: "${MODE:-0660}"}
      more:
        kind: aiohttp
        app: a:b
        bind: :81
        options: {access_log: "${LOG}", client_max_size: "${SIZE:-1KiB}"}
    restart: {giving_up: {failures: "${FAILURES:-5}"}}
""".replace('"${LOG}"', "yes").replace('"${FAILURES:-5}"', "3"),
    "merged": """\
pools:
  a: &pool {workers: 2, servers: {http: &http {kind: aiohttp, app: "a:b", bind: ":1"}}}
  b: {<<: *pool, servers: {http: {<<: *http, bind: ":2"}}}
""",
    "zero": server("grace: 0"),
    "mode": server("unix: {mode: '0o660', owner: ~}"),
    "yes": server("options: {access_log: yes, keepalive_timeout: 1.5m, client_max_size: ~}"),
    "proxies": server("options: {trusted_proxies: [10.0.0.0/8, '::1', unix], forwarded_headers: forwarded}"),
    "a proxy": server("options: {trusted_proxies: 10.0.0.1, forwarded_headers: x-forwarded-for, access_log: json}"),
    "own kind": server("options: {any: [1, {a: b}]}", "'a:B'"),
    "TLS": server("tls: {certificate: hourd.yaml, sni: {'*.x.org': {certificate: hourd.yaml}}, alpn: h2}"),
    "PROXY protocol": server("proxy_protocol: {from: [10.0.0.0/8, '::1', unix]}"),
    "ssh": server("options: {host_keys: key, sftp: off}", "ssh"),
    "no app": "pools: {a: {servers: {b: {kind: 'a:B', bind: ['unix:/x', 'unix:@y', '[::]:1', 'localhost:2']}}}}",
}

for number, (x, y) in enumerate(
    [("100ms", "10ms"), ("0100.0ms", "010ms"), ("0.1s", "0.01s"), ("1s", "0.1s"), ("0.99s", "00.0123s"),
     ("0.01m", "0.01m"), ("1d", "30s"), ("${A:-250ms}", "${A:-10ms}")]
):  # fmt: skip
    GOOD[f"least {number}"] = LIMITS.replace("X", x).replace("Y", y)

BAD = {
    "empty": "{}",
    "unknown key": f"{MINIMAL}nme: x",
    "pools": "pools: {}",
    "name": f"{MINIMAL}name: a b",
    "number for text": f"{MINIMAL}name: 12",
    "variable": f"{MINIMAL}environment: {{1A: x}}",
    "variable's value": f"{MINIMAL}environment: {{A: [x]}}",
    "log level": f"{MINIMAL}log: {{level: inf}}",
    "log version": f"{MINIMAL}log: {{config: {{version: 2}}}}",
    "TLS without a certificate": server("tls: {}"),
    "TLS version": server("tls: {certificate: c, minimum: TLSv1.1}"),
    "PROXY protocol from nobody": server("proxy_protocol: {from: []}"),
    "PROXY protocol from a name": server("proxy_protocol: {from: [example.com]}"),
    "hidden": server("where: x"),
    "duration": server("grace: 30"),
    "no duration": server("grace: x"),
    "mode": server("unix: {mode: '999'}"),
    "range": server("backlog: 0"),
    "quoted number": server("backlog: '5'"),
    "kind": server("grace: 1s", "aiohtp"),
    "kind of a later version": server("grace: 1s", "console"),
    "option": server("options: {acess_log: true}"),
    "option of another kind": server("options: {access_log: true}", "stream"),
    "option's type": server("options: {access_log: 3}"),
    "proxy by name": server("options: {trusted_proxies: proxy}"),
    "kinds of headers": server("options: {forwarded_headers: [forwarded, x-forwarded-for]}"),
    "format of the access log": server("options: {access_log: jsn}"),
    "no app": "pools: {a: {servers: {b: {kind: stream, bind: ':1'}}}}",
    "no bind": "pools: {a: {servers: {b: {kind: stream, app: 'a:b'}}}}",
    "empty bind": server("bind: []"),
    "host name": server("bind: example.com:80"),
    "address form": server("bind: fd:x"),
    "no host keys": server("grace: 1s", "ssh"),
    "no servers": "pools: {a: {servers: {}}}",
    "range of workers": "pools: {a: {workers: {min: 1}, servers: {b: {kind: 'a:B', bind: ':1'}}}}",
    "pool's name": MINIMAL.replace("web", "'a b'"),
}

for number, (x, y) in enumerate(
    [("0", "10ms"), ("0s", "10ms"), ("99ms", "10ms"), ("099.9ms", "10ms"), ("0.09s", "10ms"), ("0.0m", "10ms"),
     ("1s", "0"), ("1s", "9ms"), ("1s", "0.009s"), ("1s", "0h"), ("1s", "000ms"), ("1", "10ms")]
):  # fmt: skip
    BAD[f"too little {number}"] = LIMITS.replace("X", x).replace("Y", y)

ENVIRON = {"NAME": "x"}


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def load(text: str, folder: Path) -> None:
    (folder / "app").mkdir()
    (folder / "hourd.yaml").write_text(text)
    config.load(str(folder / "hourd.yaml"), environ=ENVIRON)


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str, validator: Any, tmp_path: Path) -> None:
    load(GOOD[name], tmp_path)
    validator.validate(yaml.safe_load(GOOD[name]))


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str, validator: Any, tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError):
        load(BAD[name], tmp_path)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(yaml.safe_load(BAD[name]))


def test_dialect() -> None:
    assert json_schema()["$schema"] == DIALECT


def test_defaults_are_written_as_in_a_file() -> None:
    pool = json_schema()["properties"]["pools"]["additionalProperties"]["properties"]
    http = pool["servers"]["additionalProperties"]["properties"]
    assert http["grace"]["default"] == "30s"
    assert http["unix"]["properties"]["mode"]["default"] == "0666"
    assert http["grace"]["description"] == "how long connections may finish once a worker drains"


def _schemas(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for each in node for found in _schemas(each)]
    if not isinstance(node, dict):
        return []
    return [node, *(found for each in node.values() for found in _schemas(each))]


def test_every_mapping_is_closed_and_described() -> None:
    closed = [each for each in _schemas(json_schema()) if "additionalProperties" in each and "properties" in each]
    assert closed
    assert all(each["additionalProperties"] is False and each["description"] for each in closed)

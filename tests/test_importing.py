"""``hourd import``: what becomes of other servers' configurations, and that hourd takes the result."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from hourd import errors, kinds
from hourd.importing import api_hour as importing
from hourd.importing import gunicorn, logging_ini
from hourd.importing.draft import Draft
from hourd.importing.without import ON_BY_DEFAULT, WITHOUT

from .daemon import PROGRAM, Daemon
from .test_examples import get, shell

EXAMPLES = Path(__file__).parents[1] / "contrib/examples/api_hour"
LOCAL = {"trusted_proxies": ["127.0.0.1", "::1"], "forwarded_headers": ["x-forwarded-proto"]}
"""Whom Gunicorn believes by default, and what."""


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch):
    for name in ("PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"):
        monkeypatch.delenv(name, raising=False)


def hourd(*arguments, folder, **environment):
    place = {**os.environ, "PYTHONPATH": str(Path(kinds.__file__).parents[2]), **environment}
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        cwd=folder,
        env=place,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def imported(folder, conf, app="hello.web:app"):
    """Import a Gunicorn configuration; returns the server, all of it, and what was noted."""
    (folder / "conf.py").write_text(conf)
    with contextlib.chdir(folder):
        draft = gunicorn.convert("conf.py", app)
    text = draft.to_yaml()
    whole = yaml.safe_load(text)
    assert [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")] == draft.notes
    return whole["pools"]["main"]["servers"]["main"], whole, draft.notes


def accepted(folder, text):
    """See that hourd takes a configuration, as far as this version has its kind."""
    (folder / "hourd.yaml").write_text(text)
    done = hourd("check", "-c", "hourd.yaml", folder=folder)
    assert done.returncode == 0, done.stderr


def test_no_setting_of_gunicorn_is_forgotten():
    config = importlib.import_module("gunicorn.config")
    assert set(gunicorn.NAMES) == {setting.name for setting in config.KNOWN_SETTINGS}
    assert not set(gunicorn.RULES) & set(WITHOUT)
    defaults = {setting.name: setting.default for setting in config.KNOWN_SETTINGS if setting.name in WITHOUT}
    truthy = {name for name, default in defaults.items() if default and not callable(default)}
    # None of sendfile is true; and what is called config is another variable than the path of the file that it is in.
    assert truthy - {"config"} | {"sendfile"} == ON_BY_DEFAULT


def test_every_setting_without_a_counterpart_is_named_with_its_reason(tmp_path):
    hooks = [
        name for name in WITHOUT if name.startswith(("on_", "pre_", "post_", "when_", "worker_", "child_", "nworkers"))
    ]
    conf = "".join(f"def {name}(*args): pass\n" if name in hooks else f"{name} = 'x'\n" for name in WITHOUT)
    _, _, notes = imported(tmp_path, conf)
    lines = {name: number for number, name in enumerate(WITHOUT, 1)}
    assert notes == [f"conf.py:{lines[name]}: {name}: {why}" for name, why in WITHOUT.items()]


def test_what_is_off_is_named_if_gunicorn_has_it_on(tmp_path):
    conf = "suppress_ragged_eofs = False\nsecure_scheme_headers = {}\nsendfile = False\ndirty_timeout = 0\n"
    _, _, notes = imported(tmp_path, conf + "reload = False\nsyslog = 0\ndirty_apps = []\nforwarder_headers = None\n")
    assert [note.split(": ")[:2] for note in notes] == [
        ["conf.py:3", "sendfile"],
        ["conf.py:2", "secure_scheme_headers"],
        ["conf.py:1", "suppress_ragged_eofs"],
        ["conf.py:4", "dirty_timeout"],
    ]


def test_settings_with_one_rule_are_told_of_once(tmp_path):
    conf = "keyfile = 'k'\nca_certs = 'c'\nciphers = 'x'\nlimit_request_line = 0\nlimit_request_field_size = 100\n"
    _, _, notes = imported(tmp_path, conf)
    assert notes == [
        "conf.py:4: limit_request_line: 0 is without a limit, which hourd does not know",
        *(f"conf.py:{line}: {name}: without certfile there is no TLS" for line, name in enumerate(("keyfile", "ca_certs", "ciphers"), 1)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("app", "wanted", "noted"),
    [
        ("hello.web", "hello.web:application", False),
        ("hello.web:create_app()", "hello.web:create_app", False),
        ("hello.web:create_app( )", "hello.web:create_app", False),
        ("hello.web:create_app('x')", "hello.web:create_app", True),
    ],
)
def test_the_application_is_the_one_that_gunicorn_takes(app, wanted, noted, tmp_path):
    server, _, notes = imported(tmp_path, "worker_class = 'uvicorn.workers.UvicornWorker'\n", app)
    assert server["app"] == wanted
    assert [note.partition(" is called with arguments")[0] for note in notes] == ["app: create_app('x')"] * noted


@pytest.mark.parametrize(
    ("computed", "workers", "told"),
    [
        ("from multiprocessing import cpu_count\nworkers = cpu_count() * 2 + 1", "auto", "as auto is"),
        ("import multiprocessing as mp\nworkers = mp.cpu_count()", "auto", "as auto is"),
        ("import os\nn = len(os.sched_getaffinity(0))\nworkers = str(max(2, n - 1))", "auto", "as auto is"),
        ("import os\nworkers = 1 if os.cpu_count() < 1000 else 3", 1, "with the CPUs of this machine"),
        ("import os\nworkers = os.cpu_count() * 0 + 5\nopen('once', 'x')", 5, "with the CPUs of this machine"),
        ("import os\nworkers = min(os.cpu_count(), 1)", 1, None),
        ("import os\nthreads = os.cpu_count() + 2", 1, "was computed of the CPUs of this machine"),
    ],
)
def test_what_was_computed_of_the_cpus(computed, workers, told, tmp_path):
    _, whole, notes = imported(tmp_path, computed)
    assert whole["pools"]["main"]["workers"] == workers
    assert len(notes) == (told is not None)
    assert (told or "") in "".join(notes)


def test_what_gunicorn_takes_from_the_environment(tmp_path, monkeypatch):
    for name, value in {"PORT": "5000", "WEB_CONCURRENCY": "7", "FORWARDED_ALLOW_IPS": "10.0.0.1, ::1"}.items():
        monkeypatch.setenv(name, value)
    server, whole, notes = imported(tmp_path, "")
    assert (server["bind"], whole["pools"]["main"]["workers"]) == ("0.0.0.0:5000", 7)
    assert server["options"]["trusted_proxies"] == ["10.0.0.1", "::1"]
    assert [note.partition(" comes from ")[::2] for note in notes] == [
        (f"conf.py: {name}:", f"{variable} in the environment; ${{{variable}}} in its place is read at each start")
        for name, variable in (("bind", "PORT"), ("workers", "WEB_CONCURRENCY"), ("forwarded_allow_ips", "FORWARDED_ALLOW_IPS"))
    ]  # fmt: skip
    server, whole, notes = imported(tmp_path, "bind = ':80'\nworkers = 2\nforwarded_allow_ips = ''\n")
    assert (server["bind"], whole["pools"]["main"]["workers"], server["options"]) == ("0.0.0.0:80", 2, {"threads": 1})
    assert not notes
    monkeypatch.setenv("WEB_CONCURRENCY", "many")
    with pytest.raises(errors.ConfigError, match="WEB_CONCURRENCY: expected a whole number, got 'many'"):
        imported(tmp_path, "")


@pytest.mark.parametrize(
    ("conf", "trusted", "headers", "told"),
    [
        # Gunicorn's own workers take the scheme of whom they trust, and never the client.
        ("forwarded_allow_ips = '10.0.0.0/8'", ["10.0.0.0/8"], ["x-forwarded-proto"], None),
        ("worker_class = 'asgi'", ["127.0.0.1", "::1"], ["x-forwarded-proto"], None),
        ("bind = ['unix:/x', ':80']", ["127.0.0.1", "::1", "unix"], ["x-forwarded-proto"], None),
        ("bind = 'unix:/x'\nforwarded_allow_ips = '*'", ["unix"], ["x-forwarded-proto"], None),
        ("bind = 'fd://3'", ["127.0.0.1", "::1", "unix"], ["x-forwarded-proto"], None),
        ("forwarded_allow_ips = '*'", ["0.0.0.0/0", "::/0", "unix"], ["x-forwarded-proto"],
         "* TRUSTS EVERYBODY: whoever connects says by which scheme"),
        # Uvicorn's take both.
        ("worker_class = 'uvicorn.workers.UvicornWorker'", ["127.0.0.1", "::1"], None, None),
        ("worker_class = 'uvicorn.workers.UvicornWorker'\nforwarded_allow_ips = '*'", ["0.0.0.0/0", "::/0", "unix"], None,
         "* TRUSTS EVERYBODY: whoever connects says where a request comes from"),
        # aiohttp's take nothing.
        ("worker_class = 'aiohttp.GunicornWebWorker'", None, None, None),
        ("worker_class = 'aiohttp.GunicornWebWorker'\nforwarded_allow_ips = '*'", None, None, "do not read it"),
        ("proxy_protocol = True", ["127.0.0.1", "::1"], ["x-forwarded-proto"], "one of trusted_proxies"),
    ],
)  # fmt: skip
def test_who_is_believed_what(conf, trusted, headers, told, tmp_path):
    server, _, notes = imported(tmp_path, conf)
    options = server.get("options", {})
    assert (options.get("trusted_proxies"), options.get("forwarded_headers")) == (trusted, headers)
    assert bool(notes) == (told is not None)
    assert (told or "") in "".join(notes)


def test_a_socket_at_a_relative_path_is_made_absolute(tmp_path):
    server, whole, notes = imported(tmp_path, "bind = 'unix:app.sock'\n")
    assert server["bind"] == f"unix:{tmp_path}/app.sock"
    assert notes[0].startswith("conf.py:1: bind: unix:app.sock starts at Gunicorn's directory")
    accepted(tmp_path, yaml.safe_dump(whole))
    server, _, _ = imported(tmp_path, "bind = ['unix://app.sock']\nchdir = '/opt'\n")
    assert server["bind"] == "unix:/opt/app.sock"


def test_defaults_of_gunicorn_are_written_where_hourd_has_others(tmp_path):
    server, whole, notes = imported(tmp_path, "")
    options = {"threads": 1, **LOCAL}
    assert server == {"kind": "wsgi", "app": "hello.web:app", "bind": "127.0.0.1:8000", "options": options}
    assert whole == {"name": "hello.web", "pools": {"main": {"workers": 1, "servers": {"main": server}}}}
    assert not notes


ALL = """
import multiprocessing
bind = ["0.0.0.0:8080", "unix:/tmp/x.sock", "[::1]:8081", ":8082"]
workers = multiprocessing.cpu_count() * 2 + 1
worker_class = "aiohttp.GunicornWebWorker"
proc_name = "my app"
backlog = 100000
timeout = 90
graceful_timeout = 20
keepalive = 5
max_requests = 1000
max_requests_jitter = 250
preload_app = True
umask = 0o007
raw_env = ["A=1", "B=x=${y},2"]
pythonpath = "/opt/a,/opt/b"
loglevel = "WARNING"
pidfile = "/tmp/hello.pid"
"""


def test_what_there_is_in_hourd_too(tmp_path):
    server, whole, notes = imported(
        tmp_path, ALL + "limit_request_line = 0\nuser = 'nobody'\ngroup = 65534\nchdir = '/opt'\n"
    )
    assert server == {
        "kind": "aiohttp",
        "app": "hello.web:app",
        "bind": ["0.0.0.0:8080", "unix:/tmp/x.sock", "[::1]:8081", "0.0.0.0:8082"],
        "unix": {"mode": "0770"},
        "backlog": 65535,
        "grace": "20s",
        "options": {"keepalive_timeout": "5s"},
    }
    pool = whole.pop("pools")["main"]
    assert pool.pop("servers")
    assert pool == {
        "workers": "auto",
        "recycle": {"requests": 1250, "jitter": "20%"},
        "timeouts": {"hung": "90s"},
        "preload": True,
    }
    assert whole == {
        "name": "my-app",
        "directory": "/opt",
        "user": "nobody",
        "group": "nogroup",
        "pid_file": "/tmp/hello.pid",
        "environment": {"A": "1", "B": "x=$${y},2", "PYTHONPATH": "/opt/a:/opt/b"},
        "log": {"level": "warning"},
    }
    assert [note.split(": ")[1] for note in notes] == ["workers", "backlog", "limit_request_line", "umask"]
    assert notes[0].startswith("conf.py:4: workers: multiprocessing.cpu_count() * 2 + 1 was computed of the CPUs")


def test_hourd_takes_it(tmp_path):
    (tmp_path / "conf.py").write_text(ALL)
    done = hourd("import", "gunicorn", "conf.py", "hello.web:app", "--output", "hourd.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    accepted(tmp_path, (tmp_path / "hourd.yaml").read_text())
    assert (tmp_path / "hourd.yaml").stat().st_mode & 0o777 == 0o600
    again = hourd("import", "gunicorn", "conf.py", "--output", "hourd.yaml", folder=tmp_path)
    assert (again.returncode, again.stderr.splitlines()[-1]) == (1, "hourd.yaml exists; --force overwrites it")
    (tmp_path / "hourd.yaml").chmod(0o644)
    with (tmp_path / "hourd.yaml").open() as before:
        again = hourd(
            "import", "gunicorn", "conf.py", "other:app", "--output", "hourd.yaml", "--force", folder=tmp_path
        )
        assert again.returncode == 0
        assert "app: hello.web:app" in before.read()  # who has the old file open reads nothing new in it
    assert (tmp_path / "hourd.yaml").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf.py", "hourd.yaml"]
    assert "app: other:app" in (tmp_path / "hourd.yaml").read_text()


WEB = """
worker_class = {worker_class!r}
threads = 8
accesslog = "/tmp/access.log"
forwarded_allow_ips = "10.0.0.0/8,127.0.0.1"
limit_request_line = 2048
limit_request_field_size = 16384
limit_request_fields = "50"
root_path = "/shop"
asgi_loop = "asyncio"
asgi_lifespan = "off"
websocket_max_message_size = 1048576
"""


@pytest.mark.parametrize(
    ("worker_class", "kind", "more"),
    [
        ("sync", "wsgi", {"threads": 8, "root_path": "/shop"}),
        ("egg:gunicorn#gthread", "wsgi", {"threads": 8, "root_path": "/shop"}),
        ("gevent", "wsgi", {"threads": 8, "root_path": "/shop"}),
        (
            "uvicorn.workers.UvicornWorker",
            "asgi",
            {"root_path": "/shop", "lifespan": "off", "websocket_max_size": "1MiB"},
        ),
        ("aiohttp.GunicornUVLoopWebWorker", "aiohttp", {}),
    ],
)
def test_web_applications(worker_class, kind, more, tmp_path):
    conf = WEB.format(worker_class=worker_class)
    server, whole, notes = imported(tmp_path, conf, app=None if kind == "wsgi" else "hello:app")
    assert server["kind"] == kind
    assert server["options"] == {
        "access_log": "combined",
        "access_log_file": "/tmp/access.log",
        "line_max_size": "16KiB",
        "max_headers": 50,
        **({} if kind == "aiohttp" else {"trusted_proxies": ["10.0.0.0/8", "127.0.0.1"]}),
        **({"forwarded_headers": ["x-forwarded-proto"]} if kind == "wsgi" else {}),
        **more,
    }
    assert whole["pools"]["main"]["loop"] == "asyncio"
    assert ("gevent" in "".join(notes)) == (worker_class == "gevent")
    if kind == "wsgi":
        assert server["app"] == "app:app"
        assert notes[-1 if worker_class == "gevent" else 0].startswith(("app: is not in the file", "conf.py"))
    entry = kinds.find(kind)
    if entry and entry.options and "line_max_size" in entry.options.__struct_fields__:
        (tmp_path / "hourd.yaml").write_text(yaml.safe_dump(whole))
        accepted(tmp_path, (tmp_path / "hourd.yaml").read_text())


def test_tls_and_the_proxy_protocol(tmp_path):
    conf = "certfile='c.pem'\nkeyfile='k.pem'\nca_certs='ca.pem'\ncert_reqs=2\nciphers='ECDHE'\nproxy_protocol=True\n"
    server, _, _ = imported(tmp_path, conf + "proxy_allow_ips='*'\nssl_version=5\n")
    assert server["tls"] == {
        "certificate": "c.pem", "key": "k.pem", "client_ca": "ca.pem", "ciphers": "ECDHE", "client_certificates": "required",
    }  # fmt: skip
    assert server["proxy_protocol"] == {"from": ["0.0.0.0/0", "::/0", "unix"]}
    server, _, notes = imported(tmp_path, "keyfile='k.pem'\nproxy_protocol='off'\n")
    assert {"tls", "proxy_protocol"}.isdisjoint(server)
    assert notes == ["conf.py:1: keyfile: without certfile there is no TLS"]


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (
            "workers = 'many'\nbacklog = None\ntimeout = 'x'\n",
            "conf.py:1: workers: expected a whole number, got 'many'\nconf.py:3: timeout:",
        ),
        ("workers = 1\nbind = 8000\n", "conf.py:2: bind: expected text or a list of texts, got 8000"),
        ("workers = float('inf')\n", "conf.py:1: workers: expected a whole number, got inf"),
        ("logconfig_dict = 'x'\n", "conf.py:1: logconfig_dict: expected a mapping, got 'x'"),
        (
            "x = []\nx.append(x)\nraw_env = x\n",
            "conf.py:3: raw_env: expected a list of texts NAME=VALUE, got a list that cannot be written down",
        ),
        ("workers = 1\nraise RuntimeError('on purpose')\n", "conf.py:2: RuntimeError: on purpose"),
        ("workers = = 1\n", "conf.py:1: SyntaxError: invalid syntax"),
        ("def f():\n    import nowhere\nf()\n", "conf.py:2: ModuleNotFoundError: No module named 'nowhere'"),
        ("import os\nos._exit(3)\n", "conf.py: has ended its process (exit code 3)"),
        ("import sys\nsys.exit('no')\n", "conf.py:2: SystemExit: no"),
        (None, "conf.py: cannot be read: No such file or directory"),
    ],
)
def test_mistakes_have_their_line(conf, message, tmp_path):
    if conf is not None:
        (tmp_path / "conf.py").write_text(conf)
    with contextlib.chdir(tmp_path), pytest.raises(errors.ConfigError) as refused:
        gunicorn.convert("conf.py", None)
    assert str(refused.value).startswith(message), refused.value


def test_the_file_sees_its_surroundings_and_its_output_is_not_ours(tmp_path):
    (tmp_path / "conf.py").write_text(
        "import os\nprint('hello')\nbind = os.environ['WHERE']\ndef post_fork(server, worker):\n    pass\n"
    )
    surroundings = {"WHERE": "127.0.0.1:81", "GUNICORN_CMD_ARGS": "-w 3"}
    done = hourd("import", "gunicorn", "conf.py", "a:b", folder=tmp_path, **surroundings)
    assert yaml.safe_load(done.stdout)["pools"]["main"]["servers"]["main"]["bind"] == "127.0.0.1:81"
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["hello", "conf.py:4", "GUNICORN_CMD_ARGS"]
    (tmp_path / "conf.py").write_text("workers = 'x'")
    done = hourd("import", "gunicorn", "conf.py", folder=tmp_path)
    assert (done.returncode, done.stdout) == (78, "")


# --- logging --------------------------------------------------------------------------------------

INI = """
[loggers]
keys=root,gunicorn,mine
[handlers]
keys=console,syslog,mail,own,computed
[formatters]
keys=plain
[formatter_plain]
format=%(levelname)s %(message)s
datefmt=%H
[handler_console]
class=StreamHandler
args=(sys.stdout,)
formatter=plain
level=WARN
[handler_syslog]
class=handlers.SysLogHandler
args=('/dev/log', handlers.SysLogHandler.LOG_LOCAL6)
[handler_mail]
class=logging.handlers.SMTPHandler
args=(('127.0.0.1', 25), 'a@example.com', ['b@example.com'], 'it failed')
kwargs={'timeout': 2.0}
[handler_own]
class=mine.Handler
[handler_computed]
class=FileHandler
args=(os.environ['LOG'],)
[logger_root]
level=WARN
handlers=console,own
[logger_gunicorn]
level=INFO
handlers=syslog
qualname=gunicorn.error
propagate=0
[logger_mine]
handlers=mail
qualname=mine.deep
"""


def test_logging_ini(tmp_path):
    draft = Draft("x")
    path = tmp_path / "logging.ini"
    path.write_text(INI)
    assert logging_ini.read(str(path), draft) == {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(levelname)s %(message)s", "datefmt": "%H"}},
        "handlers": {
            "console": {"class": "logging.StreamHandler", "level": "WARNING", "formatter": "plain", "stream": "ext://sys.stdout"},
            "syslog": {"class": "logging.handlers.SysLogHandler", "address": "/dev/log", "facility": 22},
            "mail": {
                "class": "logging.handlers.SMTPHandler", "mailhost": ["127.0.0.1", 25], "fromaddr": "a@example.com",
                "toaddrs": ["b@example.com"], "subject": "it failed", "timeout": 2.0,
            },
        },
        "loggers": {
            "hourd": {"handlers": ["syslog"], "level": "INFO", "propagate": False},
            "mine.deep": {"handlers": ["mail"], "propagate": True},
        },
        "root": {"handlers": ["console"], "level": "WARNING"},
    }  # fmt: skip
    assert draft.notes == [
        f"{path}:24: handler_own.class: this handler has to be written by hand: mine.Handler is no class of logging",
        f"{path}:27: handler_computed.args: this handler has to be written by hand: os.environ['LOG'] is no plain value",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]\nb\n", ":2: expected KEY=VALUE"),
        ("b=1\n", ":1: expected a section"),
        ("[handlers]\nkeys=a\n", ": No section"),
    ],
)
def test_a_broken_logging_ini_is_told(text, message, tmp_path):
    (tmp_path / "logging.ini").write_text(text)
    (tmp_path / "conf.py").write_text("logconfig = 'logging.ini'\n")
    with contextlib.chdir(tmp_path), pytest.raises(errors.ConfigError) as refused:
        gunicorn.convert("conf.py", None)
    assert str(refused.value).startswith(f"logging.ini{message}"), refused.value


def test_other_ways_to_configure_logging(tmp_path):
    (tmp_path / "log.json").write_text(json.dumps({"root": {"level": "INFO"}}))
    _, whole, _ = imported(tmp_path, "logconfig_json = 'log.json'\n")
    assert whole["log"]["config"] == {"version": 1, "root": {"level": "INFO"}}
    _, whole, _ = imported(tmp_path, "logconfig_dict = {'version': 1, 'root': {'handlers': []}}\n")
    assert whole["log"]["config"] == {"version": 1, "root": {"handlers": []}}
    _, whole, notes = imported(tmp_path, "class A: pass\nlogconfig_dict = {'handlers': {'a': {'()': A}}}\n")
    assert "log" not in whole
    assert notes[0].startswith("conf.py:2: logconfig_dict: holds objects")


# --- API-Hour -------------------------------------------------------------------------------------


def api_hour(name, tmp_path):
    """Import an example; returns a daemon that runs it, at free ports."""
    (tmp_path / name).symlink_to(EXAMPLES / name)
    done = hourd("import", "api-hour", name, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    # A handler of its own would be no record of ours for those who look at the log.
    assert set(config["log"].pop("config")["loggers"]) == {"hourd", name}
    server = config["pools"]["main"]["servers"]["main"]
    assert server["app"] == f"{name}:Container"
    bind = server["bind"] if isinstance(server["bind"], list) else [server["bind"]]
    server["bind"] = [f"127.0.0.{number}:0" for number, _ in enumerate(bind, 1)]
    del config["log"]
    return Daemon(config, environment={"PYTHONPATH": f"{EXAMPLES / name}:{Path(kinds.__file__).parents[2]}"})


def test_the_starter_kit(tmp_path):
    with api_hour("starter", tmp_path) as daemon:
        daemon.allow("backlog 65535 is cut to")  # where the kernel has less
        daemon.expect("READY=1")

        async def talk():
            (address,) = daemon.addresses("main")
            for number in (1, 2):
                assert json.loads((await get(address))[0]) == {"greeting": "good morning", "visits": number}
            slow = asyncio.create_task(get(address, "slow"))
            await asyncio.to_thread(daemon.wait_until, lambda status: requests(status) == 3)
            assert (await asyncio.to_thread(daemon.reload)).ok
            assert json.loads((await slow)[0]) == {"slow": True}
            assert json.loads((await get(address))[0])["visits"] == 4

        asyncio.run(talk())
        assert (daemon.folder / "visits.txt").read_text().splitlines() == ["somebody"] * 2 + ["slow", "somebody"]


def requests(status):
    return sum(worker["requests"] for worker in status["pools"]["main"]["workers"])


def test_http_and_ssh(tmp_path):
    pytest.importorskip("asyncssh")
    with api_hour("http_and_ssh", tmp_path) as daemon:
        daemon.expect("READY=1")

        async def talk():
            http, ssh = daemon.addresses("main")
            said = await shell(ssh, "good", "morning")
            assert said.splitlines() == ["Type something; end with ctrl-d.", "5 characters", "8 characters"]
            assert json.loads((await get(http, "typed"))[0]) == {"typed": "good\nmorning\n"}

        asyncio.run(talk())


def test_what_is_missing_or_there_twice_is_told(tmp_path):
    def refused(folder):
        with contextlib.chdir(tmp_path), pytest.raises(errors.ConfigError) as refused:
            importing.convert(folder, None)
        return str(refused.value)

    assert refused("nowhere").startswith("nowhere: is no folder")
    (tmp_path / "a/api_hour").mkdir(parents=True)
    assert refused("a") == "a: has no gunicorn_conf.py"
    (tmp_path / "a/api_hour/gunicorn_conf.py").touch()
    assert refused("a") == "a: has no main.yaml"
    (tmp_path / "a/main.yaml").write_text("- 1")
    assert refused("a") == "a/main.yaml: expected a mapping, got list"
    (tmp_path / "a/main.yaml").write_text("a:\n b: [")
    assert refused("a").startswith("a/main.yaml:2: ")
    (tmp_path / "a/api_hour/main.yaml").touch()
    assert refused("a").startswith(
        "a: has several main.yaml (a/main.yaml, a/api_hour/main.yaml); name the folder of one"
    )


def test_the_container_is_named_as_its_start_script_has_it(tmp_path):
    (tmp_path / "a/etc/default").mkdir(parents=True)
    (tmp_path / "a/etc/hello/api_hour").mkdir(parents=True)
    (tmp_path / "a/etc/hello/main").mkdir()
    (tmp_path / "a/etc/default/hello").write_text('START=yes\nDAEMON_ARGS="--config_dir=/etc/hello hello.app:Daemon"\n')
    (tmp_path / "a/etc/hello/api_hour/gunicorn_conf.py").write_text("bind = ':80'\n")
    (tmp_path / "a/etc/hello/main/main.yaml").write_text("secret: a${b}\n")
    done = hourd("import", "api-hour", "a", folder=tmp_path)
    assert done.returncode == 0
    server = yaml.safe_load(done.stdout)["pools"]["main"]["servers"]["main"]
    assert (server["app"], server["options"]["config"]) == ("hello.app:Daemon", {"secret": "a$${b}"})
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ports: {8022: ssh}", "the key 8022"),
        ("a: [{since: 2020-01-01}]", "a value of type date"),
        ("a: .inf", "a number that is not finite"),
        (f"a: {2**63}", "a number of more than 64 bits"),
        ('a: "\\0"', "a text that has a NUL character"),
        ("a: !!binary aGk=", "a value of type bytes"),
        ("a: &a [*a]", "what contains itself"),
        (f"{{a: [1, 1.5, yes, ~, '2020-01-01', {2**63 - 1}], b: {{'1': c}}}}", None),
    ],
)
def test_what_settings_cannot_hold_stays_in_main_yaml(text, why, tmp_path):
    (tmp_path / "gunicorn_conf.py").touch()
    (tmp_path / "main.yaml").write_text(text)
    draft = importing.convert(str(tmp_path), "a:b")
    config = yaml.safe_load(draft.to_yaml())["pools"]["main"]["servers"]["main"]["options"]["config"]
    if why is None:
        assert (config, draft.notes) == (yaml.safe_load(text), [])
    else:
        assert config == f"{tmp_path}/main.yaml"
        assert draft.notes == [
            f"config: {config} has {why}, which hourd's settings cannot hold; the container reads that file"
        ]

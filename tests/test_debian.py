"""The Debian package, built and installed in a root of its own; tests/test_booted.py has it run there under systemd."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import hourd

from .debian_root import PYTHON, TREE, base_root, build_deb, build_root, install, overlay, roots, run_in

__all__ = ["roots"]

RELEASE = "trixie"
HOME = "/usr/lib/hourd"
UNITS = [path for path in (TREE / "contrib/systemd").iterdir() if path.suffix in {".service", ".socket"}]
PATHS = (
    "/etc/hourd", "/etc/hourd.yaml", "/etc/logrotate.d/hourd", "/etc/rsyslog.d/49-hourd.conf",
    "/usr/bin/hourd", f"{HOME}/bin/hourd", f"{HOME}/bin/python3", f"{HOME}/pyvenv.cfg",
    f"{HOME}/lib/python{PYTHON[RELEASE]}/site-packages/hourd/cli.py",
    *(f"/usr/lib/systemd/system/{unit.name}" for unit in UNITS),
    "/usr/lib/sysusers.d/hourd.conf", "/usr/share/hourd/welcome.py",
    "/usr/share/bash-completion/completions/hourd", "/usr/share/fish/vendor_completions.d/hourd.fish",
    "/usr/share/zsh/vendor-completions/_hourd", "/usr/share/doc/hourd/copyright",
    "/usr/share/doc/hourd/examples/hourd.yaml", "/usr/share/man/man1/hourd.1.gz", "/usr/share/man/man5/hourd.yaml.5.gz",
)  # fmt: skip
CONFFILES = ("/etc/hourd.yaml", "/etc/logrotate.d/hourd", "/etc/rsyslog.d/49-hourd.conf")
ACCOUNTS = {f"/etc/{name}{old}" for name in ("passwd", "group", "shadow", "gshadow") for old in ("", "-")}
"""Where the user is, who outlives the package."""
BOOKS = ("/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/", "/var/log/apt/", "/var/log/dpkg.log", "/etc/.pwd.lock")
"""What dpkg and its like write about all packages."""

SERVE = """
import http.client, os, socket, subprocess

def run(*command):
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

run("install", "-d", "-o", "hourd", "-g", "hourd", "/run/hourd")
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.settimeout(60)
manager.bind("\\0manager")
daemon = subprocess.Popen(
    ["setpriv", "--reuid=hourd", "--regid=hourd", "--clear-groups",
     "hourd", "start", "--bind", "unix:/run/hourd/page"],
    env={**os.environ, "NOTIFY_SOCKET": "@manager"},
)
try:
    while b"READY=1" not in manager.recv(4096): pass
    client = http.client.HTTPConnection("localhost")
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.connect("/run/hourd/page")
    client.request("GET", "/")
    print(client.getresponse().read().decode())
    run("hourd", "status")
    run("hourd", "stop")
    assert daemon.wait() == 0
finally:
    daemon.kill()
"""
"""As /etc/hourd.yaml has it, but at an address that nobody else has."""

COMPLETE = """
source /usr/share/bash-completion/completions/hourd
COMP_WORDS=(hourd st) COMP_CWORD=1
_hourd_completion hourd
echo "${COMPREPLY[@]}"
"""

SYSTEMCTL = """#!/bin/sh
echo "$*" >>/tmp/told
case "$*" in *list-units*) printf '%s loaded active running -\\n' hourd.service hourd@web.service ;; esac
"""
"""Notes what it is told."""


@pytest.fixture(scope="module")
def deb(roots, tmp_path_factory) -> Path:
    return build_deb(RELEASE, tmp_path_factory.mktemp("deb"))


@pytest.fixture
def root(roots) -> Iterator[Path]:
    with overlay(base_root(RELEASE)) as root:
        yield root


@pytest.fixture
def tools(roots) -> Iterator[Path]:
    with overlay(build_root(RELEASE), base_root(RELEASE)) as root:
        yield root


def test_lintian(deb, tools):
    run_in(tools, "lintian", "--fail-on=error,warning", f"/deb/{deb.name}", bind={deb.parent: "/deb"})


def test_logrotate_and_rsyslog_understand_what_they_get(deb, tools):
    install(tools, deb)
    assert "error" not in run_in(tools, "logrotate", "--debug", "/etc/logrotate.conf").stdout
    assert "49-hourd" not in run_in(tools, "rsyslogd", "-N1").stdout  # it names the file of each mistake


def test_is_installed_serves_and_leaves_nothing(deb, root):
    before = files(root)
    install(root, deb)

    paths = run_in(root, "dpkg", "-L", "hourd").stdout.split("\n")
    assert not set(PATHS) - set(paths)
    assert set(run_in(root, "dpkg-query", "-Wf", "${Conffiles}", "hourd").stdout.split()[::2]) == set(CONFFILES)
    assert os.readlink(root / "usr/bin/hourd") == "../lib/hourd/bin/hourd"
    assert not [path for path in paths if "/pip" in path or "/setuptools" in path]
    # No file knows where it was built, byte code included.
    assert (
        run_in(
            root, "grep", "-rlE", "/tmp/tmp[.]|/build/(hourd|out|wheels)", HOME, "/usr/share/hourd", check=False
        ).stdout
        == ""
    )

    user = run_in(root, "getent", "passwd", "hourd").stdout.split(":")
    assert user[5:] == ["/var/lib/hourd", "/usr/sbin/nologin\n"]
    assert run_in(root, "hourd", "--version").stdout.split()[-1] == hourd.__version__
    assert "the configuration is right" in run_in(root, "hourd", "check", "--import").stdout
    page = run_in(root, "python3", "-c", SERVE).stdout
    assert "hourd works: this is worker" in page
    completed = run_in(root, "bash", "-c", COMPLETE).stdout.split()
    assert {"start", "status", "stop"} <= set(completed)
    for manual, said in (("man1/hourd.1", "hourd reload"), ("man5/hourd.yaml.5", "pools.NAME.workers")):
        page = run_in(root, "zcat", f"/usr/share/man/{manual}.gz").stdout
        assert rf"\fB{said}\fR" in page
        assert not re.search("@[A-Z]+@", page)
    # Even root, who may, has written nothing into it.
    assert run_in(root, "dpkg", "-V", "hourd").stdout == ""

    for name in ("lib/hourd/state", "log/hourd/application.log", "log/hourd.log.1.gz"):
        (root / "var" / name).parent.mkdir(exist_ok=True)
        (root / "var" / name).touch()
    run_in(root, "dpkg", "--remove", "hourd")
    assert {path for path in files(root) if path in CONFFILES} == set(CONFFILES)
    assert (root / "var/lib/hourd/state").exists()
    assert not (root / "usr/lib/hourd").exists()

    run_in(root, "dpkg", "--purge", "hourd")
    after = files(root)
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {path for path in changed - ACCOUNTS if not path.startswith(BOOKS)} == set()


def test_an_upgrade_stops_nothing(deb, root):
    """What the maintainer scripts tell systemd."""
    install(root, deb)
    (root / "run/systemd/system").mkdir(parents=True)
    (root / "usr/bin/systemctl").unlink()
    (root / "usr/bin/systemctl").write_text(SYSTEMCTL)
    (root / "usr/bin/systemctl").chmod(0o755)
    (root / "usr/sbin/policy-rc.d").unlink(missing_ok=True)

    # Which version it was makes no difference to dpkg.
    run_in(root, "dpkg", "--install", f"/deb/{deb.name}", bind={deb.parent: "/deb"})
    told = (root / "tmp/told").read_text().splitlines()
    assert not [line for line in told if "stop" in line or "restart" in line]
    assert told[-1] == "kill --kill-whom=main --signal=USR2 hourd.service hourd@web.service"

    (root / "tmp/told").unlink()
    run_in(root, "dpkg", "--purge", "hourd")
    told = (root / "tmp/told").read_text().splitlines()
    assert [line for line in told if "stop" in line] == ["stop hourd.socket hourd@*.service", "stop hourd.service"]
    assert not [line for line in told if "kill" in line]


def files(root: Path) -> dict[str, tuple[object, ...]]:
    """Return what is in a root, with what would change if it did."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content = () if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_mtime_ns)
            found["/" + os.path.relpath(path, root)] = (status.st_mode, status.st_uid, status.st_gid, *content)
    return found

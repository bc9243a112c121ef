"""``kind: ssh``: its options; host keys and authorized keys, right, wrong and missing."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
from pathlib import Path

import asyncssh
import pytest

from hourd import errors
from hourd.kinds import host_keys

from .daemon import Daemon, pool
from .test_kind_ssh import KEY, client, files, ssh


@pytest.mark.parametrize("app", ["process", "LoginOnly"])
def test_sftp(app):
    with Daemon(pool(server=ssh(app, sftp=True)), files()) as daemon:
        daemon.expect("READY=1")

        async def talk():
            connecting = client(daemon.addresses()[0], password="right")
            async with connecting as connection, connection.start_sftp_client() as sftp:
                return await sftp.listdir(str(daemon.folder))

        assert "app.py" in asyncio.run(talk())


@pytest.mark.parametrize("app", ["Session", "Server"])
def test_sftp_that_would_take_the_place_of_sessions_is_refused(app):
    with Daemon(pool(server=ssh(app, sftp=True)), files()) as daemon:
        daemon.allow("sftp: true", "it is stopped at once")
        assert daemon.wait() == 78


def test_what_serves_no_ssh_is_refused():
    with Daemon(pool(server=ssh("Other")), files()) as daemon:
        daemon.allow("expected an asyncssh.SSHServer", "it is stopped at once")
        assert daemon.wait() == 75


def test_workers_that_boot_together_make_one_host_key():
    with Daemon(pool(server=ssh("process"), workers=8), files()) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()

        async def key():
            async with client(address) as connection:
                return connection.get_server_host_key().export_public_key()

        async def keys():
            return await asyncio.gather(*(key() for _ in range(24)))

        expected = asyncssh.read_private_key(str(daemon.folder / "host_key")).export_public_key().split()[:2]
        assert {tuple(each.split()[:2]) for each in asyncio.run(keys())} == {tuple(expected)}
        assert stat.S_IMODE((daemon.folder / "host_key").stat().st_mode) == 0o600
        assert not list(daemon.folder.glob("host_key.*"))


PRIVATE = KEY.export_private_key().decode()
ENCRYPTED = asyncssh.generate_private_key("ssh-rsa").export_private_key("pkcs8-pem", passphrase="secret").decode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "host_key does not exist; make one .ssh-keygen"),
        ("", "expected a private key without a passphrase"),
        (PRIVATE[:100], "expected a private key without a passphrase"),
        (KEY.export_public_key().decode(), "expected a private key without a passphrase"),
        (ENCRYPTED, "Passphrase must be specified.*expected a private key without a passphrase"),
        ("directory", "cannot read host key .*host_key: Is a directory"),
    ],
    ids=["missing", "empty", "broken", "public", "encrypted", "directory"],
)
def test_a_wrong_host_key_is_told_once_and_clearly(text, message):
    more = {"host_key": text} if text not in (None, "directory") else {}
    if text == "directory":
        more = {"host_key/x": ""}
    with Daemon(pool(server=ssh("process", create_host_keys=False), workers=1), files(**more)) as daemon:
        daemon.allow("host.key")
        assert daemon.wait() == 78
        assert "Traceback" not in daemon.log
        daemon.wait_log(f"cannot start: server main .kind ssh.: .*{message}")


def others_may_run_python():
    return all(place.stat().st_mode & stat.S_IXOTH for place in (Path(sys.base_prefix), *Path(sys.base_prefix).parents))


@pytest.mark.skipif(os.geteuid() == 0 and not others_may_run_python(), reason="root may read everything")
@pytest.mark.parametrize("create", [True, False])
def test_a_host_key_without_permission(create):
    config = pool(server=ssh("process", host_keys=["keys/host_key"], create_host_keys=create), workers=1)
    user = {"user": "nobody"} if os.geteuid() == 0 else {}
    daemon = Daemon({**config, **user}, files())
    keys = daemon.folder / "keys"
    keys.mkdir(mode=0o555)
    if not create:
        keys.joinpath("host_key").touch(mode=0o000)
    with daemon:
        daemon.allow("host key")
        code = daemon.wait()
        keys.chmod(0o755)
        assert code == 77
        assert "Permission denied" in daemon.log


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, errors.NoPermissionError),
        (errno.EROFS, errors.SystemRefusedError),
        (errno.ENOENT, errors.ConfigError),
        (errno.EISDIR, errors.ConfigError),
    ],
)
def test_what_the_system_refuses_has_its_exit_code(number, kind):
    assert type(host_keys.refused(OSError(number, "x"), "read it")) is kind


@pytest.mark.parametrize("text", [None, "no key at all"])
def test_wrong_authorized_keys_are_refused(text):
    more = {"other": text} if text else {}
    with Daemon(pool(server=ssh("process", authorized_keys="other"), workers=1), files(**more)) as daemon:
        daemon.allow("authorized_keys")
        assert daemon.wait() == 78

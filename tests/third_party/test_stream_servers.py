"""Unchanged software of others, each with a real client: load, reloads, a killed worker, a stop within the grace."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import smtplib
import socket
import subprocess
import threading
from email.message import EmailMessage
from pathlib import Path
from types import MappingProxyType

import asyncssh
import grpc
import pytest
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect as connect_websocket

from ..daemon import Daemon, pool, talk
from .load import Load, more, prove

APPS = Path(__file__).parent / "apps"
GRACE = 10.0


def daemon(app, kind, *, environment=MappingProxyType({}), also=(), options=MappingProxyType({}), **settings):
    names = [app.partition(":")[0], *also]
    server = {"kind": kind, "app": app, "grace": f"{GRACE:g}s", "options": dict(options)}
    files = {f"{name}.py": (APPS / f"{name}.py").read_text() for name in names}
    return Daemon(pool(workers=2, server=server, **settings), files, environment=environment)


# --- websockets -----------------------------------------------------------------------------------


def says(address):
    """Talk over a websocket until the server says that it goes away."""
    try:
        with connect_websocket(f"ws://{address}/", close_timeout=5, compression=None) as websocket:
            for number in range(1_000_000):
                websocket.send(str(number))
                assert websocket.recv(timeout=30) == str(number)
                yield
    except ConnectionClosedOK as error:
        if error.rcvd is None or error.rcvd.code != 1001:
            raise
    except InvalidStatus as error:
        # What was accepted and had not sent its handshake when the server was closed is told to come again.
        if error.response.status_code != 503:
            raise


def test_websockets():
    with daemon("websockets_server:serve", "callable") as it:
        # The handler does not catch what tells it of the end, be it ours (1001) or the client's.
        it.allow("connection handler failed\n.*websockets.exceptions.ConnectionClosed(OK|Error): (sent|received) 1")
        prove(it, says, grace=GRACE)


def test_websockets_are_told_when_their_worker_drains():
    with daemon("websockets_server:serve", "callable") as it:
        it.expect("READY=1")
        with connect_websocket(f"ws://{it.addresses()[0]}/") as websocket:
            websocket.send("hello")
            assert websocket.recv() == "hello"
            assert it.reload().ok
            with pytest.raises((ConnectionClosedOK, ConnectionClosedError)) as ended:
                websocket.recv(timeout=30)
            assert ended.value.rcvd is not None
            assert ended.value.rcvd.code == 1001


def test_aiohttp_with_websockets():
    with daemon("aiohttp_websockets:app", "aiohttp") as it:
        prove(it, says, grace=GRACE)


# --- mail -----------------------------------------------------------------------------------------


def test_aiosmtpd_loses_no_mail():
    sent, lock = [], threading.Lock()

    def mails(address):
        host, _, port = address.rpartition(":")
        with smtplib.SMTP(host, int(port), timeout=30, local_hostname="client") as client:
            for _ in range(3):
                with lock:
                    number = len(sent) + 1
                    sent.append(False)
                message = EmailMessage()
                message["From"], message["To"], message["Subject"] = "a@example.org", "b@example.org", f"mail {number}"
                message.set_content("hello")
                client.send_message(message)
                sent[number - 1] = True
                yield

    with daemon("smtp:connect", "protocol") as it:
        prove(it, mails, grace=GRACE)
        got = [path.read_text() for path in (it.folder / "mails").iterdir()]
        numbers = {int(text.partition("Subject: mail ")[2].splitlines()[0]) for text in got}
        accepted = {number for number, answered in enumerate(sent, 1) if answered}
        assert accepted
        assert accepted <= numbers


# --- SFTP -----------------------------------------------------------------------------------------


def sftp(tmp_path, **settings):
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(tmp_path / "key"))
    key.write_public_key(str(tmp_path / "key.pub"))
    (tmp_path / "key").chmod(0o600)
    options = {
        "host_keys": [str(tmp_path / "host_key")],
        "create_host_keys": True,
        "authorized_keys": str(tmp_path / "key.pub"),
        "sftp": True,
    }
    return daemon("sftp:shell", "ssh", options=options, **settings)


def test_asyncssh_with_sftp(tmp_path):
    (tmp_path / "file").write_bytes(b"content" * 10_000)

    def fetches(address):
        async def fetch():
            host, _, port = address.rpartition(":")
            options = {"known_hosts": None, "client_keys": [str(tmp_path / "key")], "username": "x"}
            async with (
                asyncssh.connect(host, int(port), config=None, **options) as connection,
                connection.start_sftp_client() as client,
                client.open(str(tmp_path / "file"), "rb") as file,
            ):
                return await file.read()

        assert asyncio.run(fetch()) == b"content" * 10_000
        yield

    with sftp(tmp_path) as it:
        prove(it, fetches, grace=GRACE)


@pytest.mark.skipif(not shutil.which("sftp"), reason="no OpenSSH here")
def test_sftp_of_openssh(tmp_path):
    with sftp(tmp_path) as it:
        it.expect("READY=1")
        host, _, port = it.addresses()[0].rpartition(":")
        (tmp_path / "file").write_bytes(b"content" * 10_000)
        common = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes"]
        common += ["-F", "none", "-i", str(tmp_path / "key"), "-P", port, "-q", "-b", "-"]
        subprocess.run(
            ["sftp", *common, f"x@{host}"],
            input=f"get {tmp_path}/file {tmp_path}/got\nput {tmp_path}/file {tmp_path}/put\n",
            text=True, check=True, timeout=60,
        )  # fmt: skip
        assert (tmp_path / "got").read_bytes() == (tmp_path / "put").read_bytes() == b"content" * 10_000


# --- HTTP by Roll -----------------------------------------------------------------------------------


def test_roll():
    def gets(address):
        connection = http.client.HTTPConnection(address, timeout=30)
        try:
            while True:
                connection.request("GET", "/hello/you")
                response = connection.getresponse()
                assert (response.status, response.read()) == (200, b"hello you")
                yield
                if response.will_close:
                    return
        finally:
            connection.close()

    # Roll imports what websockets warns of.
    with daemon("rolling:connect", "protocol", lifespan="rolling:lifespan", environment={"PYTHONWARNINGS": ""}) as it:
        prove(it, gets, grace=GRACE)


# --- gRPC -----------------------------------------------------------------------------------------


def calls(address):
    """Call as the reference implementation does, with a channel for a few calls."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        say = channel.unary_unary("/test.Echo/Say")
        for _ in range(5):
            assert say(b"hello", timeout=30, wait_for_ready=True) == b"said hello"
            yield


def test_grpclib():
    with daemon("grpclib_server:connect", "protocol", also=["raw_grpc"]) as it:
        prove(it, calls, grace=GRACE)


def test_grpc_aio_with_a_port_of_its_own():
    """It takes no sockets: no slot of it is attended by others, and what waits in its queue dies with its worker."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))  # not listening: it only keeps the port for the workers
        address = f"127.0.0.1:{held.getsockname()[1]}"
        config = {"lifespan": "grpc_aio:lifespan", "also": ["raw_grpc"], "environment": {"GRPC_ADDRESS": address}}
        with daemon("grpc_aio:health", "stream", **config) as it:
            it.expect("READY=1")
            assert talk(it.addresses()[0]) == b"well\n"
            with Load(calls, address) as load:
                more(it, load)
                for _ in range(2):
                    assert it.reload().ok
                    it.wait_for_the_old()
                    more(it, load)
            assert load.answered

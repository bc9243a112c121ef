"""TLS before every kind of stream server, with real clients; and certificates that are replaced."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import errno
import json
import logging
import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import aiohttp
import pytest
import trustme
import yaml
from cryptography.hazmat.primitives import serialization

from hourd import certificates, config, errors, rotation, settings

from .certificates import CA, client, issue, replace
from .daemon import ECHO, PATIENCE, Daemon, connect, pool
from .witness import web

LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
HTTP = """
from aiohttp import web

async def ask(request):
    return web.Response(text=f"{request.scheme} {request.transport.get_extra_info('ssl_object').selected_alpn_protocol()}")

def make():
    app = web.Application()
    app.router.add_get("/", ask)
    return app
"""
PROTOCOL = """
import asyncio

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        transport.write(f"{chosen}\\n".encode())

    def data_received(self, data):
        self.transport.write(data)

async def tell(reader, writer):
    certificate = writer.get_extra_info("peercert")
    writer.write(repr(certificate["subjectAltName"] if certificate else None).encode())
    writer.close()
"""
STAYS = "the certificate that was read before stays in use"


@pytest.fixture
def folder():
    """Return a folder for a daemon and its certificates, which a socket's path fits into."""
    path = Path(tempfile.mkdtemp(prefix="hourd-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def encrypted(address, context=None, name="localhost"):
    sock = connect(address)
    try:
        return (context or client()).wrap_socket(sock, server_hostname=name)
    except BaseException:
        sock.close()
        raise


def shown(address, name="localhost"):
    """Return the names of the certificate that a server shows."""
    with encrypted(address, name=name) as sock:
        return {value for _, value in sock.getpeercert()["subjectAltName"]}


def serial(address):
    with encrypted(address) as sock:
        return sock.getpeercert()["serialNumber"]


# --- kinds ------------------------------------------------------------------------------------------


@LOOPS
def test_a_stream_server_at_every_address(loop, folder):
    bind = ["127.0.0.1:0", "[::1]:0", f"unix:{folder}/s"]
    server = {"tls": issue(folder), "bind": bind}
    with Daemon(pool(server=server, loop=loop), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        data = b"x" * 50_000 + b"\n"  # fits into the buffers on the way: who sends it need not read meanwhile
        for address in daemon.addresses():
            with encrypted(address) as sock, sock.makefile("rb") as replies:
                assert int(replies.readline().split()[0]) in daemon.workers()
                sock.sendall(data)
                assert replies.readline() == data


@pytest.mark.parametrize("loop", ["uvloop"])
def test_aiohttp_offers_http_1(loop, folder):
    server = web(app="app:make", tls=issue(folder))
    with Daemon(pool(server=server, loop=loop), {"app.py": HTTP}, folder=folder) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()

        async def ask():
            async with aiohttp.ClientSession() as session, session.get(f"https://{address}/", ssl=client()) as response:
                return await response.text()

        assert asyncio.run(ask()) == "https None"
        with encrypted(address, client(alpn=("h2", "http/1.1"))) as sock:
            assert sock.selected_alpn_protocol() == "http/1.1"


@LOOPS
def test_a_protocol_offers_what_is_configured(loop, folder):
    server = {"kind": "protocol", "app": "app:Echo", "tls": {**issue(folder), "alpn": ["xmpp", "h2"]}}
    with Daemon(pool(server=server, loop=loop), {"app.py": PROTOCOL}, folder=folder) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        for offered, chosen in [(("h2", "xmpp"), b"xmpp\n"), (("h2",), b"h2\n"), ((), b"None\n")]:
            with encrypted(address, client(alpn=offered)) as sock, sock.makefile("rb") as replies:
                assert replies.readline() == chosen
                sock.sendall(b"hello\n")
                assert replies.readline() == b"hello\n"


@pytest.mark.skipif(not shutil.which("openssl"), reason="another implementation of TLS than Python's own")
def test_openssl_verifies_the_chain(folder):
    files = issue(folder)
    intermediate = CA.create_child_ca()
    issue(folder, ca=intermediate)
    leaf, *others = re.findall(
        r"-----BEGIN.*?END CERTIFICATE-----\n", (folder / files["certificate"]).read_text(), re.DOTALL
    )
    replace(folder / files["certificate"], leaf.encode())
    replace(folder / "chain.pem", "".join(others).encode())
    replace(folder / "ca.pem", CA.cert_pem.bytes())
    tls = {**files, "chain": "chain.pem"}
    with Daemon(pool(server={"tls": tls}), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        done = subprocess.run(
            ["openssl", "s_client", "-connect", address, "-CAfile", str(folder / "ca.pem"), "-verify_return_error"],
            input="", capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert "Verify return code: 0 (ok)" in done.stdout, done.stderr


def test_oldest_version_and_ciphers(folder):
    files = issue(folder)
    servers = {
        name: {"kind": "stream", "app": "app:serve", "bind": "127.0.0.1:0", "tls": {**files, **more}}
        for name, more in {
            "old": {"ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"},
            "new": {"minimum": "TLSv1.3"},
        }.items()
    }
    with Daemon({"pools": {"web": {"workers": 1, "servers": servers}}}, {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        context = client()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with encrypted(*daemon.addresses(server="old"), context) as sock:
            assert (sock.version(), sock.cipher()[0].split("-", 2)[2]) == ("TLSv1.2", "AES256-GCM-SHA384")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            encrypted(*daemon.addresses(server="new"), context)
        with encrypted(*daemon.addresses(server="new")) as sock:
            assert sock.version() == "TLSv1.3"
        context = client()
        context.set_ciphers("ECDHE+AES128")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            encrypted(*daemon.addresses(server="old"), context)


def test_the_certificate_of_the_name_that_is_asked_for(folder):
    names = {
        "one.example.org": issue(folder, "one", "one.example.org"),
        "*.Example.net": issue(folder, "two", "*.example.net"),
    }
    tls = {**issue(folder, "site", "localhost"), "sni": names}
    with Daemon(pool(server={"tls": tls}), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        assert shown(address, "one.example.org") == {"one.example.org"}
        assert shown(address, "ONE.example.org") == {"one.example.org"}
        assert shown(address, "a.example.net") == {"*.example.net"}
        assert shown(address) == {"localhost"}
        nameless = client()
        nameless.check_hostname = False
        with encrypted(address, nameless, None) as sock:
            assert sock.getpeercert()["subjectAltName"] == (("DNS", "localhost"),)
        # The further certificates are looked after too.
        issue(folder, "one", "one.example.org", "more.example.org")
        daemon.wait_log(rf"new certificate in use: {folder}/one.certificate.pem\n")
        daemon.until(lambda: shown(address, "one.example.org") == {"one.example.org", "more.example.org"})


@pytest.mark.parametrize("loop", ["asyncio"])
def test_certificates_of_clients(loop, folder):
    authority, other = trustme.CA(), trustme.CA()
    replace(folder / "clients.pem", authority.cert_pem.bytes())
    issue(folder, "friend", "friend@example.org", ca=authority)
    issue(folder, "stranger", "stranger@example.org", ca=other)
    tls = {**issue(folder), "client_ca": "clients.pem"}
    server = {"kind": "stream", "app": "app:tell", "bind": "127.0.0.1:0"}
    servers = {
        "required": {**server, "tls": tls},
        "optional": {**server, "tls": {**tls, "client_certificates": "optional"}},
    }
    config = {"pools": {"web": {"workers": 1, "servers": servers, "loop": loop}}}
    with Daemon(config, {"app.py": PROTOCOL}, folder=folder) as daemon:
        daemon.expect("READY=1")

        def heard(server, context):
            # With TLS 1.3, the client learns of it once it reads.
            (address,) = daemon.addresses(server=server)
            with contextlib.suppress(ssl.SSLError, ConnectionError), encrypted(address, context) as sock:
                return sock.recv(1000)
            return b""

        for server in servers:
            assert b"friend@example.org" in heard(server, client(own=folder / "friend"))
            assert heard(server, client(own=folder / "stranger")) == b""
        assert heard("required", client()) == b""
        assert heard("optional", client()) == b"None"
        # Who signs for clients may change too, and counts at once: nobody is let in by a session of before.
        replace(folder / "clients.pem", other.cert_pem.bytes())
        daemon.until(lambda: b"stranger@example.org" in heard("required", client(own=folder / "stranger")))
        assert heard("required", client(own=folder / "friend")) == b""


# --- who says nothing, or nonsense -------------------------------------------------------------------


@LOOPS
def test_failed_handshakes_are_no_errors(loop, folder):
    with Daemon(pool(server={"tls": issue(folder)}, workers=1, loop=loop), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        for said in (b"GET / HTTP/1.1\r\n\r\n", b"", b"\x16\x03\x01\x02\x00\x01\xff", b"\0" * 1000):
            with connect(address) as sock:
                sock.sendall(said)
                sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while sock.recv(1000):
                        pass
        daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["connections"] == 0)
        assert daemon.pool()["workers"][0]["errors"] == 0
        with encrypted(address) as sock:
            assert sock.recv(1000)


def test_a_name_that_is_none_is_no_error(folder):
    tls = {**issue(folder), "sni": {"one.example.org": issue(folder, "one", "one.example.org")}}
    with Daemon(pool(server={"tls": tls}), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        outgoing = ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            client().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
        with connect(*daemon.addresses()) as sock, contextlib.suppress(ConnectionResetError):
            sock.sendall(outgoing.read().replace(b"localhost", b"\xff" * 9))
            while sock.recv(1000):
                pass
        assert shown(*daemon.addresses(), "one.example.org") == {"one.example.org"}


@pytest.mark.parametrize("loop", ["uvloop"])
def test_who_says_nothing_is_counted_and_cut(loop, folder):
    with Daemon(pool(server={"tls": issue(folder)}, workers=1, loop=loop), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with contextlib.ExitStack() as stack:
            silent = [stack.enter_context(connect(address)) for _ in range(100)]
            daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["connections"] == 100)
            assert serial(address)  # others are served
            begun = time.monotonic()
            for sock in silent:
                with contextlib.suppress(ConnectionResetError):
                    assert sock.recv(1) == b""
            assert time.monotonic() - begun < 30
        daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["connections"] == 0)


@LOOPS
def test_a_handshake_that_is_under_way_survives_a_reload(loop, folder):
    """However little grace another server of the worker has."""
    config = pool(server={"tls": issue(folder)}, workers=1, loop=loop)
    servers = config["pools"]["web"]["servers"]
    servers["other"] = {**servers["main"], "tls": None, "grace": "0s"}
    with Daemon(config, {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        (address,), (old,) = daemon.addresses(), daemon.workers()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        handshake = client().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with connect(address) as sock:
            with pytest.raises(ssl.SSLWantReadError):
                handshake.do_handshake()
            hello = outgoing.read()
            sock.sendall(hello[:50])
            daemon.wait_until(lambda status: status["pools"]["web"]["workers"][0]["connections"] == 1)
            assert daemon.reload().ok
            assert daemon.workers() != [old]
            sock.sendall(hello[50:])
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    handshake.do_handshake()
                    break
                assert incoming.write(sock.recv(10_000))
            sock.sendall(outgoing.read())
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    assert int(handshake.read(100).split()[0]) == old
                    break
                assert incoming.write(sock.recv(10_000))


# --- load --------------------------------------------------------------------------------------------


class Clients:
    """Connect, ask and close, over and over; no failure is forgiven."""

    def __init__(self, address, number=4):
        self.answered = 0
        self.failures = []
        self._address = address
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(number)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join()
        assert self.failures == []

    def _ask(self):
        context = client()
        while not self._end.is_set():
            try:
                with encrypted(self._address, context) as sock, sock.makefile("rb") as replies:
                    assert replies.readline()
                    sock.sendall(b"hello\n")
                    assert replies.readline() == b"hello\n"
                self.answered += 1
            except Exception as error:  # noqa: BLE001
                self.failures.append(repr(error))
                return


@pytest.mark.parametrize("loop", ["asyncio"])
def test_reloads_under_load_lose_nobody(loop, folder):
    with Daemon(pool(server={"tls": issue(folder)}, loop=loop), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        with Clients(address) as clients:
            for _ in range(3):
                assert daemon.reload().ok
        assert clients.answered > 20


@pytest.mark.parametrize("loop", ["uvloop"])
def test_requests_with_keep_alive_see_no_error_over_reloads(loop, folder):
    server = web(app="app:make", tls=issue(folder))
    with Daemon(pool(server=server, loop=loop), {"app.py": HTTP}, folder=folder) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()

        async def ask(session, done):
            count = 0
            while not done.is_set():
                async with session.get(f"https://{address}/") as response:
                    assert await response.text() == "https None"
                count += 1
            return count

        async def talk():
            done = asyncio.Event()
            connector = aiohttp.TCPConnector(ssl=client())
            async with aiohttp.ClientSession(connector=connector) as session:
                asking = [asyncio.create_task(ask(session, done)) for _ in range(8)]
                assert (await asyncio.to_thread(daemon.reload)).ok
                done.set()
                counts = await asyncio.gather(*asking)
            # aiohttp does not wait for the end of TLS, and leaves what is under it open.
            await asyncio.sleep(0.25)
            return counts

        assert min(asyncio.run(talk())) > 0


# --- rotation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loop", "preload"), [("uvloop", True), ("asyncio", False)])
def test_new_files_are_in_use_within_seconds_and_lose_nobody(loop, preload, folder):
    config = pool(server={"tls": issue(folder)}, loop=loop, preload=preload)
    with Daemon(config, {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        (address,), workers = daemon.addresses(), daemon.workers()
        before = serial(address)
        with encrypted(address) as old, Clients(address) as clients:
            assert old.recv(1000)
            issue(folder)
            daemon.wait_log("new certificate in use")
            daemon.until(lambda: before not in {serial(address) for _ in range(10)})
            assert daemon.log.count("new certificate in use") == 1  # one worker tells
            old.sendall(b"still here")
            assert old.recv(1000) == b"still here"
        assert clients.answered > 20
        assert daemon.workers() == workers


def test_links_that_are_swapped_are_noticed(folder):
    """As certbot does it, and Kubernetes: there, a link to the folder is."""
    for name in ("a", "b"):
        (folder / name).mkdir()
        issue(folder / name)
    (folder / "data").symlink_to("a")
    (folder / "cert.pem").symlink_to("data/site.certificate.pem")
    tls = {"certificate": "cert.pem", "key": "data/site.key.pem"}
    with Daemon(pool(server={"tls": tls}, workers=1), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        before = serial(*daemon.addresses())
        (folder / "next").symlink_to("b")
        (folder / "next").rename(folder / "data")
        daemon.until(lambda: serial(*daemon.addresses()) != before)


def test_what_is_broken_is_told_of_once_and_the_old_one_stays(folder):
    files = issue(folder)
    config = {**pool(server={"tls": files}, workers=1), "log": {"level": "debug"}}
    with Daemon(config, {"app.py": ECHO}, folder=folder) as daemon:
        daemon.allow(STAYS, "died|killed", "debug.*the peer closed the connection")
        daemon.expect("READY=1")
        (address,), (worker,) = daemon.addresses(), daemon.workers()
        # The old one: not the oldest.
        issue(folder)
        daemon.wait_log("new certificate in use")
        daemon.wait_log("new certificate of server main for workers to come")
        before = serial(address)
        replace(folder / files["key"], other_key())
        where = re.escape(f"{daemon.file}:") + r"\d+: pools\.web\.servers\.main\.tls\.key: the key \S+ does not belong"
        daemon.wait_log(f"error +hourd.server.web.main.*{where}.*{STAYS}")
        assert serial(address) == before
        # So it does for a worker that is born now, and the other files may go too.
        (folder / files["certificate"]).unlink()
        subprocess.run(["kill", "-9", str(worker)], check=True)
        daemon.until(lambda: daemon.workers() not in ([], [worker]), "another worker serves")
        assert serial(address) == before
        daemon.wait_log("certificate.pem cannot be read: No such file or directory")
        issue(folder)
        daemon.wait_log("the files of the certificate are right again")
        daemon.until(lambda: serial(address) != before)
        assert daemon.log.count(STAYS) == 2


def test_key_and_certificate_may_be_replaced_one_after_the_other(folder):
    files = issue(folder)
    with Daemon(pool(server={"tls": files}, workers=1), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        before = serial(address)
        (folder / "new").mkdir()
        issue(folder / "new")
        (folder / "new" / files["certificate"]).rename(folder / files["certificate"])
        time.sleep(0.5)
        (folder / "new" / files["key"]).rename(folder / files["key"])
        daemon.until(lambda: serial(address) != before)
        # Nobody was told of what fitted a moment later.


def test_the_end_of_a_certificate_is_told_of(folder):
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=3, hours=1)
    files = issue(folder, not_after=soon)
    with Daemon(pool(server={"tls": files}), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.allow("expires in 3 days|has expired")
        daemon.expect("READY=1")
        daemon.wait_log(
            rf"warning.*tls.certificate: the certificate {folder}/\S+ expires in 3 days, at {soon:%Y-%m-%d %H:%M} UTC"
        )
        issue(folder, not_before=soon - dt.timedelta(days=9), not_after=soon - dt.timedelta(days=4))
        daemon.wait_log("warning.*has expired, at")
        checked = daemon.run("check", "-c", str(daemon.file))
        assert (checked.returncode, checked.stdout) == (0, "the configuration is right\n")
        assert "tls.certificate: the certificate" in checked.stderr
        assert "has expired" in checked.stderr
        # Once a day at most, and by one worker.
        assert daemon.log.count("expires in") == daemon.log.count("has expired") == 1


@pytest.mark.parametrize("slot", [0, 1])
@pytest.mark.parametrize("refused", ["open", "memfd_create"])
def test_what_a_worker_had_nothing_left_for_is_told_of_and_read_again(refused, slot, folder, monkeypatch, caplog):
    files = {name: str(folder / file) for name, file in issue(folder).items()}
    monkeypatch.setattr(rotation, "LOOK", 0.01)
    monkeypatch.setattr(rotation, "_AGAIN", 0.2)
    caplog.set_level("INFO")

    def refuse(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def rotate():
        kept = rotation.Certificates(settings.Tls(**files))
        kept.watch(logging.getLogger("hourd.server"), (), tell=slot == 0)
        before = kept.current
        with monkeypatch.context() as patch:
            patch.setattr(os, refused, refuse)
            issue(folder)
            while not caplog.messages:  # noqa: ASYNC110, the log tells nobody
                await asyncio.sleep(0.01)
        assert kept.current is before
        while kept.current is before:  # noqa: ASYNC110, nor does it tell of that
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(rotate(), PATIENCE))
    told = f"tls.certificate: {files['certificate']} cannot be read: Too many open files; {STAYS}"
    assert told in caplog.messages[0]
    assert caplog.messages.count("the files of the certificate are right again") == 1


def resumed(server, context, session=None):
    """Shake hands in memory; returns whether a session was resumed, and the session."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(there, back, server_side=True)
    theirs = context.wrap_bio(back, there, server_hostname="localhost", session=session)
    for step in [theirs.do_handshake, ours.do_handshake] * 3 + [lambda: ours.write(b"x"), lambda: theirs.read(1)]:
        with contextlib.suppress(ssl.SSLWantReadError):
            step()
    return theirs.session_reused, theirs.session


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("which", ["current", "front"])
def test_sessions_end_with_the_trust_in_who_has_signed_for_a_client(which, version, folder):
    files = {name: str(folder / file) for name, file in issue(folder).items()}
    authority = trustme.CA()
    issue(folder, "friend", "friend@example.org", ca=authority)
    replace(folder / "clients.pem", authority.cert_pem.bytes())
    kept = rotation.Certificates(settings.Tls(**files, client_ca=str(folder / "clients.pem")))
    context = client(own=folder / "friend")
    context.maximum_version = ssl.TLSVersion[version]
    _, session = resumed(getattr(kept, which), context)
    assert resumed(getattr(kept, which), context, session)[0]
    replace(folder / "clients.pem", trustme.CA().cert_pem.bytes())
    while not kept.refresh(0.0):
        pass
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        resumed(getattr(kept, which), context, session)


# --- mistakes ----------------------------------------------------------------------------------------


def with_passphrase(key):
    form = serialization.PrivateFormat.PKCS8
    private = serialization.load_pem_private_key(key, None)
    return private.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret"))


def other_key(_=None):
    return CA.issue_cert("x").private_key_pem.bytes()


MISTAKES = {
    "key": (other_key, r"the key \S+ does not belong to the certificate"),
    "key without PEM": (lambda _: b"x", r"has no private key \(PEM\)"),
    "key with a passphrase": (with_passphrase, r"has a passphrase; decrypt it \(openssl pkey -in"),
    "certificate without PEM": (lambda _: b"x", r"has no valid certificate \(PEM\)"),
    "certificate cut": (lambda pem: pem[:300] + pem[-60:], r"has no valid certificate \(PEM\)"),
    "certificate gone": (None, "cannot be read: No such file or directory"),
    "client_ca": (lambda _: b"x", r"has no valid certificates \(PEM\)"),
    "ciphers": (None, "OpenSSL knows no cipher of 'NONE'"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_each_mistake_has_its_place(what, folder):
    replace(folder / "ca.pem", CA.cert_pem.bytes())
    tls = {**issue(folder), "client_ca": "ca.pem"} | ({"ciphers": "NONE"} if what == "ciphers" else {})
    (folder / "hourd.yaml").write_text(yaml.safe_dump(pool(server={"tls": tls}), sort_keys=False))
    read = config.load(str(folder / "hourd.yaml"), environ={}).settings
    make, why = MISTAKES[what]
    key = what.split()[0]
    if make:
        replace(folder / tls[key], make((folder / tls[key]).read_bytes()))
    elif what == "certificate gone":
        (folder / tls[key]).unlink()
    with pytest.raises(errors.ConfigError, match=rf"hourd\.yaml:\d+: pools\.web\.servers\.main\.tls\.{key}: .*{why}"):
        certificates.check(read)


def test_check_and_reload_refuse_what_does_not_fit(folder):
    files = issue(folder)
    with Daemon(pool(server={"tls": files}), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        daemon.allow(STAYS, "refused")
        replace(folder / files["key"], other_key())
        where = r"hourd\.yaml:\d+: pools\.web\.servers\.main\.tls\.key: the key"
        checked = daemon.run("check", "-c", str(daemon.file))
        assert checked.returncode == 78
        assert re.search(where, checked.stderr)
        answer = daemon.reload()
        assert not answer.ok
        assert re.search(where, answer.error)
        assert serial(*daemon.addresses())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_user_who_may_not_read_the_key_is_named(folder):
    files = {name: str(folder / file) for name, file in issue(folder).items()}
    Path(files["key"]).chmod(0o600)
    os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        with pytest.raises(
            errors.NoPermissionError, match=r"tls.key: user nobody may not read \S+key.pem; workers read"
        ):
            certificates.load(settings.Tls(**files))
    finally:
        os.seteuid(0)


def test_a_start_is_refused(folder):
    files = issue(folder)
    replace(folder / files["key"], other_key())
    with Daemon(pool(server={"tls": files}), {"app.py": ECHO}, folder=folder) as daemon:
        daemon.allow("does not belong to the certificate", "it is stopped")
        assert daemon.wait() == 78
        assert re.search(r"\S+hourd.yaml:\d+: pools.web.servers.main.tls.key: the key", daemon.log)


OWN = """
import asyncio, hourd

class Without(hourd.Kind):
    connections = 0
    async def listen(self, sock, backlog): ...
    async def close(self): ...

class With(Without):
    tls = True
    async def listen(self, sock, backlog):
        async def serve(reader, writer):
            writer.write(b"own")
            writer.close()
        return await asyncio.start_server(serve, sock=sock, backlog=backlog, ssl=self.context.tls)
"""


def test_a_kind_of_ones_own_says_whether_it_can(folder):
    files = issue(folder)
    with Daemon(pool(server={"kind": "app:Without", "tls": files}), {"app.py": OWN}, folder=folder) as daemon:
        daemon.allow("does not support tls", "it is stopped")
        assert daemon.wait() == 78
        assert re.search(r"hourd\.yaml:\d+: server main: kind app:Without does not support tls", daemon.log)


@LOOPS
def test_a_kind_that_accepts_by_itself_has_a_context_that_is_always_new(loop, folder):
    config = pool(server={"kind": "app:With", "app": None, "tls": issue(folder)}, workers=1, loop=loop)
    with Daemon(config, {"app.py": OWN}, folder=folder) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        before = serial(address)
        with encrypted(address) as sock:
            assert sock.recv(10) == b"own"
        issue(folder)
        daemon.until(lambda: serial(address) != before)


def test_what_is_printed_is_read_again(folder):
    names = {"one.example.org": issue(folder, "one", "one.example.org")}
    config = pool(server={"tls": {**issue(folder), "sni": names}, "proxy_protocol": {"from": ["10.0.0.0/8", "unix"]}})
    with Daemon(config, {"app.py": ECHO}, folder=folder) as daemon:
        daemon.expect("READY=1")
        printed = daemon.run("check", "--print", "-c", str(daemon.file)).stdout
        again = daemon.write("again.yaml", printed)
        assert daemon.run("check", "--print", "-c", str(again)).stdout == printed
        schema = json.loads(daemon.run("schema").stdout)
        assert "tls" in json.dumps(schema)

"""Servers of others for datagrams, each with a real client: DNS and QUIC."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import threading
from pathlib import Path

import dnslib
import trustme
from aioquic.asyncio.client import connect
from aioquic.quic.configuration import QuicConfiguration

from ..daemon import PATIENCE, Daemon, pool

APPS = Path(__file__).parent / "apps"
CLIENTS = 4


def daemon(name, maker, *, files=(), servers=(), **settings):
    server = {"kind": "datagram", "app": f"{name}:{maker}", "grace": "10s"}
    configuration = pool(server=server, **settings)
    configuration["pools"]["web"]["servers"].update(servers)
    return Daemon(configuration, {f"{name}.py": (APPS / f"{name}.py").read_text(), **dict(files)})


def at(address):
    host, _, port = address.removeprefix("udp:").rpartition(":")
    return host, int(port)


# --- DNS ------------------------------------------------------------------------------------------


def look_up(address, name="example.test", sort="A", *, timeout=PATIENCE):
    """Ask with dnslib's client; returns the answers as text. What is lost raises ``TimeoutError``."""
    question = dnslib.DNSRecord.question(name, sort)
    host, port = at(address)
    answer = dnslib.DNSRecord.parse(question.send(host, port, tcp=not address.startswith("udp:"), timeout=timeout))
    assert answer.header.id == question.header.id
    return [str(record.rdata) for record in answer.rr]


def test_dns():
    tcp = {"kind": "stream", "app": "dns_server:serve", "bind": "127.0.0.1:0"}
    with daemon("dns_server", "Dns", servers={"tcp": tcp}) as it:
        it.allow("killed by SIGKILL")
        it.expect("READY=1")
        (udp,), (tcp,) = it.addresses(), it.addresses(server="tcp")
        assert look_up(udp) == look_up(tcp) == ["192.0.2.1"]
        assert look_up(udp, sort="MX") == ["10 mail.example.test."]
        assert look_up(udp, "big.example.test", "TXT") == look_up(tcp, "big.example.test", "TXT")
        assert look_up(udp, "nobody.test") == []
        answered, lost, done = [], [], threading.Event()

        def ask_on():
            while not done.is_set():
                try:
                    answered.append(look_up(udp, timeout=5))
                except TimeoutError:
                    lost.append(None)

        threads = [threading.Thread(target=ask_on) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                assert it.reload().ok
            it.until(lambda: len(answered) > 100)
            assert lost == []
            for _ in range(2):
                it.until(lambda: len(it.workers()) == 2)
                os.kill(it.workers()[0], signal.SIGKILL)
                so_far = len(answered)
                it.until(lambda so_far=so_far: len(answered) > so_far + 100)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert {tuple(each) for each in answered} == {("192.0.2.1",)}
        # Each client has one question under way, and mostly that was not read yet, or answered already.
        assert len(lost) <= 2 * CLIENTS


# --- QUIC -----------------------------------------------------------------------------------------


async def say(address, said, authority, *, begun=None):
    """Say something on a stream of a new connection; returns the pid of who answers, and the rest of the answer."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["echo"], server_name="127.0.0.1")
    configuration.load_verify_locations(cadata=authority)
    async with asyncio.timeout(PATIENCE), connect(*at(address), configuration=configuration) as client:
        reader, writer = await client.create_stream()
        writer.write(said)
        writer.write_eof()
        pid = await reader.readuntil(b" ")
        if begun:
            begun.set()
        return int(pid), await reader.read()


def test_quic():
    authority = trustme.CA()
    identity = authority.issue_cert("127.0.0.1")
    files = {
        "cert.pem": b"".join(each.bytes() for each in identity.cert_chain_pems).decode(),
        "key.pem": identity.private_key_pem.bytes().decode(),
    }
    trusted = authority.cert_pem.bytes()
    timeouts = {"slow": "60s", "hung": "90s"}  # handshakes take their time where CPUs are few
    with daemon("quic_server", "make", files=files, timeouts=timeouts) as it:
        it.expect("READY=1")
        (address,) = it.addresses()

        async def several(said):
            return await asyncio.gather(*(say(address, said, trusted) for _ in range(8)))

        for _ in range(2):
            before = set(it.workers())
            answers = asyncio.run(several(b"x" * 20000))
            assert {rest for _, rest in answers} == {b"x" * 20000}
            assert {pid for pid, _ in answers} <= before
            # What is under way is answered by who reads no more; what came later of it would be for the successor.
            with concurrent.futures.ThreadPoolExecutor() as threads:
                begun = threading.Event()
                late = threads.submit(asyncio.run, say(address, b"late", trusted, begun=begun))
                assert begun.wait(PATIENCE)
                assert it.reload().ok
                pid, rest = late.result(PATIENCE)
            assert (pid in before, rest) == (True, b"late")
            it.wait_for_the_old()

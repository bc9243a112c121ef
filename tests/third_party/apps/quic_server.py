"""QUIC by aioquic, with the protocol that its own serve() makes: each stream is echoed."""

import asyncio
import os

from aioquic.asyncio.server import QuicServer
from aioquic.quic.configuration import QuicConfiguration

from hourd import Worker


def make():
    configuration = QuicConfiguration(alpn_protocols=["echo"], is_client=False)
    configuration.load_cert_chain("cert.pem", "key.pem")
    return QuicServer(configuration=configuration, stream_handler=begin)


def begin(reader, writer):
    asyncio.get_running_loop().create_task(echo(reader, writer))


async def echo(reader, writer):
    data = await reader.read()
    writer.write(f"{os.getpid()} ".encode())
    if data == b"late":
        await Worker.current().draining.wait()
    writer.write(data)
    writer.write_eof()

"""A name server of dnslib's parser and resolver, over UDP and TCP."""

import asyncio

from dnslib import DNSRecord
from dnslib.zoneresolver import ZoneResolver

LONG = '" "'.join("x" * 200 for _ in range(5))
ZONE = f"""
example.test.       60 IN A     192.0.2.1
example.test.       60 IN MX    10 mail.example.test.
big.example.test.   60 IN TXT   "{LONG}"
"""
resolver = ZoneResolver(ZONE)


def resolve(question):
    return resolver.resolve(DNSRecord.parse(question), None).pack()


class Dns(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(resolve(data), address)


async def serve(reader, writer):
    length = int.from_bytes(await reader.readexactly(2), "big")
    answer = resolve(await reader.readexactly(length))
    writer.write(len(answer).to_bytes(2, "big") + answer)
    writer.close()

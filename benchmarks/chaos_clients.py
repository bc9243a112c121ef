"""The clients of the chaos tool: ``chaos_clients.py SPEC RECORDS``, one process of them.

Standard input tells new addresses, as one JSON object a line; its end ends the clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any

import asyncssh
from chaos_http import Download, Fresh, KeepAlive, Pipelined, Slow, Upload
from chaos_wire import TEXT, Connection, GoodbyeError, WrongError
from chaos_world import FAILURES, Client, Spec, World

_NOTHING_OF_THIS_USER: Any = {"known_hosts": None, "client_keys": None, "agent_path": None, "config": None}

_DATAGRAM = 20.0
"""Seconds after which a datagram is lost: whoever may have its slot has read it by then."""


class Websocket(Client):
    """Numbered messages that come back; a goodbye of the server is one, and anything else that ends it is not."""

    async def turn(self) -> None:
        async with self.connection() as at:
            async with self.request(at):
                await at.open(self.target.address)
                await at.upgrade("/ws")
            for number in range(self.chance.randint(1, 60)):
                if self.world.ending or not await self._idle(at):
                    return
                async with self.request(at):
                    await at.send_frame(TEXT, b"%d" % number)
                    if (text := await at.read_text()) != str(number):
                        raise WrongError(f"sent {number}, got {text!r}")
            async with self.request(at):
                await at.leave()

    async def _idle(self, at: Connection) -> bool:
        """Wait, and return whether the server is there still."""
        try:
            await at.idle(self.chance.uniform(0.05, 0.5))
        except GoodbyeError:
            return False
        except FAILURES as error:
            async with self.request(at):  # nothing was asked, but a websocket must not just end
                raise error from None
        return True


class Ssh(Client):
    """Some commands on a connection, each with its output and exit status."""

    async def turn(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            at = await stack.enter_async_context(self.connection())
            for number in range(self.chance.randint(1, 3)):
                if number:
                    await self.pause(0.3)
                async with self.request(at):
                    if not number:
                        ssh = await self._connect(at)
                        stack.push_async_callback(self._close, ssh)
                    await self._run(ssh, at)

    async def _connect(self, at: Connection) -> asyncssh.SSHClientConnection:
        sock = await at.dial(self.target.address)
        return await asyncssh.connect(sock=sock, username="chaos", password="chaos", **_NOTHING_OF_THIS_USER)

    async def _run(self, ssh: asyncssh.SSHClientConnection, at: Connection) -> None:
        text, status = f"{self.chance.getrandbits(80):x}", self.chance.randint(0, 100)
        done = await ssh.run(f"echo {text} {status}")
        if done.exit_status is None:
            raise EOFError("the session ended without an exit status")
        worker, _, said = str(done.stdout).partition(" ")
        if (said.strip(), done.exit_status) != (text, status):
            raise WrongError(f"expected {text} and {status}, got {done.stdout!r} and {done.exit_status}")
        at.worker = int(worker)

    async def _close(self, ssh: asyncssh.SSHClientConnection) -> None:
        ssh.close()
        await ssh.wait_closed()


class Echo(Client):
    """Bytes that all come back, and then the end."""

    async def turn(self) -> None:
        async with self.connection() as at, self.request(at):
            await at.open(self.target.address)
            if self.target.known:
                (at.worker,) = struct.unpack("!I", await at.read(4))
            for _ in range(self.chance.randint(1, 20)):
                data = self.chance.randbytes(self.chance.choice((1, 100, 10_000, 100_000)))
                await at.send(data)
                if await at.read(len(data)) != data:
                    raise WrongError(f"{len(data)} bytes came back as others")
                await asyncio.sleep(self.chance.choice((0.0, 0.0, 0.1)))
            at.finish()
            await at.read_end()


class Datagram(Client):
    """Numbered questions of one flow, each with its answer before the next; none is answered twice."""

    async def turn(self) -> None:
        loop = asyncio.get_running_loop()
        async with self.connection() as at:
            sock = None
            for number in range(self.chance.randint(1, 20)):
                async with self.request(at):
                    sock = sock or await at.dial(self.target.address, socket.SOCK_DGRAM)
                    said = b"%d %d" % (number, self.chance.getrandbits(80))
                    async with asyncio.timeout(_DATAGRAM):
                        await loop.sock_sendall(sock, said)
                        answer = await loop.sock_recv(sock, 1000)
                    at.worker = int.from_bytes(answer[:4], "big")
                    if answer[4:] != said:
                        raise WrongError(f"asked {said!r}, got {answer!r}")
                await asyncio.sleep(self.chance.choice((0.0, 0.05, 0.1)))
            if sock and not self._is_quiet(sock):
                async with self.request(at):
                    raise WrongError("an answer came twice")

    def _is_quiet(self, sock: socket.socket) -> bool:
        try:
            return not sock.recv(1000)
        except (BlockingIOError, ConnectionRefusedError):
            return True


class Banner(Client):
    """The first line of an SSH server of which nothing else is known."""

    async def turn(self) -> None:
        async with self.connection() as at, self.request(at):
            await at.open(self.target.address)
            if not (line := await at.read_line()).startswith(b"SSH-2.0-"):
                raise WrongError(f"this is no SSH: {line!r}")


class Connect(Client):
    """A connection that is not reset, to a server of which nothing else is known."""

    async def turn(self) -> None:
        async with self.connection() as at, self.request(at) as request:
            await at.open(self.target.address)
            await asyncio.sleep(0.05)
            request.count_from_now()
            at.check()


@dataclass(frozen=True, slots=True)
class Sort:
    """How many of a sort of client there are, and how busy they are."""

    client: type[Client]
    number: int
    """For each address."""
    pause: float
    """Seconds between two turns of one, on average."""
    part: int
    """Of the processes: 0 has those that are quick."""


SORTS = {
    "fresh": Sort(Fresh, 4, 0.1, 0),
    "keep alive": Sort(KeepAlive, 6, 0.2, 0),
    "pipelined": Sort(Pipelined, 2, 0.3, 0),
    "connect": Sort(Connect, 2, 0.1, 0),
    "slow": Sort(Slow, 3, 0.1, 1),
    "upload": Sort(Upload, 1, 0.3, 1),
    "download": Sort(Download, 1, 0.3, 1),
    "websocket": Sort(Websocket, 3, 0.1, 1),
    "ssh": Sort(Ssh, 2, 0.5, 1),
    "echo": Sort(Echo, 3, 0.1, 1),
    "datagram": Sort(Datagram, 3, 0.3, 0),
    "banner": Sort(Banner, 1, 0.5, 1),
}
HTTP = ("aiohttp", "asgi", "wsgi")
"""Kinds that speak it, whatever is served."""
_PROBING = ("fresh", "keep alive", "pipelined", "slow")


def sorts_for(kind: str, *, known: bool, echo: bool) -> tuple[str, ...]:
    """Return which sorts of client can talk to a server.

    Args:
        kind: as configured.
        known: whether it is the tool's own application.
        echo: whether it is said to send back what it gets.
    """
    match kind:
        case _ if kind in HTTP:
            return (*_PROBING, "upload", "download", "websocket") if known else _PROBING
        case "datagram":
            return ("datagram",) if known or echo else ()
        case "ssh":
            return ("ssh",) if known else ("banner",)
        case "stream" | "protocol" if known or echo:
            return ("echo",)
    return ("connect",)


async def drive(spec: Spec, world: World) -> None:
    """Let all clients of this process run until it is over, and a little longer if some wait for answers."""
    world.listen()
    clients = [
        asyncio.create_task(
            SORTS[sort].client(world, target, random.Random(f"{spec.seed} {spec.part} {n}")).run(SORTS[sort].pause)
        )
        for n, (sort, target) in enumerate(spec.clients)
    ]
    await world.watch()
    _, late = await asyncio.wait(clients, timeout=spec.patience)
    for task in late:
        task.cancel()
    for task in clients:
        with contextlib.suppress(asyncio.CancelledError):
            await task


def main() -> None:
    """Run the clients of a process."""
    spec = Spec.load(sys.argv[1])
    with open(sys.argv[2], "w", encoding="ascii") as file:
        world = World(spec, file)
        asyncio.run(drive(spec, world))
        file.write(json.dumps({"lag": world.lag}) + "\n")


if __name__ == "__main__":
    main()

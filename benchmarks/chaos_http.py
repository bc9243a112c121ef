"""Clients of HTTP: every answer must be the right one, and nothing may follow it that was not asked for."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib

import measure
from chaos_wire import Connection, Response, WrongError
from chaos_world import Client, LostError, Request

_PIECE = 64 * 1024
_LISTEN = 0.02
"""Seconds for which a client that needs its connection no more hears whether something comes that was not asked for."""


def _message(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """Return a request, whole."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    lines += [f"Content-Length: {len(body)}"] if method == "POST" else []
    return "\r\n".join([*lines, "", ""]).encode() + body


class Http(Client):
    """What all clients of HTTP have in common."""

    def ask(self, *headers: str) -> tuple[bytes, bytes | None]:
        """Return a short request, and the body that its answer must have, where that is known."""
        if not self.target.known:
            return _message("GET", self.target.path, *headers), None
        number = str(self.chance.getrandbits(40))
        return _message("GET", f"/?n={number}", *headers), number.encode()

    def check(self, response: Response, body: bytes | None) -> Response:
        """Raise ``WrongError`` unless it is the answer."""
        if response.status != self.target.status:
            raise WrongError(f"status {response.status}, not {self.target.status}: {response.body[:100]!r}")
        if body is not None and response.body != body:
            raise WrongError(f"expected {body[:40]!r} ({len(body)}), got {response.body[:40]!r} ({len(response.body)})")
        return response

    async def read(
        self, at: Connection, request: Request, body: bytes | None, *, last: bool = False, pause: float = 0.0
    ) -> Response:
        """Read an answer, and the end of the connection where the answer has said that it comes.

        Args:
            at: where.
            request: that is to be answered.
            body: that the answer must have, where that is known.
            last: whether the end was asked for.
            pause: seconds to wait after each 64 KiB of the body.
        """
        response = self.check(await at.read_response(pause=pause), body)
        request.count_until_now()
        if response.last or last:
            with contextlib.suppress(ConnectionError):  # it has been answered; its worker may be killed now
                await at.read_end()
        return response

    async def idle(self, at: Connection, seconds: float = _LISTEN) -> bool:
        """Ask nothing for a while, in which nothing may come; returns whether the server is there still."""
        if more := await at.surplus(seconds):
            async with self.request(at):  # of its own: those before have been answered
                raise WrongError(f"nothing was asked, and {more!r} came")
        return not at.ended


class Fresh(Http):
    """A connection for each request."""

    async def turn(self) -> None:
        headers = ["Connection: close"] if self.chance.random() < 0.5 else []
        data, body = self.ask(*headers)
        async with self.connection() as at:
            async with self.request(at) as request:
                await at.open(self.target.address)
                await at.send(data)
                await self.read(at, request, body, last=bool(headers))
            await self.idle(at)


class KeepAlive(Http):
    """Many requests on a connection, with pauses: short ones, and such as idle connections have."""

    async def turn(self) -> None:
        async with self.connection() as at:
            for number in range(self.chance.randint(2, 200)):
                if number and (self.world.ending or at.ended):
                    return  # between two requests a server may close
                data, body = self.ask()
                async with self.request(at) as request:
                    if not number:
                        await at.open(self.target.address)
                    await at.send(data)
                    await self.read(at, request, body)
                long = self.chance.uniform(0.8, 2.5) if self.chance.random() < 0.03 else 0.0
                if not await self.idle(at, self.spell(0.1) + long):
                    return


class Pipelined(Http):
    """Several requests in one write; each must be answered, in this order."""

    async def turn(self) -> None:
        async with self.connection() as at:
            for number in range(self.chance.randint(1, 10)):
                if number and (self.world.ending or at.ended):
                    return
                if not await self._burst(at, first=not number) or not await self.idle(at, self.spell(0.3)):
                    return

    async def _burst(self, at: Connection, *, first: bool) -> bool:
        """Return whether all were answered."""
        asked = [self.ask() for _ in range(self.chance.randint(2, 10))]
        started, failure = measure.clock(), None
        for number, (_, body) in enumerate(asked):
            try:
                async with self.request(at, started) as request:
                    if failure:
                        raise failure
                    if not number:
                        if first:
                            await at.open(self.target.address)
                        await at.send(b"".join(data for data, _ in asked))
                    await self.read(at, request, body)
            except LostError as error:
                failure = error.cause
        return failure is None


class Slow(Http):
    """Sends header and body byte after byte, sometimes on a connection that has served before."""

    async def turn(self) -> None:
        async with self.connection() as at:
            if again := self.chance.random() < 0.3:
                data, body = self.ask()
                async with self.request(at) as request:
                    await at.open(self.target.address)
                    await at.send(data)
                    await self.read(at, request, body)
                if not await self.idle(at, self.spell(0.5)):
                    return
            data, body = self._ask_slowly()
            async with self.request(at) as request:
                if not again:
                    await at.open(self.target.address)
                await at.trickle(data, self.chance.uniform(0.5, 4.0))
                request.count_from_now()
                await self.read(at, request, body)
            await self.idle(at)

    def _ask_slowly(self) -> tuple[bytes, bytes | None]:
        if not self.target.known or self.chance.random() < 0.5:
            return self.ask()
        body = b"%x" % self.chance.getrandbits(200)
        return _message("POST", "/echo", body=body), body


class Upload(Http):
    """A large body, in pieces."""

    async def turn(self) -> None:
        body = self.chance.randbytes(self.chance.randint(2**18, 3 * 2**20))
        digest, pause = hashlib.sha256(body).hexdigest().encode(), self.chance.choice((0.0, 0.01, 0.05))
        data = _message("POST", "/sum", body=body)
        async with self.connection() as at:
            async with self.request(at) as request:
                await at.open(self.target.address)
                for start in range(0, len(data), _PIECE):
                    await at.send(data[start : start + _PIECE])
                    await asyncio.sleep(pause)
                await self.read(at, request, digest)
            await self.idle(at)


class Download(Http):
    """A large answer, with a length or in chunks, read fast or slowly."""

    async def turn(self) -> None:
        how, size = self.chance.choice(("bytes", "pieces")), self.chance.randint(2**18, 2**21)
        async with self.connection() as at:
            async with self.request(at) as request:
                await at.open(self.target.address)
                await at.send(_message("GET", f"/{how}/{size}"))
                response = await self.read(at, request, None, pause=self.chance.choice((0.0, 0.01, 0.05)))
                digest = hashlib.sha256(response.body).hexdigest()
                if len(response.body) != size or digest != response.headers.get("x-sum"):
                    raise WrongError(f"asked for {size} bytes, got {len(response.body)}, or others")
            await self.idle(at)


async def ask_status(address: str, path: str, limit: float) -> int:
    """Return the status with which a server answers GET.

    Raises:
        OSError, EOFError, WrongError: it does not.
    """
    at = Connection()
    try:
        async with asyncio.timeout(limit):
            await at.open(address)
            await at.send(_message("GET", path, "Connection: close"))
            return (await at.read_response()).status
    finally:
        at.close()

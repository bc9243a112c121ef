"""Websockets of both libraries against RFC 6455, case by case as the Autobahn test suite has them.

The client is a raw socket, since a library would not send most of this. Each case says what it sends and what has to
come back: messages, pongs, and the code of the close frame. Where a library does otherwise, that stands in
``DEVIATIONS`` with what the RFC asks for.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from .daemon import Daemon, connect, pool

AIOHTTP = """
from aiohttp import WSMsgType, web

async def echo(request):
    ws = web.WebSocketResponse(max_msg_size=1024 * 1024 + 1)  # less than that
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws

app = web.Application()
app.router.add_get("/", echo)
"""
ASGI = """
async def app(scope, receive, send):
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
"""
APPS = {
    "aiohttp": (AIOHTTP, {}),
    "asgi": (ASGI, {"lifespan": "off", "websocket_max_size": "1MiB"}),
}
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(opcode, payload=b"", *, fin=True, rsv=0, masked=True):
    """Return a frame (RFC 6455, 5.2) as a client sends it."""
    first = fin << 7 | rsv << 4 | opcode
    size, mask = len(payload), masked << 7
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    pad = key * (size // 4 + 1)
    masked_payload = (int.from_bytes(payload, "big") ^ int.from_bytes(pad[:size], "big")).to_bytes(size, "big")
    return head + key + masked_payload


def close(code=None, reason=b""):
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def text(payload, **more):
    return frame(TEXT, payload.encode() if isinstance(payload, str) else payload, **more)


END = close(1000)
"""Ends every case that does not end by itself, so that what was echoed is complete."""
HELLO = "Hellö-µ@ßöäüàá-UTF-8!!".encode()
INVALID = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"


def said(*frames, code=1000):
    """What comes back: frames, and the code of the close frame."""
    return [*frames, (CLOSE, code)]


def failed(code):
    return said(code=code)


def without_end(parts, *wanted):
    """Leave the client's end out where the server has to fail the connection, and does."""
    fails = all(each[-1][1] not in (1000, None) for each in wanted)
    return parts[: parts.index(END)] if fails and END in parts else parts


SIZES = (0, 1, 125, 126, 127, 128, 65535, 65536, 65537)
CASES = {
    # 1: framing
    **{f"1.1 text of {n}": ([text(b"*" * n), END], said((TEXT, b"*" * n))) for n in SIZES},
    **{f"1.2 binary of {n}": ([frame(BINARY, b"\xfe" * n), END], said((BINARY, b"\xfe" * n))) for n in SIZES},
    "1.1 text byte by byte": ([bytes([byte]) for byte in text("*" * 300)] + [END], said((TEXT, b"*" * 300))),
    # 2: pings and pongs
    "2.1 ping without payload": ([frame(PING), END], said((PONG, b""))),
    "2.2 ping with payload": ([frame(PING, b"Hello"), END], said((PONG, b"Hello"))),
    "2.3 ping with binary payload": ([frame(PING, b"\0\xff\xfe"), END], said((PONG, b"\0\xff\xfe"))),
    "2.4 ping of 125": ([frame(PING, b"\xfe" * 125), END], said((PONG, b"\xfe" * 125))),
    "2.5 ping of 126": ([frame(PING, b"\xfe" * 126), END], failed(1002)),
    "2.6 ping byte by byte": ([bytes([byte]) for byte in frame(PING, b"*" * 125)] + [END], said((PONG, b"*" * 125))),
    "2.7 pong nobody asked for": ([frame(PONG), END], said()),
    "2.8 pong nobody asked for, with payload": ([frame(PONG, b"x"), END], said()),
    "2.9 pong, ping": ([frame(PONG, b"x"), frame(PING, b"y"), END], said((PONG, b"y"))),
    "2.10 ten pings": (
        [frame(PING, b"%d" % n) for n in range(10)] + [END],
        said(*((PONG, b"%d" % n) for n in range(10))),
    ),
    # 3: reserved bits
    **{f"3 rsv {rsv}": ([text("x", rsv=rsv), END], failed(1002)) for rsv in range(1, 8)},
    "3 rsv in a ping": ([frame(PING, rsv=3), END], failed(1002)),
    "3 rsv after a message": ([text("x"), text("y", rsv=4), END], said((TEXT, b"x"), code=1002)),
    # 4: opcodes
    **{f"4 opcode {n}": ([frame(n, b"x"), END], failed(1002)) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    # 5: fragments
    "5.1 ping in fragments": ([frame(PING, b"a", fin=False), frame(CONTINUATION, b"b"), END], failed(1002)),
    "5.2 pong in fragments": ([frame(PONG, b"a", fin=False), frame(CONTINUATION, b"b"), END], failed(1002)),
    "5.3 text in two": ([text("a", fin=False), frame(CONTINUATION, b"b"), END], said((TEXT, b"ab"))),
    "5.6 a ping in between": (
        [text("a", fin=False), frame(PING, b"p"), frame(CONTINUATION, b"b"), END],
        said((PONG, b"p"), (TEXT, b"ab")),
    ),
    "5.9 continuation of nothing": ([frame(CONTINUATION, b"a"), text("b"), END], failed(1002)),
    "5.10 continuation of nothing, unfinished": ([frame(CONTINUATION, b"a", fin=False), END], failed(1002)),
    "5.15 continuation after the end": (
        [text("a", fin=False), frame(CONTINUATION, b"b"), frame(CONTINUATION, b"c"), END],
        said((TEXT, b"ab"), code=1002),
    ),
    "5.18 text in the middle of text": ([text("a", fin=False), text("b"), END], failed(1002)),
    "5.19 in many, with pings": (
        [text("0", fin=False)]
        + [part for n in range(1, 5) for part in (frame(CONTINUATION, b"%d" % n, fin=False), frame(PING, b"%d" % n))]
        + [frame(CONTINUATION, b"5"), END],
        said(*((PONG, b"%d" % n) for n in range(1, 5)), (TEXT, b"012345")),
    ),
    "5 fragments without payload": ([text("", fin=False), frame(CONTINUATION), END], said((TEXT, b""))),
    # 6: UTF-8
    "6.2 valid": ([text(HELLO), END], said((TEXT, HELLO))),
    "6.2 valid, byte by byte in fragments": (
        [
            text(HELLO[:1], fin=False),
            *(frame(CONTINUATION, bytes([byte]), fin=False) for byte in HELLO[1:]),
            frame(CONTINUATION),
            END,
        ],
        said((TEXT, HELLO)),
    ),
    "6.3 invalid": ([text(INVALID), END], failed(1007)),
    "6.3 invalid, in fragments": (
        [text(INVALID[:12], fin=False), frame(CONTINUATION, INVALID[12:]), END],
        failed(1007),
    ),
    "6.6 cut in a character": ([text(HELLO[:5]), END], failed(1007)),
    **{
        f"6 {name}": ([text(bytes.fromhex(data)), END], failed(1007))
        for name, data in {
            "overlong": "c080",
            "overlong slash": "e080af",
            "surrogate": "eda080",
            "surrogates": "eda080edb080",
            "beyond U+10FFFF": "f4908080",
            "lone continuation": "80",
            "FE": "fe",
            "five bytes": "f888808080",
        }.items()
    },
    **{
        f"6 {name}": ([text(bytes.fromhex(data)), END], said((TEXT, bytes.fromhex(data))))
        for name, data in {"NUL": "00", "the last": "f48fbfbf", "noncharacter": "efbfbf", "BOM": "efbbbf"}.items()
    },
    # 7: the end
    "7.1 messages, then the end": ([text("a"), text("b"), END], said((TEXT, b"a"), (TEXT, b"b"))),
    "7.1 two ends": ([END, END], said()),
    "7.1 ping after the end": ([END, frame(PING)], said()),
    "7.1 text after the end": ([END, text("x")], said()),
    "7.1 the end in the middle of a message": ([text("a", fin=False), END, frame(CONTINUATION, b"b")], said()),
    "7.3 without a code": ([close()], said(code=None)),
    "7.3 with one byte": ([frame(CLOSE, b"a")], failed(1002)),
    "7.3 with a reason": ([close(1000, b"Hello")], said()),
    "7.3 with a reason of 123": ([close(1000, b"*" * 123)], said()),
    "7.3 with a reason of 124": ([close(1000, b"*" * 124)], failed(1002)),
    "7.5 reason is no UTF-8": ([close(1000, INVALID)], failed(1007)),
    **{
        f"7.7 code {code}": ([close(code)], said(code=code))
        for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    },
    **{
        f"7.9 code {code}": ([close(code)], failed(1002))
        for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535)
    },
    # 9: limits
    "9.1 text of 1 MiB": ([text("*" * 2**20), END], said((TEXT, b"*" * 2**20))),
    "9.3 in fragments of 1 KiB": (
        [text("*" * 1024, fin=False)]
        + [frame(CONTINUATION, b"*" * 1024, fin=False)] * 500
        + [frame(CONTINUATION), END],
        said((TEXT, b"*" * 1024 * 501)),
    ),
    "9 too large": ([text("*" * (2**20 + 1)), END], failed(1009)),
    "9 too large in fragments": (
        [
            text("*" * 2**19, fin=False),
            frame(CONTINUATION, b"*" * 2**19, fin=False),
            frame(CONTINUATION, b"*" * 9),
            END,
        ],
        failed(1009),
    ),
    # RFC 6455, 5.1
    "a client that does not mask": ([text("x", masked=False), END], failed(1002)),
    # RFC 6455, 5.2: the most significant bit has to be 0; too large it is at any rate
    "a length beyond 63 bits": ([struct.pack("!BBQ", 0x81, 0xFF, 2**63) + bytes(4), END], failed(1009)),
}
ECHOED = [1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
DEVIATIONS = {
    "aiohttp": {
        # RFC 6455, 5.5.1: "typically echos the status code it received"; it says 1000 to whatever it takes for one.
        "7.3 without a code": said(),
        **{f"7.7 code {code}": said() for code in ECHOED},
        # RFC 6455, 7.4: codes that must not be sent, or are out of range, which it does not look at.
        **{f"7.9 code {code}": said() for code in (1006, 5000, 65535)},
        # RFC 6455, 5.1: a server MUST close the connection then.
        "a client that does not mask": said((TEXT, b"x")),
    },
    "asgi": {
        # What came in the same piece before the mistake is dropped. Autobahn calls that not strict.
        "3 rsv after a message": failed(1002),
        "5.15 continuation after the end": failed(1002),
        # RFC 6455, 5.4: control frames may come in the middle of a message; websockets wants that one complete.
        "7.1 the end in the middle of a message": failed(1002),
    },
}


def shake_hands(sock, *lines):
    key = base64.b64encode(os.urandom(16)).decode()
    head = [
        "GET / HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", *lines, "", "",
    ]  # fmt: skip
    sock.sendall("\r\n".join(head).encode())
    replies = sock.makefile("rb")
    status = replies.readline()
    headers = {}
    while (line := replies.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value.strip()
    return status, headers, replies


def read_frame(replies):
    """Return the opcode and the payload of a frame, of a close frame its code; nothing at the end."""
    if not (head := replies.read(2)):
        return None
    size = head[1]
    if size > 125:
        size = int.from_bytes(replies.read(2 if size == 126 else 8), "big")
    opcode, payload = head[0] & 15, replies.read(size)
    if opcode == CLOSE:
        return CLOSE, struct.unpack_from("!H", payload)[0] if payload else None
    return opcode, payload


def run(address, parts, wanted):
    """Send the parts; the client's own end only when what is wanted before has come, as Autobahn does."""
    with connect(address, timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        status, _, replies = shake_hands(sock)
        assert status == b"HTTP/1.1 101 Switching Protocols\r\n"
        found = []
        with replies:
            try:
                first_end = parts.index(END) if END in parts else len(parts)
                send(sock, parts[:first_end])
                while len(found) < len(wanted) - 1 and (read := read_frame(replies)):
                    found.append(read)
                send(sock, parts[first_end:])
                while (not found or found[-1][0] != CLOSE) and (read := read_frame(replies)):
                    found.append(read)
            except (ConnectionError, TimeoutError) as error:
                found.append(repr(error))
        return found


def send(sock, parts):
    with contextlib.suppress(ConnectionError):  # it has failed the connection already, as it should
        for part in parts:
            sock.sendall(part)


def serve(kind):
    app, options = APPS[kind]
    server = {"kind": kind, "app": "app:app", "options": options}
    return Daemon(pool(workers=1, server=server), {"app.py": app})


def shown(outcome):
    """Shorten it for people."""
    return [str(part)[:60] for part in outcome]


@pytest.mark.parametrize("kind", APPS)
def test_each_case(kind):
    with serve(kind) as daemon:
        daemon.expect("READY=1")
        (address,) = daemon.addresses()
        wanted = {name: case[1] for name, case in CASES.items()} | DEVIATIONS[kind]
        with ThreadPoolExecutor(8) as clients:
            running = {
                name: clients.submit(run, address, without_end(*CASES[name], wanted[name]), wanted[name])
                for name in CASES
            }
            found = {name: case.result() for name, case in running.items()}
        assert {name: shown(found[name]) for name in CASES if found[name] != wanted[name]} == {}
        assert daemon.pool()["workers"][0]["errors"] == 0


@pytest.mark.parametrize("kind", APPS)
def test_messages_are_compressed_where_the_client_offers_it(kind):
    """Autobahn 12: permessage-deflate (RFC 7692)."""
    with serve(kind) as daemon:
        daemon.expect("READY=1")
        with connect(daemon.addresses()[0]) as sock:
            _, headers, replies = shake_hands(sock, "Sec-WebSocket-Extensions: permessage-deflate")
            assert headers["sec-websocket-extensions"].startswith("permessage-deflate")
            deflate, inflate = zlib.compressobj(wbits=-12), zlib.decompressobj(wbits=-15)
            for _ in range(3):
                data = deflate.compress(b"hello " * 1000) + deflate.flush(zlib.Z_SYNC_FLUSH)
                sock.sendall(text(data.removesuffix(b"\x00\x00\xff\xff"), rsv=4))
                head = replies.read(2)
                assert head[0] == 0b1100_0001  # compressed
                echoed = inflate.decompress(replies.read(head[1]) + b"\x00\x00\xff\xff")
                assert echoed == b"hello " * 1000
            # RFC 7692, 8: what becomes too large in unpacking is refused
            bomb = zlib.compressobj(wbits=-12)
            data = bomb.compress(bytes(50_000_000)) + bomb.flush(zlib.Z_SYNC_FLUSH)
            sock.sendall(text(data.removesuffix(b"\x00\x00\xff\xff"), rsv=4))
            assert [read_frame(replies)] == failed(1009)
            replies.close()


@pytest.mark.parametrize("kind", APPS)
@pytest.mark.parametrize(
    "change",
    [
        ("GET / HTTP/1.1", "POST / HTTP/1.1"),
        ("Sec-WebSocket-Key:", "X:"),
        ("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: abc"),
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 12"),
        ("Host: x\r\n", ""),
    ],
    ids=lambda change: change[1] or "no Host",
)
def test_a_handshake_that_is_none_is_refused(kind, change):
    with serve(kind) as daemon:
        daemon.expect("READY=1")
        daemon.allow("expected on purpose")
        with connect(daemon.addresses()[0]) as sock, sock.makefile("rb") as replies:
            key = base64.b64encode(bytes(16)).decode()
            sock.sendall(
                (
                    "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
                )
                .replace(*change)
                .encode()
            )
            assert replies.readline().split()[1] in (b"400", b"405", b"426")
        assert daemon.pool()["workers"][0]["errors"] == 0

"""What ``bind:`` may say."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hourd import kinds
from hourd.addresses import Address, parse

NAME = "is a name; write an IP address, localhost, or leave the host out for every interface"
PORT = "has no valid port; allowed are 0 to 65535, 0 for any free one"
HINT = "HOST:PORT, [IPv6]:PORT, :PORT, unix:/path, unix:@name, systemd:NAME, fd:N, or udp: before one with a port"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0.0.0.0:8080", ["0.0.0.0:8080"]),
        ("127.0.0.1:0", ["127.0.0.1:0"]),
        ("127.0.0.1:00080", ["127.0.0.1:80"]),
        ("[::1]:8080", ["[::1]:8080"]),
        ("[2001:DB8:0:0::1]:65535", ["[2001:db8::1]:65535"]),
        (":8080", ["0.0.0.0:8080", "[::]:8080"]),
        ("localhost:8080", ["127.0.0.1:8080", "[::1]:8080"]),
        ("unix:/run/hello.sock", ["unix:/run/hello.sock"]),
        ("unix://run/./hello.sock", ["unix:/run/hello.sock"]),
        ("unix:/run/../hello.sock", ["unix:/run/../hello.sock"]),
        ("unix:@hello", ["unix:@hello"]),
        ("unix:/" + "a" * 106, ["unix:/" + "a" * 106]),
        ("udp:127.0.0.1:0053", ["udp:127.0.0.1:53"]),
        ("udp:[::1]:53", ["udp:[::1]:53"]),
        ("udp::53", ["udp:0.0.0.0:53", "udp:[::]:53"]),
        ("udp:localhost:53", ["udp:127.0.0.1:53", "udp:[::1]:53"]),
    ],
)
def test_canonical(text: str, canonical: list[str]) -> None:
    assert [str(address) for address in parse(text)] == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", f"has no port; expected {HINT}"),
        ("8080", f"has no port; expected {HINT}"),
        ("0.0.0.0", f"has no port; expected {HINT}"),
        ("http://0.0.0.0:80", f"is a URL; expected {HINT}"),
        ("example.com:80", NAME),
        ("LOCALHOST:80", NAME),
        ("*:80", NAME),
        ("a\0b:80", NAME),
        ("1.2.3:80", "has no valid IPv4 address; write four numbers from 0 to 255"),
        ("1.2.3.256:80", "has no valid IPv4 address; write four numbers from 0 to 255"),
        ("::1:80", "has an IPv6 address without brackets; write [::1]:8080"),
        ("fe80::1:80", "has an IPv6 address without brackets; write [::1]:8080"),
        ("[fe80::1%eth0]:80", "has no IPv6 address in its brackets; write one such as [::1]:8080, without a zone"),
        ("[127.0.0.1]:80", "has no IPv6 address in its brackets; write one such as [::1]:8080, without a zone"),
        ("127.0.0.1:65536", PORT),
        ("127.0.0.1:-1", PORT),
        ("127.0.0.1:", PORT),
        ("127.0.0.1:٨٠", PORT),
        ("127.0.0.1:000080", PORT),
        ("unix:run/x", "needs an absolute path: unix:/path, or unix:@name for an abstract one"),
        ("unix:", "needs an absolute path: unix:/path, or unix:@name for an abstract one"),
        ("unix:/", "names no socket; expected unix:/path or unix:@name"),
        ("unix:@", "names no socket; expected unix:/path or unix:@name"),
        ("unix:/a\0", "names no socket; expected unix:/path or unix:@name"),
        ("unix:/" + "a" * 107, "is too long; a unix socket's path has at most 107 bytes"),
        ("unix:/" + "é" * 54, "is too long; a unix socket's path has at most 107 bytes"),
        ("unix:@" + "a" * 108, "is too long; a unix socket's path has at most 107 bytes"),
        ("fd:2", "needs the number of an open descriptor, 3 or more: fd:N"),
        ("fd:x", "needs the number of an open descriptor, 3 or more: fd:N"),
        ("systemd:", "needs a name: systemd:NAME, as FileDescriptorName= of the socket unit says"),
        ("udp:127.0.0.1", f"has no port; expected {HINT}"),
        ("udp:53", f"has no port; expected {HINT}"),
        ("udp:example.com:53", NAME),
        ("udp:udp::53", "has an IPv6 address without brackets; write [::1]:8080"),
        *(
            (f"udp:{each}", "has udp: before what has no port; leave it out")
            for each in ("unix:/a", "fd:3", "systemd:a")
        ),
        ("systemd:a:b", "needs a name: systemd:NAME, as FileDescriptorName= of the socket unit says"),
    ],
)
def test_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse(text)
    assert str(caught.value) == why


def test_only_free_ports_are_not_unique() -> None:
    assert [address.unique for text in (":0", "127.0.0.1:1", "unix:@a") for address in parse(text)] == [
        False,
        False,
        True,
        True,
    ]


def test_fields() -> None:
    assert parse("[::1]:80") == (Address("inet6", "::1", 80),)
    assert parse("unix:@a") == (Address("unix", path="a", abstract=True),)
    assert parse("udp:[::1]:80") == (Address("inet6", "::1", 80, transport="datagram"),)


def test_tcp_and_udp_are_not_parts_of_each_other() -> None:
    (narrow,), (wide, _), (udp, _) = parse("127.0.0.1:1"), parse(":1"), parse("udp::1")
    assert (wide.overlaps(narrow), wide.covers(narrow)) == (True, True)
    assert (udp.overlaps(narrow), udp.covers(narrow), udp.overlaps(wide)) == (False, False, False)
    assert udp.covers(parse("udp:127.0.0.1:1")[0])


@pytest.mark.parametrize(
    ("kind", "text", "transports"),
    [
        ("stream", "127.0.0.1:1", ["stream"]),
        ("stream", "systemd:a", ["stream"]),
        ("datagram", ":1", ["datagram", "datagram"]),
        ("datagram", "udp:[::1]:1", ["datagram"]),
        ("datagram", "unix:/a", ["datagram"]),
        ("datagram", "fd:3", ["datagram"]),
        ("mine:Kind", "127.0.0.1:1", ["stream"]),
        ("mine:Kind", "udp:127.0.0.1:1", ["datagram"]),
        ("mine:Kind", "unix:/a", ["stream"]),
        ("mine:Kind", "systemd:a", ["any"]),
    ],
)
def test_what_a_kind_makes_of_it(kind: str, text: str, transports: list[str]) -> None:
    assert [address.transport for address in kinds.addresses(kind, text)] == transports


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    for candidate in (text, f"{text}:80", f"unix:{text}", f"[{text}]:80"):
        try:
            found = parse(candidate)
        except ValueError:
            continue
        again = [str(each) for address in found for each in parse(str(address))]
        assert again == [str(address) for address in found]


def test_the_event_loop_is_not_imported() -> None:
    program = "import sys, hourd.addresses; sys.exit('asyncio' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=environ).returncode == 0

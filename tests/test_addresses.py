"""What ``bind:`` may say."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hourd.addresses import Address, parse

NAME = "is a name; write an IP address, localhost, or leave the host out for every interface"
PORT = "has no valid port; allowed are 0 to 65535, 0 for any free one"
HINT = "HOST:PORT, [IPv6]:PORT, :PORT, unix:/path, unix:@name, systemd:NAME or fd:N"


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

"""Who the client is behind proxies: the rules, and that nobody outside can bend them."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hourd.forwarded import NOTHING, Node, Proxies, Told, parse_node

TRUSTED = ["10.0.0.0/8", "fd00::/8"]
ALL = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port")


def read(headers, names=ALL, networks=TRUSTED):
    def lines(name):
        return [value for key, value in headers if key.lower() == name]

    return Proxies(networks, names).read(lines)


def x_for(*values, **settings):
    return read([("X-Forwarded-For", value) for value in values], **settings).client


def forwarded(*values):
    return read([("Forwarded", value) for value in values], "forwarded")


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("192.0.2.7", Node("192.0.2.7")),
        ("192.0.2.7:8080", Node("192.0.2.7", 8080)),
        ("[2001:DB8::1]", Node("2001:db8::1")),
        ("[2001:db8::1]:4711", Node("2001:db8::1", 4711)),
        ("2001:db8::1", Node("2001:db8::1")),
        ("::ffff:192.0.2.7", Node("192.0.2.7")),
        ("[::ffff:192.0.2.7]:5", Node("192.0.2.7", 5)),
        ("unknown", Node("unknown")),
        ("_hidden", Node("_hidden")),
        ("_a.B-9:_port", Node("_a.B-9")),
        ("192.0.2.7:_x", Node("192.0.2.7")),
        ("unix:", Node("unix")),
    ],
)
def test_nodes(text, node):
    assert parse_node(text) == node


@pytest.mark.parametrize(
    "text",
    ["", " ", "192.0.2", "192.0.2.256", "192.0.2.7:", "192.0.2.7:65536", "192.0.2.7:123456", "[192.0.2.7]", "[::1", "::1]",
     "[::1]x", "[fe80::1%eth0]", "fe80::1%eth0", "localhost", "proxy.example.com", "_", "_" + "x" * 64, "_a b", "1.2.3.4,5",
     '"1.2.3.4"', "\uff11.2.3.4", "1.2.3.4\n", "0x7f.1", "01.2.3.4", "unix", "unix:/x", "Unknown"],
)  # fmt: skip
def test_what_is_no_node(text):
    assert parse_node(text) is None


@given(st.text())
def test_a_node_of_any_text_is_safe_in_a_log(text):
    node = parse_node(text)
    assert node is None or re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", node.name)


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([], None),
        ([""], None),
        (["192.0.2.7"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.0.0.2"], "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7,10.0.0.3 ,\t10.0.0.2"], "192.0.2.7"),
        (["6.6.6.6", "192.0.2.7", "10.0.0.2"], "192.0.2.7"),
        (["2001:db8::7, fd00::1"], "2001:db8::7"),
        (["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
        (["garbage, 10.0.0.2"], "10.0.0.2"),
        (["10.0.0.2, garbage"], None),
        (["6.6.6.6,, 10.0.0.2"], "10.0.0.2"),
        (["6.6.6.6, "], None),
        (["6.6.6.6, unknown"], "unknown"),
        (["6.6.6.6, _secret, 10.0.0.2"], "_secret"),
        (["6.6.6.6, unix:"], "unix"),
    ],
)
def test_the_chain_is_walked_from_the_right(values, client):
    found = x_for(*values)
    assert (found and found.name) == client


def test_unix_in_the_chain_is_passed_where_it_is_trusted():
    assert x_for("192.0.2.7, unix:", networks=["unix"]) == Node("192.0.2.7")


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ([("X-Forwarded-Proto", "HTTPS")], Told(None, "https", None)),
        ([("X-Forwarded-Proto", "wss")], Told(None, "https", None)),
        ([("X-Forwarded-Proto", "https, http")], Told(None, "http", None)),
        ([("X-Forwarded-Proto", "http"), ("X-Forwarded-Proto", "https")], Told(None, "https", None)),
        ([("X-Forwarded-Proto", "gopher")], NOTHING),
        ([("X-Forwarded-Host", "example.com")], Told(None, None, "example.com")),
        ([("X-Forwarded-Host", "evil, [::1]:8080")], Told(None, None, "[::1]:8080")),
        ([("X-Forwarded-Host", "a b")], NOTHING),
        ([("X-Forwarded-Host", "x/y")], NOTHING),
        ([("X-Forwarded-Host", "x:99999")], NOTHING),
        ([("X-Forwarded-Host", "user@x")], NOTHING),
        ([("X-Forwarded-Port", "8443"), ("Host", "x")], Told(None, None, "x:8443")),
        ([("X-Forwarded-Port", "8443"), ("Host", "x:1")], Told(None, None, "x:1")),
        ([("X-Forwarded-Port", "443"), ("X-Forwarded-Proto", "https"), ("Host", "x")], Told(None, "https", "x")),
        ([("X-Forwarded-Port", "80"), ("X-Forwarded-Host", "x")], Told(None, None, "x")),
        ([("X-Forwarded-Port", "0"), ("Host", "x")], Told(None, None, "x")),
        ([("X-Forwarded-Port", "99999"), ("Host", "x")], Told(None, None, "x")),
        ([("X-Forwarded-Port", "\uff184"), ("Host", "x")], Told(None, None, "x")),
        ([("X-Forwarded-Port", "8443")], NOTHING),
        ([("X-Forwarded-Port", "8443"), ("Host", "a b")], NOTHING),
    ],
)  # fmt: skip
def test_scheme_and_host_are_the_rightmost(headers, told):
    assert read(headers) == told


def test_only_the_named_headers_are_read():
    everything = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil"),
                  ("X-Forwarded-Port", "1"), ("Forwarded", "for=2.2.2.2;proto=https;host=evil"), ("Host", "x")]  # fmt: skip
    assert read(everything, ()) == NOTHING
    assert read(everything, ("x-forwarded-for",)) == Told(Node("1.1.1.1"))
    assert read(everything, ("x-forwarded-proto",)) == Told(None, "https")
    assert read(everything, ("x-forwarded-host",)) == Told(None, None, "evil")
    assert read(everything, ("x-forwarded-port",)) == Told(None, None, "x:1")
    assert read(everything, "forwarded") == Told(Node("2.2.2.2"), "https", "evil")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([], NOTHING),
        ([""], NOTHING),
        (["for=192.0.2.7"], Told(Node("192.0.2.7"))),
        (["For=192.0.2.7;Proto=https;By=10.0.0.1;Host=example.com"], Told(Node("192.0.2.7"), "https", "example.com")),
        (['for="[2001:db8::1]:4711"'], Told(Node("2001:db8::1", 4711))),
        (["for=[2001:db8::1]:4711"], Told(Node("2001:db8::1", 4711))),
        (['for="192.0.2.7:80" ; proto="https";'], Told(Node("192.0.2.7", 80), "https")),
        (['for="\\1\\9\\2.0.2.7"'], Told(Node("192.0.2.7"))),
        (["for=unknown"], Told(Node("unknown"))),
        (["for=_gazonk, for=10.0.0.2"], Told(Node("_gazonk"))),
        (["for=6.6.6.6;host=evil, for=192.0.2.7;proto=https, for=10.0.0.2;proto=http"], Told(Node("192.0.2.7"), "https")),
        (["for=6.6.6.6", "for=192.0.2.7", "for=10.0.0.2"], Told(Node("192.0.2.7"))),
        (["for=6.6.6.6, garbage"], NOTHING),
        (["for=6.6.6.6, by=10.0.0.1"], NOTHING),
        (["for=6.6.6.6,"], NOTHING),
        (["for=6.6.6.6, , for=10.0.0.2;proto=https"], Told(Node("10.0.0.2"), "https")),
        (["for=1.1.1.1;for=2.2.2.2"], NOTHING),
        (["for=1.1.1.1 proto=https"], NOTHING),
        (['for="x, for=192.0.2.7'], Told(Node("192.0.2.7"))),
        (['x="a, for=192.0.2.7;host="b, for=6.6.6.6"'], Told(Node("192.0.2.7"), None, None)),
        (['for=192.0.2.7;x="a, b"'], Told(Node("192.0.2.7"))),
        (['for=192.0.2.7;x="a, for=6.6.6.6;y=\\""'], Told(Node("192.0.2.7"))),
        (['for=1.1.1.1;host="a/b";proto=ftp'], Told(Node("1.1.1.1"))),
    ],
)  # fmt: skip
def test_forwarded(values, told):
    assert forwarded(*values) == told


OUTSIDE = st.one_of(
    st.text(alphabet=st.characters(max_codepoint=0x17F, exclude_characters="\r\n\0")),
    st.lists(st.sampled_from(["for=", "1.1.1.1", '"', "\\", ",", ";", " ", "proto=https", "host=", "x", "=", "[::1]", "_a"])).map(
        "".join
    ),
)  # fmt: skip


@given(OUTSIDE, st.ip_addresses(), st.booleans())
def test_no_client_can_change_what_a_proxy_appends_to_x_forwarded_for(claim, address, second):
    assume(not Proxies(TRUSTED, ALL).networks.has(str(address)))
    chain = f"{claim}, {address}{', 10.0.0.2' if second else ''}"
    assert x_for(chain) == x_for(str(address)) != None  # noqa: E711
    assert x_for(claim, *chain.split(", ")[-1 - second :]) == x_for(str(address))


QUOTED = OUTSIDE.filter(lambda text: text.count(",") <= 4).map(
    lambda text: '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
)


@given(OUTSIDE, st.ip_addresses(), QUOTED, QUOTED, st.booleans())
def test_no_client_can_change_what_a_proxy_appends_to_forwarded(claim, address, by, extension, second):
    assume(not Proxies(TRUSTED, ALL).networks.has(str(address)))
    element = f'by={by};for="{f"[{address}]" if address.version == 6 else address}";proto=https;host=good;x={extension}'
    end = ", for=10.0.0.2;proto=http" if second else ""
    expected = Told(parse_node(str(address)), "https", "good")
    assert forwarded(f"{element}{end}") == expected
    assert forwarded(f"{claim}, {element}{end}") == expected
    assert forwarded(claim, f"{element}{end}") == expected


@given(st.lists(OUTSIDE, max_size=3))
def test_any_header_is_read_without_an_error(values):
    for names in (ALL, "forwarded"):
        told = read([(name, value) for value in values for name in (*ALL, "forwarded", "host")], names)
        assert told.scheme in (None, "http", "https")
        assert told.host is None or re.fullmatch(r"[A-Za-z0-9._:\[\]-]{1,260}", told.host)


def test_long_headers_take_no_long_time():
    for value in ("," * 8000, 'x="' * 2700, '";' * 4000, "for=10.0.0.1," * 600, "\\" * 8000, 'a="' + ",a=" * 2000):
        forwarded(value)
        x_for(value)

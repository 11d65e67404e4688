"""Links: what they say, what of it is secret, and what is none."""

from __future__ import annotations

import base64
import subprocess
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enchufe.access.codes import Code
from enchufe.access.interfaces import dialable
from enchufe.access.links import MOST_ADDRESSES, MOST_TEXT, SCHEME, Link, looks_like_code, own_addresses
from enchufe.access.words import LANGUAGES, words
from enchufe.errors import LocalProtocolError
from enchufe.transports.addresses import TcpAddress
from tests.namespaces import two_machines

DIGEST = bytes(range(32))
CERT = base64.urlsafe_b64encode(DIGEST).decode().rstrip("=")
TOKEN = bytes(range(200, 232))
TOKEN_TEXT = base64.urlsafe_b64encode(TOKEN).decode().rstrip("=")
CODE = "42-amigo-barco-casa"
ONE = TcpAddress("192.168.1.5", 9000)
TWO = TcpAddress("2001:db8::5", 9000)


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("enchufe://192.168.1.5:9000/", Link((ONE,))),
        ("ENCHUFE://192.168.1.5:9000/", Link((ONE,))),
        (f"  enchufe://192.168.1.5:9000,[2001:db8::5]:9000/#cert={CERT}&code={CODE}\n", Link((ONE, TWO), DIGEST, CODE)),
        (f"enchufe://192.168.1.5:9000/#code={CODE}", Link((ONE,), None, CODE)),
        (f"enchufe://192.168.1.5:9000/#token={TOKEN_TEXT}&cert={CERT}", Link((ONE,), DIGEST, None, TOKEN)),
        (f"enchufe://192.168.1.5:9000/#later=1&cert={CERT}&flag&=x", Link((ONE,), DIGEST)),
        ("enchufe://192.168.1.5:9000/#code=42-%C3%A1rbol-barco-casa", Link((ONE,), None, "42-árbol-barco-casa")),
        ("enchufe://192.168.1.5:9000/#code=42-a%CC%81rbol-barco-casa", Link((ONE,), None, "42-a\u0301rbol-barco-casa")),
        ("enchufe://my-host.local:9000/", Link((TcpAddress("my-host.local", 9000),))),
        ("enchufe://[fe80::1%eth0]:9000/", Link((TcpAddress("fe80::1%eth0", 9000),))),
    ],
)
def test_a_link_is_read(text: str, link: Link) -> None:
    assert Link.parse(text) == link
    assert Link.parse(str(link)) == link


def test_a_link_is_written() -> None:
    assert str(Link((ONE,))) == "enchufe://192.168.1.5:9000/"
    whole = Link((ONE, TWO), DIGEST, CODE)
    assert str(whole) == f"enchufe://192.168.1.5:9000,[2001:db8::5]:9000/#cert={CERT}&code={CODE}"
    assert str(Link((ONE,), DIGEST, None, TOKEN)).endswith(f"/#cert={CERT}&token={TOKEN_TEXT}")


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "/",
        ":9000/",
        "host/",
        "host:0/",
        "host:65536/",
        "host:9000,/",
        "host:9000,,other:9000/",
        "unix:/run/inbox",
        "user@host:9000/",
        "a b:9000/",
        "[1:2]:9000/",
        "[::1%]:9000/",
        "::1:9000/",
        "host:9000",
        "host:9000/#",
        "host:9000/path#",
        f"host:9000/?code={CODE}",
        f"host:9000?code={CODE}",
        ",".join(["host:9000"] * (MOST_ADDRESSES + 1)) + "/",
        "host:9000/#" + "x" * MOST_TEXT,
        "host:9000/#cert=",
        f"host:9000/#cert={CERT}=",
        f"host:9000/#cert={CERT[:-1]}",
        f"host:9000/#cert={CERT[:-1]}9",  # bits left over
        f"host:9000/#cert={CERT[:-1]}+",
        f"host:9000/#cert={CERT}&cert={CERT}",
        f"host:9000/#code={CODE}&code=43-amigo-barco-casa",
        "host:9000/#code=",
        "host:9000/#code=42-amigo-barco",
        "host:9000/#code=442-amigo-barco-casa",
        f"host:9000/#token={TOKEN_TEXT}",
        "host:9000/#code=42-amigo-barco-zzzz",
        f"host:9000/#cert={CERT}&token=AAAA",
        f"host:9000/#cert={CERT}&token={TOKEN_TEXT}AAAA",
        f"host:9000/#cert={CERT}&token=ñ",
        f"host:9000/#cert={CERT}&token={TOKEN_TEXT}&code={CODE}",
    ],
)
def test_what_is_no_link_is_refused(rest: str) -> None:
    with pytest.raises(LocalProtocolError) as raised:
        Link.parse(SCHEME + rest)
    assert raised.value.hint
    # Nor does what went wrong tell what should stay secret.
    whole = repr(raised.value) + raised.value.hint
    assert "amigo" not in whole
    assert TOKEN_TEXT not in whole


@pytest.mark.parametrize(
    "link",
    [
        Link((ONE, TWO), DIGEST, None, TOKEN),
        Link((ONE, TWO), DIGEST, CODE),
        Link((ONE,), None, "42-árbol-barco-casa"),
        Link((ONE,), None, "7-leader-front-jungle"),
    ],
    ids=repr,
)
def test_a_link_that_was_cut_off_is_refused_or_means_the_same_or_says_nothing_secret(link: Link) -> None:
    """It may end where one without code or token would: whoever uses that is asked for a code."""
    text = str(link)
    bare = {str(Link(link.addresses)), str(Link(link.addresses, link.fingerprint))}
    for end in range(len(SCHEME), len(text)):
        try:
            cut = Link.parse(text[:end])
        except LocalProtocolError as error:
            assert "Copy the whole link again" in error.hint
            continue
        assert text[:end] in bare or Code.parse(cut.code or "") == Code.parse(link.code or "")


@pytest.mark.parametrize(
    "dash", ["-", *"\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-\xad", "\u200b-", " \u2013 "]
)
def test_a_code_has_its_form_whatever_dashes_a_program_makes_of_hyphens(dash: str) -> None:
    typed = dash.join(("7", "leader", "front", "jungle"))
    assert looks_like_code(typed)
    assert str(Code.parse(typed)) == "7-leader-front-jungle"


@pytest.mark.parametrize("text", ["", "host:9000", "https://host:9000/", "enchufe:host:9000", "enchufe:/host:9000/"])
def test_another_kind_of_text_is_no_link(text: str) -> None:
    with pytest.raises(LocalProtocolError, match="enchufe://"):
        Link.parse(text)


def test_what_cannot_be_written_cannot_be_made() -> None:
    for addresses, digest, code, token in (
        ((), None, None, None),
        ((TcpAddress("", 9000),), None, None, None),
        ((TcpAddress("host/#code", 9000),), None, None, None),
        ((ONE,), b"short", None, None),
        ((ONE,), None, "amigo-barco-casa", None),
        ((ONE,), None, None, TOKEN),
        ((ONE,), DIGEST, CODE, TOKEN),
        ((ONE,), DIGEST, None, b""),
        ((ONE,), DIGEST, None, TOKEN[:-1]),
        ((ONE,), DIGEST, None, TOKEN + b"x"),
    ):
        with pytest.raises(LocalProtocolError):
            Link(addresses, digest, code, token)


def test_secrets_stand_behind_the_hash_and_not_in_the_repr() -> None:
    for link, secret in ((Link((ONE,), DIGEST, CODE), "amigo"), (Link((ONE,), DIGEST, None, TOKEN), TOKEN_TEXT)):
        assert secret not in str(link).partition("#")[0]
        assert secret in str(link).partition("#")[2]
        assert secret not in repr(link)
        assert repr(TOKEN) not in repr(link)
    assert repr(Link((ONE,), DIGEST, CODE)) == "Link(192.168.1.5:9000, code=...)"


names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)
addresses = st.builds(TcpAddress, names | st.ip_addresses().map(str), st.integers(1, 65535))
labels = st.integers(1, 99)
codes = st.sampled_from(LANGUAGES).flatmap(
    lambda language: st.builds(Code, labels, st.tuples(*[st.sampled_from(words(language))] * 3)).map(str)
)


@given(
    st.lists(addresses, min_size=1, max_size=MOST_ADDRESSES).map(tuple),
    st.none() | st.binary(min_size=32, max_size=32),
    st.none() | codes,
)
def test_what_is_written_is_read_again(where: tuple[TcpAddress, ...], digest: bytes | None, code: str | None) -> None:
    link = Link(where, digest, code)
    assert Link.parse(str(link)) == link


GOOD = str(Link((ONE, TWO), DIGEST, CODE))
otherwise = st.builds(
    lambda at, gone, come: GOOD[:at] + come + GOOD[at + gone :],
    st.integers(0, len(GOOD)),
    st.integers(0, 2),
    st.text("09azAZ._-:/#&=%,[]\u00e1 ", max_size=2),
)


@given(st.text() | st.text().map(lambda rest: SCHEME + rest) | otherwise)
@example(GOOD)
def test_any_text_is_a_link_or_refused(text: str) -> None:
    try:
        link = Link.parse(text)
    except LocalProtocolError:
        return
    assert Link.parse(str(link)) == link


def test_own_addresses_can_be_written_into_a_link() -> None:
    own = own_addresses(9000)
    assert 0 < len(own) <= MOST_ADDRESSES
    assert Link.parse(str(Link(own))).addresses == own


def test_own_addresses_are_those_of_the_network_and_the_widest_first() -> None:
    tell = "from enchufe.access.links import own_addresses; print(*own_addresses(9000))"
    with two_machines() as (one, _):
        own = _said(one.python(tell))
        assert own[:2] == [f"{one.ipv4()}:9000", f"[{one.ipv6()}]:9000"]
        assert len(own) == 3
        assert own[2].startswith("[fe80::")
        assert "%" not in own[2]  # the name of an interface says nothing elsewhere
        one.do("ip", "link", "set", "link0", "down")
        assert _said(one.python(tell)) == ["127.0.0.1:9000", "[::1]:9000"]


def test_an_address_of_one_link_is_dialed_on_each_of_ours() -> None:
    tell = """
from enchufe.access.interfaces import dialable
from enchufe.access.links import Link
print(*dialable(Link.parse("enchufe://host:1,[fe80::9]:2,[fe80::9%eth7]:3,[::1]:4/").addresses))
"""
    with two_machines(links=2) as (one, _):
        assert _said(one.python(tell)) == [
            *("host:1", "[fe80::9%link0]:2", "[fe80::9%link1]:2", "[fe80::9%eth7]:3", "[::1]:4")
        ]


@given(st.lists(st.builds(TcpAddress, st.ip_addresses(v=4).map(str), st.integers(1, 65535)), max_size=8))
def test_other_addresses_are_dialed_as_they_are(where: list[TcpAddress]) -> None:
    assert dialable(where) == where


@given(st.ip_addresses())
def test_an_address_in_a_link_is_the_one_that_was_meant(address: IPv4Address | IPv6Address) -> None:
    [found] = Link.parse(str(Link((TcpAddress(str(address), 9000),)))).addresses
    assert found.host == str(address)


def _said(command: list[str]) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()

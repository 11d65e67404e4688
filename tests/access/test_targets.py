"""What people name as the other side is told apart in one place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchufe.access.links import Link
from enchufe.access.targets import KnownName, SpokenCode, Target, target
from enchufe.errors import LocalProtocolError
from enchufe.transports.addresses import SharedMemoryAddress, TcpAddress, UnixAddress, parse_address
from tests.access.letters import letters


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("host:9000", TcpAddress("host", 9000)),
        (":9000", TcpAddress("", 9000)),
        ("[::1]:9000", TcpAddress("::1", 9000)),
        ("[fe80::1%eth0]:9000", TcpAddress("fe80::1%eth0", 9000)),
        ("7-zip-host:9000", TcpAddress("7-zip-host", 9000)),
        ("42-amigo-barco-casa:9000", TcpAddress("42-amigo-barco-casa", 9000)),
        ("enchufe:9000", TcpAddress("enchufe", 9000)),
        ("unix:/run/inbox", UnixAddress("/run/inbox")),
        ("unix:@name", UnixAddress("@name")),
        ("unix:/run/in#box", UnixAddress("/run/in#box")),
        ("unix:42-amigo-barco-casa", UnixAddress("42-amigo-barco-casa")),
        ("shm:/run/inbox", SharedMemoryAddress("/run/inbox")),
        ("@laptop", KnownName("laptop")),
        ("@laptop:9000", KnownName("laptop:9000")),
        ("@42-amigo-barco-casa", KnownName("42-amigo-barco-casa")),
        ("@Ana's laptop", KnownName("Ana's laptop")),
        ("42-amigo-barco-casa", SpokenCode("42-amigo-barco-casa")),
        ("7-zip-host-name", SpokenCode("7-zip-host-name")),
        ("7 Árbol barco CASA", SpokenCode("7 Árbol barco CASA")),
        ("7-a\u0301rbol-barco-casa", SpokenCode("7-a\u0301rbol-barco-casa")),  # as some keyboards write accents
        (" 42 - amigo - barco - casa\n", SpokenCode(" 42 - amigo - barco - casa\n")),
        ("1-arch-barc-casa", SpokenCode("1-arch-barc-casa")),
        ("'42-amigo-barco-casa'.", SpokenCode("'42-amigo-barco-casa'.")),
        ("<enchufe://host:9000/>", Link((TcpAddress("host", 9000),))),
        (
            "\ufeff\u201cenchufe://host:9000/#code=42-amigo-barco-casa\u201d.",
            Link((TcpAddress("host", 9000),), None, "42-amigo-barco-casa"),
        ),
        ("7, Amigo, barco, casa", SpokenCode("7, Amigo, barco, casa")),
        (
            "enchufe://host:9000/#code=42-am\r\n   igo-barco-\ncasa",
            Link((TcpAddress("host", 9000),), None, "42-amigo-barco-casa"),
        ),
        ("enchufe://host:9000/", Link((TcpAddress("host", 9000),))),
        (
            "Enchufe://host:9000/#code=42-amigo-barco-casa",
            Link((TcpAddress("host", 9000),), None, "42-amigo-barco-casa"),
        ),
    ],
)
def test_each_is_told_from_the_others(text: str, found: Target) -> None:
    assert target(text) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "host", "9000", "host:", "host:port", "::1", "@", "@ ", "@\x1b[2J", "@" + "x" * 65, "unix:", "-"),
        *("42", "42-amigo", "42-amigo-barco", "42-amigo-barco-casa-dedo", "442-amigo-barco-casa", "42--amigo-barco"),
        *("amigo-barco-casa", "42-amigo-barco-c4sa", "42_amigo_barco_casa", "4-" + "a" * 200 + "-b-c"),
        *("enchufe://", "enchufe://host/", "enchufe:///", "https://host:9000/#code=42-amigo-barco-casa"),
        *("host:9000/#code=42-amigo-barco-casa", "code: 42-amigo-barco-casa", "code:42-amigo-barco-casa"),
        *("code: 42-amigo-barco", "code: 42-amigo-barc0-casa", "code:42-amigo-barco-casa."),
        *("code: 42-amigo-barc0-casa:9000", "code:42-amigo-barco-casa:9000", "42 amigo barco casa:9000"),
    ],
)
def test_what_is_none_of_these_is_refused_and_no_word_of_a_code_repeated(text: str) -> None:
    with pytest.raises(LocalProtocolError) as raised:
        target(text)
    assert raised.value.hint
    assert "amigo" not in str(raised.value) + raised.value.hint


def test_a_code_is_not_shown_by_chance() -> None:
    assert "amigo" not in repr(target("42-amigo-barco-casa"))


def test_a_name_is_written_as_it_is_typed() -> None:
    assert str(target("@laptop")) == "@laptop"


@given(st.text())
def test_any_text_is_one_of_them_or_refused(text: str) -> None:
    try:
        found = target(text)
    except LocalProtocolError:
        return
    assert isinstance(found, TcpAddress | UnixAddress | SharedMemoryAddress | KnownName | SpokenCode | Link)


@given(st.from_regex(r"[a-z0-9-]{1,30}", fullmatch=True), st.integers(0, 65535))
def test_what_has_a_port_is_an_address(host: str, port: int) -> None:
    assert target(f"{host}:{port}") == parse_address(f"{host}:{port}")


@given(
    st.integers(1, 99),
    st.lists(st.text(letters, min_size=1, max_size=15), min_size=3, max_size=3),
    st.sampled_from(["-", " ", " - ", "--"]),
)
def test_a_number_and_three_words_are_a_code(label: int, words: list[str], between: str) -> None:
    text = between.join([str(label), *words])
    assert target(text) == SpokenCode(text)

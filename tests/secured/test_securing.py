"""The options that secure a transfer: those that contradict each other, and where the code comes from."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enchufe.cli import manner, terminal
from enchufe.cli.manner import Manner
from enchufe.errors import LocalProtocolError
from tests.namespaces import SOURCE
from tests.secured.people import Person, two_people

CODE = "7-zoo-zoo-zoo"
LINK = "enchufe://127.0.0.1:9/#code=7-zoo-zoo-zoo"


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    with two_people(tmp_path) as (ana, _):
        (tmp_path / "ana" / "file").write_text("x")
        yield ana


def options(**changed: bool) -> Manner:
    chosen = {"plain": False, "no_input": False, "remember": False, "tokens": False, "announce": True, **changed}
    shown = {"as_json": False, "quiet": False, "verbose": False}
    return Manner(timeout=30.0, retry=30.0, streams=None, interfaces=(), **shown, **chosen)


CONTRADICTIONS = [
    (["send", "FILE", "--plain", "--remember"], "--plain proves nothing"),
    (["send", "FILE", "--plain", "--tokens"], "--plain proves nothing"),
    (["receive", "--plain", "--remember"], "--plain proves nothing"),
    (["send", "FILE", "--to", CODE, "--listen", ":0"], "one address"),
    (["receive", CODE, "--listen", ":0"], "one address"),
    (["receive", "--to", "127.0.0.1:9"], "--to says where SOURCE listens"),
    (["receive", "127.0.0.1:9", "--to", "127.0.0.1:9"], "two addresses"),
    (["receive", LINK, "--to", "127.0.0.1:9"], "two addresses"),
    (["receive", "127.0.0.1:9", "--to", "127.0.0.1:9", "--plain"], "two addresses"),
    (["receive", CODE, "--plain"], "is for what is encrypted"),
    (["send", "FILE", "--to", LINK, "--plain"], "is for what is encrypted"),
    (["receive", "@casa", "--plain"], "is for what is encrypted"),
    (["receive", "casa", "--plain"], "has no port"),
    (["send", "FILE", "--to", "@nadie"], "no machine is known"),
    (["receive", "@nadie"], "no machine is known"),
    (["receive", "7-zoo-zoo"], "no address"),
    (["receive", "127.0.0.1:9", "--no-input"], "the code that the other side shows"),
    (["send", "FILE", "--to", "127.0.0.1:9"], "the code that the other side shows"),
]


@pytest.mark.parametrize(("arguments", "told"), CONTRADICTIONS, ids=[" ".join(each) for each, _ in CONTRADICTIONS])
def test_what_makes_no_sense_is_a_matter_of_usage(person: Person, arguments: list[str], told: str) -> None:
    """Nobody waits or dials, and no secret is repeated."""
    named = [str(person.folder / "file") if each == "FILE" else each for each in arguments]
    run = person.start(*named, *(["-o", str(person.inbox), "--yes"] if named[0] == "receive" else []))
    assert run.end() == 2
    said = (run.output + run.told).decode()
    assert told in said
    assert "zoo" not in said
    assert not run.named("listening")
    assert not run.named("connected")


@pytest.mark.parametrize(
    ("to", "listen", "plain", "where"),
    [
        (None, None, False, ":0"),
        (None, None, True, None),
        (None, ":9", False, ":9"),
        (CODE, None, False, None),
        (CODE, ":9", False, ":9"),  # which is refused, with words for both
    ],
)
def test_who_names_nobody_listens(to: str | None, listen: str | None, plain: bool, where: str | None) -> None:
    assert options(plain=plain).where(to, listen) == where


def test_the_code_is_that_of_the_environment_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(manner.CODE, CODE)
    monkeypatch.setattr(terminal, "ask", lambda _question: pytest.fail("nobody is to be asked"))
    assert options().code() == CODE


@pytest.mark.parametrize("answer", [None, ""])
def test_without_an_answer_there_is_no_code(monkeypatch: pytest.MonkeyPatch, answer: str | None) -> None:
    monkeypatch.delenv(manner.CODE, raising=False)
    monkeypatch.setattr(terminal, "ask", lambda _question: answer)
    with pytest.raises(LocalProtocolError) as caught:
        options().code()
    assert manner.CODE in caught.value.hint


def test_nobody_is_asked_who_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(manner.CODE, raising=False)
    monkeypatch.setattr(terminal, "ask", lambda _question: pytest.fail("nobody is to be asked"))
    with pytest.raises(LocalProtocolError):
        options(no_input=True).code()


@pytest.mark.parametrize(
    ("changed", "made"), [({}, False), ({"remember": True}, True), ({"tokens": True}, True), ({"plain": True}, False)]
)
def test_a_folder_for_keys_where_some_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: dict[str, bool], made: bool
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert options(**changed).state() == (str(tmp_path / "state" / "enchufe") if made else None)
    assert (tmp_path / "state" / "enchufe").exists() == made


# The terminal itself.

ASK = "from enchufe.cli import terminal; print(repr(terminal.ask('what? ')))"
AT = "import os, sys; os.close(os.open(sys.argv[1], os.O_RDWR)); "


def asked(program: str, *arguments: str, typed: bytes = b"", ours: int | None = None) -> str:
    """What somebody got who asks, in a session of his own, with nothing on his standard input."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        start_new_session=True,
        text=True,
    )
    if ours is not None:
        seen = b""
        while b"what? " not in seen:
            seen += os.read(ours, 4096)
        os.write(ours, typed)
    return process.communicate(timeout=60)[0].strip()


def test_without_a_terminal_nobody_answers() -> None:
    assert asked(ASK) == "None"


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (b"7-zoo-zoo-zoo\n", "'7-zoo-zoo-zoo'"),
        (b"  7 zoo zoo zoo \n", "'7 zoo zoo zoo'"),
        ("7-ábaco-zoo-zoo\n".encode(), "'7-ábaco-zoo-zoo'"),
        (b"\n", "''"),
        (b"\x04", "None"),  # the end of input
        (b"\xff\n", repr("\ufffd")),
    ],
)
def test_what_is_typed_at_the_terminal(typed: bytes, answer: str) -> None:
    """Whatever standard input is."""
    ours, theirs = pty.openpty()
    try:
        assert asked(AT + ASK, os.ttyname(theirs), typed=typed, ours=ours) == answer
    finally:
        os.close(ours)
        os.close(theirs)

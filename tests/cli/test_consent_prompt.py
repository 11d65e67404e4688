"""The question on a terminal: what is shown of an offer, what counts as an answer, and what never does."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest

import enchufe
from enchufe.cli import consent
from enchufe.cli.consent import asking
from enchufe.cli.show import Sentences
from enchufe.entry import NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind
from enchufe.errors import EnchufeError, Refused
from enchufe.session import Offering
from tests.pairs.pair import file

PATIENCE = 60.0
ROOT = Path(__file__).parent.parent.parent
ASKED = "Take it?"
SCREEN = Sentences(quiet=False, verbose=False, sending=False, plain=True)


class Terminal:
    """Both ends of a terminal, and what was shown on it."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.shown = ""
        self._raw = b""

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until it was shown so often."""
        deadline = time.monotonic() + PATIENCE
        while self.shown.count(text) < count:
            ready, _, _ = select.select([self.ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, self.shown
            self._read()

    def rest(self) -> str:
        """All that was shown, once nobody writes any more; a terminal shows a moment later what was written."""
        while select.select([self.ours], [], [], 0.2)[0] and self._read():
            pass
        return self.shown

    def _read(self) -> bool:
        try:
            piece = os.read(self.ours, 65536)
        except OSError:  # the last of its users is gone
            return False
        self._raw += piece
        self.shown = self._raw.decode(errors="replace").replace("\r\n", "\n")
        return bool(piece)

    def close(self) -> None:
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def offering_of(*entries: Entry, answer: Answer = Answer.ALL, name: str | None = None) -> Offering:
    return Offering(((one, answer) for one in entries), peer="192.0.2.7:5", name=name, session=b"s", epoch=1)


class Asked:
    """The question about an offer, in a thread."""

    def __init__(self, terminal: Terminal, *entries: Entry, **how: Any) -> None:
        self.offering = offering_of(*entries, **how)
        self._prompt = consent.Prompt(terminal.theirs, SCREEN)
        self._prompt._output = terminal.theirs
        self._answers: list[bool] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._answers.append(self._prompt(self.offering))

    def answer(self) -> bool:
        self._thread.join(PATIENCE)
        self.offering.close()
        return self._answers[0]


def named(number: int, name: bytes, parent: int = NO_PARENT, size: int = 1) -> Entry:
    return Entry(number, parent, name, Kind.FILE, size)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("y", True),
        ("Y", True),
        ("yes", True),
        ("s", True),
        ("sí", True),
        ("  si ", True),
        ("", False),
        ("n", False),
        ("no", False),
        ("\x04", False),
    ],
)
def test_answers(terminal: Terminal, typed: str, answer: bool) -> None:
    asked = Asked(terminal, file(0, 1))
    terminal.wait_for(ASKED)
    terminal.type(typed + ("" if typed == "\x04" else "\n"))
    assert asked.answer() is answer


def test_what_is_no_answer_is_asked_again(terminal: Terminal) -> None:
    asked = Asked(terminal, file(0, 1))
    for count, typed in enumerate(("yess", "maybe", "\x1b[A", "yn"), 1):
        terminal.wait_for(ASKED, count)
        terminal.type(f"{typed}\n")
    terminal.wait_for(ASKED, 5)
    terminal.type("y\n")
    assert asked.answer() is True


def test_what_was_typed_before_the_question_is_no_answer(terminal: Terminal) -> None:
    terminal.type("y\ny\n")
    asked = Asked(terminal, file(0, 1))
    terminal.wait_for(ASKED)
    terminal.type("n\n")
    assert asked.answer() is False


def test_a_short_list_is_shown_at_once(terminal: Terminal) -> None:
    asked = Asked(
        terminal,
        Entry(0, NO_PARENT, b"photos", Kind.DIRECTORY),
        named(1, b"a.jpg", 0, 1_234_567),
        Entry(2, 0, b"link", Kind.SYMLINK, target=b"a.jpg"),
        named(3, b"pipe", size=UNKNOWN_SIZE),
        name="kitchen",
    )
    terminal.wait_for(ASKED)
    terminal.type("y\n")
    assert asked.answer() is True
    assert terminal.rest() == (
        "kitchen (192.0.2.7:5) offers 2 files, 1 folder, 1 link, 1.2 MB+:\n"
        "      folder  photos/\n"
        "      1.2 MB  photos/a.jpg\n"
        "        link  photos/link -> a.jpg\n"
        "size unknown  pipe\n"
        "Take it? y yes, n no [n] y\n"
    )


def test_what_cannot_be_taken_is_marked(terminal: Terminal) -> None:
    asked = Asked(terminal, file(0, 5), answer=Answer.TOO_BIG)
    terminal.wait_for(ASKED)
    terminal.type("n\n")
    asked.answer()
    assert "192.0.2.7:5 offers 1 file, 5 bytes, of which 1 cannot be taken:\n" in terminal.rest()
    assert "  5 bytes  f0 (not taken: it is bigger than the other side takes)\n" in terminal.shown


def test_a_long_list_is_summed_up_and_all_of_it_is_there(terminal: Terminal) -> None:
    entries = [Entry(0, NO_PARENT, b"many", Kind.DIRECTORY)]
    entries += [named(number, b"file %d" % number, 0, 1000) for number in range(1, 101)]
    entries += [named(101, b"alone", size=5)]
    asked = Asked(terminal, *entries)
    terminal.wait_for(ASKED)
    assert terminal.rest() == (
        "192.0.2.7:5 offers 101 files, 1 folder, 100.0 kB:\n"
        "    100.0 kB  many/ (100 files, 1 folder)\n"
        "     5 bytes  alone\n"
        "Take it? y yes, n no, l list all of it [n] "
    )
    terminal.type("l\n")
    pages = -(-102 // 23)
    for page in range(1, pages):
        terminal.wait_for("-- Enter goes on", page)
        terminal.type("\n")
    terminal.wait_for(ASKED, 2)
    listed = re.findall(r"^      1.0 kB  many/(file \d+)$", terminal.shown, re.MULTILINE)
    assert listed == [f"file {number}" for number in range(1, 101)]
    assert terminal.shown.count("  alone\n") == 2
    terminal.type("l\n")
    terminal.wait_for("-- Enter goes on", pages)
    terminal.type("q\n")
    terminal.wait_for(ASKED, 3)
    terminal.type("s\n")
    assert asked.answer() is True


def test_many_roots_are_no_more_than_a_screen(terminal: Terminal) -> None:
    asked = Asked(terminal, *(file(number, 1) for number in range(5000)))
    terminal.wait_for(ASKED)
    assert len(terminal.rest().splitlines()) <= 23
    assert "         ...  5,000 names in all\n" in terminal.shown
    terminal.type("l\n")
    terminal.wait_for("-- Enter goes on")
    terminal.type("\x04")
    assert asked.answer() is False


HOSTILE: list[tuple[bytes, str]] = [
    (b"\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
    (b"a\nTake it? y", "a\\nTake it? y"),
    (b"back\x08\x08\r", "back\\x08\\x08\\r"),
    ("photo\u202egpj.exe".encode(), "photo\\u202egpj.exe"),
    ("\u2067\u05d0\u05d1".encode(), "\\u2067\u05d0\u05d1"),
    (b"\xff\xc2\x9b31m", "\\xff\\x9b31m"),
    (b"--yes", "--yes"),
    (b"[bold]no markup[/bold]", "[bold]no markup[/bold]"),
]


@pytest.mark.parametrize(("name", "shown"), HOSTILE)
@pytest.mark.parametrize("long", [False, True])
def test_names_steer_nothing(terminal: Terminal, name: bytes, shown: str, long: bool) -> None:
    others = [file(number, 1) for number in range(1, 60 if long else 2)]
    asked = Asked(terminal, Entry(0, NO_PARENT, name, Kind.FILE, 7), *others)
    terminal.wait_for(ASKED)
    assert f"\n     7 bytes  {shown}\n" in terminal.rest()
    assert "\x1b" not in terminal.shown
    asked.offering.withdraw()
    assert asked.answer() is False


def test_no_name_reaches_the_left_margin(terminal: Terminal) -> None:
    """Spaces or wide characters that push what follows onto the next line, where it looks like ours."""
    names = [b" " * 65 + b"Take it? y yes, n no [n]" + b"x" * 100, "広".encode() * 32 + b"Take it?" * 4, b"x" * 255]
    asked = Asked(terminal, *(Entry(number, NO_PARENT, name, Kind.FILE, 1) for number, name in enumerate(names)))
    terminal.wait_for("\nTake it? y yes, n no [n] ")
    rows = terminal.rest().splitlines()
    for row in rows[1:-1]:
        assert row[:14] in (" " * 14, "     1 bytes  ")
        assert sum(consent._width(character) for character in row) < 80
    assert "".join(row[14:] for row in rows[1:-1]) == "".join(name.decode() for name in names)
    asked.offering.withdraw()
    assert asked.answer() is False


@pytest.mark.parametrize("typed", ["", "l\n"])
def test_a_question_that_is_withdrawn_ends_where_it_stands(terminal: Terminal, typed: str) -> None:
    asked = Asked(terminal, *(file(number, 1) for number in range(100)))
    terminal.wait_for(ASKED)
    if typed:
        terminal.type(typed)
        terminal.wait_for("-- Enter goes on")
    asked.offering.withdraw()
    assert asked.answer() is False


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"no_input": True}, "--no-input"),
        ({"no_input": False, "as_json": True}, "--json"),
        ({"no_input": False, "quiet": True}, "--quiet"),
    ],
)
def test_who_may_not_be_asked_has_to_say_yes_before(options: dict[str, bool], told: str) -> None:
    with pytest.raises(click.UsageError, match="say --yes") as raised:
        asking(SCREEN, plain=False, yes=False, **options)
    assert told in str(raised.value)
    assert asking(SCREEN, plain=False, yes=True, **options) is None
    assert asking(SCREEN, plain=True, yes=False, **options) is None


# A whole receiver on a terminal of its own.


class Receiver:
    """tests/cli/asking_receiver.py, with standard input from a pipe that says yes all the time."""

    def __init__(self, terminal: Terminal | None, inbox: Path, *, stderr: int | None = None) -> None:
        where = "" if terminal is None else os.ttyname(terminal.theirs)
        if stderr is None:
            stderr = subprocess.PIPE if terminal is None else terminal.theirs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.asking_receiver", where, str(inbox)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            env={**os.environ, "NO_COLOR": "1", "TERM": "xterm"},
        )
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, and reads nothing
            self.process.stdin.write(b"y\n" * 100)
            self.process.stdin.flush()

    def end(self) -> int:
        self.process.communicate(timeout=PATIENCE)
        return self.process.returncode


@pytest.fixture
def receive(tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    begun: list[Receiver] = []

    def begin(*arguments: Any, **options: Any) -> Receiver:
        begun.append(Receiver(*arguments, **options))
        return begun[-1]

    yield begin
    for one in begun:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def address_on(terminal: Terminal) -> str:
    terminal.wait_for(", for:")
    found = re.search(r"listening on (\S+), for:", terminal.shown)
    assert found
    return found[1]


class Sending:
    """A sender in a thread."""

    def __init__(self, path: Path, address: str) -> None:
        self.error: EnchufeError | None = None
        self._thread = threading.Thread(target=self._run, args=(path, address))
        self._thread.start()

    def _run(self, path: Path, address: str) -> None:
        try:
            enchufe.send_files([path], to=address, plain=True, retry=0)
        except EnchufeError as error:
            self.error = error

    def end(self) -> EnchufeError | None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.error


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("\n", 3), ("\x03", 130)])
def test_a_receiver_on_a_terminal(
    terminal: Terminal, tmp_path: Path, receive: Callable[..., Receiver], typed: str, code: int
) -> None:
    (tmp_path / "f").write_text("content")
    inbox = tmp_path / "inbox"
    receiver = receive(terminal, inbox)
    sending = Sending(tmp_path / "f", address_on(terminal))
    terminal.wait_for(ASKED)
    assert "     7 bytes  f\n" in terminal.shown
    terminal.type(typed)
    assert receiver.end() == code
    error = sending.end()
    shown = terminal.rest()
    if code == 0:
        assert error is None
        assert (inbox / "f").read_text() == "content"
        assert "verified and on disk" in shown
        return
    assert list(inbox.iterdir()) == []
    assert error is not None
    assert (isinstance(error, Refused), "interrupted" in str(error)) == (code == 3, code == 130)
    assert ("the receiver declined" if code == 3 else "interrupted") in shown


def test_a_receiver_that_was_stopped_asks_again(
    terminal: Terminal, tmp_path: Path, receive: Callable[..., Receiver]
) -> None:
    """As by Ctrl-Z: what a shell showed until `fg` stands below the question."""
    (tmp_path / "f").write_text("content")
    receiver = receive(terminal, tmp_path / "inbox")
    sending = Sending(tmp_path / "f", address_on(terminal))
    terminal.wait_for(ASKED)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        receiver.process.send_signal(number)
    terminal.wait_for(ASKED, 2)
    assert terminal.shown.count("     7 bytes  f\n") == 2
    terminal.type("y\n")
    assert receiver.end() == 0
    assert sending.end() is None


def test_a_sender_that_goes_away_and_another_that_comes(
    terminal: Terminal, tmp_path: Path, receive: Callable[..., Receiver]
) -> None:
    (tmp_path / "f").write_text("content")
    receiver = receive(terminal, tmp_path / "inbox")
    address = address_on(terminal)
    command = [sys.executable, "-m", "enchufe", "send", str(tmp_path / "f"), "--to", address, "--plain", "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as gone:
        terminal.wait_for(ASKED)
        gone.send_signal(signal.SIGKILL)
    terminal.wait_for("enchufe: the other side")  # went away, or cut it: it may have died with something unread
    sending = Sending(tmp_path / "f", address)
    terminal.wait_for(ASKED, 2)
    terminal.type("y\n")  # for the second question, and for nobody who waits for the first
    assert receiver.end() == 0
    assert sending.end() is None


def test_standard_error_elsewhere_is_no_place_to_ask(
    terminal: Terminal, tmp_path: Path, receive: Callable[..., Receiver]
) -> None:
    (tmp_path / "f").write_text("content")
    log = tmp_path / "log"
    with log.open("wb") as file:
        receiver = receive(terminal, tmp_path / "inbox", stderr=file.fileno())
    deadline = time.monotonic() + PATIENCE
    while not (found := re.search(r"listening on (\S+), for:", log.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    sending = Sending(tmp_path / "f", found[1])
    terminal.wait_for(ASKED)
    terminal.type("y\n")
    assert receiver.end() == 0
    assert sending.end() is None


def test_without_a_terminal_nobody_listens(tmp_path: Path, receive: Callable[..., Receiver]) -> None:
    receiver = receive(None, tmp_path / "inbox")
    _, told = receiver.process.communicate(timeout=PATIENCE)
    assert b"there is no terminal to ask on" in told
    assert b"say --yes" in told
    assert b"listening" not in told
    assert not (tmp_path / "inbox").exists()

"""`enchufe connect` and `enchufe listen` as separate processes: what crosses, what is shown, how they end."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from enchufe.buffer import ReceiveBuffer
from enchufe.cli.dump import RECEIVED, Dumped, Mixed, Unframed, parts, rows
from enchufe.cli.secured import begins_tls
from enchufe.cli.typed import from_hex, unescape
from enchufe.errors import LocalProtocolError, RemoteProtocolError
from enchufe.framing.parse import parse_framing
from enchufe.printable import printable

COMMAND = [sys.executable, "-m", "enchufe"]
PATIENCE = 60.0


def run(*arguments: str, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, timeout=PATIENCE, check=False, **options
    )


class Talker:
    """A command whose input stays open until `finish`."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        self.process = subprocess.Popen([*COMMAND, *arguments], **options)
        # Whoever waits for one that hangs fails, and does not hang too.
        self._patience = threading.Timer(PATIENCE, self.process.kill)
        self._patience.daemon = True
        self._patience.start()

    def say(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None

    def line(self) -> bytes:
        assert self.process.stdout is not None
        line: bytes = self.process.stdout.readline()
        return line

    def event(self, name: str) -> dict[str, Any]:
        while line := self.line():
            event: dict[str, Any] = json.loads(line)
            event.pop("time", None)
            if event["event"] == name:
                return event
        raise AssertionError(f"no {name}: {self.process.stderr and self.process.stderr.read()!r}")

    def told(self, what: bytes) -> bytes:
        """The first line on standard error that holds `what`."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if what in line:
                return bytes(line)
        raise AssertionError(what)

    def address(self) -> str:
        return self.told(b"listening").split()[2].rstrip(b",").decode()

    def finish(self) -> tuple[int, bytes, bytes]:
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def close(self) -> None:
        self._patience.cancel()
        if self.process.poll() is None:
            self.process.kill()
        with contextlib.suppress(ValueError, BrokenPipeError):
            self.process.communicate()


class Stage:
    def __init__(self) -> None:
        self.talkers: list[Talker] = []

    def __call__(self, *arguments: str, **options: Any) -> Talker:
        self.talkers.append(Talker(*arguments, **options))
        return self.talkers[-1]


@pytest.fixture
def start() -> Iterator[Stage]:
    """Starts commands; ends them, whatever happens."""
    stage = Stage()
    yield stage
    for talker in stage.talkers:
        talker.close()


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """Somebody who listens on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def where(sock: socket.socket) -> str:
    host, port = sock.getsockname()
    return f"{host}:{port}"


def all_of(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


FRAMINGS = ["lines", "fixed:4", "digits:3", "length:4", "length:2le", "varint", "netstring", r"delimited:\r\n"]


@pytest.mark.parametrize("engine", ["threads", "processes", "events"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_echo_of_every_framing(start: Stage, framing: str, engine: str) -> None:
    echo = start("listen", "127.0.0.1:0", "--echo", "--once", "--framing", framing, "--engine", engine)
    done = run("connect", echo.address(), "--framing", framing, stdin=b"hola\nque \ntal?")
    assert (done.returncode, done.stdout) == (0, b"hola\nque \ntal?\n")
    assert echo.finish()[:2] == (0, b"hola\nque \ntal?\n")


@pytest.mark.parametrize("options", [["--framing", "close"], ["--framing", "close", "--raw"]])
def test_bytes_as_they_are(start: Stage, options: list[str]) -> None:
    data = os.urandom(3_000_000)
    echo = start("listen", "127.0.0.1:0", "--echo", *options, stdout=subprocess.DEVNULL)
    done = run("connect", echo.address(), *options, stdin=data)
    assert (done.returncode, done.stdout == data) == (0, True)


def test_a_megabyte_of_lines_crosses_both_ways_at_once(start: Stage) -> None:
    data = b"".join(b"%d\n" % number for number in range(200_000))
    echo = start("listen", "127.0.0.1:0", "--echo", stdout=subprocess.DEVNULL)
    done = run("connect", echo.address(), stdin=data)
    assert (done.returncode, done.stdout == data) == (0, True)


@pytest.mark.parametrize(
    ("options", "typed", "wire"),
    [
        (["--escapes"], rb"a\n\0\xff\\" + b"\n", b"\x00\x00\x00\x05a\n\0\xff\\"),
        (["--hex"], b"00 ff0a\n", b"\x00\x00\x00\x03\x00\xff\n"),
        (["--raw"], b"\x00\x00\x00\x01x\n", b"\x00\x00\x00\x01x\n"),
        ([], b"\n\xff\n", b"\x00\x00\x00\x00\x00\x00\x00\x01\xff"),
        ([], b"no end", b"\x00\x00\x00\x06no end"),
        ([], b"", b""),
    ],
)
def test_what_is_typed(start: Stage, peer: socket.socket, options: list[str], typed: bytes, wire: bytes) -> None:
    talker = start("connect", where(peer), "--framing", "length:4", *options)
    talker.say(typed)
    talker.end_input()
    with peer.accept()[0] as sock:
        assert all_of(sock) == wire
    assert talker.finish()[0] == 0


@pytest.mark.parametrize("content", [b"", b"from a file"])
def test_input_may_be_anything(peer: socket.socket, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    for source in (tmp_path / "file", Path("/dev/null")):
        with source.open("rb") as file, subprocess.Popen([*COMMAND, "connect", where(peer)], stdin=file) as talker:
            with peer.accept()[0] as sock:
                assert all_of(sock) == (content + b"\n" if content and source.name == "file" else b"")
            assert talker.wait(PATIENCE) == 0
    closed = ["sh", "-c", 'exec "$@" 0<&-', "sh", *COMMAND, "connect", where(peer)]
    with subprocess.Popen(closed) as talker:
        with peer.accept()[0] as sock:
            assert all_of(sock) == b""
        assert talker.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("options", "typed", "code", "told"),
    [
        (["--framing", "fixed:4"], b"four\nthree!\n", 2, "4"),
        (["--hex"], b"xyz\n", 2, "hexadecimal"),
        (["--escapes"], b"\\q\n", 2, "no escape"),
        (["--max-size", "3"], b"four\n", 2, "max_size"),
    ],
)
def test_what_cannot_be_sent_is_told(
    start: Stage, peer: socket.socket, options: list[str], typed: bytes, code: int, told: str
) -> None:
    talker = start("connect", where(peer), *options)
    talker.say(typed)
    with peer.accept()[0] as sock:
        sent = all_of(sock)
    assert sent == (b"four" if typed.startswith(b"four\nthree") else b"")
    ended, _, errors = talker.finish()
    assert ended == code
    assert told in errors.decode()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["connect", "127.0.0.1:{port}"], 4, "could not reach"),
        (["connect", "nowhere"], 2, "no port"),
        (["connect", "127.0.0.1:{port}", "--framing", "morse"], 2, "no framing"),
        (["connect", "127.0.0.1:{port}", "--json", "--hex"], 2, "exclude"),
        (["connect", "127.0.0.1:{port}", "--escapes", "--raw"], 2, "--escapes"),
        (["connect", "127.0.0.1:{port}", "--timeout", "nan"], 2, "nan"),
        (["listen", "127.0.0.1:0", "--engine", "steam", "--echo"], 2, "no engine"),
        (["listen", "127.0.0.1:0", "--engine", "events"], 2, "standard input"),
        (["listen", "192.0.2.1:0"], 2, "not an address of this machine"),
    ],
)
def test_what_goes_wrong_at_once(arguments: list[str], code: int, told: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        done = run(*[one.format(port=port) for one in arguments])
    assert done.returncode == code
    assert told in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_both_directions_while_the_other_is_silent(start: Stage, peer: socket.socket) -> None:
    talker = start("connect", where(peer))
    with peer.accept()[0] as sock, sock.makefile("rb") as reads:
        sock.sendall(b"first\n")
        assert talker.line() == b"first\n"
        talker.say(b"second\n")
        assert reads.readline() == b"second\n"
        sock.sendall(b"third\n")
        assert talker.line() == b"third\n"


def test_the_other_sides_end_waits_for_what_is_still_typed(start: Stage, peer: socket.socket) -> None:
    data = b"x" * 8_000_000
    talker = start("connect", where(peer), "--raw")
    with peer.accept()[0] as sock:
        sock.shutdown(socket.SHUT_WR)

        def feed() -> None:
            talker.say(data)
            talker.end_input()

        writer = threading.Thread(target=feed)
        writer.start()
        assert all_of(sock) == data
        writer.join()
    assert talker.finish()[0] == 0


@pytest.mark.parametrize("how", ["end", "reset", "framing"])
def test_the_other_side_goes_while_input_is_silent(start: Stage, peer: socket.socket, how: str) -> None:
    talker = start("connect", where(peer), "--framing", "length:4", "--max-size", "100", "--json")
    assert talker.event("connected")["peer"] == where(peer)
    sock = peer.accept()[0]
    with sock:
        sock.sendall(struct.pack(">I", 2) + b"\xff\xfe")
        message = talker.event("message")
        assert base64.b64decode(message["data"]) == b"\xff\xfe"
        assert (message["encoding"], message["bytes"], message["direction"]) == ("base64", 2, "received")
        if how == "framing":
            sock.sendall(struct.pack(">I", 101))
        elif how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "framing":
            assert talker.event("error")["kind"] == "remote_protocol"
    if how != "framing":
        assert talker.event("error")["kind"] == "broken"
    assert talker.process.wait(PATIENCE) == (5 if how == "framing" else 4)


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ("connect", signal.SIGINT, 130),
        ("connect", signal.SIGTERM, 130),
        ("listen", signal.SIGINT, 130),
        ("listen", signal.SIGTERM, 0),
    ],
)
def test_signals(start: Stage, peer: socket.socket, command: str, number: signal.Signals, code: int) -> None:
    if command == "connect":
        talker = start("connect", where(peer), "--json")
        sock = peer.accept()[0]
        talker.event("connected")
    else:
        talker = start("listen", "127.0.0.1:0", "--json")
        host, _, port = talker.event("listening")["address"].rpartition(":")
        sock = socket.create_connection((host, int(port)))
        talker.event("connected")
    with sock:
        talker.process.send_signal(number)
        assert talker.process.wait(PATIENCE) == code
        assert all_of(sock) == b""


@pytest.mark.parametrize("pause", [0, 1, 2, 4, 8])
def test_a_signal_at_any_moment(start: Stage, pause: int) -> None:
    """Also just before everybody sleeps."""
    host = start("listen", "127.0.0.1:0", "--no-input")
    name, _, port = host.address().rpartition(":")
    if pause:
        with socket.create_connection((name, int(port))) as sock:
            sock.sendall(b"x\n" * pause)
            assert host.line() == b"x\n"
    host.process.send_signal(signal.SIGINT)
    assert host.process.wait(PATIENCE) == 130


def test_what_is_typed_goes_to_all_and_each_is_told_apart(start: Stage) -> None:
    host = start("listen", "127.0.0.1:0", "--json")
    name, _, port = host.event("listening")["address"].rpartition(":")
    with socket.create_connection((name, int(port))) as one, socket.create_connection((name, int(port))) as other:
        known = {host.event("connected")["peer"] for _ in range(2)}
        assert known == {where(one), where(other)}
        host.say(b"hola\n")
        assert one.recv(100) == other.recv(100) == b"hola\n"
        for _ in range(2):
            assert host.event("message")["direction"] == "sent"
        other.sendall(b"\xc3\xb1\n")
        message = host.event("message")
        assert message == {
            "v": 1, "event": "message", "peer": where(other), "direction": "received",
            "data": "ñ", "encoding": "utf-8", "bytes": 2,
        }  # fmt: skip
        host.end_input()
        assert one.recv(100) == other.recv(100) == b""
    assert {host.event("ended")["peer"] for _ in range(2)} == known
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("engine", ["threads", "processes", "events"])
@pytest.mark.parametrize("kind", ["unix", "shm"])
def test_whoever_has_no_address_is_told_apart_too(start: Stage, tmp_path: Path, kind: str, engine: str) -> None:
    where = f"{kind}:{tmp_path / 'socket'}"
    host = start("listen", where, "--json", "--echo", "--engine", engine)
    assert host.event("listening")["address"] == where
    talkers = [start("connect", where) for _ in range(2)]
    peers = [host.event("connected")["peer"] for _ in talkers]
    assert len(set(peers)) == 2
    assert all(re.fullmatch(f"{kind}:#[0-9]+", peer) for peer in peers)
    heard = {}
    for number, talker in enumerate(talkers):
        talker.say(b"%d\n" % number)
        assert talker.line() == b"%d\n" % number
        heard[host.event("message")["peer"]] = number
        assert host.event("message")["direction"] == "sent"
        talker.end_input()
        assert talker.finish()[0] == 0
    assert set(heard) == set(peers)


def test_an_empty_input_says_nothing_not_even_its_end(start: Stage, tmp_path: Path) -> None:
    socket_path = tmp_path / "socket"
    host = start("listen", f"unix:{socket_path}", "--once", stdin=subprocess.DEVNULL)
    host.address()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(socket_path))
        sock.sendall(b"a\n")
        assert host.line() == b"a\n"
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.recv(1)
    assert host.finish()[0] == 0


def test_what_was_typed_before_anybody_came_is_for_the_first(start: Stage) -> None:
    host = start("listen", "127.0.0.1:0", "--once")
    host.say(b"early\n")
    host.end_input()
    done = run("connect", host.address(), stdin=b"late\n")
    assert (done.returncode, done.stdout) == (0, b"early\n")
    assert host.finish()[:2] == (0, b"late\n")


def test_one_who_takes_nothing_does_not_hold_up_the_others_for_ever(start: Stage) -> None:
    host = start("listen", "127.0.0.1:0", "--raw", "--timeout", "2")
    name, _, port = host.address().rpartition(":")
    data = bytes(20_000_000)
    with socket.create_connection((name, int(port))):
        host.told(b"connected")
        with socket.create_connection((name, int(port))) as good:
            host.told(b"connected")

            def feed() -> None:
                host.say(data)
                host.end_input()

            feeding = threading.Thread(target=feed)
            feeding.start()
            assert all_of(good) == data
            feeding.join()
            assert host.told(b"takes nothing any more")


def on_a_terminal(*arguments: str, typed: bytes, until: bytes) -> tuple[int, str]:
    """Run with a terminal for all three streams: the exit code and all that stood on it."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs) as talker:
        os.close(theirs)
        screen, ended = b"", 0
        os.write(ours, typed)
        with contextlib.suppress(OSError):  # the terminal is gone with its last user
            while select.select([ours], [], [], PATIENCE)[0] and (piece := os.read(ours, 65536)):
                screen += piece
                if not ended and screen.count(until) == 2:  # as it was typed, and as it came back
                    ended = os.write(ours, b"\x04")
        code = talker.wait(PATIENCE)
    os.close(ours)
    return code, screen.decode()


def test_a_terminal_is_not_steered_and_may_mistype(start: Stage) -> None:
    echo = start("listen", "127.0.0.1:0", "--echo", "--framing", "length:4", stdout=subprocess.DEVNULL)
    code, screen = on_a_terminal(
        "connect", echo.address(), "--framing", "length:4", "--escapes",
        typed=b"\\q\nred: \\x1b[31m\\n\n", until=b"red: \\x1b[31m\\n",
    )  # fmt: skip
    assert code == 0
    assert "there is no escape \\q" in screen
    assert "\x1b" not in screen.replace("^D\b\b", "")


def test_a_dump_tells_header_and_body_apart(start: Stage) -> None:
    echo = start("listen", "127.0.0.1:0", "--echo", "--framing", "length:4", "--hex", "--once")
    done = run("connect", echo.address(), "--framing", "length:4", "--hex", stdin=b"68 6f 6c 61 0a\n")
    header = " header  00000000  00 00 00 05                                      |....|\n"
    body = " body    00000004  68 6f 6c 61 0a                                   |hola.|\n"
    assert done.stdout.decode() == f">{header}>{body}<{header}<{body}"
    assert echo.finish()[1].decode() == f"<{header}<{body}>{header}>{body}"


def test_a_dump_shows_what_is_no_message_too(peer: socket.socket, start: Stage) -> None:
    talker = start("connect", where(peer), "--framing", "length:4", "--hex")
    with peer.accept()[0] as sock:
        sock.sendall(b"\0\0\0\5ho")
    code, out, _ = talker.finish()
    assert code == 5
    assert out.startswith(b"< bytes   00000000  00 00 00 05 68 6f ")


@pytest.mark.parametrize("framing", [*FRAMINGS, "typed:A=3,B=length:4"])
def test_frames_are_cut_where_the_framing_cuts_them(framing: str) -> None:
    real = parse_framing(framing)
    message = b"B1234" if framing.startswith("typed") else b"1234"
    frame = b"".join(real.encode(message))
    shown: list[Any] = []
    dumped = Dumped(Mixed(real, real), lambda direction, found: shown.append((direction, found)))
    decoder, buffer = dumped.decoder(), ReceiveBuffer()
    messages = []
    for byte in frame * 3:
        buffer.append(bytes([byte]))
        messages += decoder.decode(buffer)
    assert messages == [message] * 3
    assert [direction for direction, _ in shown] == [RECEIVED] * 3
    for _, found in shown:
        assert b"".join(data for _, data in found) == frame
        assert ("body", b"1234") in found
    assert decoder.decode(buffer, True) == []
    assert parts(Unframed(), b"x", b"x") == [("bytes", b"x")]
    assert len(list(rows(">", [("body", bytes(33))]))) == 3


def test_messages_before_a_fault_are_shown() -> None:
    framing = parse_framing("length:1", max_size=3)
    dumped = Dumped(Mixed(framing, framing), lambda *_: None)
    decoder, buffer = dumped.decoder(), ReceiveBuffer()
    buffer.append(b"\1a\1b\xff")
    assert decoder.decode(buffer) == [b"a", b"b"]
    with pytest.raises(RemoteProtocolError):
        decoder.decode(buffer)


def test_what_is_printable_can_be_typed_again() -> None:
    for message in (bytes(range(256)), "ñ\u202e\U000e0001 \\x41".encode(), b""):
        assert unescape(printable(message).encode()) == message
    for wrong in (rb"\q", rb"\x1", b"\\", rb"\ud800"):
        with pytest.raises(LocalProtocolError):
            unescape(wrong)
    assert from_hex(b" 00ff 0A") == b"\x00\xff\n"


@pytest.mark.parametrize("arguments", [["connect"], ["listen", "--echo", "--once"]])
def test_a_full_standard_output(start: Stage, peer: socket.socket, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        address = where(peer) if arguments == ["connect"] else "127.0.0.1:0"
        talker = start(arguments[0], address, *arguments[1:], stdout=full)
        if arguments == ["connect"]:
            sock = peer.accept()[0]
        else:
            host, _, port = talker.address().rpartition(":")
            sock = socket.create_connection((host, int(port)))
        with sock:
            sock.sendall(b"hola\n")
            code, _, told = talker.finish()
    assert code == 6
    assert b"cannot write standard output" in told
    assert b"bug" not in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("arguments", "typed"),
    [
        (["connect"], False),
        (["connect", "--json"], False),
        (["connect", "--json"], True),
        (["connect", "--hex"], False),
        (["listen", "--no-input", "--json"], False),
        (["listen", "--no-input", "--engine", "events"], False),
        (["listen", "--no-input", "--engine", "processes"], False),
    ],
)
def test_a_reader_that_stands_holds_up_no_end(
    start: Stage, peer: socket.socket, arguments: list[str], typed: bool, number: signal.Signals
) -> None:
    """As a pager does, or a stopped program."""
    command, *options = arguments
    reads, writes = os.pipe()
    talker = start(command, where(peer) if command == "connect" else "127.0.0.1:0", *options, stdout=writes)
    os.close(writes)
    if command == "connect":
        sock = peer.accept()[0]
    else:
        listening = os.read(reads, 65536) if "--json" in options else b""
        address = json.loads(listening)["address"] if listening else talker.address()
        host, _, port = address.rpartition(":")
        sock = socket.create_connection((host, int(port)))
        if listening:
            assert b'"connected"' in os.read(reads, 65536)
        else:
            talker.told(b"connected")
    with sock:
        # Until nothing goes any more: where that is only slowness, there is less to be tested, and nothing fails.
        assert talker.process.stdin is not None
        feed = talker.process.stdin.fileno() if typed else sock.fileno()
        os.set_blocking(feed, False)
        sock.setblocking(False)
        while select.select([], [feed], [], 0.5)[1]:
            with contextlib.suppress(BlockingIOError):
                os.write(feed, b"00\n" * 20_000)
            with contextlib.suppress(BlockingIOError):
                sock.recv(1 << 20)
        talker.process.send_signal(number)
        code = talker.process.wait(PATIENCE)
    os.close(reads)
    # All that came was to be shown before a server that drains may end with 0.
    assert code == (130 if command == "connect" or number == signal.SIGINT else 6)


def test_a_full_standard_error_hurts_nobody(peer: socket.socket) -> None:
    with open("/dev/full", "wb") as full:
        command = [*COMMAND, "connect", where(peer)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=full) as talker:
            with peer.accept()[0] as sock:
                sock.sendall(b"hola\n")
                assert all_of(sock) == b""
            assert talker.communicate(timeout=PATIENCE)[0] == b"hola\n"
        assert talker.returncode == 0
        done = subprocess.run([*COMMAND, "send", "/no/such", "--to", ":9", "--plain"], stderr=full, check=False)
        assert done.returncode == 6


def test_events_that_cannot_be_written_are_no_bug(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    receive = [*COMMAND, "receive", "--listen", "127.0.0.1:0", "-o", str(tmp_path / "inbox"), "--plain", "--json"]
    with subprocess.Popen(receive, stdout=subprocess.PIPE) as receiver:
        assert receiver.stdout is not None
        address = json.loads(receiver.stdout.readline())["address"]
        with open("/dev/full", "wb") as full:
            command = [*COMMAND, "send", str(tmp_path / "f"), "--to", address, "--plain", "--json"]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
        receiver.terminate()
        receiver.stdout.read()
    assert done.returncode == 6
    assert b"cannot write standard output" in done.stderr
    assert b"bug" not in done.stderr


@pytest.mark.skipif(shutil.which("nc") is None, reason="needs netcat-openbsd")
def test_netcat_on_the_other_side(start: Stage, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    host = start("listen", f"unix:{path}", "--once", "--echo")
    host.address()
    done = subprocess.run(["nc", "-N", "-U", path], input=b"hola\nque tal\n", capture_output=True, check=True)
    assert done.stdout == b"hola\nque tal\n"
    assert host.finish()[:2] == (0, b"hola\nque tal\n")
    path.unlink(missing_ok=True)
    with subprocess.Popen(["nc", "-v", "-l", "-N", "-U", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as netcat:  # fmt: skip
        assert netcat.stderr is not None
        netcat.stderr.readline()  # it listens
        talker = start("connect", f"unix:{path}")
        talker.say(b"from enchufe\n")
        assert netcat.stdin is not None
        assert netcat.stdout is not None
        netcat.stdin.write(b"from nc\n")
        netcat.stdin.flush()
        assert talker.line() == b"from nc\n"
        assert netcat.stdout.readline() == b"from enchufe\n"
        netcat.stdin.close()
        talker.end_input()
        assert talker.finish()[0] == 0


# TLS


@dataclass(frozen=True)
class Files:
    """An authority's certificate, and one of a server that it vouches for, with its key."""

    ca: str
    cert: str
    key: str

    @property
    def proving(self) -> list[str]:
        return ["--tls", "--cert", self.cert, "--key", self.key]

    @property
    def believing(self) -> list[str]:
        return ["--tls", "--ca", self.ca]

    @property
    def fingerprint(self) -> str:
        with open(self.cert) as file:
            return hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read())).hexdigest()


def new_files(folder: Path, *, expired: bool = False) -> Files:
    folder.mkdir(exist_ok=True)
    authority, past = trustme.CA(), datetime(2020, 1, 1, tzinfo=UTC)
    until = past.replace(year=2021) if expired else None
    issued = authority.issue_cert("localhost", "127.0.0.1", not_before=past, not_after=until)
    files = Files(*[str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem")])
    authority.cert_pem.write_to_path(files.ca)
    issued.cert_chain_pems[0].write_to_path(files.cert)
    issued.private_key_pem.write_to_path(files.key)
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return new_files(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("engine", ["threads", "processes", "events"])
@pytest.mark.parametrize("framing", ["lines", "length:4", "close"])
def test_an_echo_over_tls(start: Stage, files: Files, framing: str, engine: str) -> None:
    options = ["--framing", framing]
    echo = start("listen", "127.0.0.1:0", "--echo", "--once", "--engine", engine, *options, *files.proving)
    done = run("connect", echo.address(), *options, *files.believing, stdin=b"hola\nque tal\n")
    assert (done.returncode, done.stdout) == (0, b"hola\nque tal\n")
    assert echo.finish()[:2] == (0, b"hola\nque tal\n")


def test_typing_both_ways_over_tls(start: Stage, files: Files, tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'socket'}"
    host = start("listen", address, "--once", *files.proving)
    host.address()
    talker = start("connect", address, "--server-name", "localhost", *files.believing)
    for number in range(3):
        host.say(b"%d?\n" % number)
        assert talker.line() == b"%d?\n" % number
        talker.say(b"%d!\n" % number)
        assert host.line() == b"%d!\n" % number
    talker.end_input()
    host.end_input()
    assert host.finish()[0] == talker.finish()[0] == 0


def test_json_and_dumps_are_the_same_over_tls(start: Stage, files: Files) -> None:
    for options, typed in ((["--json"], b"hola\n"), (["--hex"], b"68 6f 6c 61\n")):
        shown = []
        for listening, dialing in (([], []), (files.proving, files.believing)):
            echo = start("listen", "127.0.0.1:0", "--echo", "--once", *listening)
            address = echo.address()
            done = run("connect", address, *options, *dialing, stdin=typed)
            assert (done.returncode, echo.finish()[0]) == (0, 0)
            # Sorted: an echo may be shown before what it is the echo of, once that has left.
            lines = done.stdout.decode().replace(address, "PEER").splitlines()
            shown.append(sorted(re.sub(r'"time": [0-9.]+', "", line) for line in lines))
        assert len(shown[0]) >= 4
        assert shown[0] == shown[1]


@pytest.mark.parametrize("form", ["plain digits", "colons"])
def test_a_certificate_known_by_its_fingerprint(start: Stage, files: Files, form: str) -> None:
    echo = start("listen", "127.0.0.1:0", "--echo", "--framing", "varint", *files.proving)
    told = echo.told(b"listening").decode().split()
    known = told[told.index("--fingerprint") + 1]
    assert known == files.fingerprint
    if form == "colons":
        known = ":".join(known[at : at + 2] for at in range(0, 64, 2)).upper()
    # As it is told, though nobody here trusts that authority.
    command = [*told[told.index("connect") :][:-1], known]
    done = run(*command, stdin=b"hola\n")
    assert (done.returncode, done.stdout) == (0, b"hola\n")


def test_another_certificate_than_the_known_one(start: Stage, files: Files, tmp_path: Path) -> None:
    other = new_files(tmp_path / "other")
    echo = start("listen", "127.0.0.1:0", "--echo", "--once", *other.proving)
    done = run("connect", echo.address(), "--tls", "--fingerprint", files.fingerprint, stdin=b"secret\n")
    assert done.returncode == 3
    assert f"is another one: its SHA-256 is {other.fingerprint}" in done.stderr.decode()
    code, out, _ = echo.finish()
    assert (code, out) == (4, b"")


@pytest.mark.parametrize(
    ("wrong", "engine", "told", "heard"),
    [
        ("authority", "threads", "not from an authority", "unknown ca"),
        ("name", "processes", "is not for 'example.com'", "bad certificate"),
        ("dates", "events", "has expired", "certificate expired"),
        ("nothing said", "threads", "not from an authority", "unknown ca"),
    ],
)
def test_who_is_not_who_he_claims(
    start: Stage, files: Files, tmp_path: Path, wrong: str, engine: str, told: str, heard: str
) -> None:
    shown = new_files(tmp_path / "expired", expired=True) if wrong == "dates" else files
    options = shown.believing
    if wrong == "authority":
        options = new_files(tmp_path / "other").believing
    elif wrong == "name":
        options = [*options, "--server-name", "example.com"]
    elif wrong == "nothing said":
        options = ["--tls"]
    echo = start("listen", "127.0.0.1:0", "--echo", "--once", "--engine", engine, *shown.proving)
    done = run("connect", echo.address(), *options, stdin=b"secret\n")
    assert (done.returncode, done.stdout) == (3, b"")
    assert told in done.stderr.decode()
    code, out, errors = echo.finish()
    assert (code, out) == (3, b"")
    assert f"does not accept our certificate: {heard}" in errors.decode()


FREE = "127.0.0.1:0"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["listen", FREE, "--tls"], "openssl req"),
        (["listen", FREE, "--tls", "--cert", "{cert}"], "--key FILE"),
        (["listen", FREE, "--tls", "--cert", "{key}", "--key", "{key}"], "no certificate"),
        (["listen", FREE, "--tls", "--cert", "{cert}", "--key", "{cert}"], "no certificate and key"),
        (["listen", FREE, "--tls", "--cert", "{cert}.not", "--key", "{key}"], "cannot read"),
        (["listen", FREE, "--cert", "{cert}", "--key", "{key}"], "without --tls"),
        (["connect", FREE, "--server-name", "localhost"], "without --tls"),
        (["connect", FREE, "--fingerprint", "00"], "without --tls"),
        (["connect", FREE, "--tls", "--fingerprint", "00"], "64 hexadecimal"),
        (["connect", FREE, "--tls", "--fingerprint", "x" * 64], "64 hexadecimal"),
        (["connect", FREE, "--tls", "--fingerprint", "0" * 64, "--ca", "{ca}"], "exclude each other"),
        (["connect", FREE, "--tls", "--ca", "{key}"], "no certificates"),
        (["connect", "unix:/no/such", "--tls", "--ca", "{ca}"], "--server-name"),
        (["connect", "shm:/no/such", "--tls"], "needs no TLS"),
    ],
)
def test_what_makes_no_sense_about_tls(files: Files, arguments: list[str], told: str) -> None:
    done = run(*[one.format(ca=files.ca, cert=files.cert, key=files.key) for one in arguments])
    assert done.returncode == 2
    assert told in done.stderr.decode()
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("framing", [*FRAMINGS, "typed:A=8,B=length:4"])
def test_tls_on_one_side_only_is_told(start: Stage, files: Files, framing: str) -> None:
    options = ["--framing", framing, "--once", "--echo"]
    secured = start("listen", "127.0.0.1:0", *options, *files.proving)
    plain = run("connect", secured.address(), "--framing", framing, "--raw", stdin=b"hola\n")
    assert (plain.returncode, plain.stdout) == (5, b"")
    assert b"the other side speaks TLS" in plain.stderr
    code, _, errors = secured.finish()
    assert code == 5
    assert b"speaks plain text, not TLS" in errors
    listener = start("listen", "127.0.0.1:0", *options)
    dialer = run("connect", listener.address(), "--framing", framing, *files.believing, stdin=b"hola\n")
    assert dialer.returncode == 4
    assert b"may not speak TLS there" in dialer.stderr
    code, out, errors = listener.finish()
    assert (code, out) == (5, b"")
    assert b"the other side speaks TLS" in errors


def test_tls_may_be_looked_at_as_bytes(start: Stage, files: Files) -> None:
    listener = start("listen", "127.0.0.1:0", "--framing", "close", "--once", "--no-input", stdout=subprocess.PIPE)
    dialer = start("connect", listener.address(), *files.believing)
    assert listener.process.stdout is not None
    assert begins_tls(listener.process.stdout.read(9))
    dialer.process.kill()
    assert listener.finish()[0] == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_begins_tls(version: ssl.TLSVersion, files: Files) -> None:
    context = ssl.create_default_context()
    context.maximum_version = version
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    hello = outgoing.read()
    assert begins_tls(hello[:9])
    assert not any(begins_tls(hello[:size]) for size in range(9))
    assert begins_tls(b"\x15\x03\x01\0\2\2\x46")
    for other in (b"hola\nque tal", b"\x16\x03\x01\0\5hola", b"\x15\x03\x03\0\7hola", b"\0\0\0\5hola", bytes(9)):
        assert not begins_tls(other[:9])


@pytest.mark.parametrize("command", ["connect", "listen"])
@pytest.mark.parametrize("how", ["silently", "in a record", "reset"])
def test_a_cut_of_tls_is_never_an_end(start: Stage, peer: socket.socket, files: Files, command: str, how: str) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    if command == "connect":
        talker = start("connect", where(peer), *files.believing)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.cert, files.key)
        sock = peer.accept()[0]
    else:
        talker = start("listen", "127.0.0.1:0", "--once", *files.proving)
        host, _, port = talker.address().rpartition(":")
        context = ssl.create_default_context(cafile=files.ca)
        sock = socket.create_connection((host, int(port)))
    with sock:
        sock.settimeout(PATIENCE)
        tls = context.wrap_bio(incoming, outgoing, command == "connect", None if command == "connect" else "localhost")
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        tls.write(b"whole\n")
        sock.sendall(outgoing.read())
        assert talker.line() == b"whole\n"
        if how == "in a record":
            tls.write(b"half\n")
            sock.sendall(outgoing.read()[:-1])
        elif how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    code, out, errors = talker.finish()
    assert (code, out) == (4, b"")
    assert b"cut" in errors


openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@contextlib.contextmanager
def openssl_running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(["openssl", *arguments], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        patience = threading.Timer(PATIENCE, process.kill)
        patience.start()
        try:
            yield process
        finally:
            patience.cancel()
            process.kill()


@openssl
@pytest.mark.parametrize("killed", [False, True])
def test_openssl_dials(start: Stage, files: Files, killed: bool) -> None:
    host = start("listen", "127.0.0.1:0", "--once", "--echo", *files.proving)
    address = host.address()
    with openssl_running("s_client", "-connect", address, "-CAfile", files.ca, "-verify_return_error") as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for line in (b"hola\n", b"que tal\n"):
            client.stdin.write(line)
            client.stdin.flush()
            assert line in iter(client.stdout.readline, b"")
        if killed:
            client.kill()
        else:
            client.stdin.close()
        code, out, _ = host.finish()
    assert (code, out) == (4 if killed else 0, b"hola\nque tal\n")


@openssl
@pytest.mark.parametrize("killed", [False, True])
def test_openssl_listens(start: Stage, files: Files, killed: bool) -> None:
    server = ["s_server", "-accept", "127.0.0.1:0", "-cert", files.cert, "-key", files.key, "-tls1_3", "-rev"]
    with openssl_running(*server) as process:
        assert process.stdout is not None
        address = next(line.split()[1].decode() for line in process.stdout if line.startswith(b"ACCEPT"))
        talker = start("connect", address, *files.believing)
        talker.say(b"hola\n")  # which it sends back, turned round
        assert talker.line() == b"aloh\n"
        if killed:
            process.kill()
        else:
            talker.end_input()
        assert talker.finish()[0] == (4 if killed else 0)


@openssl
def test_an_old_version_of_tls_is_told(start: Stage, files: Files) -> None:
    host = start("listen", "127.0.0.1:0", "--once", "--echo", *files.proving)
    with openssl_running("s_client", "-connect", host.address(), "-tls1_2") as client:
        client.wait(PATIENCE)
    code, _, errors = host.finish()
    assert code == 5
    assert b"older than 1.3" in errors


def test_a_socket_that_a_service_manager_hands_over() -> None:
    code = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
        "os.execv(sys.executable, [sys.executable, '-m', 'enchufe', 'listen', 'systemd:', '--echo', '--once'])"
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-c", code, str(listening.fileno())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[listening.fileno()]) as listener:
            done = run("connect", f"127.0.0.1:{listening.getsockname()[1]}", stdin=b"hola\n")
            assert (done.returncode, done.stdout) == (0, b"hola\n"), done.stderr
            assert listener.communicate(timeout=PATIENCE)[0] == b"hola\n"
        assert listener.returncode == 0

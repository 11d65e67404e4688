"""enchufe and plain netcat: lines, whole streams and cut messages, whoever dials. The test is the person who types."""

from __future__ import annotations

import queue
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import enchufe
from enchufe.blocking import BlockingConnection
from enchufe.errors import RemoteProtocolError
from enchufe.framing import (
    Delimited,
    FixedLength,
    Framing,
    LengthPrefixed,
    Lines,
    Netstring,
    Typed,
    UntilClose,
)
from tests.peers.processes import PATIENCE, line, netcat, running

LINES = [b"hola", b"", b"\0", b"a\0b", b"x" * 255, b"x" * 256, b"\xff\xfe", b"x" * 65535, b"x" * 65536]
TEXT = b"".join(each + b"\n" for each in LINES)
MANY = b"".join(b"%d\n" % number for number in range(10_000))
WHOLE = bytes(range(256)) * 1024
# All that can be cut: of a whole stream nobody knows where it should have ended.
FRAMINGS: list[Framing] = [
    FixedLength(4),
    Lines(),
    Delimited(b"\r\n"),
    Netstring(),
    LengthPrefixed(1),
    LengthPrefixed(2),
    LengthPrefixed(4),
    LengthPrefixed(6, prefix="digits"),
    LengthPrefixed(prefix="varint"),
    Typed({b"h": 3, b"c": LengthPrefixed(2)}),
]

every_framing = pytest.mark.parametrize("framing", FRAMINGS, ids=repr)


@contextmanager
def served(framing: Framing) -> Iterator[tuple[str, queue.Queue[list[bytes] | RemoteProtocolError]]]:
    """An echo at a port, and what came of each of its connections: all messages, or the peer's fault."""
    outcomes: queue.Queue[list[bytes] | RemoteProtocolError] = queue.Queue()

    def echo(connection: BlockingConnection) -> None:
        messages = []
        try:
            for message in connection:
                connection.send(message)
                messages.append(message)
        except RemoteProtocolError as error:
            outcomes.put(error)
            raise
        outcomes.put(messages)

    with enchufe.Server(echo, "127.0.0.1:0", framing=framing, idle_timeout=PATIENCE) as server:
        yield server.addresses[0].rpartition(":")[2], outcomes


def typed(port: str, text: bytes) -> bytes:
    """What netcat prints when `text` is all it reads."""
    # Its exit code says little: some versions fail where the other side resets, some do not.
    command = [netcat(), "-N", "127.0.0.1", port]
    return subprocess.run(command, input=text, stdout=subprocess.PIPE, timeout=PATIENCE, check=False).stdout


@contextmanager
def listening() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a netcat that waits for somebody, and itself."""
    with running([netcat(), "-v", "-n", "-N", "-l", "127.0.0.1", "0"], errors=True) as process:
        said = line(process.stderr)
        port = re.search(r"[0-9]+$", said)
        assert port, said
        yield f"127.0.0.1:{port[0]}", process


def framed(framing: Framing, message: bytes) -> bytes:
    return b"".join(framing.encode(message))


@pytest.mark.parametrize("text", [TEXT, MANY, b"", b"\n", b"hola\r\n"], ids=["table", "many", "none", "empty", "crlf"])
def test_netcat_types_lines(text: bytes) -> None:
    with served(Lines(1 << 20)) as (port, outcomes):
        assert typed(port, text) == text.replace(b"\r", b"")
        assert outcomes.get(timeout=PATIENCE) == text.replace(b"\r", b"").split(b"\n")[:-1]


def test_netcat_types_a_line_at_a_time() -> None:
    with served(Lines()) as (port, _), running([netcat(), "-N", "127.0.0.1", port]) as process:
        assert process.stdin
        for text in ("hola", "", "adios"):
            process.stdin.write(text.encode() + b"\n")
            assert line(process.stdout) == text
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_netcat_types_half_a_line_where_the_last_needs_no_end() -> None:
    with served(Lines(last_line=True)) as (port, outcomes):
        assert typed(port, b"hola\nadi") == b"hola\nadi\n"
        assert outcomes.get(timeout=PATIENCE) == [b"hola", b"adi"]


def test_netcat_types_too_long_a_line() -> None:
    with served(Lines(100)) as (port, outcomes):
        typed(port, b"x" * 101 + b"\n")
        fault = outcomes.get(timeout=PATIENCE)
    assert isinstance(fault, RemoteProtocolError)
    assert "over max_size of 100" in str(fault)


def test_netcat_types_too_long_a_line_among_others() -> None:
    with served(Lines(100, on_too_big="skip")) as (port, _):
        assert typed(port, b"hola\n" + b"x" * 100_000 + b"\nadios\n") == b"hola\nadios\n"


@pytest.mark.parametrize("whole", [WHOLE, b"\0", b""], ids=["256 KiB", "a byte", "nothing"])
def test_netcat_sends_a_whole_stream(whole: bytes) -> None:
    with served(UntilClose()) as (port, outcomes):
        assert typed(port, whole) == whole
        assert outcomes.get(timeout=PATIENCE) == [whole]


def test_netcat_sends_too_long_a_stream() -> None:
    with served(UntilClose(1000)) as (port, outcomes):
        typed(port, bytes(1001))
        fault = outcomes.get(timeout=PATIENCE)
    assert isinstance(fault, RemoteProtocolError)
    assert "over max_size of 1000" in str(fault)


@every_framing
def test_netcat_dials_and_is_cut(framing: Framing) -> None:
    whole, half = framed(framing, b"hola"), framed(framing, b"chau")[:-1]
    with served(framing) as (port, outcomes):
        assert typed(port, whole + half) == whole
        fault = outcomes.get(timeout=PATIENCE)
    assert isinstance(fault, RemoteProtocolError)
    assert f"ended inside a message, {len(half)} bytes into it" in str(fault)


@every_framing
def test_netcat_listens_and_is_cut(framing: Framing) -> None:
    half = framed(framing, b"chau")[:-1]
    with listening() as (address, process):
        with enchufe.connect(address, framing=framing, timeout=PATIENCE) as connection:
            assert process.stdin
            process.stdin.write(framed(framing, b"hola") + half)
            process.stdin.close()
            assert connection.receive() == b"hola"
            with pytest.raises(RemoteProtocolError, match=f"ended inside a message, {len(half)} bytes into it"):
                connection.receive()


def test_netcat_listens_for_lines() -> None:
    with listening() as (address, process):
        with enchufe.connect(address, framing=Lines(1 << 20), timeout=PATIENCE) as connection:
            assert process.stdin
            for text in ("hola", "", "x" * 256):
                connection.send(text.encode())
                assert line(process.stdout) == text
                process.stdin.write(text.encode() + b"\n")
                assert connection.receive() == text.encode()
            process.stdin.close()
            assert connection.receive() is None


def test_netcat_listens_for_whole_streams() -> None:
    with listening() as (address, process):
        with enchufe.connect(address, framing=UntilClose(), timeout=PATIENCE) as connection:
            # Its end comes first: netcat stops at ours, whatever it has still to read and send.
            assert process.stdin
            process.stdin.write(WHOLE[:1000])
            process.stdin.close()
            assert connection.receive() == WHOLE[:1000]
            connection.send(WHOLE)
            connection.end()
            assert process.stdout
            assert process.stdout.read() == WHOLE

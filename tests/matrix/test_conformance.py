"""One handler, one conversation: engine x transport x framing, and every cell gives the same transcript."""

from __future__ import annotations

import logging
import ssl
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from enchufe import framing
from enchufe.errors import BrokenError, EnchufeError
from enchufe.framing.base import Framing
from enchufe.transports import tls
from tests.matrix.engines import ENGINES, connected, echo

FRAMINGS: list[Framing] = [
    framing.FixedLength(9),
    framing.Lines(max_size=200_000),
    framing.Delimited(b"\r\n.\r\n", max_size=200_000),
    framing.Netstring(max_size=200_000),
    framing.LengthPrefixed(4, max_size=200_000),
    framing.LengthPrefixed(2, byteorder="little", offset=1, max_size=60_000),
    framing.LengthPrefixed(6, prefix="digits", max_size=200_000),
    framing.LengthPrefixed(prefix="varint", max_size=200_000),
    framing.Typed({b"A": 8, b"B": framing.LengthPrefixed(4, max_size=200_000)}),
]

AUTHORITY = trustme.CA()


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's, who trusts it."""
    with tempfile.TemporaryDirectory() as folder:
        issued = AUTHORITY.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(f"{folder}/cert")
        issued.private_key_pem.write_to_path(f"{folder}/key")
        AUTHORITY.cert_pem.write_to_path(f"{folder}/authority")
        return tls.server_context(f"{folder}/cert", f"{folder}/key"), tls.client_context(f"{folder}/authority")


SERVER_TLS, CLIENT_TLS = contexts()

# Where to listen, what the server speaks, and what the client.
TRANSPORTS: dict[str, Callable[[Path], tuple[str, dict[str, Any], dict[str, Any]]]] = {
    "tcp": lambda _: ("127.0.0.1:0", {}, {}),
    "unix": lambda folder: (f"unix:{folder / 'socket'}", {}, {}),
    "shared_memory": lambda folder: (f"shm:{folder / 'socket'}", {}, {}),
    "tls": lambda _: ("127.0.0.1:0", {"tls": SERVER_TLS}, {"tls": CLIENT_TLS}),
}


def messages(kind: Framing) -> list[bytes]:
    if isinstance(kind, framing.FixedLength):
        return [b"123456789", b"\0" * 9, b"\xff\n\r\0 hola"]
    if isinstance(kind, framing.Typed):
        return [b"A12345678", b"B", b"B" + b"\0\xff\n" * 20_000, b"A\n\0\n\0\n\0\n\0"]
    sizes = [1, 2, 300, 5_000, 59_999] if kind.max_size < 200_000 else [0, 1, 2, 300, 5_000, 199_998]
    fill = b"hola que tal " if isinstance(kind, framing.Delimited) else b"\0\xff\n\r\x80"
    return [(fill * (size // len(fill) + 1))[:size] for size in sizes]


def typed(kind: Framing, message: bytes) -> bytes:
    """`message` as `kind` can carry it."""
    if isinstance(kind, framing.FixedLength):
        return message.rjust(kind.size, b"-")
    return b"B" + message if isinstance(kind, framing.Typed) else message


def outcome(function: Callable[[], object]) -> object:
    """What came of it, in words that are the same everywhere."""
    try:
        return function()
    except BrokenError:
        return "broken"
    except EnchufeError as error:
        return type(error).__name__


def transcript(address: str, kind: Framing, dialing: dict[str, Any]) -> list[object]:
    """The conversation of every cell, from the client's side."""
    said: list[object] = []
    texts = messages(kind)
    # Question and answer; then all at once, and a half-close: "I am done sending, still listening".
    with connected(address, kind, **dialing) as client:
        said += [client.ask(text) == text for text in texts]
        burst = texts * (40 if len(texts) * max(map(len, texts)) < 100_000 else 3)

        def send_all() -> None:
            client.send(*burst)
            client.end()

        sender = threading.Thread(target=send_all)
        sender.start()
        answers = list(client)
        sender.join()
        said += [answers[:-1] == burst, answers[-1:] == [b"A-goodbye"], client.receive()]
    # The handler ends first: everything it said arrives, then a clean end.
    with connected(address, kind, **dialing) as client:
        client.send(texts[0], typed(kind, b"bye.."), texts[0])
        said.append([answer == texts[0] for answer in client])
    # A bug in a handler is no clean end, and hurts nobody else.
    with connected(address, kind, **dialing) as client, connected(address, kind, **dialing) as other:
        client.send(texts[0])
        said.append(client.receive() == texts[0])
        client.send(typed(kind, b"boom"))
        said += [outcome(client.receive), other.ask(texts[0]) == texts[0]]
    # Half a message and an end: the server hears of no message, and says nothing.
    with connected(address, kind, **dialing) as client:
        half = b"".join(kind.encode(texts[-1]))[:-1]
        client.reframe(framing.UntilClose())
        client.send(half)
        client.end()
        said.append(outcome(client.receive))
    return said


@pytest.mark.parametrize("kind", FRAMINGS, ids=lambda kind: type(kind).__name__ + getattr(kind, "prefix", ""))
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_transcript(
    engine: str, transport: str, kind: Framing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "enchufe.server")  # the handler's bug is meant
    count = len(messages(kind))
    where, serving, dialing = TRANSPORTS[transport](tmp_path)
    with ENGINES[engine](echo, where, kind, drain=5, **serving) as (address, *_):
        said = transcript(address, kind, dialing)
    cut = None if transport == "unix" else "broken"  # a Unix socket cannot tell a cut from an end
    assert said == [True] * count + [True, True, None] + [[True]] + [True, cut, True] + [b""]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("engine", ENGINES)
def test_until_close(engine: str, transport: str, tmp_path: Path) -> None:
    async def upper(connection: object) -> None:
        message = await connection.receive()  # type: ignore[attr-defined]
        await connection.send(message.upper())  # type: ignore[attr-defined]

    where, serving, dialing = TRANSPORTS[transport](tmp_path)
    with ENGINES[engine](upper, where, framing.UntilClose(), **serving) as (address, *_):
        for text in (b"", b"hola", b"x" * 300_000):
            with connected(address, framing.UntilClose(), **dialing) as client:
                client.send(text)
                client.end()
                assert client.receive() == text.upper()
                assert client.receive() is None

"""What a stranger in plain text learns of a listener that encrypts: that it does, and nothing of what it is for."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from enchufe import events
from enchufe.session import Door
from enchufe.session.strangers import Strangers
from enchufe.transfer import messages as m
from enchufe.transfer.message import Role
from enchufe.transfer.receiver import Receiver
from enchufe.transfer.sender import Sender
from enchufe.transports import Listener
from tests.sessions import encrypted
from tests.sessions.transfers import HERE, PATIENCE


def answer(machine: type[Any], said: bytes) -> bytes:
    """All that a listener which runs this machine says to whoever says that."""
    listener = Listener(HERE)
    context = encrypted.contexts()[0]
    with listener, Door(listener, machine, PATIENCE, context=context, admit=encrypted.admit):
        host, _, port = listener.addresses[0].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
            sock.sendall(said)
            heard = b""
            while piece := sock.recv(4096):
                heard += piece
    return heard


HELLO = b"".join(m.frame(m.Hello(Role.SENDER, b"s" * 16, 1)))


@pytest.mark.parametrize("machine", [Sender, Receiver])
@pytest.mark.parametrize(
    "said",
    [
        HELLO,
        b"".join(m.frame(m.Hello(Role.RECEIVER, b"s" * 16, 1))),
        HELLO[:9],
        HELLO.replace(b"enchufe", b"enchufa"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["a sender", "a receiver", "half a HELLO", "no HELLO", "something else"],
)
def test_everybody_hears_the_same(machine: type[Any], said: bytes) -> None:
    assert answer(machine, said) == answer(Receiver, HELLO)
    assert b"leave out --plain" in answer(machine, said)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (HELLO.replace(b"enchufe\1\1", b"enchufe\7\7"), "version"),
        (HELLO.replace(b"enchufe", b"enchufa"), "remote_protocol"),
        (b"GET / HTTP/1.1\r\n\r\n" * 9, None),
    ],
    ids=["another version", "another HELLO", "no HELLO"],
)
def test_who_says_a_hello_that_is_not_understood_is_told_of_once(said: bytes, kind: str | None) -> None:
    told: list[events.Event] = []
    listener = Listener(HERE)
    with listener, Door(listener, Receiver, PATIENCE, on_event=told.append):
        host, _, port = listener.addresses[0].rpartition(":")
        for _ in range(2):
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
                sock.sendall(said)
                while sock.recv(4096):
                    pass
    assert [event.kind for event in told if isinstance(event, events.Failed)] == ([] if kind is None else [kind])


def test_strangers_from_everywhere_fill_no_terminal() -> None:
    strangers = Strangers()
    told = [strangers.is_new(f"10.0.0.{host}:{port}") for port in (1, 2) for host in range(100)]
    assert told == [True] * 16 + [False] * 184

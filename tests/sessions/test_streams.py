"""How many streams there are where nobody says how many."""

from __future__ import annotations

import socket

import pytest

from enchufe.entry import BLOCK_SIZE
from enchufe.session import base
from enchufe.session.streams import Stream
from enchufe.store.memory import MemoryStore
from enchufe.transports import tcp
from tests.sessions.transfers import transfer

NEAR, FAR, FARTHER = (1000.0, 1000.0), (0.0, 1000.0), (0.0, 0.0)  # from how long a round trip on it is far, and farther
HAD, MISSING = b"reno", b"missing"  # reno is in every kernel, and for everybody


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="nobody tells the round trip here")
@pytest.mark.parametrize("sender_dials", [True, False])
@pytest.mark.parametrize(
    ("bounds", "control", "said", "streams"),
    [
        (NEAR, HAD, None, 2),
        (NEAR, MISSING, None, 2),
        (FAR, HAD, None, 8),
        (FAR, MISSING, None, 16),
        (FARTHER, HAD, None, 16),
        (FARTHER, MISSING, None, 16),
        (FARTHER, MISSING, 5, 5),
        (NEAR, HAD, 5, 5),
    ],
)
def test_it_depends_on_the_way_and_on_what_a_loss_does(
    monkeypatch: pytest.MonkeyPatch,
    bounds: tuple[float, float],
    control: bytes,
    said: int | None,
    streams: int,
    sender_dials: bool,
) -> None:
    monkeypatch.setattr(tcp, "NEAR", bounds[0])
    monkeypatch.setattr(base, "_FARTHER", bounds[1])
    monkeypatch.setattr(tcp, "_FAR_CONTROL", control)
    dialed: list[int] = []

    class Told(Stream):
        def start(self) -> bool:
            if not self.begun:
                dialed.append(self.number)
            return super().start()

    monkeypatch.setattr(base, "Stream", Told)
    store, inbox = MemoryStore(), MemoryStore()
    store.add("big", bytes(4 * BLOCK_SIZE))
    transfer(store.source, inbox.begin, streams=said, sender_dials=sender_dials)
    assert inbox.contents() == store.contents()
    assert dialed == list(range(1, streams))

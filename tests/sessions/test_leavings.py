"""What a transfer had is gone with it: some 10 MB, which Python's search for garbage would count as a few objects."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enchufe import events
from enchufe.entry import BLOCK_SIZE
from enchufe.session import ReceivingSession, SendingSession
from tests.sessions.kept import kept_bytes
from tests.sessions.relay import CuttingRelay
from tests.sessions.transfers import send
from tests.until import until

BIG = random.Random(5).randbytes(9 * BLOCK_SIZE)


@pytest.fixture(autouse=True)
def _no_search_for_garbage() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("asks", [False, True], ids=["unasked", "asked"])
@pytest.mark.parametrize("sender_dials", [True, False], ids=["sender dials", "receiver dials"])
def test_attempts_that_were_cut_leave_no_memory_behind(tmp_path: Path, *, sender_dials: bool, asks: bool) -> None:
    (tmp_path / "big").write_bytes(BIG)
    inbox = tmp_path / "inbox"
    sessions: list[weakref.ref[Any]] = []

    class Sends(SendingSession):
        def __init__(self, *over: Any, **how: Any) -> None:
            super().__init__(*over, **how)
            sessions.append(weakref.ref(self))

    class Receives(ReceivingSession):
        def __init__(self, *over: Any, **how: Any) -> None:
            super().__init__(*over, **how)
            sessions.append(weakref.ref(self))

    # With something from before to be read again, and something on the other streams.
    # Three streams may have a part of a block each, and nothing is kept of those.
    with CuttingRelay(4 * BLOCK_SIZE, 2 * BLOCK_SIZE, there=sender_dials, kept=lambda: kept_bytes(inbox) > 0) as relay:
        ends = send(
            tmp_path / "big",
            inbox,
            relay=relay,
            streams=3,
            sender_dials=sender_dials,
            retry=30.0,
            sending=Sends,
            receiving=Receives,
            ask=(lambda _: True) if asks else None,
        )
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert (ends.sender if sender_dials else ends.receiver).of(events.Retrying)
    assert len(sessions) >= 4
    until(lambda: not any(session() for session in sessions))  # a stream may still have been at dialing


def test_what_has_ended_a_session_holds_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG)
    sessions: list[weakref.ref[Any]] = []

    class Fenced(SendingSession):
        def _heed(self, message: Any) -> None:
            if len(sessions) == 0:
                sessions.append(weakref.ref(self))
                self.fence()
            super()._heed(message)

    ends = send(tmp_path / "big", tmp_path / "inbox", retry=30.0, sending=Fenced)
    assert ends.sender.receipt.files == 1
    assert len(ends.sender.of(events.Retrying)) == 1
    until(lambda: sessions[0]() is None)

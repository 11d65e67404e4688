"""What two threads of one side can do to each other, forced: one waits at the very line where the other gets in."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from enchufe.buffer import Buffer
from enchufe.entry import BLOCK_SIZE, Entry, Reason
from enchufe.session import ReceivingSession, SendingSession
from enchufe.store import LocalStore, Source
from enchufe.transfer.message import Message
from enchufe.transfer.sender import Work
from tests.sessions.transfers import PATIENCE, transfer

BIG = random.Random(11).randbytes(6 * BLOCK_SIZE + 4_321)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(BIG)
    return path


def test_a_name_is_free_before_it_is_offered_again(big: Path, tmp_path: Path) -> None:
    """A file is offered again, and a stream has just done with a block of what it was."""
    claimed, goes_on, done = (threading.Event() for _ in range(3))

    class LeavesOut(SendingSession):
        def read(self, stream: int, work: Work, block: memoryview) -> list[Buffer]:
            assert not isinstance(work, list)
            entry = work[0].entry
            if not stream and entry.id == 0:
                assert claimed.wait(PATIENCE)
                self._unsendable.append((entry, Reason.CHANGED))
                return []
            return super().read(stream, work, block)

    class Slow(ReceivingSession):
        def take(self, stream: int, message: Message) -> None:
            super().take(stream, message)
            if goes_on.is_set():
                done.set()

        def _verify(self, entry: Entry, payload: Buffer, digest: bytes) -> None:
            if entry.id == 0 and not claimed.is_set():
                claimed.set()
                assert goes_on.wait(PATIENCE)
            super()._verify(entry, payload, digest)

        def _drop(self) -> None:
            super()._drop()
            if self._offers and self.machine.dropping:
                goes_on.set()
                assert done.wait(PATIENCE)

    ends = transfer(
        lambda: Source([big]),
        LocalStore(tmp_path / "inbox").begin,
        streams=2,
        sending=LeavesOut,
        receiving=Slow,
    )
    assert done.is_set()
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert (tmp_path / "inbox" / "big").read_bytes() == BIG

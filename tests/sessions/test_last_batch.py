"""What the last small files on another stream make possible is said at once: nobody else wakes stream 0 for it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from enchufe import link
from enchufe.buffer import Buffer
from enchufe.session import ReceivingSession, SendingSession
from enchufe.store.memory import MemoryStore
from enchufe.transfer.sender import Work
from enchufe.transfer.states import State
from enchufe.transports import tcp
from tests.sessions.transfers import PATIENCE, transfer


@pytest.mark.parametrize("linked", [False, True])
def test_stream_0_goes_on_when_the_last_batch_is_said(monkeypatch: pytest.MonkeyPatch, linked: bool) -> None:
    monkeypatch.setattr(tcp, "NEAR", 0.0)  # small files go on every stream
    monkeypatch.setattr(link, "PING_AFTER", 1e6)
    store, inbox = MemoryStore(), MemoryStore()
    store.add("a", b"a")
    if linked:
        store.nodes[b"b",] = store.nodes[b"a",]
    waits = threading.Event()

    class Sends(SendingSession):
        def _take_work(self) -> Work | None:
            return None

        async def _say_more(self) -> None:
            await super()._say_more()
            machine = self.machine
            if machine.state is State.SENDING and machine._wanted and not self.link.outgoing:
                waits.set()  # and nothing more comes

        def read(self, stream: int, work: Work, block: memoryview) -> list[Buffer]:
            assert waits.wait(PATIENCE)
            return super().read(stream, work, block)

    class Silent(ReceivingSession):
        """It says nothing of how far it is, which would wake the sender."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.machine.progress = lambda now: None  # type: ignore[method-assign]

    ends = transfer(store.source, inbox.begin, streams=2, sending=Sends, receiving=Silent)
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert inbox.contents() == store.contents()

"""What an encrypted transfer had is gone with it, as tests/sessions/test_leavings.py has it of those in plain text."""

from __future__ import annotations

import gc
import random
import threading
from pathlib import Path

import pytest

import enchufe
from enchufe import events
from enchufe.entry import BLOCK_SIZE
from enchufe.session import ReceivingSession, SendingSession
from tests.living import living
from tests.secured.people import PATIENCE
from tests.sessions.kept import kept_bytes
from tests.sessions.relay import CuttingRelay
from tests.until import until

BIG = random.Random(6).randbytes(9 * BLOCK_SIZE)
CUT = 4 * BLOCK_SIZE  # over three streams: one of the blocks is whole, so that it is kept


@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_encrypted_attempts_that_were_cut_leave_no_memory_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sends: bool
) -> None:
    """What TLS says from a cut on is the error that was raised: it must not have all that it came through."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    inbox = tmp_path / "inbox"
    big = tmp_path / "big"
    big.write_bytes(BIG)
    codes: list[str] = []
    cuts: list[events.Event] = []
    shown = threading.Event()
    made, left = living(monkeypatch, SendingSession, ReceivingSession)

    with CuttingRelay(CUT, CUT, there=sends, kept=lambda: kept_bytes(inbox) > 0) as relay:

        def told(event: events.Event) -> None:
            if isinstance(event, events.Listening):
                relay.to = event.address
            elif isinstance(event, events.Code):
                codes.append(event.code)
                shown.set()

        def retried(event: events.Event) -> None:
            if isinstance(event, events.Retrying):
                cuts.append(event)

        def listen() -> None:
            if sends:
                enchufe.receive_files(inbox, listen="127.0.0.1:0", announce=False, on_event=told)
            else:
                enchufe.send_files([big], listen="127.0.0.1:0", announce=False, compress="never", on_event=told)

        listener = threading.Thread(target=listen)
        gc.collect()
        gc.disable()
        try:
            listener.start()
            assert shown.wait(PATIENCE)
            if sends:
                enchufe.send_files(
                    [big], to=relay.address, code=codes[0], compress="never", streams=3, on_event=retried
                )
            else:
                enchufe.receive_files(inbox, source=relay.address, code=codes[0], streams=3, on_event=retried)
            listener.join(PATIENCE)
            assert not listener.is_alive()
            assert cuts
            assert made() >= 4
            until(lambda: not left())
        finally:
            gc.enable()
    assert (inbox / "big").read_bytes() == BIG

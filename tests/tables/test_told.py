"""What either side tells the other of an error of its own, and what the other makes of it."""

from __future__ import annotations

import pytest

from enchufe.errors import (
    BrokenError,
    BusyError,
    DeadlineExceeded,
    EnchufeError,
    NoSpaceError,
    Refused,
    RemoteProtocolError,
    StoreError,
    VerificationError,
)
from enchufe.transfer.machine import InterruptedThere, Looked, TakenOver, VersionError, told_by_peer, told_to_peer
from enchufe.transfer.messages import Code

OURS = "cannot write /home/ana/diary"


@pytest.mark.parametrize(
    ("error", "code", "there", "words"),
    [
        (RemoteProtocolError("a digest too many"), Code.PROTOCOL, Refused, ": a digest too many"),
        (VersionError("versions 7 to 9"), Code.VERSION, VersionError, ": versions 7 to 9"),
        (VerificationError("block 3"), Code.VERIFICATION, VerificationError, ": block 3"),
        (Refused("he said no"), Code.REFUSED, Refused, ": he said no"),
        (BusyError("eight are here"), Code.BUSY, BusyError, ": eight are here"),
        (Looked("that was enough"), Code.LOOKED, Looked, ""),
        (TakenOver("it came again"), Code.TAKEN_OVER, TakenOver, ""),
        (KeyboardInterrupt(), Code.INTERRUPTED, InterruptedThere, ""),
        # What is this machine's own business is not told: its disk, its paths, its faults.
        (NoSpaceError(OURS), Code.NO_SPACE, Refused, ""),
        (StoreError(OURS), Code.STORE, Refused, ""),
        (DeadlineExceeded(OURS), Code.INTERNAL, BrokenError, ""),
        (ZeroDivisionError(OURS), Code.INTERNAL, BrokenError, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_and_what_the_other_side_makes_of_it(
    error: BaseException, code: Code, there: type[EnchufeError], words: str
) -> None:
    told = told_to_peer(error)
    assert told.code == code
    assert OURS not in told.message
    heard = told_by_peer(told)
    assert type(heard) is there
    assert "".join(str(heard).partition(": ")[1:]) == words

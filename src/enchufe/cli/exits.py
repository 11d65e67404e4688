"""Exit codes: what a script can tell from how a command ended."""

from __future__ import annotations

from typing import Final

from enchufe.errors import (
    BrokenError,
    BusyError,
    DeadlineExceeded,
    EnchufeError,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
    StoreError,
)

DONE: Final = 0
UNEXPECTED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
CUT: Final = 4
UNVERIFIED: Final = 5
DISK: Final = 6
LEFT_OUT: Final = 7
INTERRUPTED: Final = 130

_CODES: Final = (
    (LocalProtocolError, USAGE),
    (Refused, REFUSED),
    (BrokenError, CUT),
    (DeadlineExceeded, CUT),
    (BusyError, CUT),
    (RemoteProtocolError, UNVERIFIED),
    (StoreError, DISK),
)


def exit_code(error: EnchufeError) -> int:
    """The exit code for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), UNEXPECTED)

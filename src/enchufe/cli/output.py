"""Standard output: whole writes, and a sentence where they fail."""

from __future__ import annotations

import os
import select
from typing import Final

from enchufe.errors import StoreError

STDOUT: Final = 1


def write(data: bytes) -> None:
    """Write all of `data` at once: somebody may be waiting for it.

    Not through `sys.stdout`, which would keep what it could not write and fail again when the program ends.

    Raises:
        StoreError: it cannot be written: the disk is full, or whoever read it is gone.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(STDOUT, rest) :]
        except BlockingIOError:  # somebody we share it with made it so
            poller = select.poll()
            poller.register(STDOUT, select.POLLOUT)
            poller.poll()
        except OSError as error:
            raise StoreError(
                f"cannot write standard output: {error.strerror}",
                hint="Whoever reads it has gone, or the disk behind it is full.",
            ) from error

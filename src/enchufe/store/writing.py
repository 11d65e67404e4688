"""Writing: files of ours are opened again and filled, whatever their modes, and however little is taken at once."""

from __future__ import annotations

import os
from typing import Final

AGAIN: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_own(name: bytes, directory: int, flags: int) -> int:
    """Open a file of ours, even if its mode keeps us out.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        return os.open(name, flags, dir_fd=directory)
    except PermissionError:
        # A symlink cannot have taken its place: only we get into the area.
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode & 0o777
        os.chmod(name, mode | 0o600, dir_fd=directory)
        try:
            return os.open(name, flags, dir_fd=directory)
        finally:
            os.chmod(name, mode, dir_fd=directory)


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`.

    Raises:
        OSError: it could not be written.
    """
    while data:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written

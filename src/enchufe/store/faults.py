"""An OSError becomes a StoreError here, once: what we were doing, to what, and what to do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Final

from enchufe.errors import LocalProtocolError, NoSpaceError, StoreError, VerificationError
from enchufe.printable import printable

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

# These say something about us, never about the one file that was wanted.
OUT_OF_MEANS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_HINTS: Final = {
    errno.EACCES: "Check who owns it and what its permissions allow.",
    errno.EPERM: "Check who owns it and what its permissions allow.",
    errno.ENOENT: "Check the name, and whether it was moved or removed.",
    errno.ENOTDIR: "Something on the way there is not a folder, or not any more.",
    errno.ELOOP: "A symbolic link is in the way; enchufe does not follow them there.",
    errno.EROFS: "That file system is mounted read-only: choose another folder.",
    errno.EFBIG: "That file system, or a limit (`ulimit -f`), does not allow a file that big.",
    errno.EXDEV: "Another file system is mounted inside the folder: send into that one directly.",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`), or do fewer things at once.",
    errno.ENFILE: "The machine has too many files open: close some programs.",
    errno.EIO: "The disk reports errors: check it before you trust it with anything.",
}


def store_error(error: OSError, doing: str, path: bytes | str) -> StoreError:
    """The StoreError to raise `from error`; a NoSpaceError where the disk or a quota is full.

    Args:
        error: what the system said.
        doing: a verb in the infinitive: `cannot {doing} {path}`.
        path: what it was about, for a person.
    """
    told = f"cannot {doing} {printable(path)}: {os.strerror(error.errno or 0)}"
    if error.errno in FULL:
        return NoSpaceError(told)
    return StoreError(told, hint=_HINTS.get(error.errno or 0))


def damaged(path: Iterable[bytes]) -> VerificationError:
    """What to raise for a file whose content is not of the digest that was told of it."""
    return VerificationError(
        f"a block of '{printable(b'/'.join(path))}' arrived damaged",
        hint="Send it again: what arrived undamaged is kept.",
    )


def check_path(path: bytes) -> None:
    """Refuse what the system would not take for a path, or Python for the current folder.

    Raises:
        LocalProtocolError: it is empty or holds NUL.
    """
    if not path or b"\0" in path:
        raise LocalProtocolError(f"'{printable(path)}' is no path", hint="Name a file or a folder; here is `.`.")


def check_name(name: str | bytes) -> bytes:
    """The name that a user gives a file that has none here, as bytes.

    Raises:
        LocalProtocolError: no file can be called so.
    """
    given = os.fsencode(name)
    if not given or given in (b".", b"..") or b"/" in given or b"\0" in given or len(given) > 255:
        raise LocalProtocolError(
            f"'{printable(given)}' cannot be the name of a file", hint="Give it a short one without a slash."
        )
    return given

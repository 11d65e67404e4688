"""The two system calls of Linux that Python lacks, through ctypes, and what to do where they are missing."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final

# Tests turn them off to see that nothing depends on them.
use_renameat2 = True
use_syncfs = True

_RENAME_NOREPLACE: Final = 1

# Not in this kernel; not on this file system; or a sandbox that says EPERM to what it does not know. A real EPERM
# comes again from what is tried instead.
_UNSUPPORTED: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM})
_NO_HARD_LINKS: Final = _UNSUPPORTED | {errno.EMLINK}


def _function(name: str, *arguments: Any) -> Any:
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError, TypeError):  # another system, an older libc
        return None
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return function


_renameat2: Final = _function("renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_syncfs: Final = _function("syncfs", ctypes.c_int)


def rename_noreplace(source_dir: int, source: bytes, target_dir: int, target: bytes) -> None:
    """Rename, and never replace what has the name already.

    Where the system cannot do it in one step, a file or symlink is linked and then unlinked, which is as safe. A
    directory cannot be linked: there plain rename follows a look, and what comes in between is lost only if it is
    an empty directory. A file system without hard links too (vfat under an old kernel) leaves that gap for files.

    Raises:
        FileExistsError: the name is taken.
        OSError: anything else.
    """
    if use_renameat2 and _renameat2 is not None:
        if _renameat2(source_dir, source, target_dir, target, _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _UNSUPPORTED:
            raise OSError(number, os.strerror(number))
    try:
        os.link(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _look_and_rename(source_dir, source, target_dir, target)
    else:
        os.unlink(source, dir_fd=source_dir)


def _look_and_rename(source_dir: int, source: bytes, target_dir: int, target: bytes) -> None:
    taken = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    try:
        os.stat(target, dir_fd=target_dir, follow_symlinks=False)
    except FileNotFoundError:
        try:
            os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir)
        except (NotADirectoryError, IsADirectoryError) as error:
            raise taken from error
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise taken from error
            raise
    else:
        raise taken


def has_syncfs() -> bool:
    """Whether there is a syncfs(): asked with no descriptor, it says EBADF where there is."""
    return use_syncfs and _syncfs is not None and _syncfs(-1) == -1 and ctypes.get_errno() == errno.EBADF


def syncfs(descriptor: int) -> None:
    """Have all that was written to the file system of `descriptor` on disk; only where `has_syncfs()`.

    Errors of writing back are reported from the time the descriptor was opened (Linux 5.8), so that must have been
    before the first write.

    Raises:
        OSError: something could not be written.
    """
    if _syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

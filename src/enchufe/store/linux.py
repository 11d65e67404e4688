"""The system calls of Linux that Python lacks, through ctypes, and what to do where they are missing."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final

# Tests turn them off to see that nothing depends on them.
use_renameat2 = True
use_syncfs = True
use_sync_file_range = True
use_fallocate = True

_RENAME_NOREPLACE: Final = 1
_SYNC_FILE_RANGE_WRITE: Final = 2
_PUNCH_HOLE: Final = 3  # with FALLOC_FL_KEEP_SIZE
# Where there is no disk to begin writing to: tmpfs, ramfs (statfs(2)).
_IN_MEMORY: Final = frozenset({0x01021994, 0x858458F6})

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
_sync_file_range: Final = _function("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_fallocate: Final = _function("fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fstatfs: Final = _function("fstatfs", ctypes.c_int, ctypes.c_char_p)


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


def has_disk(descriptor: int) -> bool:
    """Whether it makes sense to `begin_writing()` to the file system of `descriptor`."""
    if not use_sync_file_range or _sync_file_range is None or _fstatfs is None:
        return False
    info = ctypes.create_string_buffer(512)  # more than struct statfs has anywhere; f_type comes first
    if _fstatfs(descriptor, info) != 0:
        return False
    return ctypes.c_ulong.from_buffer(info).value & 0xFFFF_FFFF not in _IN_MEMORY


def begin_writing(descriptor: int) -> None:
    """Have the disk begin with what was written to a file, and do not wait; only where it `has_disk()`.

    What it says is not looked at: it is no promise, and an error shows in the fsync.
    """
    _sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)


def blank(descriptor: int, offset: int, size: int) -> None:
    """Make a part of a file zeros: a hole, where the file system knows them.

    Raises:
        OSError: it could not be written.
    """
    if use_fallocate and _fallocate is not None and _fallocate(descriptor, _PUNCH_HOLE, offset, size) == 0:
        return
    while size > 0:
        written = os.pwrite(descriptor, bytes(min(size, 1 << 20)), offset)
        offset += written
        size -= written

"""The system calls of Linux that Python lacks, through ctypes, and what to do where they are missing."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Sequence
from typing import Any, Final

from enchufe.store.hand import renaming

# Tests turn them off to see that nothing depends on them.
use_renameat2 = True
use_syncfs = True
use_sync_file_range = True
use_fallocate = True
use_landlock = True

_SYNC_FILE_RANGE_WRITE: Final = 2
_PUNCH_HOLE: Final = 3  # with FALLOC_FL_KEEP_SIZE
# Where there is no disk to begin writing to: tmpfs, ramfs (statfs(2)).
_IN_MEMORY: Final = frozenset({0x01021994, 0x858458F6})

# The same on every architecture that Python's Linux builds are made for (linux/landlock.h, asm-generic/unistd.h).
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_PATH_BENEATH: Final = struct.Struct("=Qi")
_PR_SET_NO_NEW_PRIVS: Final = 38

# statx(2): its flags, the words of the result that have the attributes and the time of birth, which is asked for and
# may not be known, and the attributes of what nobody may remove or replace.
_NOFOLLOW_EMPTY_PATH: Final = 0x1100
_STATX_WORDS: Final = 32
_STATX_ATTRIBUTES: Final = 1
_STATX_BIRTH: Final = 10
_STATX_BTIME: Final = 0x800
_IMMUTABLE_OR_APPEND_ONLY: Final = 0x30

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


_rename: Final = renaming()
_syncfs: Final = _function("syncfs", ctypes.c_int)
_sync_file_range: Final = _function("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_RANGE: Final = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate: Final = _function("fallocate64", *_RANGE) or _function("fallocate", *_RANGE)  # musl has only this
_statx: Final = _function(
    "statx", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(ctypes.c_uint64)
)
_fstatfs: Final = _function("fstatfs", ctypes.c_int, ctypes.c_char_p)
_syscall: Final = _function("syscall", *[ctypes.c_long] * 5)
_prctl: Final = _function("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4)


def rename_noreplace(source_dir: int, source: bytes, target_dir: int, target: bytes) -> None:
    """Rename, and never replace what has the name already.

    Where the system cannot do it in one step, a file or symlink is linked and then unlinked, which is as safe. A
    directory cannot be linked: there plain rename follows a look, and what comes in between is lost only if it is
    an empty directory. A file system without hard links too (vfat under an old kernel) leaves that gap for files.

    Raises:
        FileExistsError: the name is taken.
        OSError: anything else.
    """
    if use_renameat2 and _rename is not None:
        try:
            _rename(source_dir, source, target_dir, target)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            return
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


def is_fixed(directory: int, name: bytes = b"") -> bool:
    """Whether what has a name there, or the directory itself, is immutable or append-only (chattr(1)).

    Then not even root replaces it, or anything in it, and permissions do not tell. False where the system does not.
    """
    found = (ctypes.c_uint64 * _STATX_WORDS)()
    if _statx is None or _statx(directory, name, _NOFOLLOW_EMPTY_PATH, 0, found) != 0:
        return False
    return bool(found[_STATX_ATTRIBUTES] & _IMMUTABLE_OR_APPEND_ONLY)


def born(directory: int, name: bytes) -> tuple[int, int]:
    """When what has a name there was made, seconds and nanoseconds; zeros where the system does not say.

    Two things that have had one inode number, one after the other, differ by it.
    """
    found = (ctypes.c_uint64 * _STATX_WORDS)()
    if _statx is None or _statx(directory, name, _NOFOLLOW_EMPTY_PATH, _STATX_BTIME, found) != 0:
        return 0, 0
    nanoseconds, _ = struct.unpack("=Ii", struct.pack("=Q", found[_STATX_BIRTH + 1]))
    return found[_STATX_BIRTH], nanoseconds


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
    # A long, but 4 bytes on s390x, where a long would take in the field behind it.
    told = {kind.from_buffer(info).value & 0xFFFF_FFFF for kind in (ctypes.c_ulong, ctypes.c_uint)}
    return told.isdisjoint(_IN_MEMORY)


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


def landlock_version() -> int:
    """Which Landlock this kernel has (its ABI version); 0 where it has none, or it is turned off."""
    if not use_landlock or sys.platform != "linux" or _syscall is None or _prctl is None:
        return 0
    return max(0, int(_syscall(_CREATE_RULESET, 0, 0, _CREATE_RULESET_VERSION, 0)))


def landlock(handled: int, allowed: Sequence[tuple[int, int]]) -> None:
    """Take rights from this thread, and from all that it starts from now on; only with a `landlock_version()`.

    For good. Descriptors that are open keep what they can do. No program that is started then gains rights by setuid.

    Args:
        handled: the rights to take: LANDLOCK_ACCESS_FS_* of that version.
        allowed: descriptors of files and directories, each with the rights that stay for it and what is below.

    Raises:
        OSError: the kernel refused it, and nothing was taken.
    """
    attributes = ctypes.c_uint64(handled)
    ruleset = _checked(_syscall(_CREATE_RULESET, ctypes.addressof(attributes), ctypes.sizeof(attributes), 0, 0))
    try:
        for descriptor, stays in allowed:
            rule = ctypes.create_string_buffer(_PATH_BENEATH.pack(stays, descriptor))
            _checked(_syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.addressof(rule), 0))
        _checked(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(_syscall(_RESTRICT_SELF, ruleset, 0, 0, 0))
    finally:
        os.close(ruleset)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result

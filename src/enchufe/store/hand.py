"""A hand: a process that reads and writes small files for another one, which keeps the books (hands.py).

It is run by its path, and what it imports is what it takes to begin: the rest of the package would cost it three times
as long.
"""

from __future__ import annotations

import _socket  # `socket` is made of it, and costs half as much again as all the rest of the start
import errno
import marshal
import mmap
import os
import struct
import sys
from zlib import crc32

if __name__ == "__main__":
    sys.path.append(sys.argv[1])  # where the next one is

from blake3 import blake3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final

    Write = tuple[int, bytes, int, int, int, int, bytes, bytes]
    """A file to be made: which folder, name, mode, mtime_ns; where its content is, bytes of it, their digest; its
    identity, empty where that comes from its folder's packed path and its name."""
    Read = tuple[int, bytes, int, int, int]
    """A file to be read: which folder, name, size, mtime_ns; where its content goes."""
    Take = tuple[int, bytes, int, int, int, bytes, bytes]
    """A file to be taken over: which folder, name, mode, mtime_ns; bytes in it, their digest; its identity as above."""

FOLDERS: Final = 32  # that one request may come with, so that few descriptors are open and few on their way at once

# O_NONBLOCK: a FIFO that took a file's place must not hold us up. O_NOCTTY: nor a terminal become ours.
READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | getattr(os, "O_NOCTTY", 0)
NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

SIZE: Final = struct.Struct("=I")  # of what is said, in bytes
BODY: Final = struct.Struct(">16sII32sI")  # a record of the journal (docs/protocol.md, "What is kept"), and its check
CRC: Final = struct.Struct(">I")
_EARLIEST: Final = -1 << 63
_LATEST: Final = (1 << 63) - 1
_SECONDS_32: Final = 1 << 31  # from 1970 to 2038, where a time_t has 32 bits
_SECOND: Final = 1_000_000_000  # nanoseconds
_LENGTH: Final = struct.Struct(">H")
_DESCRIPTOR: Final = struct.Struct("=i")  # as one crosses a socket: SCM_RIGHTS
_VERSION: Final = struct.Struct(">Qq")
_DAMAGED: Final = 0  # in place of an errno: the content is of another digest
_CHANGED: Final = 0  # the file is not what was offered
_RENAME_NOREPLACE: Final = 1


def told_time(mtime_ns: int) -> int:
    """A file's time as offers and journals tell it, in 64 bits: nothing before 1677, nothing after 2262."""
    if _EARLIEST <= mtime_ns <= _LATEST:
        return mtime_ns
    return _LATEST if mtime_ns > 0 else _EARLIEST


def set_time(file: int | bytes, mtime_ns: int, *, directory: int | None = None, follow_symlinks: bool = True) -> None:
    """Give a file its time, or the nearest that the system can tell: nothing after 2038 where a time_t has 32 bits.

    Args:
        file: its descriptor, or its name in `directory`, which is one.

    Raises:
        OSError: it was refused.
    """
    try:
        os.utime(file, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=follow_symlinks)
    except OverflowError:
        mtime_ns = _SECONDS_32 * _SECOND - 1 if mtime_ns > 0 else -_SECONDS_32 * _SECOND
        os.utime(file, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=follow_symlinks)


def read_small(descriptor: int, size: int, mtime_ns: int) -> bytes | None:
    """All of a file that is open; None where it is not a file of this size and modification time, as told.

    Raises:
        OSError: it cannot be read.
    """
    # One byte is asked of an empty file: those in /proc say that they are empty, and are not.
    data = os.read(descriptor, size or 1)
    while 0 < len(data) < size and (more := os.read(descriptor, size - len(data))):
        data += more
    # After reading, which also tells that it was right before.
    info = os.fstat(descriptor)
    right = len(data) == size == info.st_size and info.st_mode & 0o170000 == 0o100000
    return data if right and told_time(info.st_mtime_ns) == mtime_ns else None


def write_small(directory: int, name: bytes, mode: int, mtime_ns: int, data: bytes | bytearray | memoryview) -> int:
    """Make a file of this content, mode (as far as the umask lets it) and time; returns its descriptor.

    Raises:
        OSError: it cannot be written; FileExistsError: there is one of this name.
    """
    descriptor = os.open(name, NEW, mode, dir_fd=directory)
    try:
        written = os.write(descriptor, data)
        while written < len(data):
            written += os.write(descriptor, data[written:])
        set_time(descriptor, mtime_ns)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def packed(above: bytes, name: bytes) -> bytes:
    """The path of `name` in a folder whose path is `above`, empty for a root, as identities are made of."""
    return above + _LENGTH.pack(len(name)) + name


def identity(above: bytes, name: bytes, size: int, mtime_ns: int) -> bytes:
    """Which version of which file, for the journal: 16 bytes; `above` is its folder's packed path, empty for a root."""
    return blake3(packed(above, name) + _VERSION.pack(size, mtime_ns)).digest(16)


def record(file: bytes, block: int, size: int, digest: bytes) -> bytes:
    """What the journal says of a block of the file of this identity."""
    body = BODY.pack(file, block, size, digest, 0)
    return body + CRC.pack(crc32(body))


def renaming() -> Callable[[int, bytes, int, bytes], None] | None:
    """What renames in one step and never replaces what has the name (renameat2); None where this system has no such."""
    import ctypes  # noqa: PLC0415 (it costs as much as all else that a hand begins with, and few take over anything)

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # another system, an older libc
        return None
    renameat2.argtypes = ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
    renameat2.restype = ctypes.c_int

    def rename(source_dir: int, source: bytes, target_dir: int, target: bytes) -> None:
        if renameat2(source_dir, source, target_dir, target, _RENAME_NOREPLACE) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return rename


def main() -> None:
    """Do what is asked for over standard input, a socket, until nobody is left at its other end.

    The first that comes is a descriptor of the memory that contents are in, its size, and where in it is the byte that
    becomes another with every file, so that whoever waits sees that it goes on. From then on each request, which comes
    in memory of its own since a socket might have no room for it, is
    ("write", files, packed paths of the folders, where in the journal to), ("take", the same) or ("read", files), with
    descriptors of the folders, for a "take" of those in which the files are after them, and of the journal in the end.
    To the first the answer is nothing, or the place of the first file that went wrong and an errno, after which no more
    were made; to the second the places of those that were not taken over, for whatever reason, and stay where they
    are; to the third the digests of all, in a row, and the places of those that were not read, each with an errno. 0
    stands for content that is not what was told of it.

    Whoever asks may be gone, and another one take up what he left: then nothing more is begun.
    """
    channel, owner = _socket.socket(fileno=0), int(sys.argv[2])
    try:
        (size, at), descriptors = _asked(channel)
        shared = memoryview(mmap.mmap(descriptors[0], size))
        pulse = shared[at : at + 1]
        _send(channel, True)
        while True:
            (what, *asked), descriptors = _asked(channel)
            if os.getppid() != owner:
                return
            try:
                match what:
                    case "read":
                        answer: Any = _read(shared, pulse, descriptors, *asked)
                    case "take":
                        answer = _take(pulse, descriptors, *asked)
                    case _:
                        answer = _write(shared, pulse, descriptors, *asked)
                _send(channel, answer)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
    except (EOFError, ConnectionError):
        return


def _write(
    shared: memoryview,
    pulse: memoryview,
    folders: Sequence[int],
    files: Sequence[Write],
    paths: Sequence[bytes],
    where: int,
) -> tuple[()] | tuple[int, int]:
    records = []
    wrong: tuple[()] | tuple[int, int] = ()
    for place, (folder, name, mode, mtime_ns, start, size, digest, known) in enumerate(files):
        pulse[0] = place & 0xFF
        data = shared[start : start + size]
        if blake3(data).digest() != digest:
            wrong = place, _DAMAGED
            break
        try:
            os.close(write_small(folders[folder], name, mode, mtime_ns, data))
        except OSError as error:
            wrong = place, error.errno or errno.EIO
            break
        records.append(record(known or identity(paths[folder], name, size, mtime_ns), 0, size, digest))
    told = b"".join(records)
    try:
        if os.pwrite(folders[-1], told, where) < len(told):
            return 0, errno.ENOSPC
    except OSError as error:
        return 0, error.errno or errno.EIO
    return wrong


def _take(
    pulse: memoryview, folders: Sequence[int], files: Sequence[Take], paths: Sequence[bytes], where: int
) -> list[int]:
    rename = renaming()
    if rename is None:
        return list(range(len(files)))
    records = []
    good = []
    for place, (folder, name, mode, mtime_ns, size, digest, known) in enumerate(files):
        pulse[0] = place & 0xFF
        try:
            right = _is_kept(folders[len(paths) + folder], name, mode, mtime_ns, size, digest)
        except OSError:  # whoever asked finds out more, or has it sent again
            right = False
        if right:
            records.append(record(known or identity(paths[folder], name, size, mtime_ns), 0, size, digest))
            good.append(place)
    # Before they are moved: who is killed now may look for one in vain, and never has one that nobody knows of.
    told = b"".join(records)
    try:
        if os.pwrite(folders[-1], told, where) < len(told):
            good = []
    except OSError:
        good = []
    taken = set()
    for place in good:
        pulse[0] = place & 0xFF
        folder, name = files[place][:2]
        try:
            rename(folders[len(paths) + folder], name, folders[folder], name)
        except OSError:
            continue
        taken.add(place)
    return [place for place in range(len(files)) if place not in taken]


def _is_kept(directory: int, name: bytes, mode: int, mtime_ns: int, size: int, digest: bytes) -> bool:
    """Whether a file from before is all there, and ours alone; then it has this mode and time."""
    descriptor = os.open(name, READ, dir_fd=directory)
    try:
        # A second name may be one in the destination: a commit was killed between two steps.
        info = os.fstat(descriptor)
        if info.st_mode & 0o170000 != 0o100000 or info.st_nlink != 1 or info.st_size != size:
            return False
        data = os.read(descriptor, size)
        while 0 < len(data) < size and (more := os.read(descriptor, size - len(data))):
            data += more
        if info.st_uid != os.geteuid() or blake3(data).digest() != digest:
            return False
        if info.st_mode & 0o7777 != mode:
            try:  # noqa: SIM105 (what it takes would have to be imported)
                os.fchmod(descriptor, mode)
            except PermissionError:  # a file system that has no modes
                pass
        if info.st_mtime_ns != mtime_ns:
            set_time(descriptor, mtime_ns)
        return True
    finally:
        os.close(descriptor)


def _read(
    shared: memoryview, pulse: memoryview, folders: Sequence[int], files: Sequence[Read]
) -> tuple[bytes, list[tuple[int, int]]]:
    digests = []
    failed = []
    for place, (folder, name, size, mtime_ns, start) in enumerate(files):
        pulse[0] = place & 0xFF
        data: bytes | None = b""
        try:
            descriptor = os.open(name, READ, dir_fd=folders[folder])
            try:
                data = read_small(descriptor, size, mtime_ns)
            finally:
                os.close(descriptor)
        except OSError as error:
            failed.append((place, error.errno or errno.EIO))
        if data is None:
            failed.append((place, _CHANGED))
        elif len(data) == size:
            shared[start : start + size] = data
        digests.append(blake3(data or b"").digest())
    return b"".join(digests), failed


def _send(channel: _socket.socket, message: Any) -> None:
    data = marshal.dumps(message)
    channel.sendall(SIZE.pack(len(data)) + data)


def _asked(channel: _socket.socket) -> tuple[Any, list[int]]:
    """The next request, and the descriptors that came with it."""
    head, beside, _, _ = channel.recvmsg(SIZE.size, _socket.CMSG_LEN((FOLDERS + 2) * _DESCRIPTOR.size))
    descriptors = [number for _, _, data in beside for (number,) in _DESCRIPTOR.iter_unpack(data)]
    if len(head) < SIZE.size:
        raise EOFError
    memory = descriptors.pop()
    try:
        data = os.pread(memory, SIZE.unpack(head)[0], 0)
    finally:
        os.close(memory)
    return marshal.loads(data), descriptors  # noqa: S302 (from a process of ours, over a socket that has no name)


def answered(channel: _socket.socket) -> Any:
    """The next answer."""
    head = channel.recv(SIZE.size)
    if len(head) < SIZE.size:
        raise EOFError
    data = bytearray(SIZE.unpack(head)[0])
    view = memoryview(data)
    while view:
        count = channel.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return marshal.loads(data)  # noqa: S302 (from a process of ours, over a socket that has no name)


if __name__ == "__main__":
    main()

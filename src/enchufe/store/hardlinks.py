"""Hard links: files that are one, made so at the commit.

Not before: until then every file in a staging area has one name, so that one with two is known to be a name that a
commit was killed over, and never taken for a part file.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from typing import Final

from enchufe.entry import Entry, Kind
from enchufe.store.durable import Written
from enchufe.store.plan import Plan
from enchufe.store.put_away import PutAway

# Not on this file system; or not this often.
_NO_LINKS: Final = frozenset(
    {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL, errno.EACCES}
)
_PIECE: Final = 1 << 20


class HardLinks:
    """The hard links of a delivery.

    Args:
        plan: knows the places.
        written: is told of copies, where there are no links.
    """

    def __init__(self, plan: Plan, written: Written) -> None:
        self._plan = plan
        self._written = written
        self._wanted = PutAway()  # id, parent, name of each, and of what it is to be the same as
        self._begun = 0

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def add(self, entry: Entry, to: Entry) -> None:
        """`entry` is to be the same file as `to`."""
        self._wanted.append((entry.id, entry.parent, entry.name, to.id, to.parent, to.name))

    def make(self) -> None:
        """Make them, in the order they were added.

        Raises:
            OSError: one could not be made, nor a copy.
        """
        for id_, parent, own_name, to, to_parent, to_name in self._wanted:
            self._begun += 1
            directory, source = self._plan.place(Entry(to, to_parent, to_name, Kind.FILE))
            source_dir = os.dup(directory)  # the other place may cost us the descriptor
            try:
                directory, name = self._plan.place(Entry(id_, parent, own_name, Kind.FILE))
                try:
                    os.link(source, name, src_dir_fd=source_dir, dst_dir_fd=directory, follow_symlinks=False)
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    self._copy(source, source_dir, name, directory)
            finally:
                os.close(source_dir)

    def unmake(self) -> None:
        """Take back what was made, as long as all is staged: the next delivery takes over files of one name only."""
        for id_, parent, own_name, *_ in itertools.islice(self._wanted, self._begun):
            with contextlib.suppress(OSError):  # never made; or it stays, and costs that the file is sent again
                directory, name = self._plan.place(Entry(id_, parent, own_name, Kind.FILE))
                os.unlink(name, dir_fd=directory)

    def _copy(self, source: bytes, source_dir: int, name: bytes, directory: int) -> None:
        # The mode that it has by now may keep us out.
        info = os.stat(source, dir_fd=source_dir, follow_symlinks=False)
        os.chmod(source, info.st_mode | 0o600, dir_fd=source_dir)
        reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source_dir)
        try:
            os.fchmod(reading, info.st_mode)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            writing = os.open(name, flags, 0o600, dir_fd=directory)
            try:
                while piece := memoryview(os.read(reading, _PIECE)):
                    while piece:
                        piece = piece[os.write(writing, piece) :]
                os.fchmod(writing, info.st_mode)
                os.utime(writing, ns=(info.st_mtime_ns, info.st_mtime_ns))
            except BaseException:
                os.close(writing)
                raise
            self._written.keep(writing, info.st_mode)
        finally:
            os.close(reading)

"""Leftovers: what deliveries that were cut have left in the destination, and how the next one takes it over."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from dataclasses import dataclass
from typing import Final

from enchufe.entry import BLOCK_SIZE, DIGEST_SIZE, Entry
from enchufe.store import arrived, journal, linux
from enchufe.store.arrived import Identity
from enchufe.store.folders import Folders
from enchufe.store.journal import Journal
from enchufe.store.plan import AREA, Plan
from enchufe.store.records import Kept, Records, Unreadable
from enchufe.store.staging import Area, has_expired

_OPEN_FOLDERS: Final = 4  # in each

# It is gone; or in a lower layer of an overlayfs, which cannot note in the upper one where it went.
_STAYS: Final = frozenset({errno.ENOENT, errno.EXDEV})

_JOURNAL: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class _Leftover:
    """One area that nobody works in.

    Attributes:
        offered: how many of its files were offered, and taken or of no use; once all were, there is nothing more to
            take from it.
        touched: whether anything of it was offered, be it in another version.
        arrived: the roots that its commit has put in place, if it has.
    """

    def __init__(self, area: Area, records: Records, folders: Folders) -> None:
        self.area = area
        self.records = records
        self.folders = folders
        self.folders.pin(AREA, area.descriptor)
        self.offered = 0
        self.touched = False
        self.arrived = arrived.read(area.descriptor)

    def close(self) -> None:
        self.folders.close()
        self.records.close()


@dataclass(frozen=True, slots=True)
class Found:
    """Where a file is, and its blocks by the journal there."""

    left: _Leftover
    kept: Kept

    @property
    def folders(self) -> Folders:
        """The directories that are there."""
        return self.left.folders


class Leftovers:
    """What can be taken over in one delivery. Areas with nothing in them are removed.

    Nobody else is kept out of an area before something is taken from it: who does not want it does not hold it.

    Args:
        dead: areas of dead owners, locked, those changed last first; they become this object's.
        folders: the directories of the delivery.
    """

    def __init__(self, dead: list[Area], folders: Folders) -> None:
        self._left: list[_Leftover] = []
        for area in dead:
            records = _records(area)
            left = _Leftover(area, Records(None) if records is None else records, folders.mirror(_OPEN_FOLDERS))
            if left.arrived or len(left.records):
                area.unlock()
                self._left.append(left)
                continue
            left.close()
            if records is not None or has_expired(area.changed):
                area.remove()
            else:
                area.close()

    def __bool__(self) -> bool:
        return bool(self._left)

    @property
    def files(self) -> int:
        """Of how many files there is something."""
        return sum(len(left.records) for left in self._left)

    def arrived(self, root: bytes) -> list[Identity]:
        """What may have been put in place of a root of that name."""
        known = []
        for left in self._left:
            if (identity := left.arrived.get(root)) is not None:
                left.touched = True
                known.append(identity)
        return known

    def arrived_inodes(self) -> set[int]:
        """The numbers of all inodes that may have been put in place."""
        return {inode for left in self._left for inode, *_ in left.arrived.values()}

    def pass_over(self, file: bytes) -> None:
        """The file of this identity is in the destination already: what is left of it is of no use."""
        for left in self._left:
            if file in left.records:
                left.touched = True

    def find(self, entry: Entry, file: bytes, plan: Plan) -> Found | None:
        """Where a small file is, whole by the journal, and nowhere else; None: `take` knows more.

        It stays where it is until either it is moved and `took` is called, or `take`.
        """
        having = [left for left in self._left if file in left.records]
        if len(having) != 1 or not having[0].area.lock():
            return None
        left = having[0]
        info = _found(entry, left, plan)
        if info is None or not _is_usable(info, entry):
            return None
        try:
            kept = left.records.kept(file, entry.size, info.st_size)
        except OSError:
            return None
        left.touched = True
        return Found(left, kept) if kept else None

    def took(self, found: Found) -> None:
        """It was moved to where the delivery wants it, and the journal was told before."""
        found.left.offered += 1

    def take(self, entry: Entry, file: bytes, plan: Plan, journal: Journal) -> Kept:
        """Move what is there of a file to where the delivery wants it, from the area that has most of it.

        Args:
            entry: the file.
            file: its identity.
            plan: knows the places, here and there.
            journal: is told what it brings, before it is moved.

        Returns:
            The blocks that are said to be there; nothing where nothing was moved.

        Raises:
            FileExistsError: there is something in its place already.
            OSError: it could not be written.
        """
        having = [left for left in self._left if file in left.records]
        for left in having:
            left.touched = True
        having = [left for left in having if left.area.lock()]
        told = [(self._kept(left, entry, file, plan), left) for left in having]
        told.sort(key=lambda each: -len(each[0]))
        taken = Kept()
        for kept, left in told:
            if not kept:
                break
            try:
                left.records.copy(file, journal, kept)
            except Unreadable:
                continue
            try:
                _move(entry, left, plan)
            except OSError as error:
                if error.errno not in _STAYS:
                    raise
                continue  # what the journal says now is wrong: whoever believes it finds no file, or reads it first
            taken = kept
            break
        for left in having:  # only now: what could not be taken is still wanted
            left.offered += 1
        return taken

    def has_other(self, entry: Entry, file: bytes, plan: Plan) -> bool:
        """Whether there is something of another version of a file; it is not used, and removed in the end."""
        other = False
        for left in self._left:
            if file not in left.records and _found(entry, left, plan) is not None:
                left.touched = other = True
        return other

    def close(self, *, delivered: bool, kept: bool) -> None:
        """Leave what the next delivery can use.

        Args:
            delivered: what was offered is complete: whatever areas had of it is not needed any more, nor what has
                expired.
            kept: what was taken is in another area now: those with nothing else are not needed any more.
        """
        while self._left:
            left = self._left.pop()
            left.close()
            done = delivered and (left.touched or has_expired(left.area.changed))
            # What it notes as arrived is in another area as soon as that is delivered, and not before.
            used = done or (kept and not left.arrived and left.offered >= len(left.records))
            if used and left.area.lock():
                left.area.remove()
            else:
                left.area.close()

    @staticmethod
    def _kept(left: _Leftover, entry: Entry, file: bytes, plan: Plan) -> Kept:
        """The blocks that the journal has, and that the file is long enough for."""
        info = _found(entry, left, plan)
        if info is None or not _is_usable(info, entry):
            return Kept()
        try:
            if info.st_mode & 0o600 != 0o600:
                directory, name = plan.place(entry, left.folders)
                os.chmod(name, 0o600, dir_fd=directory)  # its last mode, which would keep us out
            return left.records.kept(file, entry.size, info.st_size)
        except OSError:
            return Kept()


def blank_rest(descriptor: int, kept: Kept) -> None:
    """Make zeros of all in a file that is not in `kept`: what is there may be anything, and holes are not written.

    Raises:
        OSError: it could not be written.
    """
    size = os.fstat(descriptor).st_size
    end = 0
    for first, digests in itertools.chain(kept, [(-(-size // BLOCK_SIZE), b"")]):
        start = min(first * BLOCK_SIZE, size)
        if start > end:
            linux.blank(descriptor, end, start - end)
        end = start + len(digests) // DIGEST_SIZE * BLOCK_SIZE


def _records(area: Area) -> Records | None:
    try:
        return Records(os.open(journal.NAME, _JOURNAL, dir_fd=area.descriptor))
    except OSError:
        return None


def _found(entry: Entry, left: _Leftover, plan: Plan) -> os.stat_result | None:
    try:
        directory, name = plan.place(entry, left.folders)
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    return info if stat.S_ISREG(info.st_mode) else None


def _is_usable(info: os.stat_result, entry: Entry) -> bool:
    # A second name may be one in the destination: a commit was killed between two steps.
    return info.st_nlink == 1 and info.st_size <= entry.size and info.st_uid == os.geteuid()


def _move(entry: Entry, left: _Leftover, plan: Plan) -> None:
    source_dir, source = plan.place(entry, left.folders)
    target_dir, target = plan.place(entry)
    try:
        linux.rename_noreplace(source_dir, source, target_dir, target)
    except PermissionError:
        os.fchmod(source_dir, 0o700)  # it had its last mode when its commit was killed
        linux.rename_noreplace(source_dir, source, target_dir, target)

"""Plan: what becomes of each entry offered to a directory, and where it is staged until the commit.

A directory of the offer is either *live*, one that the destination has already and that is merged into, or *staged*,
made by us where nobody looks. What goes into a live directory (a root goes into the destination itself) is a graft:
staged under a private name with all below it under their own, and renamed at the commit. So a new tree of any size
costs one rename and shows all at once.
"""

from __future__ import annotations

import errno
import itertools
import marshal
import os
import stat
import struct
from collections.abc import Callable, Collection, Iterator
from enum import Enum
from typing import Final, Literal

from enchufe.dataclass import dataclass
from enchufe.entry import BLOCK_SIZE, MAX_DEPTH, NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind
from enchufe.errors import LocalProtocolError, Refused, RemoteProtocolError, StoreError
from enchufe.ids import Ids
from enchufe.printable import printable
from enchufe.store import arrived, linux
from enchufe.store.arrived import Identity
from enchufe.store.attributes import Attributes
from enchufe.store.faults import store_error
from enchufe.store.folders import Folders, is_apart, scan
from enchufe.store.grafts import Grafts, free_names
from enchufe.store.hand import identity, packed, told_time
from enchufe.store.listing import in_order, listed
from enchufe.store.names import TARGET_MAX, NameRules, folded, is_staging, safe_link, safe_name
from enchufe.store.rows import Rows
from enchufe.store.seen import Seen
from enchufe.store.shared_folders import SharedFolders

IfExists = Literal["rename", "skip", "overwrite", "update", "fail"]
Links = Literal["inside", "any", "none"]

TOP: Final = -1
"""The id of the destination among the Folders of a delivery; entries have ids from 0."""
AREA: Final = -2
"""The id of the staging area there."""


class Standing(Enum):
    """How an offered directory stands."""

    LIVE = "live"
    STAGED = "staged"
    REFUSED = "refused"


# Looking an enum's member up costs more than the rest of the fast path.
_ALL, _SKIP, _FILE, _DIRECTORY, _SYMLINK = Answer.ALL, Answer.SKIP, Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK
_LIVE, _STAGED, _REFUSED = Standing.LIVE, Standing.STAGED, Standing.REFUSED

_STANDINGS: Final = tuple(Standing)
_FOLDER: Final = struct.Struct(">BHHq")


@dataclass(slots=True)
class Folder:
    """An offered directory; the destination itself is one too.

    Attributes:
        id: of the entry, or TOP.
        standing: how it stands.
        depth: directories above what is in it, inside its root.
        mode, mtime_ns, attributes: as offered, for the end.
        counted: whether names that are offered twice in it have to be found here; else the file system finds out.
        grafted: whether it is staged as a graft.
        plain: whether any file with a safe name may go in, without another look.
    """

    id: int
    standing: Standing
    depth: int
    mode: int = 0o755
    mtime_ns: int = 0
    attributes: Attributes = ()
    counted: bool = False
    grafted: bool = False
    plain: bool = False

    def packed(self) -> bytes:
        """It, without its id: 13 bytes, where it has no attributes."""
        flags = self.counted | self.grafted << 1 | self.plain << 2 | _STANDINGS.index(self.standing) << 3
        head = _FOLDER.pack(flags, self.depth, self.mode, self.mtime_ns)
        return head + marshal.dumps(self.attributes) if self.attributes else head

    @classmethod
    def unpacked(cls, id_: int, row: bytes) -> Folder:
        """That of this id which was packed."""
        flags, depth, mode, mtime_ns = _FOLDER.unpack_from(row)
        attributes = marshal.loads(row[_FOLDER.size :]) if len(row) > _FOLDER.size else ()  # noqa: S302 (our own)
        own = flags & 1 > 0, flags & 2 > 0, flags & 4 > 0
        return cls(id_, _STANDINGS[flags >> 3], depth, mode, mtime_ns, attributes, *own)


class Plan:
    """Answers entries by the rules of the destination and the wishes of its owner.

    Args:
        folders: where descriptors come from; TOP and AREA are pinned in it.
        rules: what names the destination cannot hold.
        if_exists: what happens where the destination has an entry's name already.
        links: which symlinks are taken.
        checksum: whether the same size and time are no proof of the same content.
        before: what may have been put in place of roots of a name, and their sender has not heard of.
        arrived_inodes: the numbers of the inodes of all of that.

    Attributes:
        grafts: what the commit renames.
        dresses_live: whether directories that are merged into get the mode and time of the offer.
        own: directories that an attempt before has put in place, by id: the name that a root has there, nothing else of
            others. They are merged into, whatever was chosen.
        again: the roots that it has put in place, by the name they were offered with.
    """

    def __init__(
        self,
        folders: SharedFolders,
        rules: NameRules,
        *,
        if_exists: IfExists,
        links: Links,
        checksum: bool = False,
        before: Callable[[bytes], Collection[Identity]] = lambda _: (),
        arrived_inodes: Callable[[], Collection[int]] = lambda: (),
    ) -> None:
        self._descriptors = folders
        self._rules = rules
        self._no_rules = rules.none
        self._if_exists = if_exists
        self._links = links
        self._folds = rules.folds
        self._checksum = checksum
        # Where names may be taken for others each has to be looked at.
        self._skips = if_exists == "update" and not checksum and rules.none
        self._device = os.fstat(folders.descriptor(TOP)).st_dev
        self._top = Folder(TOP, _LIVE, 0, counted=True)
        self._seen = Seen()
        self._latest = (TOP, b"")  # a folder whose path was wanted, and that
        self._writable = Ids(TOP)
        self._writable.add(TOP)  # the staging area could be made in it
        self._unfixed = Ids(TOP)
        self._folders = Rows()
        self._here = self._top  # the folder that was asked for last: most entries are in that of the one before
        self.grafts = Grafts(self.path)
        self.dresses_live = if_exists in ("overwrite", "update")
        self._before = before
        self._arrived_inodes = arrived_inodes
        self._by_inode: dict[int, bytes] | None = None  # of what was put in place before, once it is looked for
        self.own = Rows()
        self.again: dict[bytes, Identity] = {}

    def answer(self, entry: Entry) -> Answer:
        """Decide about an entry, and remember where it goes.

        Raises:
            RemoteProtocolError: its name is unsafe or was offered before, or its parent was never offered.
            Refused: it exists already, and that was to fail.
            OSError, StoreError: the destination could not be looked at, or not be written to.
        """
        safe_name(entry.name)
        parent = entry.parent
        folder = self._here
        if folder.id != parent:
            found = self._top if parent == NO_PARENT else self.folder(parent)
            if found is None:
                raise RemoteProtocolError(f"'{printable(entry.name)}' was offered in a folder that was never offered")
            folder = found
        if folder.plain and entry.kind is _FILE:
            return _ALL
        answer, standing = self._decide(entry, folder)
        if entry.kind is _DIRECTORY:
            self._remember(entry, folder, standing)
        return answer

    def folder(self, id_: int) -> Folder | None:
        """The directory of this id; None where none was offered."""
        here = self._here
        if here.id != id_:
            row = self._folders.get(id_)
            if row is None:
                return None
            here = self._here = Folder.unpacked(id_, row)
        return here

    def is_staged(self, id_: int) -> bool:
        """Whether the directory of this id was offered, and is staged."""
        row = self._folders.get(id_)
        return row is not None and _STANDINGS[row[0] >> 3] is _STAGED

    def has_same(self, entry: Entry) -> bool:
        """Whether a listed directory that was answered ALL holds just what it lists, and SKIP would answer all of it.

        It takes as long as its own directory is long, and no longer than the listing is.
        """
        folder = self.folder(entry.id)
        if folder is None or entry.listing is None or not self._skips or folder.standing is not _LIVE:
            return False
        try:
            descriptor = self._descriptors.dup(entry.id)
        except OSError:
            return False
        try:
            names = _names(descriptor, entry.listing.entries)
            return (
                len(names) == entry.listing.entries
                and not any(map(is_staging, names))
                and listed(names, descriptor, takes=lambda target: self._link_refusal(target, folder.depth) is None)
                == entry.listing
            )
        except OSError:  # whoever looks at each will say what is wrong
            return False
        finally:
            os.close(descriptor)

    def refuse(self, entry: Entry) -> None:
        """Take back what was decided: the entry is not taken after all, and another may have its name."""
        self.grafts.discard(entry.id)
        above = self._top if entry.parent == NO_PARENT else self.folder(entry.parent)
        if above is not None and above.counted:
            for key in self._keys(entry.name):
                self._seen.discard(above.id, key)
        folder = self.folder(entry.id)
        if folder is not None:
            folder.standing = _REFUSED
            folder.plain = False
            self._folders.change(folder.id, folder.packed())

    def place(self, entry: Entry, folders: Folders | None = None) -> tuple[int, bytes]:
        """Where a wanted entry is staged: a descriptor, good until the next call, and a name in it.

        Args:
            entry: what is wanted.
            folders: those of another staging area, for its place there.

        Raises:
            OSError: the directory cannot be opened.
            LocalProtocolError: the entry was not wanted.
        """
        folder: Folder | None = self._here
        if self._here.id != entry.parent:
            folder = self._top if entry.parent == NO_PARENT else self.folder(entry.parent)
        if folder is not None and folder.standing is _STAGED:
            return (folders or self._descriptors).descriptor(folder.id), entry.name
        if entry.id not in self.grafts:
            raise LocalProtocolError(f"'{printable(entry.name)}' was not wanted")
        private = self.grafts.private(TOP if folder is None else folder.id, entry.name)
        return (folders or self._descriptors).descriptor(AREA), private

    def identity(self, entry: Entry) -> bytes:
        """Which version of which file an entry is, for the journal."""
        return identity(self.path(entry.parent), entry.name, entry.size, entry.mtime_ns)

    def names(self, entry: Entry) -> tuple[bytes, ...]:
        """The entry's names from its root on, as offered; for people only, and only while its folders are known."""
        if entry.parent == NO_PARENT:
            return (entry.name,)
        return (*self._descriptors.path(entry.parent), entry.name)

    def path(self, folder: int) -> bytes:
        """The packed path of a folder that was offered; empty for the staging area, in which nothing has its name.

        It is not kept for each: one of 255 bytes may be in 255 others, and who offers it says its own name alone.
        """
        latest, path = self._latest
        if latest != folder:
            path = b""
            for name in self._descriptors.path(folder):
                path = packed(path, name)
            self._latest = folder, path
        return path

    def old_place(self, entry: Entry) -> tuple[int, bytes]:
        """Where the version is that the destination has: a descriptor, good until the next call, and a name in it.

        Raises:
            OSError: the directory cannot be opened.
            LocalProtocolError: there is none.
        """
        if not self.grafts.replaces(entry.id):
            raise LocalProtocolError(f"'{printable(entry.name)}' has no other version there")
        return self._descriptors.descriptor(TOP if entry.parent == NO_PARENT else entry.parent), entry.name

    def staged(self) -> Iterator[Folder]:
        """The staged directories, what is deeper first."""
        return self._standing(_STAGED)

    def live(self) -> Iterator[Folder]:
        """The directories that are merged into, what is deeper first and the destination last."""
        yield from self._standing(_LIVE)
        yield self._top

    def _standing(self, standing: Standing) -> Iterator[Folder]:
        for id_, row in reversed(self._folders):
            if _STANDINGS[row[0] >> 3] is standing:
                yield Folder.unpacked(id_, row)

    def _decide(self, entry: Entry, folder: Folder) -> tuple[Answer, Standing]:
        """The answer, and how the entry stands then."""
        if folder.standing is _REFUSED:
            return Answer.PARENT, _REFUSED
        refusal = self._refusal(entry, folder)
        if refusal is not None:
            return refusal, _REFUSED
        if folder.standing is _STAGED:
            return _ALL, _STAGED
        return self._meet(entry, folder)

    def _refusal(self, entry: Entry, folder: Folder) -> Answer | None:
        """Why the entry cannot be taken, whatever the destination has."""
        if folder.depth > MAX_DEPTH:
            raise RemoteProtocolError(f"'{printable(entry.name)}' was offered too deep, below {MAX_DEPTH} folders")
        if self._is_twin(entry.name, folder) or not (self._no_rules or self._rules.holds(entry.name)):
            return Answer.CANNOT_STORE
        # Every live directory may be the destination of another delivery.
        if folder.standing is _LIVE and is_staging(entry.name):
            return Answer.CANNOT_STORE
        if entry.kind is _SYMLINK:
            return self._link_refusal(entry.target, folder.depth)
        return None

    def _is_twin(self, name: bytes, folder: Folder) -> bool:
        """Whether the file system would take the name for another that was offered in the same directory."""
        if not folder.counted:
            return False
        key, *itself = self._keys(name)
        if self._seen.add(folder.id, key):
            for one in itself:
                self._seen.add(folder.id, one)
            return False
        if all((folder.id, one) in self._seen for one in itself):
            raise RemoteProtocolError(f"'{printable(name)}' was offered twice in the same folder")
        return True

    def _keys(self, name: bytes) -> tuple[bytes, ...]:
        """What a name is seen by: by what makes it another's equal and, where that is not the name, by itself too."""
        if self._folds:
            return folded(name).encode("utf-8", "surrogatepass"), b"\0" + name
        return (name,)

    def _link_refusal(self, target: bytes, depth: int) -> Answer | None:
        if self._links == "none":
            return Answer.UNWANTED
        if self._links == "inside":
            return None if safe_link(target, depth) else Answer.UNSAFE_LINK
        return None if target and b"\0" not in target and len(target) <= TARGET_MAX else Answer.UNSAFE_LINK

    def _meet(self, entry: Entry, folder: Folder) -> tuple[Answer, Standing]:
        """Decide where the destination may have the name already."""
        own = folder.id == TOP or self.own.get(folder.id) is not None
        if own and (met := self._meet_own(entry, folder)) is not None:
            return met
        if self._if_exists == "rename":
            return self._graft(entry, folder, replaces=False)
        descriptor = self._descriptors.descriptor(folder.id)
        try:
            found = os.stat(entry.name, dir_fd=descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return self._graft(entry, folder, replaces=False)
        if self._if_exists == "fail":
            raise Refused(
                f"'{printable(entry.name)}' exists already",
                hint="Choose what happens then with --if-exists, or move it away.",
            )
        directory = entry.kind is _DIRECTORY
        # Nothing can be renamed into another file system that is mounted there.
        if directory and stat.S_ISDIR(found.st_mode) and found.st_dev == self._device:
            return _ALL, _LIVE
        if self._if_exists == "skip":
            return _SKIP, _REFUSED
        if directory or not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            return Answer.IN_THE_WAY, _REFUSED
        if self._if_exists == "update" and self._is_same(entry, entry.name, found, descriptor):
            return _SKIP, _REFUSED
        self._check_replaceable(entry, folder, descriptor)
        answer, standing = self._graft(entry, folder, replaces=True)
        return Answer.DELTA if _have_blocks(entry, found) else answer, standing

    def _meet_own(self, entry: Entry, folder: Folder) -> tuple[Answer, Standing] | None:
        """Take what an attempt before has put in place for arrived; None where that is not there, or is another now."""
        descriptor = self._descriptors.descriptor(folder.id)
        name = entry.name
        root: tuple[bytes, Identity] | None = None
        if folder.id == TOP:
            root = self._find_root(entry, descriptor)
            if root is None:
                return None
            name = root[0]
        try:
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if entry.kind is _DIRECTORY:
            if not stat.S_ISDIR(found.st_mode) or found.st_dev != self._device:
                return None
            self.own.add(entry.id, b"" if root is None else name)
        elif not self._is_same(entry, name, found, descriptor):
            return None
        if root is not None:
            self.again[entry.name] = root[1]
        return (_ALL, _LIVE) if entry.kind is _DIRECTORY else (_SKIP, _REFUSED)

    def _find_root(self, entry: Entry, top: int) -> tuple[bytes, Identity] | None:
        """The name that a root has which arrived before, and what it is."""
        before = self._before(entry.name)
        if not before:
            return None
        for name in free_names(entry.name, directory=entry.kind is _DIRECTORY):
            known = arrived.identity(top, name)
            if known is None:
                break
            if known in before:
                return name, known
        # Whoever it is for may have made a name before it free. What he has renamed is his, and there no more.
        names = free_names(entry.name, directory=entry.kind is _DIRECTORY)
        for one in before:
            name = self._there(top).get(one[0], b"")
            if name and arrived.identity(top, name) == one and name in names:
                return name, one
        return None

    def _there(self, top: int) -> dict[int, bytes]:
        """What is at the destination by now of all that arrived before: its name, by the number of its inode."""
        if self._by_inode is None:
            inodes = self._arrived_inodes()
            with scan(top) as found:
                self._by_inode = {one.inode(): os.fsencode(one.name) for one in found if one.inode() in inodes}
        return self._by_inode

    def _is_same(self, entry: Entry, name: bytes, found: os.stat_result, descriptor: int) -> bool:
        """Whether what has a name there is this version of a file or symlink, as far as may be believed unread."""
        believed = not self._checksum or entry.kind is _SYMLINK
        return believed and _same(entry, name, found, descriptor, self._rules.grain)

    def _graft(self, entry: Entry, folder: Folder, *, replaces: bool) -> tuple[Answer, Standing]:
        if folder.id not in self._writable:
            self._check_writable(folder.id)  # told now, not when all has been received
            self._writable.add(folder.id)
        self.grafts.add(entry, folder.id, replaces=replaces)
        return _ALL, _STAGED

    def _check_replaceable(self, entry: Entry, folder: Folder, descriptor: int) -> None:
        """Raises StoreError: not even root can, and that would be known only when some of it is in place."""
        fixed = linux.is_fixed(descriptor, entry.name)
        if not fixed and folder.id not in self._unfixed:
            fixed = linux.is_fixed(descriptor)
            self._unfixed.add(folder.id)
        if fixed:
            path = b"/".join((*self._descriptors.path(folder.id), entry.name))
            raise StoreError(
                f"cannot replace {printable(path)}: it, or its folder, is immutable or append-only",
                hint="`lsattr` shows that; `chattr -i` or `chattr -a` ends it.",
            )

    def _check_writable(self, folder: int) -> None:
        descriptor = self._descriptors.descriptor(folder)
        if not os.access(b".", os.W_OK | os.X_OK, dir_fd=descriptor, effective_ids=True):
            number = errno.EROFS if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY else errno.EACCES
        elif is_apart(self._descriptors.descriptor(AREA), descriptor):
            number = errno.EXDEV
        else:
            return
        path = b"/".join(self._descriptors.path(folder))
        raise store_error(OSError(number, os.strerror(number)), "write into", path)

    def _remember(self, entry: Entry, folder: Folder, standing: Standing) -> None:
        place = None
        grafted = entry.id in self.grafts
        if folder.standing is _LIVE:
            if grafted:
                place = AREA, self.grafts.private(folder.id, entry.name)
            else:
                place = folder.id, self.own.get(entry.id) or entry.name
        self._descriptors.add(entry.id, entry.parent, entry.name, place=place)
        counted = standing is _LIVE or self._rules.folds
        depth = folder.depth + 1
        offered = Folder(
            entry.id,
            standing,
            depth,
            entry.mode,
            entry.mtime_ns,
            entry.attributes,
            counted=counted,
            grafted=grafted,
            plain=standing is _STAGED and self._rules.none and depth <= MAX_DEPTH,
        )
        self._folders.add(entry.id, offered.packed())


def _names(directory: int, most: int) -> list[bytes]:
    """Names of what is in a directory and no directory, in order; more than `most` are cut short."""
    with scan(directory) as found:
        leaves = (one.name for one in found if not one.is_dir(follow_symlinks=False))
        return in_order(itertools.islice(leaves, most + 1))


def _have_blocks(entry: Entry, found: os.stat_result) -> bool:
    """Whether a file and the version of it that is there have full blocks to compare."""
    both = entry.kind is _FILE and stat.S_ISREG(found.st_mode)
    return both and found.st_size >= BLOCK_SIZE <= entry.size != UNKNOWN_SIZE


def _same(entry: Entry, name: bytes, found: os.stat_result, descriptor: int, grain: int) -> bool:
    """Whether the destination has this version of a file or symlink already, as far as a look at it can tell."""
    if entry.kind is _SYMLINK:
        return stat.S_ISLNK(found.st_mode) and os.readlink(name, dir_fd=descriptor) == entry.target
    same = found.st_size == entry.size and told_time(found.st_mtime_ns) // grain == entry.mtime_ns // grain
    return same and stat.S_ISREG(found.st_mode)

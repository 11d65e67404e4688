"""Source: the files and folders that a user named, walked once, and read as they were offered or not at all."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from enchufe.entry import DIGEST_SIZE, LISTED, MAX_DEPTH, NO_PARENT, Entry, Kind, Listing, Reason
from enchufe.errors import LocalProtocolError, StoreError
from enchufe.printable import printable
from enchufe.store.attributes import LIMIT, Attributes, get_attributes
from enchufe.store.exclude import Exclude
from enchufe.store.faults import check_path, store_error
from enchufe.store.folders import scan
from enchufe.store.hand import READ, read_small, told_time
from enchufe.store.hands import Hands, Hiring, Places
from enchufe.store.interface import Contents
from enchufe.store.listing import listed
from enchufe.store.many import Names
from enchufe.store.names import STAGING
from enchufe.store.put_away import PutAway
from enchufe.store.reading import Content, LeftOut, SourceFile, read_each, reason_for
from enchufe.store.shared_folders import SharedFolders

if TYPE_CHECKING:
    from enchufe.store.hand import Read

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_TOLD: Final = {
    stat.S_IFIFO: "a named pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}
_FILE, _DIRECTORY, _SYMLINK = Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK

AGAIN_LIMIT: Final = 2  # times that a file is offered once more
LINKS_LIMIT: Final = 100_000  # files with several names that are offered as such, and remembered in some 40 MiB
_SETTLED: Final = 10_000  # names in a folder that are looked at before it is seen whether they are many
LISTED_FROM: Final = 4  # files: to look into a folder there costs as much as to offer so many


class LeftOuts(Collection[tuple[tuple[bytes, ...], str]]):
    """Path and reason, both for a person, of what could not be offered: a million of a folder take some 10 MB.

    More may come while they are gone through.

    Args:
        path_of: the names of a folder from its root on, by its id; none where it is NO_PARENT.
    """

    def __init__(self, path_of: Callable[[int], tuple[bytes, ...]]) -> None:
        self._rows = PutAway()  # id of the folder, name, reason of each
        self._path_of = path_of

    def add(self, parent: int, name: bytes, told: str) -> None:
        """One more."""
        self._rows.append((parent, name, told))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[tuple[bytes, ...], str]]:
        for parent, name, told in self._rows:
            yield (*self._path_of(parent), name), told

    def __contains__(self, one: object) -> bool:
        return any(one == each for each in self)


class Source:
    """What a sender reads. Entries are numbered by one `walk()`, and opened by what it yielded.

    Each path becomes a root with the base name of the path: a slash at its end makes no difference, `.` and `..` stand
    for the folder they lead to. A root that is a symlink is followed, since the user named it, and keeps its name; the
    symlinks in a folder stay symlinks.

    A file that has several names is offered once as a file, then as linked to that, wherever the names are; beyond
    `LINKS_LIMIT` such files the next ones are files of their own. One of which less is on disk than its size is sparse.
    A time that cannot be told (`told_time`) is offered as the nearest that can. The staging folder of a destination is
    left out, wherever it is below a root: what is in it may be on its way here from this very walk.

    `open()`, `read_whole()` and `path()` may be called from several threads at once, also while another walks.
    `walk()`, `inside()` and `again()` number entries: only one of them goes on at a time. Each thread that reads keeps
    a folder open.

    Args:
        paths: files and folders; all of them must be there.
        exclude: patterns of what is not offered of them; see `Exclude`. It is not in `left_out`.
        attributes: whether the extended attributes that belong to users (`user.*`) go along, at most 4 KiB of them for
            one entry; which costs opening every file while it walks.

    Attributes:
        left_out: path and reason, both for a person, of what the walk could not offer.
        lists: whether folders are listed, where that can be done and pays: what is in them comes from `inside()`. It
            may change at any time. None is listed where attributes go along.

    Raises:
        StoreError: one is not there, or is neither a file nor a folder.
        LocalProtocolError: two would have one name, or one has none (`/`), or is no path; or a pattern is none.
    """

    def __init__(self, paths: Sequence[Path], *, exclude: Sequence[str | bytes] = (), attributes: bool = False) -> None:
        self.lists = False
        self._exclude = Exclude(exclude) if exclude else None
        self._attributes = attributes
        self._roots: dict[bytes, bytes] = {}  # name -> where it really is
        self._files: dict[int, bytes] = {}  # id of a root that is a file -> where it really is
        self._folders = SharedFolders()
        self.left_out = LeftOuts(self._folders.path)
        self._count = 0
        self._walked: dict[int, tuple[bytes, ...]] = {}  # id of a listed folder -> the folders in it
        self._links: dict[tuple[int, int], Entry] = {}  # device and inode -> the first of its names
        self._shared = 0  # how many were offered for others to be linked to; a receiver takes no more of them
        self._times = bytearray()  # how many times what has an id was offered again; up to the last that was
        self._hiring = Hiring()
        for path in paths:
            self._name_root(os.fsencode(path))

    def _name_root(self, path: bytes) -> None:
        check_path(path)
        try:
            where = os.path.realpath(path, strict=True)
            mode = os.stat(where).st_mode
        except OSError as error:
            raise store_error(error, "send", path) from error
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            told = _TOLD.get(stat.S_IFMT(mode), "not a file")
            raise StoreError(
                f"cannot send {printable(path)}: {told}", hint="Send what it yields through standard input: -"
            )
        name = os.path.basename(path.rstrip(b"/"))
        if name in (b"", b".", b".."):
            name = os.path.basename(where)
        if not name:
            raise LocalProtocolError(
                "the root of the file system has no name to send it under", hint="Name what is in it."
            )
        if name in self._roots:
            raise LocalProtocolError(
                f"two things to send are called '{printable(name)}'", hint="Rename one, or send one after the other."
            )
        self._roots[name] = where

    def walk(self) -> Iterator[Entry]:
        """Every entry, numbered from 0: a folder, then its files and symlinks by name, then its folders by name.

        It looks at the disk as it goes, and holds the names along one path down the tree, never the tree; those of a
        folder where they are many compressed. What cannot be offered goes to `left_out`. Walk once only.

        Raises:
            StoreError: no descriptors or memory left.
        """
        for name, where in self._roots.items():
            try:
                info = os.stat(where, follow_symlinks=False)
            except OSError as error:
                self._leave_out(NO_PARENT, name, error)
                continue
            folder = stat.S_ISDIR(info.st_mode)
            if self._exclude is not None and self._exclude.excludes(os.fsdecode(name), folder=folder):
                continue
            if folder:
                self._folders.add_top(self._count, name, where)
                yield from self._walk_tree(name, info)  # one level deep, whatever the depth of the tree
            elif stat.S_ISREG(info.st_mode):
                self._files[self._count] = where
                yield self._file(NO_PARENT, name, info)
            else:
                self.left_out.add(NO_PARENT, name, Reason.CHANGED.told)

    def _walk_tree(self, root_name: bytes, info: os.stat_result) -> Iterator[Entry]:
        """A root that is a folder, added already, and all below it."""
        found = self._look(NO_PARENT, root_name)
        if found is None:
            return
        root = self._folder(NO_PARENT, root_name, info, found[1])
        yield root
        stack = [(root, found[0])]  # the folders that we are in, each with its names yet to come
        while stack:
            folder, names = stack[-1]
            parent = folder.id
            try:
                here = self._folders.dup(parent)
            except OSError as error:
                for name in names:
                    self._leave_out(parent, name, error)
                stack.pop()
                continue
            try:
                for name in names:
                    try:
                        info = os.stat(name, dir_fd=here, follow_symlinks=False)
                        kind = info.st_mode & 0o170000
                        if kind == stat.S_IFREG and folder.listing is None:
                            yield self._file(parent, name, info)
                        elif kind == stat.S_IFDIR:
                            found = self._entered(parent, name, len(stack))
                            if found is not None:
                                inner = self._folder(parent, name, info, found[1])
                                stack.append((inner, found[0]))
                                yield inner
                                break
                        elif folder.listing is not None:  # it was a folder just now: too late to be in the listing
                            self.left_out.add(parent, name, Reason.CHANGED.told)
                        else:
                            yield from self._other(parent, name, info, here)
                    except OSError as error:
                        self._leave_out(parent, name, error)
                else:
                    stack.pop()
            finally:
                os.close(here)

    def inside(self, folder: Entry) -> Iterator[Entry]:
        """The files and symlinks by name that are now in a folder that was listed. Raises as `walk` does."""
        try:
            here = self._folders.dup(folder.id)
        except OSError as error:
            self._leave_out(folder.parent, folder.name, error)
            return
        try:
            leaves, folders = self._names(here, folder.id)
            walked = frozenset(self._walked.pop(folder.id, ()))
            for name in folders:
                if name not in walked:  # it is no file any more, and was no folder yet
                    self.left_out.add(folder.id, name, Reason.CHANGED.told)
            for name in leaves:
                try:
                    info = os.stat(name, dir_fd=here, follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        yield self._file(folder.id, name, info)
                    else:
                        yield from self._other(folder.id, name, info, here)
                except OSError as error:
                    self._leave_out(folder.id, name, error)
        except OSError as error:
            self._leave_out(folder.parent, folder.name, error)
        finally:
            os.close(here)

    def _other(self, parent: int, name: bytes, info: os.stat_result, here: int) -> Iterator[Entry]:
        """The next entry, if what is neither a file nor a folder can be one."""
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFLNK:
            target = os.readlink(name, dir_fd=here)
            mode = info.st_mode & 0o7777
            yield Entry(self._take_id(), parent, name, _SYMLINK, 0, mode, told_time(info.st_mtime_ns), target)
        else:
            told = Reason.CHANGED.told if kind == stat.S_IFDIR else _TOLD[kind]
            self.left_out.add(parent, name, told)

    def _file(self, parent: int, name: bytes, info: os.stat_result) -> Entry:
        """The next entry, which is a file."""
        size = info.st_size
        entry = Entry(self._count, parent, name, _FILE, size, info.st_mode & 0o7777, told_time(info.st_mtime_ns))
        if info.st_blocks * 512 < size:
            entry.sparse = True
        if info.st_nlink > 1:
            self._link(entry, info)
        if self._attributes:
            entry.attributes = self._attributes_of(entry)
        self._count += 1
        return entry

    def _folder(self, parent: int, name: bytes, info: os.stat_result, listing: Listing | None) -> Entry:
        """The next entry, which is a folder that was added."""
        entry = Entry(self._count, parent, name, _DIRECTORY, 0, info.st_mode & 0o7777, told_time(info.st_mtime_ns))
        entry.listing = listing
        if self._attributes:
            entry.attributes = self._attributes_of(entry)
        self._count += 1
        return entry

    def _link(self, entry: Entry, info: os.stat_result) -> None:
        """Have a file that was offered under another name linked to that, if that was offered as it is now."""
        key = (info.st_dev, info.st_ino)
        first = self._links.get(key)
        if first is not None and first.size == entry.size and first.mtime_ns == entry.mtime_ns:
            entry.linked = first.id
        elif self._shared < LINKS_LIMIT:
            self._links[key] = entry
            self._shared += 1
            entry.shared = True

    def _attributes_of(self, entry: Entry) -> Attributes:
        """The extended attributes of a file, or of a folder that was added."""
        try:
            descriptor = self._folders.dup(entry.id) if entry.kind is _DIRECTORY else self._opened(entry)
        except OSError as error:
            self._reason(error, entry)
            return ()  # which is told when it is to be read
        try:
            attributes, beyond = get_attributes(descriptor)
        except OSError as error:
            attributes, beyond = (), []
            self._reason(error, entry)
            self.left_out.add(entry.parent, entry.name, f"its extended attributes: {os.strerror(error.errno or 0)}")
        finally:
            os.close(descriptor)
        if beyond:
            told = printable(b", ".join(beyond))
            self.left_out.add(entry.parent, entry.name, f"extended attributes beyond {LIMIT:,} bytes: {told}")
        return attributes

    def _take_id(self) -> int:
        self._count += 1
        return self._count - 1

    def _entered(self, parent: int, name: bytes, depth: int) -> tuple[Iterator[bytes], Listing | None] | None:
        """As `_look`, for a folder that will be the next entry, `depth` folders deep."""
        if name == STAGING:
            self.left_out.add(parent, name, "what is half received stays where it is")
            return None
        if depth >= MAX_DEPTH:
            self.left_out.add(parent, name, f"more than {MAX_DEPTH} folders deep")
            return None
        self._folders.add(self._count, parent, name)
        return self._look(parent, name)

    def _look(self, parent: int, name: bytes) -> tuple[Iterator[bytes], Listing | None] | None:
        """Into the folder that was just added: what is to be walked in it, and its listing, where it is to be listed.

        What is no folder comes first, unless it is listed, and both in order. None where it cannot be looked into.
        """
        listing = None
        try:
            descriptor = self._folders.dup(self._count)
            try:
                leaves, folders = self._names(descriptor, self._count)
                if (
                    self.lists
                    and not self._attributes
                    and isinstance(leaves, list)
                    and LISTED_FROM <= len(leaves) <= LISTED
                    and isinstance(folders, list)  # which are remembered where it is listed: never many
                ):
                    listing = listed(leaves, descriptor, alone=True)
                if listing is not None and folders:
                    self._walked[self._count] = tuple(folders)
                if not self.lists:  # else most of it may be there already
                    self._hiring.expect(len(leaves))
            finally:
                os.close(descriptor)
        except OSError as error:
            self._folders.forget(self._count)
            self._leave_out(parent, name, error)
            return None
        return (itertools.chain(leaves, folders) if listing is None else iter(folders)), listing

    def _names(self, descriptor: int, id_: int) -> tuple[Collection[bytes], Collection[bytes]]:
        """Names in an open folder that are not excluded: what is no folder, and what is one, both in order."""
        leaves, folders = self._counted(id_, folder=False), self._counted(id_, folder=True)
        add, add_folder = leaves.found.append, folders.found.append
        with scan(descriptor) as names:
            for first in names:
                for found in itertools.chain((first,), itertools.islice(names, _SETTLED)):
                    (add_folder if found.is_dir(follow_symlinks=False) else add)(found.name)
                leaves.settle()
                folders.settle()
        return leaves.all(), folders.all()

    def _counted(self, id_: int, *, folder: bool) -> Names:
        """For names in a folder, of those that are not excluded."""
        exclude = self._exclude
        if exclude is None:
            return Names()
        place = "/".join(["", *map(os.fsdecode, self._folders.path(id_)[1:]), ""])
        return Names(lambda name: not exclude.excludes(place + name, folder=folder))

    def _leave_out(self, parent: int, name: bytes, error: OSError) -> None:
        reason = reason_for(error, (*self._folders.path(parent), name))
        told = f"{reason.told} ({os.strerror(error.errno or 0)})" if reason is Reason.UNREADABLE else reason.told
        self.left_out.add(parent, name, told)

    def again(self, entry: Entry) -> Entry | None:
        """A file that could not be sent as it was offered, as it is now, under the next id.

        One that was to be linked is linked to another id then, or to none. None where it is no file any more, or was
        offered again `AGAIN_LIMIT` times.

        Raises:
            StoreError: no descriptors or memory left.
        """
        times = 1 + (self._times[entry.id] if entry.id < len(self._times) else 0)
        if times > AGAIN_LIMIT:
            return None
        try:
            info = self._stat(entry)
        except OSError as error:
            self._reason(error, entry)
            return None
        if not stat.S_ISREG(info.st_mode):
            return None
        first = self._links.get((info.st_dev, info.st_ino))
        if first is not None and first.id in (entry.id, entry.linked):
            del self._links[info.st_dev, info.st_ino]
        self._times.extend(bytes(self._count - len(self._times)))
        self._times.append(times)  # for the next id
        if entry.parent == NO_PARENT:
            self._files[self._count] = self._files[entry.id]
        return self._file(entry.parent, entry.name, info)

    def path(self, entry: Entry) -> tuple[bytes, ...]:
        """The entry's names from its root on, for people."""
        if entry.parent == NO_PARENT:
            return (entry.name,)
        return (*self._folders.path(entry.parent), entry.name)

    def open(self, entry: Entry) -> SourceFile:
        """Open a file that was offered, if it still is what was offered. It is the caller's to close.

        Raises:
            LeftOut: it is gone, cannot be read, or is another by now.
            StoreError: no descriptors or memory left.
        """
        path = self.path(entry)
        try:
            file = SourceFile(self._opened(entry), entry, path)
        except OSError as error:
            raise LeftOut(self._reason(error, entry), self.path(entry)) from error
        if not file.unchanged():
            file.close()
            raise LeftOut(Reason.CHANGED, path)
        return file

    def read_whole(self, entry: Entry) -> bytes:
        """All of a file that was offered, of the offered size; for files that fit in memory easily.

        Raises:
            LeftOut: it is gone, cannot be read, or is another by now.
            StoreError: no descriptors or memory left.
        """
        try:
            descriptor = self._opened(entry)
            try:
                data = read_small(descriptor, entry.size, entry.mtime_ns)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise LeftOut(self._reason(error, entry), self.path(entry)) from error
        if data is None:
            raise LeftOut(Reason.CHANGED, self.path(entry))
        return data

    @property
    def hands(self) -> Hands | None:
        """As `ReadsTogether.hands`."""
        return self._hiring.hands

    def read_together(self, entries: Sequence[Entry], done: Callable[[Contents], None]) -> bool:
        """Have other processes read small files, no more than a block in all, as `read_whole` would.

        `done` is called by whoever collects from `hands`, which is to be done by the same thread.

        Returns:
            False where nothing was begun, since there are too few files for that, or no such processes.
        """
        them = self._hiring.with_files(len(entries))
        if them is None or entries[0].parent == NO_PARENT:
            return False
        slot = them.slot()
        release = partial(them.give_back, slot)
        places = Places()
        asked: list[Read] = []
        start = slot.start
        for entry in entries:
            if entry.parent == NO_PARENT or places.full:
                break
            asked.append((places.descriptor(entry.parent), entry.name, entry.size, entry.mtime_ns, start))
            start += entry.size

        def answered(answer: tuple[bytes, list[tuple[int, int]]] | None) -> None:
            there = 0 if answer is None else len(asked)
            files = [] if answer is None else self._read_there(entries[:there], slot.view, *answer)
            done(Contents(files + read_each(entries[there:], self.read_whole), release))

        try:
            them.read(asked, places, self._folders, answered)
        except OSError:  # whoever reads them one by one finds out why, if it is a file's fault
            done(Contents(read_each(entries, self.read_whole), release))
        return True

    def _read_there(
        self, entries: Sequence[Entry], content: memoryview, digests: bytes, failed: Sequence[tuple[int, int]]
    ) -> list[Content]:
        """What a hand has read, one after the other, and which of them it could not, by an errno."""
        files: list[Content] = []
        at = 0
        for start, entry in enumerate(entries):
            digest = digests[start * DIGEST_SIZE : (start + 1) * DIGEST_SIZE]
            files.append((content[at : at + entry.size], digest))
            at += entry.size
        for place, number in failed:
            entry = entries[place]
            reason = self._reason(OSError(number, os.strerror(number)), entry) if number else Reason.CHANGED
            files[place] = LeftOut(reason, self.path(entry))
        return files

    def close(self) -> None:
        """Close the folders that are open, when nobody reads; files are closed by who opened them."""
        self._hiring.close()
        self._folders.close()

    def _opened(self, entry: Entry) -> int:
        if entry.parent == NO_PARENT:
            return os.open(self._files[entry.id], READ)
        return os.open(entry.name, READ, dir_fd=self._folders.descriptor(entry.parent))

    def _stat(self, entry: Entry) -> os.stat_result:
        if entry.parent == NO_PARENT:
            return os.stat(self._files[entry.id], follow_symlinks=False)
        return os.stat(entry.name, dir_fd=self._folders.descriptor(entry.parent), follow_symlinks=False)

    def _reason(self, error: OSError, entry: Entry) -> Reason:
        return reason_for(error, self.path(entry))

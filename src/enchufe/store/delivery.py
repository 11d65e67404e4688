"""Delivery: one transfer's way into a directory: staged, made durable, and then visible at once, or never."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from blake3 import blake3

from enchufe.buffer import Buffer
from enchufe.entry import BLOCK_SIZE, UNKNOWN_SIZE, Answer, Entry, Kind
from enchufe.errors import ClosedError, LocalProtocolError, RemoteProtocolError, StoreError
from enchufe.printable import printable
from enchufe.store import delta, linux
from enchufe.store.commit import Commit
from enchufe.store.durable import Written
from enchufe.store.faults import damaged, store_error
from enchufe.store.hand import NEW, set_time, write_small
from enchufe.store.handed import Handed
from enchufe.store.hands import Hands, Hiring
from enchufe.store.hardlinks import HardLinks
from enchufe.store.interface import Own, Rechecked
from enchufe.store.journal import Journal
from enchufe.store.leftovers import Found, Leftovers
from enchufe.store.metadata import dress_file, granted_mode
from enchufe.store.names import NameRules
from enchufe.store.part_files import PartFiles
from enchufe.store.plan import AREA, TOP, IfExists, Links, Plan
from enchufe.store.records import Run
from enchufe.store.shared_folders import SharedFolders
from enchufe.store.space import Space
from enchufe.store.staging import Staging
from enchufe.store.taken import Taken
from enchufe.store.wanted import Wanted, needed
from enchufe.store.writing import AGAIN, open_own, write_all

# What a file system says to a name, or to a symlink, that it cannot hold.
_CANNOT_HOLD: Final = frozenset(
    {errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
)

_ALL, _DELTA, _FILE, _DIRECTORY, _SYMLINK = Answer.ALL, Answer.DELTA, Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK


class Delivery:
    """What arrives in one transfer. `LocalStore.begin()` makes it; `Receiving` says what threads may do.

    Nothing of it is visible before `commit()`. After `abandon()` nothing is left of it; after `suspend()` what the next
    delivery can use. After any of the three, every other call raises ClosedError. After any error of the disk only
    `abandon()` and `suspend()` are left.

    Args:
        folder: descriptor of the destination, which the delivery closes in the end.
        path: the destination, for messages.
        staging: its own area.
        rules: what names the destination cannot hold.
        if_exists, links, checksum, max_size: as `LocalStore` says.

    Attributes:
        landed: id of a root -> the name it got at the destination; full after the commit.
        restarted: files of which another version was here in part; they start over.
        bare: path of each file or folder that did not get all of its extended attributes, and the names of these;
            full after the commit.
    """

    def __init__(
        self,
        folder: int,
        path: bytes,
        staging: Staging,
        rules: NameRules,
        *,
        if_exists: IfExists,
        links: Links,
        checksum: bool = False,
        max_size: int | None = None,
    ) -> None:
        self.landed: dict[int, bytes] = {}
        self.restarted: list[tuple[bytes, ...]] = []
        self.bare: list[tuple[tuple[bytes, ...], list[bytes]]] = []
        self._path = path
        self._top = folder
        self._staging = staging
        area = staging.area.descriptor
        self._granted = granted_mode(area)
        self._folders = SharedFolders()
        self._folders.pin(TOP, folder)
        self._folders.pin(AREA, area)
        self._leftovers = Leftovers(staging.dead, self._folders)
        self._plan = Plan(
            self._folders,
            rules,
            if_exists=if_exists,
            links=links,
            checksum=checksum,
            before=self._leftovers.arrived,
            arrived_inodes=self._leftovers.arrived_inodes,
        )
        self._space = Space(folder, path)
        self._written = Written(area)
        self._journal = Journal(area)
        self._hard_links = HardLinks(self._plan, self._written)
        self._lock = threading.Lock()  # of all that follows, and of the plan
        self._wanted = Wanted(self._space, max_size)
        self._parts = PartFiles(
            self._lock,
            self._plan,
            self._wanted,
            self._written,
            self._journal,
            self._leftovers,
            self.bare,
            disk=linux.has_disk(area),
        )
        self._ending = threading.Lock()  # so that to abandon waits for a commit in another thread
        self._failed = False
        self._commit: Commit | None = None
        self._over = False
        self._hiring = Hiring()
        if self._leftovers.files:
            self._hiring.expect(self._leftovers.files, able=self._written.syncfs)
        self._to_take: deque[tuple[Sequence[tuple[Entry, Found]], Rechecked]] = deque()

    def path(self, entry: Entry) -> tuple[bytes, ...]:
        """The entry's names from its root on, as offered; for people only, and only while its folders are known."""
        return self._plan.names(entry)

    def admit(self, entry: Entry) -> Answer:
        """Decide about an entry; a directory or symlink that is wanted is made at once, in staging.

        A listed directory is SAME where `update` would SKIP all that it lists, and there is nothing else in it.

        Raises:
            RemoteProtocolError: its name is unsafe or was offered already, or it is in no folder that was offered.
            Refused: it exists already and the store was told to fail then.
            NoSpaceError: what is wanted by now does not fit on the disk.
            StoreError: the disk said no.
        """
        if self._over:
            raise _closed()
        try:
            with self._lock:
                answer = self._plan.answer(entry)
                if answer is not _ALL and answer is not _DELTA:
                    if answer is Answer.SKIP and self._leftovers and entry.kind is _FILE:
                        self._leftovers.pass_over(self._plan.identity(entry))
                    return answer
                if not self._journal.root:
                    self._journal.root = entry.name  # a root comes before what is in it
                if entry.kind is _FILE:
                    return self._admit_file(entry, answer)
                answer = self._make(entry)
            # Without the lock: it may take long, and others write meanwhile.
            return Answer.SAME if answer is _ALL and entry.listing and self._plan.has_same(entry) else answer
        except FileExistsError as error:
            raise self._twice(entry) from error
        except OSError as error:
            raise self._error(error, "look at", entry) from error

    def _admit_file(self, entry: Entry, answer: Answer) -> Answer:
        """What is answered to a wanted file."""
        verdict = self._wanted.add(entry)
        if verdict is not _ALL:
            if verdict is Answer.TOO_BIG:
                self._plan.refuse(entry)
            return verdict
        if self._leftovers and entry.size != UNKNOWN_SIZE:
            if self._parts.take_over(entry):
                self._space.want(self._parts.needed(entry))
                return Answer.REST
            file = self._plan.identity(entry)
            if entry.size >= BLOCK_SIZE and self._leftovers.has_other(entry, file, self._plan):
                self.restarted.append(self.path(entry))
        self._space.want(needed(entry))
        if entry.size < BLOCK_SIZE:
            self._hiring.expect(1, able=self._written.syncfs)
        return answer

    def _make(self, entry: Entry) -> Answer:
        if entry.kind is _DIRECTORY and not self._plan.is_staged(entry.id):
            return _ALL
        directory, name = self._plan.place(entry)
        try:
            if entry.kind is _DIRECTORY:
                os.mkdir(name, 0o700, dir_fd=directory)
                self._written.count_directory()
            else:
                _make_symlink(entry, name, directory)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in _CANNOT_HOLD:
                raise self._error(error, "make", entry) from error
            self._plan.refuse(entry)
            return Answer.CANNOT_STORE
        return _ALL

    def kept(self, entry: Entry) -> Iterator[Run]:
        """After REST: the blocks of this very file that are here, in runs: the first one's number, their digests.

        Raises (as it goes on):
            StoreError: the journal that knows cannot be read any more.
        """
        try:
            yield from self._parts.here.get(entry.id, ())
        except OSError as error:
            raise self._error(error, "read what is kept of", entry) from error

    def own(self, entry: Entry, pieces: int = 0) -> Iterator[Own]:
        """After DELTA: what the version that is here is made of, in order, some at a time.

        It reads, and ends early where that cannot be done.

        Args:
            pieces: bytes in each piece that is to be told of; 0: blocks alone.
        """
        with contextlib.suppress(OSError):
            descriptor = self._old_version(entry)
            try:
                yield from delta.own(descriptor, pieces)
            finally:
                os.close(descriptor)

    def write_whole(self, entry: Entry, data: Buffer, digest: bytes) -> None:
        """Store a wanted file that is in memory and of this digest, complete with mode and time.

        One that was dropped goes nowhere.

        Raises:
            RemoteProtocolError: its name was offered already.
            StoreError: the disk said no.
        """
        if self._over:
            raise _closed()
        mode = entry.mode & 0o777
        try:
            with self._lock:
                if entry.id in self._wanted.dropped:
                    return
                directory, name = self._plan.place(entry)
                self._space.stored += len(data)
                plain = self._is_plain(entry)
            if plain:
                descriptor = write_small(directory, name, mode, entry.mtime_ns, data)
            else:
                descriptor = self._write_odd(directory, name, entry, data)
            self._written.keep(descriptor, mode)
            self._journal.add(self._plan.identity(entry), 0, len(data), digest)
        except FileExistsError as error:
            raise self._twice(entry) from error
        except OSError as error:
            raise self._error(error, "write", entry) from error

    def _is_plain(self, entry: Entry) -> bool:
        """Whether a small file is new, and its mode and time are all that it gets besides its content."""
        return not (entry.attributes or entry.mode & 0o777 & ~self._granted or entry.id in self._parts.here)

    def _write_odd(self, directory: int, name: bytes, entry: Entry, data: Buffer) -> int:
        """A small file that is not plain; returns its descriptor."""
        if entry.id in self._parts.here:
            descriptor = open_own(name, directory, AGAIN | os.O_TRUNC)
        else:
            first = 0o600 if entry.attributes else entry.mode & 0o777  # a mode may keep us from giving it these
            descriptor = os.open(name, NEW, first, dir_fd=directory)
        try:
            write_all(descriptor, memoryview(data), 0)
            if refused := dress_file(descriptor, entry):
                self.bare.append((self.path(entry), refused))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @property
    def hands(self) -> Hands | None:
        """As `WritesTogether.hands`."""
        return self._hiring.hands

    def write_together(self, files: Sequence[tuple[Entry, Buffer, bytes]], done: Callable[[], None]) -> bool:
        """Have other processes store small files, no more than a block in all, as `write_whole` would.

        Each has to be of its digest. `done` is called by whoever collects from `hands`, which is to be done by the
        same thread; that raises what `write_whole` does, or a VerificationError.

        Returns:
            False where nothing was begun, since there are too few files for that, or no such processes.
        """
        if self._over:
            return False
        them = self._hiring.with_files(len(files), able=self._written.all_at_once)  # they sync nothing
        if them is None:
            return False
        if sum(len(data) for _, data, _ in files) > BLOCK_SIZE:  # which a sender may, though it need not
            return False
        handed = Handed(them, self._plan)
        here: list[tuple[Entry, Buffer, bytes]] = []
        with self._lock:
            for one in files:
                if one[0].id not in self._wanted.dropped and not (self._is_plain(one[0]) and handed.add(*one)):
                    here.append(one)

        def answered(answer: tuple[()] | tuple[int, int] | None) -> None:
            handed.give_back()
            if answer is None:
                self._failed = True
                raise them.gone()
            if answer:
                raise self._wrong(handed.entry(answer[0]), answer[1])
            done()

        begun = handed.begin(self._folders, self._journal, answered)
        if begun:
            with self._lock:
                self._space.stored += handed.size
        else:
            handed.give_back()
        for entry, data, digest in here if begun else files:
            if blake3(data).digest() != digest:
                raise self._wrong(entry, 0)
            self.write_whole(entry, data, digest)
        if not begun:
            done()
        return True

    def _wrong(self, entry: Entry, number: int) -> Exception:
        """What to raise for an errno; 0: a content is of another digest."""
        self._failed = True
        if not number:
            return damaged(self.path(entry))
        if number == errno.EEXIST:
            return self._twice(entry)
        return self._error(OSError(number, os.strerror(number)), "write", entry)

    def write(self, entry: Entry, offset: int, data: Buffer, digest: bytes) -> None:
        """Write a piece of a wanted file, of this digest; any order will do, and `complete()` ends it.

        What still comes of a file that was dropped goes nowhere.

        Raises:
            RemoteProtocolError: its name was offered already.
            Refused: it is of unknown size, and with it there is more than the store takes.
            StoreError: the disk said no.
        """
        self._check_open()
        try:
            self._parts.write(entry, offset, data, digest)
        except FileExistsError as error:
            raise self._twice(entry) from error
        except OSError as error:
            raise self._error(error, "write", entry) from error

    def same(self, entry: Entry, first: int, digests: Sequence[bytes]) -> list[int]:
        """Take blocks from the version that is here; returns the numbers of those that are not so any more.

        Raises:
            StoreError: the disk said no.
        """
        self._check_open()
        numbers = range(first, first + len(digests))
        try:
            descriptor = self._old_version(entry)
        except OSError:
            return list(numbers)
        changed = []
        buffer = memoryview(bytearray(BLOCK_SIZE))
        try:
            for number, digest in zip(numbers, digests, strict=True):
                try:
                    block = delta.read_block(descriptor, buffer, number * BLOCK_SIZE)
                except OSError:
                    block = buffer[:0]
                if delta.is_block(block, BLOCK_SIZE, digest):
                    self.write(entry, number * BLOCK_SIZE, block, digest)
                else:
                    changed.append(number)
        finally:
            os.close(descriptor)
        return changed

    def read_own(self, entry: Entry, wanted: Sequence[tuple[int, memoryview]]) -> bool:
        """Fill each view from an offset of the version that is here; False where that has not so much any more."""
        self._check_open()
        try:
            descriptor = self._old_version(entry)
            try:
                return all(len(delta.read_block(descriptor, view, offset)) == len(view) for offset, view in wanted)
            finally:
                os.close(descriptor)
        except OSError:
            return False

    def link(self, entry: Entry, to: Entry) -> None:
        """Make a file a hard link to another, which is complete; it is made at the commit.

        Raises:
            LocalProtocolError: one of them was not wanted.
        """
        self._check_open()
        if entry not in self._wanted or to not in self._wanted:
            raise LocalProtocolError(f"'{self._shown(entry)}' cannot be a link to what was not wanted")
        self._hard_links.add(entry, to)

    def complete(self, entry: Entry, size: int) -> None:
        """Finish a file that came in pieces: it has `size` bytes, and gets its mode and time.

        Raises:
            StoreError: it has another size on disk, or the disk said no.
            LocalProtocolError: it was dropped, or some of it is from before and was not read again.
        """
        self._check_open()
        try:
            self._parts.complete(entry, size)
        except FileExistsError as error:  # an empty one, of which nothing was written before
            raise self._twice(entry) from error
        except OSError as error:
            raise self._error(error, "write", entry) from error

    def recheck(self, entry: Entry, stopped: Callable[[], bool]) -> list[int]:
        """Read again what `kept` told of an entry, unless `stopped`; returns the numbers of blocks that are not so.

        Others may write other blocks of it meanwhile.

        Raises:
            StoreError: the disk said no when a damaged block was made zeros.
        """
        self._check_open()
        try:
            return self._parts.recheck(entry, stopped)
        except OSError as error:
            raise self._error(error, "write", entry) from error

    def recheck_together(self, entries: Sequence[Entry], done: Rechecked) -> Sequence[Entry]:
        """Have small files that `kept` told of read again by other processes, which move them here then.

        `done` is called by whoever collects from `hands`, as `write_together` says.

        Returns:
            Those for which nothing was begun.
        """
        if self._over:
            return entries
        them = self._hiring.coming(len(entries), able=self._written.syncfs)
        if them is None or them.lost or not self._written.expect_many():  # they sync nothing
            return entries
        them.on_begun = partial(self._take_some, them)
        with self._lock:
            found = [(entry, self._parts.found(entry)) for entry in entries]
        taken = [(entry, where) for entry, where in found if where is not None]
        if taken:
            self._to_take.append((taken, done))
            self._take_some(them)
        return [entry for entry, where in found if where is None]

    def _take_some(self, them: Hands) -> None:
        """Have as much of it taken as one of them has time for; give back all where none has begun, or will again."""
        while self._to_take and (them.lost or them.spare):
            files, done = self._to_take.popleft()
            if them.lost:
                done((), [entry for entry, _ in files])
                continue
            taken = Taken(self._plan, files[0][1])
            with self._lock:
                count = taken.add_some(files)
                if count < len(files):
                    self._to_take.appendleft((files[count:], done))
                begun = taken.begin(them, self._folders, self._journal, partial(self._took, them, taken, done))
            if not begun:
                done((), taken.entries)

    def _took(self, them: Hands, taken: Taken, done: Rechecked, answer: Sequence[int] | None) -> None:
        if answer is None:
            self._failed = True
            raise them.gone()
        failed = set(answer)
        good = [entry for place, entry in enumerate(taken.entries) if place not in failed]
        with self._lock:
            self._parts.took(good)
        self._take_some(them)
        done(good, [taken.entries[place] for place in answer])

    def drop(self, entry: Entry) -> None:
        """Forget a file that its sender left out, with what was received of it.

        Raises:
            StoreError: the disk said no.
        """
        self._check_open()
        try:
            with self._lock:
                self._parts.drop(entry)
                self._plan.refuse(entry)
        except OSError as error:
            raise self._error(error, "remove", entry) from error

    def commit(self, *, remember: bool = False) -> None:
        """Have everything on disk, then make it visible, then have that on disk too. It may take long.

        What fails before the first rename leaves nothing visible; of what fails later the error says what is in place.
        Either way `abandon()` removes the rest.

        Args:
            remember: until `heard()` the next delivery of the same origin knows what was put in place: offered again
                and unchanged it is skipped, whatever happens to what else is there.

        Raises:
            StoreError: the disk said no, or something else changed the destination meanwhile.
            ClosedError: something failed before; what is missing then must not pass for delivered.
            LocalProtocolError: a file was begun and neither completed nor dropped.
        """
        self._hiring.close()
        with self._ending:
            self._check_open()
            if self._failed:
                raise ClosedError("this delivery has failed", hint="Abandon it and receive everything again.")
            if unfinished := self._parts.unfinished:
                raise LocalProtocolError(f"{unfinished} files are not complete")
            self._failed = True  # unless it succeeds: what an fsync could not write the next one would say is well
            with contextlib.suppress(OSError):  # the disk is full, and all that is to come may fit
                self._journal.flush()  # whoever is killed from here on keeps what had arrived
            commit = self._commit = Commit(
                self._plan,
                self._folders,
                self._written,
                self._path,
                self.landed,
                remember=remember and self._staging.area.locked,  # else it would stay for ever
            )
            try:
                if self._hard_links:
                    # It may take minutes, and who is killed over it has files of one name: those that the next
                    # delivery takes over.
                    commit.sync_files()
                    self._link_files()
                commit.run()
            except StoreError:
                if not commit.placed:
                    self._hard_links.unmake()
                raise
            self.bare += commit.bare
            self._end(keep=commit.noted, delivered=True)

    def heard(self) -> None:
        """After the commit: the sender has heard that all is here, and will not come for that again."""
        self._staging.forget()

    def _link_files(self) -> None:
        try:
            self._hard_links.make()
        except OSError as error:
            raise store_error(error, "link files in", self._path) from error

    def suspend(self) -> None:
        """End, and keep what the next delivery can use; nothing where there is nothing, or where it is in doubt."""
        self._hiring.close()
        with self._ending:
            if not self._over:
                with contextlib.suppress(OSError):  # the disk is full: what was written before counts
                    self._journal.flush()
                self._end(keep=self._staging.area.locked and self._has_use)

    @property
    def _has_use(self) -> bool:
        """Whether there is something that the next delivery can use.

        What a commit has renamed is not where the journal says, and so not taken for what is still to come.
        """
        in_place = self._commit is not None and self._commit.placed == len(self._plan.grafts)
        return not (self._journal.empty or self._written.doubtful or in_place)

    def abandon(self) -> None:
        """Remove all that was received and not committed. What cannot be removed now, the next delivery will remove."""
        self._hiring.close()
        with self._ending:
            if not self._over:
                self._end(keep=False)

    def _end(self, *, keep: bool, delivered: bool = False) -> None:
        self._over = True
        self._written.close()
        self._folders.close()
        self._parts.close()
        self._leftovers.close(delivered=delivered, kept=keep)
        self._journal.close()
        if keep:
            self._staging.leave()
        else:
            self._staging.remove()
        os.close(self._top)

    def _check_open(self) -> None:
        if self._over:
            raise _closed()

    def _old_version(self, entry: Entry) -> int:
        with self._lock:
            if entry.id in self._wanted.dropped:
                raise FileNotFoundError(errno.ENOENT, "it was dropped")
            directory, name = self._plan.old_place(entry)
            return delta.open_file(name, directory)

    def _shown(self, entry: Entry) -> str:
        return printable(b"/".join(self.path(entry)))

    def _error(self, error: OSError, doing: str, entry: Entry) -> StoreError:
        self._failed = True  # something is missing: never commit
        return store_error(error, doing, b"/".join((self._path, *self.path(entry))))

    def _twice(self, entry: Entry) -> RemoteProtocolError:
        self._failed = True
        return RemoteProtocolError(f"'{self._shown(entry)}' was offered twice")


def _closed() -> ClosedError:
    return ClosedError("this delivery is over")


def _make_symlink(entry: Entry, name: bytes, directory: int) -> None:
    os.symlink(entry.target, name, dir_fd=directory)
    try:
        set_time(name, entry.mtime_ns, directory=directory, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT_HOLD:  # a file system whose symlinks have no times
            raise

"""Commit: everything on disk, then renamed into place, then that on disk too.

Before the first rename nothing shows, and all that will show is on disk: a power cut at any moment leaves each graft
either absent or whole.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Final

from enchufe.entry import Kind
from enchufe.errors import StoreError
from enchufe.printable import printable
from enchufe.store import arrived, linux
from enchufe.store.durable import ONE_BY_ONE, Written, sync_directory
from enchufe.store.faults import store_error
from enchufe.store.folders import DIRECTORY, Folders
from enchufe.store.grafts import Graft
from enchufe.store.metadata import dress_directory
from enchufe.store.plan import AREA, TOP, Folder, Plan

_NAMED: Final = 3  # as many of what is in place are named in an error


class Commit:
    """The end of one delivery.

    Args:
        plan: what was decided; its staged directories and grafts are all made.
        folders: descriptors of its directories, of the destination and of the staging area.
        written: the files.
        path: the destination, for messages.
        landed: filled with id of a root -> the name it got.
        remember: whether what it puts in place is to be known again (`arrived.py`).

    Attributes:
        bare: path of each directory that did not get all of its attributes, and their names.
        placed: how many grafts are in place.
        noted: whether anything is there to be known again by.
    """

    def __init__(
        self,
        plan: Plan,
        folders: Folders,
        written: Written,
        path: bytes,
        landed: dict[int, bytes],
        *,
        remember: bool = False,
    ) -> None:
        self._plan = plan
        self._folders = folders
        self._written = written
        self._path = path
        self._landed = landed
        self.bare: list[tuple[tuple[bytes, ...], list[bytes]]] = []
        self.placed = 0
        self.noted = False
        self._remember = remember
        self._first: list[bytes] = []  # their paths, for an error: of few, as one may have 64 KB
        self._parents = plan.grafts.parents()
        # Of what an attempt before has put in place nobody knows whether that is on disk.
        self._touched = self._parents | {TOP} if plan.again else self._parents
        self._few = not written.syncfs or plan.grafts.directories + self._changed_live() <= ONE_BY_ONE

    def sync_files(self) -> None:
        """Have the files on disk before `run()`, which then finds little left to do.

        Raises:
            StoreError: the disk said no.
        """
        try:
            self._written.sync(self._staged())
        except OSError as error:
            raise self._unsynced(error) from error

    def run(self) -> None:
        """Do it.

        Raises:
            StoreError: the disk said no; where something is in place already, it says what.
        """
        try:
            self._sync_staged()
            for parent in self._parents:
                self._folders.descriptor(parent)  # one that is not there any more is found before anything shows
        except OSError as error:
            raise self._unsynced(error) from error
        for graft in self._plan.grafts:
            try:
                self._put(graft)
            except OSError as error:
                path = b"/".join((self._path, *self._folders.path(graft.parent), graft.name))
                raise self._partly(store_error(error, "put in place", path)) from error
        try:
            self._finish_live()
        except OSError as error:
            raise self._partly(store_error(error, "get the folders on disk in", self._path)) from error

    def _sync_staged(self) -> None:
        """All files, and all staged directories with their content; those that stay where they are get mode and time.

        A directory that will be renamed must let us write into it until then, since that changes its `..`.
        """
        at_once = self._written.all_at_once
        if self._remember:
            self._note_roots()
        if not at_once:
            self._written.sync(self._staged())
        for folder in self._plan.staged():
            descriptor = self._folders.descriptor(folder.id)
            if not folder.grafted:
                self._dress(descriptor, folder)
            if not at_once:
                self._written.surely(sync_directory, descriptor)
        if at_once:
            self._written.sync(())

    def _note_roots(self) -> None:
        area = self._folders.descriptor(AREA)
        roots = dict(self._plan.again)
        try:
            for graft in self._plan.grafts if TOP in self._parents else ():
                if graft.parent == TOP and (known := arrived.identity(area, graft.private)) is not None:
                    roots[graft.name] = known
            if not roots:
                return
            descriptor = arrived.write(area, roots)
        except OSError:  # the disk is full: all can be delivered nevertheless
            return
        try:
            if not self._written.all_at_once:
                self._written.surely(os.fsync, descriptor)
        finally:
            os.close(descriptor)
        self.noted = True

    def _staged(self) -> Iterator[int]:
        yield self._folders.descriptor(AREA)
        for folder in self._plan.staged():
            yield self._folders.descriptor(folder.id)

    def _put(self, graft: Graft) -> None:
        area = self._folders.descriptor(AREA)
        parent = self._folders.descriptor(graft.parent)
        if graft.kind is not Kind.DIRECTORY:
            self._note(graft, graft.put(area, parent))
            return
        directory = os.open(graft.private, DIRECTORY, dir_fd=area)
        try:
            self._note(graft, graft.put(area, parent))
            if (folder := self._plan.folder(graft.id)) is not None:
                self._dress(directory, folder)
            if self._few:
                self._written.surely(sync_directory, directory)
        finally:
            os.close(directory)

    def _note(self, graft: Graft, name: bytes) -> None:
        self.placed += 1
        if len(self._first) < _NAMED:
            self._first.append(b"/".join((*self._folders.path(graft.parent), name)))
        if graft.parent == TOP:
            self._landed[graft.id] = name

    def _finish_live(self) -> None:
        """The directories that were merged into: mode and time where the offer's are wanted, and all on disk."""
        for folder in self._plan.live():
            if self._is_changed(folder):
                descriptor = self._folders.descriptor(folder.id)
                if self._is_dressed(folder):
                    self._dress(descriptor, folder)
                if self._few:
                    self._written.surely(sync_directory, descriptor)
            if folder.depth == 1:
                self._landed[folder.id] = self._plan.own.get(folder.id) or self._folders.path(folder.id)[0]
        if not self._few:
            self._written.surely(linux.syncfs, self._folders.descriptor(AREA))

    def _is_changed(self, folder: Folder) -> bool:
        """Whether the commit changes a live directory."""
        return folder.id in self._touched or self._is_dressed(folder)

    def _changed_live(self) -> int:
        """How many it changes; of many only that they are."""
        return sum(1 for _ in itertools.islice(filter(self._is_changed, self._plan.live()), ONE_BY_ONE + 1))

    def _dress(self, descriptor: int, folder: Folder) -> None:
        if refused := dress_directory(descriptor, folder):
            self.bare.append((self._folders.path(folder.id), refused))

    def _is_dressed(self, folder: Folder) -> bool:
        """Whether a live directory gets the mode and time of the offer.

        Of what an attempt before has put in place only a root may lack them: it was killed before it gave it those.
        What is in one had them by then, or is the receiver's.
        """
        own = folder.depth == 1 and self._plan.own.get(folder.id) is not None
        return folder.id != TOP and (self._plan.dresses_live or own)

    def _unsynced(self, error: OSError) -> StoreError:
        return store_error(error, "get everything on disk in", self._path)

    def _partly(self, error: StoreError) -> StoreError:
        """The error, telling what is in place already."""
        if not self.placed:
            return error
        more = self.placed - _NAMED
        told = ", ".join(f"'{printable(path)}'" for path in self._first) + (f" and {more:,} more" if more > 0 else "")
        return type(error)(f"{error}; in place already: {told}", hint=error.hint)

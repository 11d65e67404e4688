"""Handed: small files of a delivery that a hand is to write for it (hands.py), as one request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enchufe.buffer import Buffer
from enchufe.entry import NO_PARENT, Entry
from enchufe.store.hands import Answered, Hands, Places
from enchufe.store.journal import Journal
from enchufe.store.plan import Plan
from enchufe.store.shared_folders import SharedFolders

if TYPE_CHECKING:
    from enchufe.store.hand import Write


class Handed:
    """Files with all that a hand needs to write them, their contents in memory that it sees.

    Args:
        them: the hands; one lends that memory until `give_back`.
        plan: knows where the files are staged.

    Attributes:
        size: bytes in the contents of them all.
    """

    def __init__(self, them: Hands, plan: Plan) -> None:
        self.size = 0
        self._them = them
        self._plan = plan
        self._slot = them.slot()
        self._places = Places()
        self._files: list[Write] = []
        self._entries: list[Entry] = []
        # Most are beside the one before: where that is, if it was staged under its own name.
        self._folder, self._parent = 0, NO_PARENT

    def add(self, entry: Entry, data: Buffer, digest: bytes) -> bool:
        """Have one more written, of this digest if it is; False where it is in one folder more than may go along.

        All of them are no more than a block. Nobody else may ask the plan meanwhile.
        """
        if self._places.full:
            return False
        name, known = entry.name, b""
        if entry.parent != self._parent or entry.parent == NO_PARENT:
            self._folder, name = self._plan.place(entry, self._places)
            self._parent = entry.parent
            if name is not entry.name:
                known, self._parent = self._plan.identity(entry), NO_PARENT
        start, size = self.size, len(data)
        self._slot.view[start : start + size] = data
        mode = entry.mode & 0o777
        self._files.append((self._folder, name, mode, entry.mtime_ns, self._slot.start + start, size, digest, known))
        self._entries.append(entry)
        self.size += size
        return True

    def entry(self, place: int) -> Entry:
        """The file at this place of the request, as an answer names it."""
        return self._entries[place]

    def begin(self, folders: SharedFolders, journal: Journal, answered: Answered) -> bool:
        """Have a hand write them; False where there is none to be asked now, or nothing to ask for."""
        if not self._files:
            return False
        paths = [self._plan.path(id_) for id_ in self._places.ids]
        try:
            self._them.write(self._files, self._places, folders, paths, journal.reserve(len(self._files)), answered)
        except OSError:  # no descriptors left, say: whoever writes one by one may do with less, or finds out why
            return False
        return True

    def give_back(self) -> None:
        """Their contents are of no use any more."""
        self._them.give_back(self._slot)

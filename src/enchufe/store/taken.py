"""Taken: small files from before that a hand is to read again and move to their place (hands.py), as one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from enchufe.entry import NO_PARENT, Entry
from enchufe.store.hands import Answered, Hands, Places
from enchufe.store.journal import Journal
from enchufe.store.leftovers import Found
from enchufe.store.plan import Plan
from enchufe.store.shared_folders import SharedFolders

if TYPE_CHECKING:
    from enchufe.store.hand import Take

_FILES: Final = 256  # as many as are offered at once
_SIZE: Final = 8 << 20  # bytes in all of them: a few milliseconds


class Taken:
    """Files with all that a hand needs to take them over.

    Args:
        plan: knows where the files are staged, here and there.
        first: where the first of them is; the others are in the same area.

    Attributes:
        entries: those that were added.
    """

    def __init__(self, plan: Plan, first: Found) -> None:
        self.entries: list[Entry] = []
        self._plan = plan
        self._old = first.folders
        self._size = 0
        self._places = Places(each=2)
        self._files: list[Take] = []

    def add_some(self, files: Sequence[tuple[Entry, Found]]) -> int:
        """Have the first of these taken over, as many as fit: how many. Nobody else may ask the plan meanwhile."""
        count = 0
        # Most are beside the one before: where that is, if it was staged under its own name.
        folder, parent = 0, NO_PARENT
        for entry, found in files:
            full = len(self._files) == _FILES or self._size >= _SIZE or self._places.full
            if full or found.folders is not self._old:
                break
            name, known = entry.name, b""
            if entry.parent != parent or parent == NO_PARENT:
                folder, name = self._plan.place(entry, self._places)
                parent = entry.parent
                if name is not entry.name:
                    known, parent = self._plan.identity(entry), NO_PARENT
            ((_, digest),) = found.kept
            self._files.append((folder, name, entry.mode & 0o777, entry.mtime_ns, entry.size, digest, known))
            self.entries.append(entry)
            self._size += entry.size
            count += 1
        return count

    def begin(self, them: Hands, folders: SharedFolders, journal: Journal, answered: Answered) -> bool:
        """Have a hand take them over; False where there is none to be asked now, or a folder of theirs is not there.

        Nobody else may use the folders of their area meanwhile.
        """
        paths = [self._plan.path(id_) for id_ in self._places.ids]
        try:
            where = journal.reserve(len(self._files), at_risk=self._size)
            them.take(self._files, self._places, (folders, self._old), paths, where, answered)
        except OSError:
            return False
        return True

"""Partials: what cut transfers have left in a destination, listed and cleaned up."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator

from enchufe.dataclass import dataclass
from enchufe.errors import BusyError, LocalProtocolError
from enchufe.store.faults import check_path, store_error
from enchufe.store.folders import DIRECTORY, scan
from enchufe.store.journal import NAME, ROOT
from enchufe.store.leftovers import EXPIRY, last_change
from enchufe.store.names import NAME_MAX
from enchufe.store.staging import Area, areas, locked_home, remove_home


@dataclass(frozen=True, slots=True)
class Partial:
    """What one transfer has left.

    Attributes:
        name: of its area, to clean it by.
        root: name of the first thing that was being received, if it is known.
        size: bytes that it takes on the disk.
        files: how many, whole or in part.
        changed: when something was last received, in seconds since 1970; None where nothing can be used any more.
        in_use: whether a transfer is at it now, or nobody can tell.
    """

    name: str
    root: bytes | None
    size: int
    files: int
    changed: float | None
    in_use: bool


def partials(folder: str | bytes | os.PathLike[str]) -> list[Partial]:
    """What cut transfers have left in `folder`, in the order they were cut.

    Raises:
        StoreError: it cannot be looked at.
    """
    with _areas(folder, hold=False) as found:
        return _sorted(found)


def clean(folder: str | bytes | os.PathLike[str], name: str | None = None, *, expired: bool = False) -> list[Partial]:
    """Remove what cut transfers have left in `folder` and is not in use; returns what was removed.

    Args:
        folder: the destination.
        name: only the one of this name.
        expired: only those that nothing was received into for a week, which every new transfer into `folder` removes
            anyway.

    Raises:
        LocalProtocolError: there is none of that name.
        BusyError: the one of that name is in use.
        StoreError: it cannot be looked at.
    """
    removed = []
    with _areas(folder, hold=True) as found:
        named = [partial for partial in found if name in (None, partial.name)]
        if name is not None and not named:
            raise LocalProtocolError(f"there is nothing called {name} to clean", hint="List what there is first.")
        if name is not None and named[0].in_use:
            raise BusyError(f"{name} is in use", hint="Let the transfer end first.")
        for partial in _sorted(named):
            if not partial.in_use and (not expired or _is_expired(partial)):
                found[partial].empty()
                removed.append(partial)
    return removed


@contextlib.contextmanager
def _areas(folder: str | bytes | os.PathLike[str], *, hold: bool) -> Iterator[dict[Partial, Area]]:
    """Every area with what it is; nobody begins a delivery meanwhile.

    Args:
        hold: keep those that are not in use locked, or else a delivery that has begun may go on with them.
    """
    path = os.fsencode(folder)
    check_path(path)
    with contextlib.ExitStack() as stack:
        try:
            top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, top)
            stack.callback(remove_home, top)
            home = locked_home(top, path)
            if home is None:
                found = {}
            else:
                stack.callback(os.close, home)
                found = {_looked_at(area, hold=hold): area for area in areas(home)}
        except OSError as error:
            raise store_error(error, "look into", path) from error
        for area in found.values():
            stack.callback(area.close)
        yield found


def _looked_at(area: Area, *, hold: bool) -> Partial:
    in_use = not area.lock()
    if not in_use and not hold:
        area.unlock()
    size, files = _measured(area.descriptor)
    with contextlib.suppress(OSError), scan(area.descriptor) as listing:
        files -= sum(os.fsencode(entry.name) in (ROOT, NAME) for entry in listing)
    return Partial(area.name.decode(), _root(area), size, files, last_change(area), in_use)


def _root(area: Area) -> bytes | None:
    try:
        descriptor = os.open(ROOT, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=area.descriptor)
    except OSError:
        return None
    try:
        return os.read(descriptor, NAME_MAX) or None
    finally:
        os.close(descriptor)


def _measured(directory: int) -> tuple[int, int]:
    """Bytes on the disk and number of files below a directory; what cannot be looked at counts nothing."""
    size = files = 0
    with contextlib.suppress(OSError), scan(directory) as listing:
        for entry in listing:
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    inner = os.open(entry.name, DIRECTORY, dir_fd=directory)
                    try:
                        below = _measured(inner)
                    finally:
                        os.close(inner)
                    size, files = size + below[0], files + below[1]
                else:
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    files += 1
    return size, files


def _is_expired(partial: Partial) -> bool:
    return partial.changed is None or time.time() - partial.changed > EXPIRY


def _sorted(found: Iterable[Partial]) -> list[Partial]:
    return sorted(found, key=lambda partial: (partial.changed or 0.0, partial.name))

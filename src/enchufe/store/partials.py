"""Partials: what cut transfers have left in a destination, listed and cleaned up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator
from typing import Final

from enchufe.dataclass import dataclass
from enchufe.errors import BusyError, LocalProtocolError
from enchufe.printable import printable
from enchufe.store import arrived
from enchufe.store.faults import check_path, store_error
from enchufe.store.folders import DIRECTORY, scan
from enchufe.store.journal import NAME, ROOT
from enchufe.store.names import NAME_MAX, STAGING
from enchufe.store.staging import Area, areas, has_expired, locked_home, remove_home

_NOTES: Final = frozenset({ROOT, NAME, arrived.NAME})


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
        arrived: whether all of it is in place, and only that its sender may not have heard so is still noted.
    """

    name: str
    root: bytes | None
    size: int
    files: int
    changed: float | None
    in_use: bool
    arrived: bool


def partials(folder: str | bytes | os.PathLike[str]) -> list[Partial]:
    """What cut transfers have left in `folder`, in the order they were cut.

    Raises:
        StoreError: it cannot be looked at.
    """
    with _areas(folder, hold=False) as found:
        return _sorted(partial for _, partial in found)


def clean(folder: str | bytes | os.PathLike[str], name: str | None = None, *, expired: bool = False) -> list[Partial]:
    """Remove what cut transfers have left in `folder` and is not in use; returns what was removed.

    Args:
        folder: the destination.
        name: only the one of this name.
        expired: only those that nothing was received into for a week, which new transfers into `folder` remove anyway:
            one of the same origin when it is complete, others at once.

    Raises:
        LocalProtocolError: there is none of that name.
        BusyError: the one of that name is in use.
        StoreError: it cannot be looked at, or one not be removed.
    """
    removed, known = [], name is None
    with _areas(folder, hold=True) as found:
        for area, partial in found:
            if name not in (None, partial.name):
                continue
            known = True
            if partial.in_use and name is not None:
                raise BusyError(f"{name} is in use", hint="Let the transfer end first.")
            if not partial.in_use and (not expired or has_expired(partial.changed)):
                try:
                    area.empty()
                except OSError as error:
                    raise store_error(
                        error, "remove", f"{os.fsdecode(folder)}/{STAGING.decode()}/{partial.name}"
                    ) from error
                removed.append(partial)
    if not known:
        raise LocalProtocolError(
            f"there is nothing called {printable(str(name))} to clean", hint="List what there is first."
        )
    return _sorted(removed)


@contextlib.contextmanager
def _areas(folder: str | bytes | os.PathLike[str], *, hold: bool) -> Iterator[Iterator[tuple[Area, Partial]]]:
    """Every area with what it is, one open after the other; nobody begins a delivery meanwhile.

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
                yield iter(())
            else:
                stack.callback(os.close, home)
                yield stack.enter_context(contextlib.closing(_each(home, hold=hold)))
        except OSError as error:
            raise store_error(error, "look into", path) from error


def _each(home: int, *, hold: bool) -> Generator[tuple[Area, Partial]]:
    for area in areas(home):
        try:
            yield area, _looked_at(area, hold=hold)
        finally:
            area.close()


def _looked_at(area: Area, *, hold: bool) -> Partial:
    in_use = not area.lock()
    if not in_use and not hold:
        area.unlock()
    size, files = _measured(area.descriptor)
    names: set[bytes] = set()
    with contextlib.suppress(OSError), scan(area.descriptor) as listing:
        names.update(os.fsencode(entry.name) for entry in listing)
    files -= len(names & _NOTES)
    in_place = arrived.NAME in names and names <= _NOTES
    return Partial(area.name.decode(), _root(area), size, files, area.changed, in_use, in_place)


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


def _sorted(found: Iterable[Partial]) -> list[Partial]:
    return sorted(found, key=lambda partial: (partial.changed or 0.0, partial.name))

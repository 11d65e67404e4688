"""LocalStore: a directory of this machine that files are received into."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import get_args

from enchufe.errors import LocalProtocolError
from enchufe.store import names
from enchufe.store.delivery import Delivery
from enchufe.store.durable import sync_directory
from enchufe.store.faults import check_path, store_error
from enchufe.store.plan import IfExists, Links
from enchufe.store.staging import Staging


class LocalStore:
    """A directory that takes deliveries, any number at once, from any number of processes.

    Args:
        folder: where; it is made, with its parents, if it is not there. Symlinks on the way to it are followed, since
            the user named it; below it none is.
        if_exists: what happens to an entry whose name the folder has already.
            `rename`: it gets a free name, `photo (1).jpg`. Nothing there changes.
            `skip`: what is there stays; folders are merged.
            `overwrite`: files and symlinks are replaced, folders are merged.
            `update`: as `overwrite`, except that a file of the same size and time stays.
            `fail`: the whole delivery is refused.
            That is decided when an entry is offered. A name that was free then, and that something else has by the
            commit, is left to that, whatever was chosen: of two first runs of `update` at once one becomes `tree (1)`.
        links: which symlinks are taken: those that lead nowhere but `inside` their own tree, `any`, or `none`.
        checksum: with `update`, the same size and time are no proof that a file is the same: its content is.
        max_size: bytes that one delivery may bring; a file that would go over is refused.

    Raises:
        StoreError: the folder cannot be made, or is not one.
        LocalProtocolError: there is no such choice, or `folder` is no path.
    """

    def __init__(
        self,
        folder: str | bytes | os.PathLike[str],
        *,
        if_exists: IfExists = "rename",
        links: Links = "inside",
        checksum: bool = False,
        max_size: int | None = None,
    ) -> None:
        if if_exists not in get_args(IfExists) or links not in get_args(Links):
            raise LocalProtocolError(f"a store takes no if_exists={if_exists!r}, links={links!r}")
        path = os.fsencode(folder)
        check_path(path)
        # Only the file system knows where `..` after a symlink leads.
        self._path = os.path.realpath(path) if b".." in path.split(b"/") else os.path.abspath(path)
        self._if_exists: IfExists = if_exists
        self._links: Links = links
        self._checksum = checksum
        self._max_size = max_size
        self._rules: names.NameRules | None = None
        try:
            self._made = _make_durably(self._path)
        except OSError as error:
            raise store_error(error, "make the folder", self._path) from error

    def begin(self, origin: bytes = b"") -> Delivery:
        """Start a delivery, with a staging area of its own.

        What it can take over from one of the same origin that was cut it will, and what of that origin has expired
        goes when it is delivered; areas of dead owners with nothing to take over, or of another origin and expired,
        are removed on the way.

        Args:
            origin: where the files come from: whoever knows it is taken for the one that sent before.

        Raises:
            StoreError: the folder cannot be written to.
        """
        try:
            folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise store_error(error, "open the folder", self._path) from error
        another = False
        try:
            another = not os.path.samestat(os.fstat(folder), self._made)
            staging = Staging(folder, self._path, origin)
            try:
                if self._rules is None:
                    self._rules = names.probe(staging.area.descriptor)
                return Delivery(
                    folder,
                    self._path,
                    staging,
                    self._rules,
                    if_exists=self._if_exists,
                    links=self._links,
                    checksum=self._checksum,
                    max_size=self._max_size,
                )
            except BaseException:
                for area in staging.dead:
                    area.close()
                staging.remove()
                raise
        except OSError as error:
            os.close(folder)
            told = store_error(error, "write into", self._path)
            if another and error.errno == errno.EACCES:  # who has confined himself may write into no other
                told.hint = "Another folder was made or mounted there since this began: run it again."
            raise told from error
        except BaseException:
            os.close(folder)
            raise


def _make_durably(path: bytes) -> os.stat_result:
    """Make a directory and its parents where they are missing, each known to the one above on disk; what it is then."""
    for directory in reversed(list(_missing(path))):
        try:
            os.mkdir(directory)
        except FileExistsError:  # somebody else makes it too
            continue
        with contextlib.suppress(PermissionError):  # one that can be written to but not read cannot be synced
            above = os.open(os.path.dirname(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                sync_directory(above)
            finally:
                os.close(above)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _missing(path: bytes) -> Iterator[bytes]:
    while not os.path.lexists(path):
        yield path
        path = os.path.dirname(path)

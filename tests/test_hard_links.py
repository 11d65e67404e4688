"""Files that are one and the same at their sender's: linked here too, copied where there are no links."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from enchufe.entry import Answer, Entry, Kind
from enchufe.errors import NoSpaceError, StoreError
from enchufe.store import Delivery, durable, linux
from tests.test_delivery import Offer, T, delivery, write_whole
from tests.test_delivery_faults import fails

COUNT = 30


def offer_linked(begun: Delivery, mode: int = 0o640) -> None:
    """A file, and others in another folder that are the same."""
    offer = Offer(begun)
    tree = offer.folder("tree")
    first = offer.add(Kind.FILE, "first", tree, size=3, mode=mode, shared=True)
    write_whole(begun, first, b"abc")
    inner = offer.folder("inner", tree)
    for number in range(COUNT):
        entry = Entry(offer.count, inner.id, b"%d" % number, Kind.FILE, 3, mode, T, linked=first.id)
        offer.count += 1
        assert begun.admit(entry) is Answer.LINK
        begun.link(entry, first)


def others(inbox: Path) -> list[Path]:
    return [inbox / "tree" / "inner" / str(number) for number in range(COUNT)]


def test_they_are_one_file(inbox: Path, no_descriptor_stays: None) -> None:
    with delivery(inbox) as begun:
        offer_linked(begun)
        before = len(os.listdir("/proc/self/fd"))
        begun.commit()
        assert len(os.listdir("/proc/self/fd")) <= before
    first = (inbox / "tree/first").stat()
    assert (first.st_nlink, first.st_mtime_ns, stat.S_IMODE(first.st_mode)) == (COUNT + 1, T, 0o640)
    assert all(path.samefile(inbox / "tree/first") for path in others(inbox))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("mode", [0o640, 0o400, 0])
def test_where_there_are_no_links_they_are_copied(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, no_descriptor_stays: None, number: int, mode: int
) -> None:
    monkeypatch.setattr(os, "link", fails(number))
    with delivery(inbox) as begun:
        offer_linked(begun, mode)
        begun.commit()
    for path in (inbox / "tree/first", *others(inbox)):
        found = path.stat()
        assert (found.st_nlink, found.st_mtime_ns, stat.S_IMODE(found.st_mode)) == (1, T, mode)
        assert path.read_bytes() == b"abc"


def test_a_disk_that_fails_is_no_disk_without_links(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with delivery(inbox) as begun:
        offer_linked(begun)
        monkeypatch.setattr(os, "link", fails(errno.EIO))
        with pytest.raises(StoreError, match="link files"):
            begun.commit()
    assert not list(inbox.iterdir())


@pytest.mark.parametrize("at_once", [False, True])
def test_what_a_disk_refuses_before_the_links_it_is_not_asked_for_again(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """A second fsync says that all is well: so nothing is in place, whatever it would say."""
    monkeypatch.setattr(durable, "ONE_BY_ONE", 0 if at_once else 1000)
    asked: list[int] = []

    def refuse(descriptor: int) -> None:
        asked.append(descriptor)
        if len(asked) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with delivery(inbox) as begun:
        offer_linked(begun)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", refuse)
            patched.setattr(linux, "syncfs", refuse)
            with pytest.raises(StoreError):
                begun.commit()
    assert len(asked) == 1
    assert not list(inbox.iterdir())


def test_a_disk_that_is_full_in_the_middle_of_a_copy(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, no_descriptor_stays: None
) -> None:
    with delivery(inbox) as begun:
        offer_linked(begun)
        monkeypatch.setattr(os, "link", fails(errno.EPERM))
        monkeypatch.setattr(os, "write", fails(errno.ENOSPC))
        with pytest.raises(NoSpaceError):
            begun.commit()
    assert not list(inbox.iterdir())

"""Extended attributes: the user's, asked for, and nothing that means something to the machine."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from enchufe.entry import NO_PARENT, Answer, Entry, Kind
from enchufe.errors import StoreError
from enchufe.store import LocalStore, Source
from enchufe.store.attributes import LIMIT, get_attributes, set_attributes
from tests.test_delivery import write, write_whole


@pytest.fixture
def tree(place: Path) -> Path:
    """A folder with a file, on a file system that has attributes."""
    root = place / "t"
    root.mkdir()
    (root / "file").write_text("x")
    try:
        os.setxattr(root / "file", b"user.a", b"1")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error.strerror}")
    return root


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def walked(*paths: Path) -> tuple[dict[bytes, Entry], list[tuple[tuple[bytes, ...], str]]]:
    with contextlib.closing(Source(paths, attributes=True)) as source:
        return {b"/".join(source.path(entry)): entry for entry in source.walk()}, list(source.left_out)


def test_they_go_along_when_asked_for(tree: Path) -> None:
    os.setxattr(tree / "file", "user.ñ".encode(), b"\0\xff")
    os.setxattr(tree / "file", b"user.\xff", b"")
    os.setxattr(tree, b"user.folder", b"2")
    (tree / "link").symlink_to("file")
    (tree / "none").touch()
    os.link(tree / "file", tree.parent / "root")
    found, left_out = walked(tree, tree.parent / "root")
    three = ((b"user.a", b"1"), ("user.ñ".encode(), b"\0\xff"), (b"user.\xff", b""))
    assert {name: entry.attributes for name, entry in found.items()} == {
        **{b"t": ((b"user.folder", b"2"),), b"t/file": three, b"t/link": (), b"t/none": (), b"root": three}
    }
    assert left_out == []
    with contextlib.closing(Source([tree])) as source:
        assert {entry.attributes for entry in source.walk()} == {()}


def test_they_are_read_again(tree: Path) -> None:
    with contextlib.closing(Source([tree], attributes=True)) as source:
        _, entry = source.walk()
        os.setxattr(tree / "file", b"user.a", b"2")
        changed = source.again(entry)
        assert changed is not None
        assert changed.attributes == ((b"user.a", b"2"),)


def test_only_the_users(tree: Path) -> None:
    try:
        os.setxattr(tree / "file", b"trusted.a", b"1")
    except OSError as error:
        pytest.skip(f"only root has these: {error.strerror}")
    with opened(tree / "file") as descriptor:
        assert b"trusted.a" in map(os.fsencode, os.listxattr(descriptor))
        assert get_attributes(descriptor) == (((b"user.a", b"1"),), [])


def test_too_many(tree: Path) -> None:
    """As many as fit, by name; the file goes all the same."""
    room = LIMIT - len(b"user.a") - 1 - 3
    try:
        os.setxattr(tree / "file", b"user.b", b"x" * (room - len(b"user.b") - 3 + 1))
        os.setxattr(tree / "file", b"user.c\n", b"x")
    except OSError as error:
        pytest.skip(f"this file system takes fewer: {error.strerror}")
    found, left_out = walked(tree)
    assert found[b"t/file"].attributes == ((b"user.a", b"1"), (b"user.c\n", b"x"))
    assert left_out == [((b"t", b"file"), "extended attributes beyond 4,096 bytes: user.b")]
    os.removexattr(tree / "file", b"user.c\n")
    os.setxattr(tree / "file", b"user.b", b"x" * (room - len(b"user.b") - 3))
    found, left_out = walked(tree)
    assert sum(3 + len(name) + len(value) for name, value in found[b"t/file"].attributes) == LIMIT
    assert left_out == []


def test_faults_of_reading(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(call: str, number: int) -> None:
        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, call, fail)

    failing("getxattr", errno.ENODATA)  # removed after it was listed
    found, left_out = walked(tree)
    assert found[b"t/file"].attributes == ()
    assert left_out == []
    failing("getxattr", errno.EIO)
    found, left_out = walked(tree)
    assert found[b"t/file"].attributes == ()
    told = "its extended attributes: Input/output error"
    assert left_out == [((b"t", b"file"), told)]
    failing("getxattr", errno.ENOMEM)
    with pytest.raises(StoreError, match="memory"):
        walked(tree)
    failing("listxattr", errno.EIO)
    found, left_out = walked(tree)
    assert found[b"t/file"].attributes == ()
    assert left_out == [((b"t",), told), ((b"t", b"file"), told)]


def test_file_system_without(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(Path("/proc/self")) as descriptor:
        try:
            os.listxattr(descriptor)
        except OSError:
            assert get_attributes(descriptor) == ((), [])

    def without(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "listxattr", without)
    with opened(tree / "file") as descriptor:
        assert get_attributes(descriptor) == ((), [])


def test_setting(tree: Path) -> None:
    file = tree / "set"
    file.touch()
    os.utime(file, ns=(1, 1))
    attributes = ((b"user.a", b"1"), ("user.ñ".encode(), b"\0\xff"), (b"user.empty", b""))
    for path in (file, tree):
        with opened(path) as descriptor:
            os.fchmod(descriptor, 0o700)
            assert set_attributes(descriptor, attributes) == []
            assert sorted(get_attributes(descriptor)[0]) == sorted(attributes)
    assert file.stat().st_mtime_ns == 1


@pytest.mark.parametrize(
    "name",
    [
        *(b"trusted.a", b"security.capability", b"security.selinux", b"system.posix_acl_access", b"a", b"", b"user"),
        *(b"user.", b"user.a\0b", b"USER.a", b"user." + b"n" * 251),
    ],
)
def test_what_a_peer_may_not_set(tree: Path, name: bytes) -> None:
    with opened(tree / "file") as descriptor:
        before = os.listxattr(descriptor)
        assert set_attributes(descriptor, [(name, b"1"), (b"user.a", b"2")]) == [name]
        assert os.listxattr(descriptor) == before
        assert os.getxattr(descriptor, b"user.a") == b"2"


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EPERM, errno.ENOSPC, errno.E2BIG])
def test_what_cannot_be_set_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "setxattr", refuse)
    with opened(tree / "file") as descriptor:
        assert set_attributes(descriptor, [(b"user.a", b"1"), (b"user.b", b"2")]) == [b"user.a", b"user.b"]


def test_a_failing_disk_is_not_hidden(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "setxattr", fail)
    with opened(tree / "file") as descriptor, pytest.raises(OSError, match="Input/output"):
        set_attributes(descriptor, [(b"user.a", b"1")])


def test_what_arrived_without_some_is_told(tree: Path) -> None:
    some, data = ((b"trusted.a", b"1"), (b"user.a", b"2")), b"four"
    begun = LocalStore(tree / "inbox").begin()
    try:
        folder = Entry(0, NO_PARENT, b"folder", Kind.DIRECTORY, attributes=some)
        whole = Entry(1, 0, b"whole", Kind.FILE, len(data), attributes=some)
        pieces = Entry(2, 0, b"pieces", Kind.FILE, len(data), attributes=some)
        assert [begun.admit(each) for each in (folder, whole, pieces)] == [Answer.ALL] * 3
        write_whole(begun, whole, data)
        write(begun, pieces, 0, data)
        begun.complete(pieces, len(data))
        begun.commit()
    finally:
        begun.suspend()
    bare = [*[((b"folder", name), [b"trusted.a"]) for name in (b"whole", b"pieces")], ((b"folder",), [b"trusted.a"])]
    assert sorted(begun.bare) == sorted(bare)
    for name in ("folder", "folder/whole", "folder/pieces"):
        assert os.getxattr(tree / "inbox" / name, b"user.a") == b"2"

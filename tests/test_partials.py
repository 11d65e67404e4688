"""What cut transfers left, listed and cleaned: by the library and by the command."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from blake3 import blake3

from enchufe.entry import BLOCK_SIZE, NO_PARENT, Answer, Entry, Kind
from enchufe.errors import BusyError, LocalProtocolError, StoreError
from enchufe.store import LocalStore, staging
from enchufe.store import partials as partials_module
from enchufe.store.partials import clean, partials
from enchufe.store.staging import EXPIRY
from tests.test_delivery import T
from tests.test_resume import ALL, TREE, areas, entries, finish, receive

pytestmark = pytest.mark.usefixtures("no_descriptor_stays")


def leave(inbox: Path, size: int = 2 * BLOCK_SIZE) -> Path:
    before = areas(inbox)
    begun = LocalStore(inbox).begin()
    receive(begun, until=size)
    begun.suspend()
    (left,) = set(areas(inbox)) - set(before)
    return left


def age(area: Path, seconds: float) -> None:
    os.utime(area / "journal", (time.time() - seconds,) * 2)


@pytest.mark.parametrize("older", ["journal", "arrived"])
def test_what_was_noted_last_says_how_old_it_is(inbox: Path, older: str) -> None:
    """An area with something new in it does not expire for something old."""
    area = leave(inbox)
    (area / "arrived").write_bytes(b"a note")
    now = int(time.time())
    for name in ("journal", "arrived"):
        os.utime(area / name, (now - (2 * EXPIRY if name == older else 60),) * 2)
    descriptor = os.open(area, os.O_RDONLY)
    try:
        changed = staging.Area(descriptor, os.fsencode(area.name), descriptor, locked=False).changed
    finally:
        os.close(descriptor)
    assert changed == now - 60


def test_listed(inbox: Path) -> None:
    assert partials(inbox) == []
    area = leave(inbox)
    (left,) = partials(inbox)
    assert (left.name, left.root, left.files, left.in_use) == (area.name, b"tree", 1, False)
    assert left.changed == (area / "journal").stat().st_mtime
    assert 2 * BLOCK_SIZE <= left.size < 3 * BLOCK_SIZE
    begun = LocalStore(inbox).begin()
    fresh = next(each for each in partials(inbox) if each.name != area.name)
    assert (fresh.root, fresh.files, fresh.changed, fresh.in_use) == (None, 0, None, True)
    begun.abandon()
    assert partials(inbox) == [left]


def test_what_is_being_listed_is_taken_over_meanwhile(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at it may take long, and a transfer that goes on with it has begun before."""
    leave(inbox)
    begun = LocalStore(inbox).begin()
    measured, answers = partials_module._measured, list[Answer]()

    def measuring(directory: int) -> tuple[int, int]:
        if not answers:
            answers.extend(begun.admit(entry) for entry in (TREE, *entries()))
        return measured(directory)

    monkeypatch.setattr(partials_module, "_measured", measuring)
    partials(inbox)
    assert Answer.REST in answers
    begun.abandon()


def test_more_of_them_than_descriptors(inbox: Path) -> None:
    """Anybody may leave any number: that keeps nobody from receiving, and none from being cleaned."""
    for number in range(60):
        begun = LocalStore(inbox).begin(b"%d" % (number % 40))
        receive(begun, until=2)
        begun.suspend()
    left = len(areas(inbox))
    assert left >= 40
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 30, hard))
    try:
        begun = LocalStore(inbox).begin(b"1")
        assert begun.admit(TREE) is Answer.ALL
        assert Answer.REST in [begun.admit(entry) for entry in entries()]
        begun.suspend()
        assert len(partials(inbox)) == left
        assert len(clean(inbox)) == left
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir(inbox) == []


def test_cleaned(inbox: Path) -> None:
    area = leave(inbox)
    busy = LocalStore(inbox).begin()
    (name,) = {each.name for each in partials(inbox) if each.in_use}
    with pytest.raises(BusyError):
        clean(inbox, name)
    with pytest.raises(LocalProtocolError):
        clean(inbox, "0" * 16)
    assert [each.name for each in clean(inbox)] == [area.name]
    assert [path.name for path in areas(inbox)] == [name]
    busy.abandon()
    assert os.listdir(inbox) == []


def test_one_is_cleaned(inbox: Path) -> None:
    left = leave(inbox)
    assert [each.name for each in clean(inbox, left.name)] == [left.name]
    assert os.listdir(inbox) == []


@pytest.mark.parametrize("by", ["begin", "clean"])
def test_expired(inbox: Path, by: str) -> None:
    area = leave(inbox)
    age(area, EXPIRY - 3600)
    assert clean(inbox, expired=True) == []
    LocalStore(inbox).begin().abandon()
    assert areas(inbox) == [area]
    age(area, EXPIRY + 3600)
    if by == "begin":
        LocalStore(inbox).begin(b"another origin").abandon()
    else:
        assert [each.name for each in clean(inbox, expired=True)] == [area.name]
    assert os.listdir(inbox) == []
    assert finish(inbox) == ALL


def test_expired_by_a_clock_that_leapt(inbox: Path) -> None:
    """Put right after months, between two attempts: to who comes back for it, it is no older than it was."""
    area = leave(inbox)
    age(area, EXPIRY + 3600)
    LocalStore(inbox).begin().suspend()  # cut before anything was offered
    assert areas(inbox) == [area]
    assert finish(inbox) == ALL - 2 * BLOCK_SIZE
    assert os.listdir(inbox) == ["tree"]


def test_what_has_expired_goes_with_what_is_delivered(inbox: Path) -> None:
    """Though it had nothing to do with that."""
    area = leave(inbox)
    begun = LocalStore(inbox).begin()
    other = Entry(0, NO_PARENT, b"other", Kind.FILE, 1, 0o644, mtime_ns=T)
    age(area, EXPIRY + 3600)
    assert begun.admit(other) is Answer.ALL
    begun.write_whole(other, b"x", blake3(b"x").digest())
    begun.commit()
    assert os.listdir(inbox) == ["other"]


def test_what_has_expired_and_cannot_be_read_goes_at_once(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of the disk under its journal is bad; nobody will ever take anything from it."""
    area = leave(inbox)

    def bad(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for seconds, stays in ((EXPIRY - 3600, True), (EXPIRY + 3600, False)):
        age(area, seconds)
        with monkeypatch.context() as patched:
            patched.setattr(os, "pread", bad)
            begun = LocalStore(inbox).begin()
        begun.abandon()
        assert area.exists() is stays


def test_what_is_dated_in_the_future_expires_a_week_after_it_was_seen(inbox: Path) -> None:
    """A clock was wrong when it was written, and has been put right since."""
    area = leave(inbox)
    age(area, -400 * 24 * 3600)
    (seen,) = partials(inbox)
    assert seen.changed is not None
    assert seen.changed <= time.time()
    LocalStore(inbox).begin().abandon()
    assert areas(inbox) == [area]
    assert time.time() - 3600 < (area / "journal").stat().st_mtime <= time.time()


def test_cleaned_while_somebody_has_looked_at_it(inbox: Path) -> None:
    """A delivery that began before knows of what is gone: it is received anew."""
    leave(inbox)
    begun = LocalStore(inbox).begin()
    assert len(clean(inbox)) == 1
    assert receive(begun) == ALL
    begun.commit()
    assert sorted(os.listdir(inbox)) == ["tree"]


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        partials(tmp_path / "missing")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/.enchufe").symlink_to("/tmp")
    with pytest.raises(StoreError, match="not a folder"):
        clean(tmp_path / "odd")
    with pytest.raises(LocalProtocolError):
        partials("")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "enchufe", "store", "partials", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command(inbox: Path) -> None:
    area = leave(inbox)
    told = run(inbox)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith(f"{area.name}  tree  2.1 MB in 1 file  ")
    (only,) = json.loads(run(inbox, "--json").stdout)["partials"]
    assert (only["name"], only["root"], only["in_use"], only["removed"]) == (area.name, "tree", False, False)
    wrong = run(inbox, "--clean", "nothing")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "nothing called nothing" in wrong.stderr
    assert "\x1b" not in run(inbox, "--clean", "\x1b[31m").stderr
    assert area.exists()
    told = run(inbox, "--clean", area.name)
    assert (told.returncode, told.stdout.split()[-1]) == (0, "removed")
    assert os.listdir(inbox) == []
    leave(inbox)
    (only,) = json.loads(run(inbox, "--clean", "--json").stdout)["partials"]
    assert only["removed"]
    assert run(inbox).stdout == ""
    assert run(inbox / "missing").returncode == 6


def test_what_cannot_be_removed_is_not_told_as_removed(inbox: Path) -> None:
    area = leave(inbox)
    for options in ("bind", "remount,bind,ro"):
        done = subprocess.run(["mount", "-o", options, inbox, inbox], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        with pytest.raises(StoreError, match=f"cannot remove .*{area.name}: Read-only"):
            clean(inbox)
    finally:
        subprocess.run(["umount", inbox], check=True)
    assert areas(inbox) == [area]

"""What was put in place and its sender has not heard of is known when he sends it anew, and nothing is doubled."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from enchufe.entry import Answer
from enchufe.store import Delivery, IfExists, LocalStore, arrived, linux
from enchufe.store.grafts import Graft
from enchufe.store.partials import clean, partials
from tests.test_delivery import POLICIES, Offer, T, contents, snapshot

pytestmark = pytest.mark.usefixtures("no_descriptor_stays")

ORIGIN = b"from there"
TREE = {"tree": None, "tree/inner": None, "tree/inner/deep": "deep", "tree/link": "inner", "tree/empty": ""}
ALL = {**TREE, "file": "by itself", "other": None}


@pytest.fixture(params=["syncfs", "fsync"], autouse=True)
def either_sync(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "use_syncfs", request.param == "syncfs")


def offer(begun: Delivery, deep: bytes = b"deep") -> list[Answer]:
    made = Offer(begun)
    tree = made.folder("tree", mode=0o750)
    inner = made.folder("inner", tree)
    made.file("deep", deep, inner)
    made.link("link", b"inner", tree)
    made.file("empty", b"", tree)
    made.file("file", b"by itself")
    made.folder("other")
    return made.answers


def send(
    inbox: Path, if_exists: IfExists = "rename", *, deep: bytes = b"deep", origin: bytes = ORIGIN, heard: bool = False
) -> list[Answer]:
    begun = LocalStore(inbox, if_exists=if_exists).begin(origin)
    try:
        answers = offer(begun, deep)
        begun.commit(remember=True)
        if heard:
            begun.heard()
    finally:
        begun.suspend()
    return answers


def seen(inbox: Path) -> dict[str, str | None]:
    return {path: what for path, what in contents(inbox).items() if not path.startswith(".enchufe")}


def killed(inbox: Path, when: Callable[[], object]) -> None:
    """Deliver in another process, which dies where `when` has it die."""
    child = os.fork()
    if not child:
        try:
            when()
            send(inbox)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


@pytest.mark.parametrize("if_exists", POLICIES)
def test_what_arrived_unheard_is_known_when_it_comes_again(inbox: Path, if_exists: IfExists) -> None:
    assert set(send(inbox, if_exists)) == {Answer.ALL}
    before = snapshot(inbox / "tree", times=True)
    for heard in (False, True):  # and again, where that was not heard either
        answers = send(inbox, if_exists, heard=heard)
        assert answers == [Answer.ALL, Answer.ALL, *[Answer.SKIP] * 4, Answer.ALL]
        assert seen(inbox) == ALL
    assert snapshot(inbox / "tree", times=True) == before
    assert sorted(os.listdir(inbox)) == ["file", "other", "tree"]


def test_its_names_are_on_disk_before_it_is_said_again_that_they_are(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever put it in place may have been killed before it saw to that."""
    send(inbox)
    synced: list[int] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    assert Answer.SKIP in send(inbox)
    assert inbox.stat().st_ino in synced


def test_what_its_sender_has_heard_of_is_forgotten(inbox: Path) -> None:
    send(inbox, heard=True)
    assert sorted(os.listdir(inbox)) == ["file", "other", "tree"]
    send(inbox, heard=True)
    assert sorted(os.listdir(inbox)) == ["file", "file (1)", "other", "other (1)", "tree", "tree (1)"]


def test_nobody_else_is_taken_for_its_sender(inbox: Path) -> None:
    send(inbox)
    send(inbox, origin=b"from elsewhere", heard=True)
    assert "tree (1)" in os.listdir(inbox)
    send(inbox, heard=True)
    assert sorted(os.listdir(inbox)) == ["file", "file (1)", "other", "other (1)", "tree", "tree (1)"]


def test_it_is_known_by_the_name_that_was_free(inbox: Path) -> None:
    for name in ("tree", "tree (1)", "other"):
        (inbox / name).mkdir(parents=True)
    (inbox / "tree/mine").write_text("mine")
    (inbox / "file").write_text("mine too")
    send(inbox)
    landed = seen(inbox)
    assert landed["tree (2)/inner/deep"] == "deep"
    send(inbox, heard=True)
    assert seen(inbox) == landed


def test_it_is_known_by_the_name_that_was_free_before_its_suffix(inbox: Path) -> None:
    (inbox / "photo.jpg").write_text("mine")
    (inbox / "folder.d").mkdir()
    for heard in (False, True):
        begun = LocalStore(inbox).begin(ORIGIN)
        made = Offer(begun)
        made.folder("folder.d")
        made.file("photo.jpg")
        begun.commit(remember=True)
        if heard:
            begun.heard()
        begun.suspend()
        assert seen(inbox) == {"photo.jpg": "mine", "photo (1).jpg": "new", "folder.d": None, "folder.d (1)": None}


def test_it_is_known_though_a_name_before_its_own_is_free_by_now(inbox: Path) -> None:
    (inbox / "tree").mkdir()
    (inbox / "file").write_text("theirs")
    send(inbox)
    assert {"tree", "tree (1)", "file", "file (1)"} < set(os.listdir(inbox))
    (inbox / "tree").rmdir()
    (inbox / "file").unlink()
    before = seen(inbox)
    answers = send(inbox, heard=True)
    assert answers == [Answer.ALL, Answer.ALL, Answer.SKIP, Answer.SKIP, Answer.SKIP, Answer.SKIP, Answer.ALL]
    assert seen(inbox) == before
    assert set(os.listdir(inbox)) == {"tree (1)", "file (1)", "other"}


def test_a_folder_whose_name_a_file_of_the_receiver_has_by_now_comes_beside_it(inbox: Path) -> None:
    send(inbox)
    shutil.rmtree(inbox / "tree/inner")
    (inbox / "tree/inner").write_text("mine")
    send(inbox, heard=True)
    moved = {"tree/inner": "mine", "tree/inner (1)": None, "tree/inner (1)/deep": "deep"}
    assert seen(inbox) == {path: what for path, what in ALL.items() if path != "tree/inner/deep"} | moved


def test_a_root_is_known_though_something_in_a_folder_has_its_name(inbox: Path) -> None:
    (inbox / "tree").mkdir(parents=True)
    answers = []
    for heard in (False, True):
        begun = LocalStore(inbox, if_exists="overwrite").begin(ORIGIN)
        made = Offer(begun)
        made.file("file", b"root")
        made.file("file", b"deep", made.folder("tree"))
        begun.commit(remember=True)
        if heard:
            begun.heard()
        begun.suspend()
        answers.append(made.answers[0])
    assert answers == [Answer.ALL, Answer.SKIP]
    assert seen(inbox) == {"file": "root", "tree": None, "tree/file": "deep"}


def test_where_nothing_new_got_a_name_of_its_own_nothing_is_noted(inbox: Path) -> None:
    (inbox / "tree").mkdir(parents=True)
    begun = LocalStore(inbox, if_exists="overwrite").begin(ORIGIN)
    made = Offer(begun)
    made.file("deep", b"deep", made.folder("tree"))
    begun.commit(remember=True)
    begun.suspend()
    assert os.listdir(inbox) == ["tree"]


def test_what_has_changed_since_comes_beside_it(inbox: Path) -> None:
    """Neither what its sender has changed is lost, nor what its receiver has."""
    send(inbox)
    (inbox / "tree/inner/deep").write_text("what the receiver made of it")
    (inbox / "tree/empty").unlink()
    send(inbox, deep=b"newer", heard=True)
    changed = {"tree/inner/deep": "what the receiver made of it", "tree/inner/deep (1)": "newer"}
    assert seen(inbox) == {**ALL, **changed}
    assert stat.S_IMODE((inbox / "tree").stat().st_mode) == 0o750
    assert (inbox / "tree").stat().st_mtime_ns == T


@pytest.mark.parametrize("moved", [False, True], ids=["removed", "moved"])
def test_what_is_not_there_any_more_comes_again(inbox: Path, *, moved: bool) -> None:
    send(inbox)
    if moved:
        (inbox / "tree").rename(inbox / "mine")
    else:
        shutil.rmtree(inbox / "tree")
    (inbox / "tree").mkdir()  # it may well get the same inode
    (inbox / "tree/inner").write_text("mine")
    send(inbox, heard=True)
    assert (inbox / "tree/inner").read_text() == "mine"
    assert (inbox / "tree (1)/inner/deep").read_text() == "deep"
    assert not (inbox / "file (1)").exists()


def test_who_is_killed_when_some_is_in_place_puts_the_rest_there(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Graft.put

    def die(graft: Graft, area: int, parent: int) -> bytes:
        if graft.name == b"file":
            os._exit(3)
        return put(graft, area, parent)

    killed(inbox, lambda: monkeypatch.setattr(Graft, "put", die))
    assert seen(inbox) == TREE
    answers = send(inbox, heard=True)
    assert answers == [Answer.ALL, Answer.ALL, Answer.SKIP, Answer.SKIP, Answer.SKIP, Answer.REST, Answer.ALL]
    assert seen(inbox) == ALL
    assert sorted(os.listdir(inbox)) == ["file", "other", "tree"]


def test_who_is_killed_behind_the_rename_gives_the_folder_its_mode(
    inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Graft.put

    def die(graft: Graft, area: int, parent: int) -> bytes:
        put(graft, area, parent)
        os._exit(3)

    killed(inbox, lambda: monkeypatch.setattr(Graft, "put", die))
    assert stat.S_IMODE((inbox / "tree").stat().st_mode) != 0o750
    send(inbox, heard=True)
    assert seen(inbox) == ALL
    assert stat.S_IMODE((inbox / "tree").stat().st_mode) == 0o750
    assert (inbox / "tree").stat().st_mtime_ns == T


def test_what_an_attempt_before_that_has_left_goes_with_it(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One was killed before anything was in place, the next one behind that."""
    killed(inbox, lambda: monkeypatch.setattr(Graft, "put", lambda *_: os._exit(3)))
    (left,) = (inbox / ".enchufe").iterdir()
    (left / "arrived").unlink(missing_ok=True)
    left.rename(tmp_path / left.name)
    send(inbox)
    (tmp_path / left.name).rename(left)
    send(inbox, heard=True)
    assert seen(inbox) == ALL
    assert not (inbox / ".enchufe").exists()


def test_an_attempt_that_is_cut_in_between_forgets_nothing(inbox: Path) -> None:
    send(inbox)
    begun = LocalStore(inbox).begin(ORIGIN)
    offer(begun)
    begun.suspend()
    send(inbox, heard=True)
    assert seen(inbox) == ALL
    assert not (inbox / ".enchufe").exists()


def test_a_note_of_folders_alone_outlasts_an_attempt_that_is_cut(inbox: Path) -> None:
    def begin(size: int) -> Delivery:
        begun = LocalStore(inbox).begin(ORIGIN)
        made = Offer(begun)
        tree = made.folder("tree")
        if size:
            made.file("new", bytes(size), tree)
        return begun

    begun = begin(0)
    begun.commit(remember=True)
    begin(10).suspend()
    begun = begin(0)
    begun.commit(remember=True)
    begun.heard()
    assert seen(inbox) == {"tree": None}


def test_a_folder_that_the_receiver_has_made_in_it_keeps_its_mode(inbox: Path) -> None:
    send(inbox)
    (inbox / "tree/private").mkdir(mode=0o700)
    begun = LocalStore(inbox).begin(ORIGIN)
    made = Offer(begun)
    made.folder("private", made.folder("tree"), mode=0o755)
    begun.commit(remember=True)
    begun.heard()
    assert stat.S_IMODE((inbox / "tree/private").stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["torn", "flipped", "gone"])
def test_a_damaged_note_costs_what_it_tells_of(inbox: Path, damage: str) -> None:
    send(inbox)
    (note,) = inbox.glob(".enchufe/*/arrived")
    data = note.read_bytes()
    second = 22 + len("tree") + 4  # where the record of `file` begins
    if damage == "torn":
        note.write_bytes(data[: second + 5])
    elif damage == "flipped":
        note.write_bytes(data[:second] + bytes([data[second] ^ 1]) + data[second + 1 :])
    else:
        note.unlink()
    send(inbox, heard=True)
    doubled = ["file (1)", "other (1)"] + (["tree (1)"] if damage == "gone" else [])
    assert sorted(os.listdir(inbox)) == sorted(["file", "other", "tree", *doubled])


def test_a_note_is_believed_as_far_as_it_is_whole(tmp_path: Path) -> None:
    roots = {b"tree": (1, 2, 3), b"file": (2**63, 0, 999_999_999), b"n" * 255: (4, 5, 6)}
    area = os.open(tmp_path, os.O_RDONLY)
    try:
        os.close(arrived.write(area, roots))
        data = (tmp_path / "arrived").read_bytes()
        ends = [22 + 4 + 4, 2 * (22 + 4 + 4), len(data)]
        for size in range(len(data), -1, -1):
            os.truncate(tmp_path / "arrived", size)
            whole = sum(end <= size for end in ends)
            assert list(arrived.read(area).items()) == list(roots.items())[:whole]
    finally:
        os.close(area)


def test_a_link_by_itself_is_known_when_it_comes_again(inbox: Path) -> None:
    for heard in (False, True):
        begun = LocalStore(inbox, links="any").begin(ORIGIN)
        Offer(begun).link("link", b"nowhere")
        begun.commit(remember=True)
        if heard:
            begun.heard()
        begun.suspend()
    assert os.listdir(inbox) == ["link"]


def test_it_is_listed_and_cleaned(inbox: Path) -> None:
    send(inbox)
    (partial,) = partials(inbox)
    assert (partial.root, partial.files, partial.arrived, partial.in_use) == (b"tree", 0, True, False)
    begun = LocalStore(inbox).begin(b"another")
    Offer(begun).file("half", b"of it")
    begun.suspend()
    assert [each.arrived for each in partials(inbox)] == [True, False]
    clean(inbox, partial.name)
    send(inbox)
    assert "tree (1)" in os.listdir(inbox)


def test_a_full_disk_forgets(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: memoryview, _offset: int) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arrived, "write_all", full)
    send(inbox)
    assert seen(inbox) == ALL
    assert not (inbox / ".enchufe").exists()


def test_without_a_time_of_birth_the_inode_tells(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "_statx", None)
    send(inbox)
    send(inbox, heard=True)
    assert seen(inbox) == ALL

"""What may become a name here: the hostile corpus, the rules of narrower file systems, links, and free names."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enchufe.errors import RemoteProtocolError
from enchufe.store.grafts import free_names
from enchufe.store.names import NameRules, folded, probe, safe_link, safe_name

pytestmark = pytest.mark.usefixtures("no_descriptor_stays")

UNSAFE = [
    b"",
    b".",
    b"..",
    b"/",
    b"/etc/passwd",
    b"../up",
    b"a/../../b",
    b"a/b",
    b"a/",
    b"\0",
    b"a\0.txt",
    b"n" * 256,
    b"..\0",
    "ñ".encode() * 128,
]
SAFE = [
    b"a",
    b"...",
    b"..a",
    b" ",
    b"a b",
    b"line\nbreak",
    b"-rf",
    b"~",
    b"$(reboot)",
    b"\xff\xfe",
    b"n" * 255,
    b"C:",
    b"a\\..\\b",
    b"NUL",
    b"\x1b[2J",
    "ñ".encode(),
    "🧦".encode(),
    "\u202egpj.exe".encode(),
    "\uff0e\uff0e\uff0f".encode(),
]


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe(name: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        safe_name(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", SAFE)
def test_safe(name: bytes) -> None:
    safe_name(name)
    assert NameRules().holds(name)


@given(st.binary(max_size=300))
def test_what_is_safe_names_one_thing_in_its_folder(name: bytes) -> None:
    try:
        safe_name(name)
    except RemoteProtocolError:
        return
    # What the kernel would make of it: exactly one step, down.
    assert os.path.normpath(b"/here/" + name) == b"/here/" + name
    assert os.path.dirname(os.path.join(b"/here", name)) == b"/here"
    assert b"\0" not in name


@pytest.mark.parametrize(
    "name",
    [
        *("NUL", "nul.txt", "Con", "com1.log", "LPT9", "COM¹", "conin$", "aux ", "aux .txt", "prn.a.b"),
        *("end.", "end ", "a:b", "C:", "a\\b", "a<b", "a>b", 'a"b', "a|b", "what?", "star*", "tab\there", "\x1b[2J"),
    ],
)
def test_windows_cannot_hold(name: str) -> None:
    assert not NameRules(windows=True).holds(name.encode())
    assert NameRules().holds(name.encode())


@pytest.mark.parametrize(
    "name", ["console", "com", "com10", "lpt", "null", ".nul", "a.b.c", "ñ", "🧦", " x", "~$doc.docx"]
)
def test_windows_holds(name: str) -> None:
    assert NameRules(windows=True).holds(name.encode())


def test_text_and_length() -> None:
    assert not NameRules(text=True).holds(b"\xff")
    assert not NameRules(windows=True).holds(b"\xff")
    assert NameRules(text=True).holds("ñ".encode())
    assert NameRules(text=True).holds(b"end.")
    assert not NameRules(longest=143).holds(b"n" * 144)
    assert NameRules(longest=143).holds(b"n" * 143)
    assert NameRules().none
    assert not any(rules.none for rules in (NameRules(folds=True), NameRules(text=True), NameRules(longest=143)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Photo.JPG", "photo.jpg"),
        ("\u00f1", "n\u0303"),  # composed and not
        ("stra\u00dfe", "STRASSE"),
        ("\ufb01le", "FILE"),  # a ligature
        (".git", ".g\u200cit"),  # HFS+ ignores what shows nothing
        ("\u1fb3", "\u0391\u0399"),
    ],
)
def test_twins(one: str, other: str) -> None:
    assert folded(one.encode()) == folded(other.encode())


def test_no_twins() -> None:
    assert folded(b"\xff") != folded(b"\xfe")
    assert folded("ñ".encode()) != folded(b"n")


@given(st.binary(max_size=40))
def test_folding_is_settled(name: bytes) -> None:
    once = folded(name)
    assert folded(once.encode("utf-8", "surrogateescape")) == once


@pytest.mark.parametrize(
    ("target", "depth"),
    [
        (b"file", 1),
        (b"dir/file", 1),
        (b"./file", 1),
        (b".", 1),
        (b"../sibling", 2),
        (b"./../sibling", 2),
        (b".//..//./sibling", 2),
        (b"../../x", 3),
        (b"..", 2),
        (b"...", 1),
        (b"..a/b", 1),
        (b"a\\..\\..\\b", 1),
        (b"t" * 4095, 1),
        ("ñ/🧦".encode(), 1),
    ],
)
def test_link_inside(target: bytes, depth: int) -> None:
    assert safe_link(target, depth)


@pytest.mark.parametrize(
    ("target", "depth"),
    [
        (b"", 1),
        (b"/", 1),
        (b"/etc/passwd", 9),
        (b"//x", 9),
        (b"..", 1),
        (b"../x", 1),
        (b"./../x", 1),
        (b"../../x", 2),
        (b"a/..", 9),  # a may be a symlink
        (b"a/../../x", 9),
        (b"../a/../x", 9),
        (b"a/./..", 9),
        (b"a\0b", 1),
        (b"t" * 4096, 1),
        (b"file", 0),  # a root has no tree that it could stay in
    ],
)
def test_link_leads_out(target: bytes, depth: int) -> None:
    assert not safe_link(target, depth)


_steps = st.lists(st.sampled_from([b"..", b".", b"", b"a", b"b", b"link", b"..."]), min_size=1, max_size=6)


@example([(2, [b".."]), (2, [b"link", b"..", b".."])])
@given(st.lists(st.tuples(st.integers(0, 2), _steps), min_size=1, max_size=3))
def test_safe_links_never_lead_out_together(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[int, list[bytes]]]
) -> None:
    """Real links in a real tree, as safe_link() lets them in: the kernel never gets out of it through them."""
    home = tmp_path_factory.mktemp("links")
    root = home / "root"
    folders = [root, root / "a", root / "a" / "b"]
    folders[-1].mkdir(parents=True)
    links = []
    for index, (where, steps) in enumerate(made):
        target = b"/".join(steps)
        if safe_link(target, where + 1):
            # The first is called `link`, so that the others may lead through it.
            link = folders[where] / ("link" if index == 0 else f"link{index}")
            os.symlink(target, os.fsencode(link))
            links.append(link)
    for link in links:
        try:
            real = Path(os.path.realpath(link, strict=True))
        except OSError:  # it leads to nothing, or round and round
            continue
        assert real == root or root in real.parents, (made, real)


def test_probe_finds_no_rule_here(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        assert probe(here) == NameRules()
        assert os.listdir(here) == []
    finally:
        os.close(here)


def test_probe_begins_at_the_beginning(tmp_path: Path) -> None:
    """Whatever has been read through that descriptor; on btrfs a folder just opened is at its end, for what is new."""
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        os.lseek(here, (1 << 63) - 1, os.SEEK_SET)
        assert probe(here) == NameRules()
        assert os.listdir(here) == []
    finally:
        os.close(here)


def test_probe_finds_narrower_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that behaves as vfat does: folds, drops the last dot, refuses a colon and what is no text."""
    make, stat = os.open, os.stat

    def vfat(name: bytes) -> bytes:
        if b":" in name or b"\xff" in name:
            raise OSError(errno.EINVAL, "vfat")
        return name.lower().rstrip(b".")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", lambda name, *args, **options: make(vfat(name), *args, **options))
        patched.setattr(os, "stat", lambda name, **options: stat(vfat(name), **options))
        here = make(tmp_path, os.O_RDONLY)
        try:
            assert probe(here) == NameRules(folds=True, windows=True, text=True)
        finally:
            os.close(here)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "directory", "expected"),
    [
        (b"photo.jpg", False, b"photo (1).jpg"),
        (b"photo", False, b"photo (1)"),
        (b"a.b.c", False, b"a.b (1).c"),
        (b"backup.tar.gz", False, b"backup (1).tar.gz"),
        (b"data.csv.gz", False, b"data.csv (1).gz"),
        (b".bashrc", False, b".bashrc (1)"),
        (b".tar.gz", False, b".tar (1).gz"),
        (b"dot.", False, b"dot. (1)"),
        (b"no.suffix after so long a dot", False, b"no.suffix after so long a dot (1)"),
        (b"folder.d", True, b"folder.d (1)"),
        (b"\xff.\xfe", False, b"\xff (1).\xfe"),
        (b"photo (1).jpg", False, b"photo (1) (1).jpg"),
        (b"n" * 255, True, b"n" * 251 + b" (1)"),
        (b"n" * 251 + b".jpg", False, b"n" * 247 + b" (1).jpg"),
        ("ñ".encode() * 127, True, "ñ".encode() * 125 + b" (1)"),
        (b"\x80" * 255, True, b"\x80" * 251 + b" (1)"),
    ],
)
def test_free_names(name: bytes, directory: bool, expected: bytes) -> None:
    first, second = itertools.islice(free_names(name, directory=directory), 2)
    assert first == name
    assert second == expected


@given(st.binary(min_size=1, max_size=255), st.booleans())
def test_free_names_are_safe_and_different(name: bytes, directory: bool) -> None:
    try:
        safe_name(name)
    except RemoteProtocolError:
        return
    found = list(itertools.islice(free_names(name, directory=directory), 30))
    for each in found:
        safe_name(each)
    assert len(set(found)) == len(found)


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=60, max_size=255))
def test_free_names_cut_no_character(name: str) -> None:
    if len(name.encode()) <= 255:
        for each in itertools.islice(free_names(name.encode(), directory=True), 12):
            each.decode()

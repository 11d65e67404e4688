"""What a cut transfer has left is for who sent it, though another sends files of the same names, sizes and times."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from enchufe import events
from enchufe.entry import BLOCK_SIZE
from enchufe.errors import EnchufeError
from enchufe.files import _source_of
from enchufe.store.partials import partials
from tests.sessions.kept import kept_bytes
from tests.sessions.relay import CuttingRelay
from tests.sessions.transfers import Ends, send

T = 1_600_000_000_000_000_000
SIZE = 5 * BLOCK_SIZE


def tree(parent: Path, seed: int) -> Path:
    """Files of the same names, sizes and times, and other content for each seed."""
    root = parent / "tree"
    root.mkdir(parents=True)
    rng = random.Random(seed)
    for name, size in (("big", SIZE), ("small", 1000)):
        (root / name).write_bytes(rng.randbytes(size))
        os.utime(root / name, ns=(T, T))
    return root


def cut(tree: Path, inbox: Path, origin: bytes, *, sender_dials: bool) -> Ends:
    def kept() -> bool:
        return kept_bytes(inbox) >= 2 * BLOCK_SIZE

    with CuttingRelay(3 * BLOCK_SIZE, there=sender_dials, kept=kept) as relay:
        ends = send(tree, inbox, origin=origin, relay=relay, streams=1, sender_dials=sender_dials, compress="never")
    assert isinstance(ends.receiver.end, EnchufeError)
    return ends


@pytest.mark.parametrize("sender_dials", [True, False])
def test_nobody_goes_on_with_what_another_has_begun(tmp_path: Path, sender_dials: bool) -> None:
    first, second = tree(tmp_path / "first", 1), tree(tmp_path / "second", 2)
    inbox = tmp_path / "inbox"
    cut(first, inbox, b"1" * 16, sender_dials=sender_dials)
    (kept,) = partials(inbox)
    ends = send(second, inbox, origin=b"2" * 16, streams=1, sender_dials=sender_dials, compress="never")
    assert ends.receiver.receipt.sent_bytes == SIZE + 1000
    assert (inbox / "tree" / "big").read_bytes() == (second / "big").read_bytes()
    assert not [file for file in ends.receiver.of(events.File) if file.action == "started over"]
    # And the first one finds what it had sent.
    assert [one.name for one in partials(inbox)] == [kept.name]
    ends = send(first, inbox, origin=b"1" * 16, streams=1, sender_dials=sender_dials, compress="never")
    assert ends.receiver.receipt.sent_bytes <= SIZE + 1000 - 2 * BLOCK_SIZE
    assert (inbox / "tree (1)" / "big").read_bytes() == (first / "big").read_bytes()
    assert not partials(inbox)


def test_an_origin_is_the_folder_that_the_first_thing_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tree(tmp_path / "first", 1), tree(tmp_path / "second", 2)

    def origin(*paths: Path | str) -> bytes:
        return _source_of(paths, None, None, (), False)[3]

    assert origin(first) == origin(first, second / "big") == origin(tmp_path / "first" / "tree")
    assert origin(first) != origin(second)
    monkeypatch.chdir(tmp_path / "first")
    assert origin("tree") == origin(first)


def test_what_was_left_before_areas_said_whose_they_are_is_still_found(tmp_path: Path) -> None:
    old = tmp_path / ".enchufe" / "0123456789abcdef"
    old.mkdir(parents=True, mode=0o700)
    old.parent.chmod(0o700)
    (old / "journal").write_bytes(bytes(64))
    assert [one.name for one in partials(tmp_path)] == [old.name]

"""Files that have grown by the time they come again, after somebody was shown how big they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from enchufe import events
from enchufe.entry import NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind, Reason
from enchufe.errors import RemoteProtocolError
from enchufe.store import LocalStore, SendingFile, Source
from enchufe.transfer import messages as m
from enchufe.transfer.message import Message, Role
from enchufe.transfer.offers import Offer
from enchufe.transfer.receiver import Receiver
from tests.sessions.transfers import transfer

MIB = 1 << 20


class Growing(Source):
    """One of whose files has grown when it has been opened."""

    def __init__(self, file: Path, by: int) -> None:
        super().__init__([file.parent])
        self._grows = file
        self._more = by

    def open(self, entry: Entry) -> SendingFile:  # type: ignore[override]
        file = super().open(entry)
        if self._more:
            with open(self._grows, "ab") as more:
                more.write(bytes(self._more))
            os.utime(self._grows, ns=(1, entry.mtime_ns + 1))
            self._more = 0
        return file


@pytest.mark.parametrize(("by", "taken"), [(2 * MIB, True), (2 * MIB + 1, False)])
def test_little_more_than_was_shown_is_taken_and_much_more_is_not(tmp_path: Path, by: int, taken: bool) -> None:
    file = tmp_path / "tree" / "big"
    file.parent.mkdir()
    file.write_bytes(bytes(range(256)) * (8 * MIB // 256))
    begin = LocalStore(tmp_path / "inbox").begin
    ends = transfer(lambda: Growing(file, by), begin, ask=lambda _: True, streams=1, compress="never")
    refused = [told.path[-1] for told in ends.receiver.of(events.File) if told.action == "refused"]
    assert refused == ([] if taken else [b"big"])
    assert (tmp_path / "inbox" / "tree" / "big").exists() == taken
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest


def test_one_that_outgrew_it_keeps_no_other_out(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for name in ("big", "touched"):
        (root / name).write_bytes(bytes(range(256)) * (4 * MIB // 256))

    class Both(Growing):
        def open(self, entry: Entry) -> SendingFile:  # type: ignore[override]
            file = super().open(entry)
            if entry.name == b"touched" and entry.mtime_ns > 1:
                os.utime(root / "touched", ns=(1, 1))
            return file

    begin = LocalStore(tmp_path / "inbox").begin
    ends = transfer(lambda: Both(root / "big", 9 * MIB), begin, ask=lambda _: True, streams=1, compress="never")
    assert [told.path[-1] for told in ends.receiver.of(events.File) if told.action == "refused"] == [b"big"]
    assert (tmp_path / "inbox" / "tree" / "touched").stat().st_size == 4 * MIB


def test_unasked_it_may_grow_as_it_likes(tmp_path: Path) -> None:
    file = tmp_path / "tree" / "big"
    file.parent.mkdir()
    file.write_bytes(b"little" * 500_000)
    transfer(lambda: Growing(file, 9 * MIB), LocalStore(tmp_path / "inbox").begin, streams=1).receiver.receipt  # noqa: B018
    assert (tmp_path / "inbox" / "tree" / "big").stat().st_size == 3_000_000 + 9 * MIB


@pytest.mark.parametrize(
    "again",
    [Entry(1, NO_PARENT, b"f", Kind.SYMLINK, target=b"x"), Entry(1, NO_PARENT, b"f", Kind.FILE, UNKNOWN_SIZE)],
)
def test_what_comes_again_is_a_file(again: Entry) -> None:
    machine = Receiver()
    said: list[Message] = [
        m.Hello(Role.SENDER),
        Offer([Entry(0, NO_PARENT, b"f", Kind.FILE, 5_000_000)]),
        m.OfferEnd(1, 5_000_000, 0),
    ]

    def hear(message: Message) -> None:
        data = b"".join(m.frame(message))
        machine.buffer.append(data)
        while machine.next_event() is not None:
            pass

    hear(said[0])
    machine.send(m.Hello(Role.RECEIVER, window=9))
    hear(said[1])
    machine.send(machine.answer([(said[1].entries[0], Answer.ALL)]))  # type: ignore[attr-defined]
    hear(said[2])
    hear(m.LeftOut(0, Reason.AGAIN))
    with pytest.raises(RemoteProtocolError, match="another thing"):
        hear(Offer([again]))

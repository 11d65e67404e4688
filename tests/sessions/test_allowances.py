"""What a token lets through, with either side counting: content that crosses, each byte of it once, and never more."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enchufe import events
from enchufe.access.tokens import Record, Token, Tokens, UsedUp
from enchufe.entrance import _Granted
from enchufe.entry import BLOCK_SIZE
from enchufe.errors import BrokenError, EnchufeError, Refused, StoreError
from enchufe.session import Options, ReceivingSession, SendingSession
from enchufe.store import LocalStore, PipeSource
from enchufe.store.delivery import Delivery
from tests.sessions.kept import kept_bytes
from tests.sessions.relay import CuttingRelay
from tests.sessions.test_changing import Restless
from tests.sessions.transfers import Ends, Side, send, transfer, visible

BIG = random.Random(8).randbytes(8 * BLOCK_SIZE + 99)

counting = pytest.mark.parametrize("counts", ["receiver", "sender"])


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "enchufe"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "big").write_bytes(BIG)
    return tmp_path / "big"


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


def record() -> Record:
    (record,) = Tokens().all()
    return record


def by(token: Token, counts: str) -> dict[str, Any]:
    """Sessions, of which that side has let the other in by the token."""

    def allowed(options: Options) -> Options:
        return replace(options, allowance=_Granted("ana", token.public, Tokens()))

    class Receiving(ReceivingSession):
        def __init__(self, over: Any, begin: Any, options: Options, *more: Any, **how: Any) -> None:
            super().__init__(over, begin, allowed(options), *more, **how)

    class Sending(SendingSession):
        def __init__(self, over: Any, source: Any, options: Options, *more: Any) -> None:
            super().__init__(over, source, allowed(options), *more)

    return {"receiving": Receiving} if counts == "receiver" else {"sending": Sending}


def side_of(ends: Ends, counts: str) -> Side:
    return ends.receiver if counts == "receiver" else ends.sender


def cut(file: Path, inbox: Path, **how: Any) -> int:
    """Send some of a file; how much of it is kept."""
    with CuttingRelay(5 * BLOCK_SIZE, there=True, kept=lambda: kept_bytes(inbox) >= 2 * BLOCK_SIZE) as relay:
        ends = send(file, inbox, relay=relay, streams=1, compress="never", **how)
    assert isinstance(ends.sender.error, BrokenError)
    return kept_bytes(inbox)


@counting
@pytest.mark.parametrize("compress", ["always", "never"])
def test_bytes_of_content_are_counted_whatever_they_shrink_to(
    file: Path, inbox: Path, counts: str, compress: str
) -> None:
    tree = file.with_name("tree")
    tree.mkdir()
    size = 0
    for number, data in enumerate((b"abcd" * BLOCK_SIZE, b"abcd" * 1000, b"", BIG[: BLOCK_SIZE + 1])):
        (tree / str(number)).write_bytes(data)
        size += len(data)
    token, _ = Tokens().new(quota=size)
    ends = send(tree, inbox, compress=compress, **by(token, counts))
    assert (ends.sender.receipt.sent_bytes < size) == (compress == "always")
    assert ends.receiver.receipt.bytes == size
    assert (record().used, bool(record().unfinished)) == (size, False)


def test_what_was_kept_of_a_cut_is_not_counted_again(file: Path, inbox: Path) -> None:
    token, _ = Tokens().new(quota=len(BIG))
    kept = cut(file, inbox, **by(token, "receiver"))
    assert (record().used, bool(record().unfinished)) == (kept, True)
    ends = send(file, inbox, **by(token, "receiver"))
    assert ends.receiver.receipt.sent_bytes == len(BIG) - kept
    assert (record().used, bool(record().unfinished)) == (len(BIG), False)
    assert (inbox / "big").read_bytes() == BIG


@counting
def test_it_is_enough_that_what_is_missing_may_cross(file: Path, inbox: Path, counts: str) -> None:
    missing = len(BIG) - cut(file, inbox)
    token, _ = Tokens().new("little", quota=missing - 1)
    error = side_of(send(file, inbox, **by(token, counts)), counts).error
    assert isinstance(error, UsedUp)
    assert f"{missing} bytes, and {missing - 1} are left" in str(error)
    assert (record().used, bool(record().unfinished)) == (0, False)
    Tokens().revoke("little")
    token, _ = Tokens().new(quota=missing)
    assert send(file, inbox, **by(token, counts)).receiver.receipt.bytes == len(BIG)
    assert record().used == missing


def test_whoever_lacks_nothing_but_the_receipt_may_come_for_it(
    file: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = Tokens().new(quota=len(BIG))

    def go_away(_delivery: Delivery, **_: Any) -> None:
        raise BrokenError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(Delivery, "commit", go_away)
        assert isinstance(send(file, inbox, **by(token, "receiver")).receiver.error, BrokenError)
    assert (record().left, bool(record().unfinished)) == (0, True)
    assert Tokens().check(token.public) is not None
    ends = send(file, inbox, **by(token, "receiver"))
    assert (ends.receiver.receipt.bytes, ends.receiver.receipt.sent_bytes) == (len(BIG), 0)
    assert Tokens().check(token.public) is None


@counting
def test_of_too_much_nothing_crosses(file: Path, inbox: Path, counts: str) -> None:
    token, _ = Tokens().new(quota=len(BIG) - 1)
    ends = send(file, inbox, **by(token, counts))
    assert isinstance(side_of(ends, counts).error, UsedUp)
    other = ends.sender if counts == "receiver" else ends.receiver
    assert isinstance(other.error, Refused)
    assert "token" in str(other.error)
    assert (record().used, bool(record().unfinished)) == (0, False)
    assert visible(inbox) == []


@counting
def test_what_nobody_knew_the_size_of_crosses_as_far_as_there_is_some_left(
    file: Path, inbox: Path, counts: str
) -> None:
    token, _ = Tokens().new(quota=3 * BLOCK_SIZE)
    with file.open("rb") as pipe:
        ends = transfer(
            lambda: PipeSource(pipe.fileno(), "stdin"), LocalStore(inbox).begin, streams=1, **by(token, counts)
        )
    assert isinstance(side_of(ends, counts).error, UsedUp)
    assert record().used == 3 * BLOCK_SIZE
    assert visible(inbox) == []


@counting
def test_what_cannot_be_written_down_is_refused_before_it_crosses(
    file: Path, inbox: Path, state: Path, counts: str
) -> None:
    token, _ = Tokens().new(quota=len(BIG))
    state.chmod(0o755)
    ends = send(file, inbox, **by(token, counts))
    error = side_of(ends, counts).error
    assert isinstance(error, StoreError)
    assert str(state) in str(error)
    assert ends.receiver.of(events.Receipt) == []
    assert kept_bytes(inbox) == 0
    state.chmod(0o700)
    assert record().used == 0


@counting
def test_nothing_fails_after_the_receipt(
    file: Path, inbox: Path, state: Path, counts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All was written down before it crossed."""
    token, _ = Tokens().new(quota=len(BIG))
    commit = Delivery.commit

    def break_first(delivery: Delivery, *, remember: bool) -> None:
        state.chmod(0o755)
        commit(delivery, remember=remember)

    monkeypatch.setattr(Delivery, "commit", break_first)
    ends = send(file, inbox, **by(token, counts))
    assert ends.receiver.receipt.digest == ends.sender.receipt.digest
    state.chmod(0o700)
    assert record().used == len(BIG)


@counting
def test_what_was_taken_ahead_is_given_back(file: Path, inbox: Path, counts: str) -> None:
    token, _ = Tokens().new()
    used: list[int] = []

    def look(event: events.Event) -> None:
        if isinstance(event, events.Progress):
            used.append(record().used)

    ends = send(file, inbox, on_event=look, **by(token, counts))
    assert ends.receiver.receipt.bytes == record().used == len(BIG)
    assert max(used) >= len(BIG)
    (inbox / "big").unlink()
    kept = cut(file, inbox, **by(token, counts))
    assert record().used - len(BIG) >= kept
    assert (record().used - len(BIG) == kept) or counts == "sender"  # what was sent and did not arrive has crossed


@counting
def test_a_file_that_is_offered_once_more_is_expected_once(tmp_path: Path, inbox: Path, counts: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "small").write_bytes(b"small" * 100)
    (tree / "other").write_bytes(BIG)
    token, _ = Tokens().new(quota=len(BIG) + 500)
    source = Restless(tree, tree / "small", 1)
    ends = transfer(lambda: source, LocalStore(inbox).begin, **by(token, counts))
    assert ends.receiver.receipt.left_out == 0
    assert record().used == len(BIG) + 500


def test_of_two_at_once_the_second_finds_what_the_first_has_taken(tmp_path: Path) -> None:
    """Together they bring no more than there is."""
    token, _ = Tokens().new(quota=100)
    first, second = (_Granted("ana", token.public, Tokens()) for _ in range(2))
    for each in (first, second):
        each.expect(60)
    first.spend(0)
    with pytest.raises(EnchufeError, match="40 bytes more"):
        second.spend(60)
    with pytest.raises(UsedUp, match="60 bytes, and 40 are left"):
        second.expect(60)
    second.settle(finished=False)
    first.settle(finished=False)
    assert record().used == 0

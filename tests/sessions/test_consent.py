"""Somebody is asked before any content comes: what they see, what their answer does, and what ends the question."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from enchufe import events, files
from enchufe.buffer import ReceiveBuffer
from enchufe.entry import NO_PARENT, Answer, Entry, Kind
from enchufe.errors import BrokenError, EnchufeError, Refused
from enchufe.session import Declined, Offering
from enchufe.session.consent import remembering
from enchufe.store import LocalStore, Source
from enchufe.transfer import messages as m
from enchufe.transfer.data import Batch
from enchufe.transfer.digests import block_digest
from enchufe.transfer.message import Message, Role, Type
from enchufe.transfer.messages import LIST_SIZE
from enchufe.transfer.offers import Offer
from tests.pairs.pair import file, wire
from tests.sessions.relay import CuttingRelay, Relay
from tests.sessions.transfers import PATIENCE, send, snapshot, transfer, visible

MIB = 1 << 20
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "in").mkdir(parents=True)
    (root / "in" / "small").write_bytes(b"small")
    (root / "big").write_bytes(bytes(range(256)) * (12 * MIB // 256))
    (root / "link").symlink_to("in/small")
    return root


def await_withdrawal(offering: Offering) -> bool:
    """Think until the question is of no use any more."""
    poller = select.poll()
    poller.register(offering, select.POLLIN)
    assert poller.poll(PATIENCE * 1000)
    return False


def content_here(inbox: Path) -> int:
    """Bytes in files anywhere under a folder."""
    return sum(path.stat().st_size for path in inbox.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.mark.parametrize("sender_dials", [True, False])
@pytest.mark.parametrize("streams", [1, 3])
def test_a_yes_comes_after_all_is_shown_and_before_any_content(
    tree: Path, tmp_path: Path, sender_dials: bool, streams: int
) -> None:
    inbox = tmp_path / "inbox"
    asked: list[dict[tuple[bytes, ...], tuple[Any, ...]]] = []

    def ask(offering: Offering) -> bool:
        asked.append({item.path: (item.kind, item.size, item.target, item.refusal) for item in offering})
        assert visible(inbox) == []
        assert content_here(inbox) == 0
        (root,) = offering.roots
        assert (root.name, root.files, root.folders, root.links, root.bytes) == (b"tree", 2, 2, 1, 12 * MIB + 5)
        assert (len(offering), offering.total.bytes, offering.total.refused) == (5, 12 * MIB + 5, 0)
        assert offering.name is None
        assert offering.peer.startswith("127.0.0.1:")
        return True

    ends = send(tree, inbox, ask=ask, sender_dials=sender_dials, streams=streams)
    assert asked == [
        {
            (b"tree",): (Kind.DIRECTORY, 0, b"", ""),
            (b"tree", b"in"): (Kind.DIRECTORY, 0, b"", ""),
            (b"tree", b"in", b"small"): (Kind.FILE, 5, b"", ""),
            (b"tree", b"big"): (Kind.FILE, 12 * MIB, b"", ""),
            (b"tree", b"link"): (Kind.SYMLINK, 0, b"in/small", ""),
        }
    ]
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert snapshot(inbox / "tree") == snapshot(tree)


@pytest.mark.parametrize("sender_dials", [True, False])
def test_a_no_is_told_to_the_sender_and_leaves_nothing(tree: Path, tmp_path: Path, sender_dials: bool) -> None:
    ends = send(tree, tmp_path / "inbox", ask=lambda _offering: False, sender_dials=sender_dials, retry=30.0)
    assert isinstance(ends.receiver.error, Declined)
    assert ends.receiver.error.kind == "refused"
    assert isinstance(ends.sender.error, Refused)
    assert "the receiver declined" in str(ends.sender.error)
    assert list((tmp_path / "inbox").iterdir()) == []
    assert not ends.sender.of(events.Retrying)
    assert not ends.receiver.of(events.Retrying)


def test_a_no_ends_the_receiving(tree: Path, tmp_path: Path) -> None:
    with receiving(tmp_path / "inbox", lambda _offering: False) as (address, ended):
        with pytest.raises(Refused, match="declined"):
            files.send_files([tree], to=address, plain=True)
        assert isinstance(ended(), Declined)


@pytest.mark.parametrize("answer", [True, False])
def test_a_question_that_is_over_holds_no_descriptor(tree: Path, tmp_path: Path, answer: bool) -> None:
    asked: list[Offering] = []

    def ask(offering: Offering) -> bool:
        asked.append(offering)
        assert offering.fileno() >= 0
        return answer

    send(tree, tmp_path / "inbox", ask=ask)
    assert [offering.fileno() for offering in asked] == [-1]


def test_nobody_is_asked_about_what_cannot_be_taken(tree: Path, tmp_path: Path) -> None:
    asked: list[Offering] = []

    def ask(offering: Offering) -> bool:
        asked.append(offering)
        return True

    # All of it is there, and told to fail then.
    inbox = tmp_path / "inbox"
    (inbox / "tree").mkdir(parents=True)
    ends = send(tree, LocalStore(inbox, if_exists="fail"), ask=ask)
    assert isinstance(ends.receiver.error, Refused)
    assert not asked
    # Bigger than may be: the one that is, is marked; where there is nothing else, nobody is asked.
    send(tree / "big", LocalStore(tmp_path / "other", max_size=MIB), ask=ask)
    assert not asked
    send(tree, LocalStore(tmp_path / "other", max_size=MIB), ask=ask)
    (offering,) = asked
    assert offering.total.refused == 1
    refused = [item.path for item in offering if item.refusal]
    assert refused == [(b"tree", b"big")]


@pytest.mark.parametrize("sender_dials", [True, False])
def test_a_cut_ends_the_question_and_the_next_attempt_asks_again(
    tree: Path, tmp_path: Path, sender_dials: bool
) -> None:
    asked: list[int] = []
    with Relay() as relay:

        def ask(offering: Offering) -> bool:
            asked.append(offering.epoch)
            if len(asked) > 1:
                return True
            relay.cut()
            return await_withdrawal(offering)

        ends = send(tree, tmp_path / "inbox", relay=relay, ask=remembering(ask), retry=30.0, sender_dials=sender_dials)
    assert len(asked) == 2
    assert asked[0] < asked[1]
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest


def test_a_sender_that_goes_away_while_somebody_thinks_is_told_of(tree: Path, tmp_path: Path) -> None:
    with Relay() as relay:

        def ask(offering: Offering) -> bool:
            relay.cut()
            return await_withdrawal(offering)

        ends = send(tree, tmp_path / "inbox", relay=relay, ask=ask)
    assert isinstance(ends.receiver.error, BrokenError)
    assert "went away" in str(ends.receiver.error) or "cut" in str(ends.receiver.error), ends.receiver.error
    assert list((tmp_path / "inbox").iterdir()) == []


@pytest.mark.parametrize("sender_dials", [True, False])
def test_a_cut_after_the_yes_asks_nobody_again(tree: Path, tmp_path: Path, sender_dials: bool) -> None:
    asked: list[int] = []

    def ask(offering: Offering) -> bool:
        asked.append(offering.epoch)
        return True

    with CuttingRelay(4 * MIB, there=sender_dials) as relay:
        ends = send(
            tree,
            tmp_path / "inbox",
            relay=relay,
            ask=remembering(ask),
            retry=30.0,
            sender_dials=sender_dials,
            streams=1,
        )
    assert len(relay.streams) == 2
    assert len(asked) == 1
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert snapshot(tmp_path / "inbox" / "tree") == snapshot(tree)


def test_a_cut_after_the_yes_asks_again_where_the_offer_is_another(tree: Path, tmp_path: Path) -> None:
    asked: list[int] = []
    attempts: list[Source] = []

    def source() -> Source:
        if attempts:
            (tree / "more").write_text("that nobody has said yes to")
        attempts.append(Source([tree]))
        return attempts[-1]

    def ask(offering: Offering) -> bool:
        asked.append(len(offering))
        return len(asked) == 1

    begin = LocalStore(tmp_path / "inbox").begin
    with CuttingRelay(4 * MIB, there=True) as relay:
        ends = transfer(source, begin, relay=relay, ask=remembering(ask), retry=30.0, streams=1)
    assert asked == [5, 6]
    assert isinstance(ends.receiver.error, Declined)
    assert visible(tmp_path / "inbox") == []


def offering_of(*entries: Entry, session: bytes = b"s", epoch: int = 1, name: str | None = None) -> Offering:
    return Offering(((one, Answer.ALL) for one in entries), peer="p", name=name, session=session, epoch=epoch)


LINK = Entry(0, NO_PARENT, b"f0", Kind.SYMLINK, target=b"here")


@pytest.mark.parametrize(
    ("first", "then", "again"),
    [
        (offering_of(file(0, 1)), offering_of(file(0, 1)), False),
        (offering_of(file(0, 1)), offering_of(file(0, 1), epoch=9), False),
        (offering_of(file(0, 1, mtime_ns=1)), offering_of(file(0, 1, mtime_ns=2)), False),
        (offering_of(file(0, 1), name="n"), offering_of(file(0, 1), name="n"), False),
        (offering_of(file(0, 1), epoch=2), offering_of(file(0, 1), epoch=1), True),
        (offering_of(file(0, 1)), offering_of(file(0, 1), session=b"t"), True),
        (offering_of(file(0, 1), name="n"), offering_of(file(0, 1)), True),
        (offering_of(file(0, 1)), offering_of(file(0, 1), name="n"), True),
        (offering_of(file(0, 1)), offering_of(file(0, 2)), True),
        (offering_of(file(0, 1)), offering_of(), True),
        (offering_of(file(0, 1)), offering_of(file(0, 1), file(1, 1)), True),
        (offering_of(file(0, 1)), offering_of(Entry(0, NO_PARENT, b"g", Kind.FILE, 1)), True),
        (offering_of(file(0, 0)), offering_of(Entry(0, NO_PARENT, b"f0", Kind.DIRECTORY)), True),
        (offering_of(LINK), offering_of(Entry(0, NO_PARENT, b"f0", Kind.SYMLINK, target=b"else")), True),
        (
            offering_of(Entry(0, NO_PARENT, b"d", Kind.DIRECTORY), file(1, 1, parent=0)),
            offering_of(Entry(0, NO_PARENT, b"d", Kind.DIRECTORY), file(1, 1)),
            True,
        ),
    ],
)
def test_which_yes_counts_for_which_offer(first: Offering, then: Offering, again: bool) -> None:
    asked: list[Offering] = []

    def ask(offering: Offering) -> bool:
        asked.append(offering)
        return len(asked) == 1

    ask_once = remembering(ask)
    assert ask_once(first)
    assert ask_once(then) is not again
    assert len(asked) == 1 + again
    for one in (first, then):
        one.close()


def test_a_no_is_not_remembered_as_a_yes() -> None:
    ask_once = remembering(lambda _offering: False)
    with closing(offering_of(file(0, 1))) as one, closing(offering_of(file(0, 1))) as two:
        assert not ask_once(one)
        assert not ask_once(two)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("a bug of theirs")])
def test_what_asking_raises_ends_it_like_that(tree: Path, tmp_path: Path, error: BaseException) -> None:
    def ask(_offering: Offering) -> bool:
        raise error

    sender: list[EnchufeError] = []
    with receiving(tmp_path / "inbox", ask) as (address, ended):
        try:
            files.send_files([tree], to=address, plain=True, retry=0)
        except EnchufeError as told:
            sender.append(told)
        assert ended() is error
    assert len(sender) == 1
    assert ("interrupted" in str(sender[0])) == isinstance(error, KeyboardInterrupt)
    assert "theirs" not in str(sender[0])


# A sender that is up to no good, over a real socket.


@contextmanager
def receiving(
    inbox: Path, ask: Callable[[Offering], bool], timeout: float = 30.0
) -> Iterator[tuple[str, Callable[[], BaseException | None]]]:
    """Somebody who receives in a thread: the address, and how it ended."""
    told: list[events.Event] = []
    ready = threading.Event()
    ending: list[BaseException | None] = []

    def tell(event: events.Event) -> None:
        told.append(event)
        ready.set()

    def run() -> None:
        try:
            files.receive_files(inbox, listen="127.0.0.1:0", plain=True, ask=ask, timeout=timeout, on_event=tell)
        except BaseException as error:  # noqa: BLE001 (looked at by the test)
            ending.append(error)
        else:
            ending.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    assert isinstance(told[0], events.Listening)

    def ended() -> BaseException | None:
        thread.join(PATIENCE)
        return ending[0]

    address = told[0].address
    yield address, ended
    if thread.is_alive():  # one that was told no ends it
        with suppress(Refused):
            files.send_files(text="the end", to=address, plain=True)
        ended()


class Bad:
    """A sender by hand."""

    def __init__(self, address: str, epoch: int = 1) -> None:
        host, _, port = address.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self.buffer = ReceiveBuffer(1 << 16)
        self.say(m.Hello(Role.SENDER, b"bad" + bytes(13), epoch))
        assert self.hear().type is Type.HELLO

    def say(self, *messages: Message) -> None:
        self.sock.sendall(b"".join(map(wire, messages)))

    def hear(self) -> Message:
        while isinstance(message := m.next_message(self.buffer), int):
            piece = self.sock.recv(65536)
            assert piece, "the receiver went away without a word"
            self.buffer.append(piece)
        return message

    def hear_error(self) -> m.Error:
        """What ends it; nothing but pings comes before."""
        while (message := self.hear()).type is Type.PING:
            pass
        assert isinstance(message, m.Error), message
        self.sock.close()
        return message


SMALL = (0, block_digest(b"x"), b"x")


@pytest.mark.parametrize("while_asked", [False, True])
@pytest.mark.parametrize(
    "lie",
    [Batch([SMALL]), Offer([file(1, 1)]), m.FileEnd(0, 1, bytes(32)), m.Finish(bytes(32))],
    ids=lambda lie: lie.type.name,
)
def test_content_before_a_want_or_an_offer_after_its_end(tmp_path: Path, lie: Message, while_asked: bool) -> None:
    asked, withdrawn = threading.Event(), threading.Event()

    def ask(offering: Offering) -> bool:
        if offering.session[:3] != b"bad":
            return False
        asked.set()
        await_withdrawal(offering)
        withdrawn.set()
        return True  # it matters no more

    inbox = tmp_path / "inbox"
    with receiving(inbox, ask) as (address, ended):
        bad = Bad(address)
        bad.say(Offer([file(0, 1)]))
        if while_asked:
            bad.say(m.OfferEnd(1, 1, 0))
            assert asked.wait(PATIENCE)
        elif lie.type in (Type.OFFER, Type.FINISH):
            lie = Batch([SMALL])
        bad.say(lie)
        assert bad.hear_error().code is m.Code.PROTOCOL
        if while_asked:
            assert withdrawn.wait(PATIENCE)
        assert asked.is_set() is while_asked
    assert isinstance(ended(), Declined)
    assert list(inbox.iterdir()) == []


def test_an_offer_that_never_ends_is_never_asked_about(tmp_path: Path) -> None:
    asked: list[bytes] = []

    def ask(offering: Offering) -> bool:
        asked.append(offering.session)
        return False

    with receiving(tmp_path / "inbox", ask) as (address, ended):
        bad = Bad(address)
        bad.say(Offer([file(0, 1)]))
        for _ in range(2):
            assert bad.hear().type is Type.PING  # and no WANT
            bad.say(m.Ping())
        assert not asked
        bad.sock.close()
        with pytest.raises(Refused, match="declined"):
            files.send_files(text="the end", to=address, plain=True)
        assert isinstance(ended(), Declined)
    assert len(asked) == 1


def test_a_newer_attempt_of_the_same_takes_the_place_of_a_question(tmp_path: Path) -> None:
    epochs: list[int] = []
    asked = threading.Event()

    def ask(offering: Offering) -> bool:
        epochs.append(offering.epoch)
        asked.set()
        return offering.epoch == 1 and await_withdrawal(offering)

    with receiving(tmp_path / "inbox", ask) as (address, ended):
        first = Bad(address, epoch=1)
        first.say(Offer([file(0, 1)]), m.OfferEnd(1, 1, 0))
        assert asked.wait(PATIENCE)
        second = Bad(address, epoch=2)
        second.say(Offer([file(0, 1)]), m.OfferEnd(1, 1, 0))
        assert second.hear_error().message == "the receiver declined"
        assert isinstance(ended(), Declined)
        first.sock.close()
    assert epochs == [1, 2]


def test_a_sender_that_falls_silent_ends_the_question(tmp_path: Path) -> None:
    withdrawn = threading.Event()

    def ask(offering: Offering) -> bool:
        if offering.session[:3] != b"bad":
            return False
        await_withdrawal(offering)
        withdrawn.set()
        return True

    with receiving(tmp_path / "inbox", ask, timeout=1.0) as (address, ended):
        bad = Bad(address)
        bad.say(Offer([file(0, 1)]), m.OfferEnd(1, 1, 0))
        assert withdrawn.wait(PATIENCE)
        bad.sock.close()
    assert isinstance(ended(), Declined)


def test_an_offer_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    asked: list[Offering] = []

    def ask(offering: Offering) -> bool:
        asked.append(offering)
        return False

    with receiving(tmp_path / "inbox", ask) as (address, _):
        bad = Bad(address)
        attributes = tuple((b"user.%d" % number, bytes(1000)) for number in range(4))
        offered = 0
        with suppress(OSError):  # it ends before all is said
            for first in range(0, LIST_SIZE // 4000 + 15, 15):
                entries = [file(first + number, 1, attributes=attributes) for number in range(15)]
                bad.say(Offer(entries))
                offered += 15
        error = bad.hear_error()
        assert error.code is m.Code.REFUSED
        assert "too much to be asked about" in error.message
        assert not asked


# Real processes, and how much memory they take.


def asked_about(count: int, inbox: Path) -> tuple[list[str], list[str]]:
    """What a receiver and a sender of so many entries print; both are in tests/sessions/offering_peers.py."""
    command = [sys.executable, "-m", "tests.sessions.offering_peers"]
    receiver = subprocess.Popen(
        [*command, "receive", str(inbox)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with receiver:
        try:
            assert receiver.stdout is not None
            address = receiver.stdout.readline().strip()
            sender = subprocess.run(
                [*command, "send", address, str(count)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            if "declined" not in sender.stdout:
                receiver.kill()
            return receiver.communicate(timeout=PATIENCE)[0].splitlines(), sender.stdout.splitlines()
        finally:
            receiver.kill()


def test_a_hundred_thousand_entries_take_less_than_200_mib(tmp_path: Path) -> None:
    receiver, sender = asked_about(100_000, tmp_path / "inbox")
    assert receiver[0] == f"100000 {99_999 * 1024} 1", (receiver, sender)
    assert receiver[1].endswith("Declined")
    assert sender[0].endswith("the receiver declined")
    assert int(receiver[1].split()[0]) < 200 * MIB
    assert int(sender[0].split()[0]) < 200 * MIB
    assert list((tmp_path / "inbox").iterdir()) == []


def test_more_than_can_be_asked_about_is_refused(tmp_path: Path) -> None:
    receiver, sender = asked_about(262_144, tmp_path / "inbox")
    assert "too much to be asked about: 262,144 entries" in sender[0], sender
    assert receiver == []
    assert int(sender[0].split()[0]) < 200 * MIB

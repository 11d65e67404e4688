"""Somebody only looks at what is offered: what he sees, what he gets, which is nothing, and who goes on waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from enchufe import events, files
from enchufe.access import ByCode, ByPass, ByToken
from enchufe.access.certificate import lasting
from enchufe.access.links import Link
from enchufe.access.tokens import Token, Tokens
from enchufe.entry import NO_PARENT, Answer, Entry, Kind
from enchufe.errors import BrokenError, EnchufeError, Refused, RemoteProtocolError, StoreError
from enchufe.session import Options
from enchufe.session.looking import LookingSession
from enchufe.transfer.data import Block
from enchufe.transfer.machine import Looked
from enchufe.transfer.message import Message, Role
from enchufe.transfer.messages import Code, Error, Finish, Hello, OfferEnd, Want, frame
from enchufe.transfer.offers import Offer
from enchufe.transfer.sender import Sender
from enchufe.transports import Listener, TcpAddress, parse_address
from enchufe.waiting import BlockingWaiter, drive
from tests.access.meeting import soon
from tests.secured.people import HERE, Person
from tests.secured.test_intruders import code_of, enter, listening, no_more
from tests.secured.test_token_transfers import SERVING, aimed, link_of, tokens
from tests.sessions.transfers import PATIENCE, Side, visible


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "in").mkdir(parents=True)
    (root / "in" / "small").write_bytes(b"small")
    (root / "empty").touch()
    (root / "link").symlink_to("in/small")
    return root


SHOWN = {
    ("tree", "folder", None, None),
    ("tree/in", "folder", None, None),
    ("tree/in/small", "file", 5, None),
    ("tree/empty", "file", 0, None),
    ("tree/link", "link", None, "in/small"),
}


@pytest.mark.parametrize("scope", ["list", "read", "drop,list"])
def test_a_token_for_looking(people: tuple[Person, Person], tree: Path, scope: str) -> None:
    ana, blas = people
    link = link_of(ana, "--scope", scope, "--quota", "1")
    sender = ana.send(tree, options=SERVING)
    looking = blas.start("receive", aimed(link, sender.address), "--list")
    assert looking.end() == 0
    entries = looking.named("entry")
    assert {tuple(map(entry.get, ("path", "kind", "bytes", "target"))) for entry in entries} == SHOWN
    assert looking.named("offer") == [{"v": 1, "event": "offer", "entries": 5, "bytes": 5}]
    sender.wait_for("looked")
    taking = blas.receive(aimed(link, sender.address))
    assert taking.end() == 3
    assert [path for path in visible(blas.inbox) if path != ".enchufe"] == []
    if scope == "read":  # its quota is too small
        assert sender.end() == 3
    else:
        assert "token for `list`" in taking.error["message"]
        assert blas.receive(sender.address, "--no-announce", code=sender.code()).end() == 0
        assert sender.end() == 0
    assert tokens(ana)[0]["used"] == 0


def test_a_token_for_looking_drops_nothing(people: tuple[Person, Person], tree: Path) -> None:
    ana, blas = people
    link = link_of(blas, "--scope", "list")
    receiver = blas.receive(*SERVING)
    sender = ana.send(tree, options=("--to", aimed(link, receiver.address)))
    assert (sender.end(), sender.error["kind"]) == (3, "token_refused")
    assert not receiver.named("paired")


def test_a_code_is_used_up_and_another_one_is_shown(people: tuple[Person, Person], tree: Path) -> None:
    ana, blas = people
    sender = ana.send(tree, options=HERE)
    looking = blas.do("receive", sender.address, "--list", code=sender.code())
    assert looking.returncode == 0
    assert set(looking.stdout.splitlines()) == {
        "      folder  tree/",
        "      folder  tree/in/",
        "        link  tree/link -> in/small",
        "     0 bytes  tree/empty",
        "     5 bytes  tree/in/small",
    }
    assert "uses the code up" in looking.stderr
    assert blas.receive(sender.address, code=sender.code(2)).end() == 0
    assert sender.end() == 0


def test_who_was_remembered_when_he_looked_comes_by_his_key(people: tuple[Person, Person], tree: Path) -> None:
    """To the same run, which knew nobody when it began."""
    ana, blas = people
    sender = ana.send(tree, options=(*HERE, "--remember"))
    looking = blas.start("receive", sender.address, "--list", "--remember", code=sender.code())
    assert looking.end() == 0
    (name,) = blas.known()
    assert blas.start("receive", f"@{name}", "--list", "--no-announce").end() == 0
    assert blas.receive(f"@{name}", "--no-announce").end() == 0
    assert sender.end() == 0
    assert [paired["way"] for paired in sender.named("paired")] == ["code", "key", "key"]


def test_all_of_many_is_shown_and_nothing_written(people: tuple[Person, Person], tree: Path) -> None:
    """More than a window of entries."""
    ana, blas = people
    for number in range(20_000):
        (tree / "in" / f"{number}").touch()
    sender = ana.send(tree, options=("--plain", "--listen", "127.0.0.1:0"))
    looking = blas.start("receive", sender.address, "--plain", "--list", "-o", blas.inbox)
    assert looking.end() == 0
    assert len(looking.named("entry")) == 20_005
    assert list(blas.folder.iterdir()) == []


class Liar(LookingSession):
    """Is let in to look, and wants it."""

    answer: Answer

    def say(self, message: Message) -> None:
        if not isinstance(message, Want):
            super().say(message)
            return
        self.machine.send(message)
        self.link.outgoing += frame(Want([(first, count, self.answer) for first, count, _ in message.runs]))

    def _heed(self, message: Message) -> None:
        if not isinstance(message, OfferEnd):  # behind which others would end it
            super()._heed(message)


@pytest.mark.parametrize("answer", [Answer.ALL, Answer.REST, Answer.DELTA, Answer.LINK, Answer.SAME])
def test_who_may_only_look_and_asks_for_more_gets_none_of_it(tmp_path: Path, answer: Answer) -> None:
    token, _ = Tokens().new("window", ["list"])
    (tmp_path / "secret").write_bytes(b"hello")
    with listening(files.send_files, [tmp_path / "secret"], tokens=True) as (side, address):
        admitted = enter(address, ByToken(Token(token.seed)), certificate=lasting().sha256)
        with admitted.transport as transport:
            options = Options(dial=no_more, secret=admitted.secret, streams=1, epoch=1)
            liar = Liar(transport, options, Side().tell)
            liar.answer = answer
            with pytest.raises(Refused, match="token for `list`"):
                drive(liar.complete())
        assert side.wait_for(events.Failed).kind == "refused"
        assert side.end is None
        taken = files.receive_files(tmp_path / "inbox", source=address, code=str(code_of(side)))
    assert (taken.files, side.receipt.files) == (1, 1)


def test_a_receipt_of_who_may_only_look_does_not_end_the_waiting_for_others(tmp_path: Path) -> None:
    """As of somebody who has all of it already, and skips it."""
    token, _ = Tokens().new("window", ["list"])
    (tmp_path / "file").write_bytes(b"hello")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_bytes(b"hello")
    with listening(files.send_files, [tmp_path / "file"], tokens=True) as (side, address):
        at = parse_address(address)
        assert isinstance(at, TcpAddress)
        link = str(Link((at,), lasting().sha256, token=token.seed))
        files.receive_files(tmp_path / "full", source=link, if_exists="skip")
        assert side.wait_for(events.Failed).kind == "refused"
        taken = files.receive_files(tmp_path / "inbox", source=address, code=str(code_of(side)))
    assert (taken.files, side.receipt.files) == (1, 1)


@pytest.mark.parametrize("words", [b"", b"\x01\x00\x00\x00\x01?"], ids=["cut", "nonsense"])
def test_who_may_only_look_does_not_end_the_waiting_for_others(tmp_path: Path, words: bytes) -> None:
    token, _ = Tokens().new("window", ["list"])
    (tmp_path / "file").write_bytes(b"hello")
    with listening(files.send_files, [tmp_path / "file"], tokens=True, retry=0) as (side, address):
        admitted = enter(address, ByToken(Token(token.seed)), certificate=lasting().sha256)
        with admitted.transport as transport:
            drive(transport.send(frame(Hello(Role.RECEIVER, bytes(16), 1, window=9)), soon()))
            side.wait_for(events.Connected)
            drive(transport.send([words], soon()))
        side.wait_for(events.Failed)
        files.receive_files(tmp_path / "inbox", source=address, code=str(code_of(side)))
    assert side.receipt.files == 1


@pytest.mark.parametrize("retry", [0, 30])
def test_a_look_that_is_cut_does_not_end_the_waiting_for_others(tmp_path: Path, retry: float) -> None:
    """By whatever he was let in; who goes on with what was cut is heard as before."""
    (tmp_path / "file").write_bytes(b"hello")
    with listening(files.send_files, [tmp_path / "file"], retry=retry) as (side, address):
        admitted = enter(address, ByCode(code_of(side)))
        with admitted.transport as transport:
            drive(transport.send(frame(Hello(Role.RECEIVER, bytes(16), 1, window=9)), soon()))
            side.wait_for(events.Connected)
        assert side.wait_for(events.Failed).kind == "broken"
        if retry:
            again = enter(address, ByPass(admitted.secret))
            with again.transport as transport:
                look = LookingSession(transport, Options(dial=no_more, secret=again.secret, epoch=2), Side().tell)
                with pytest.raises(Looked):
                    drive(look.complete())
            side.wait_for(events.Looked)
        files.receive_files(tmp_path / "inbox", source=address, code=str(code_of(side, 2)))
    assert side.receipt.files == 1


@contextmanager
def saying(*messages: Message) -> Iterator[str]:
    """A sender, in plain text, that says this to one who comes."""
    with Listener(parse_address("127.0.0.1:0")) as listener:

        def say() -> None:
            sender = Sender()
            transport = drive(listener.accept(BlockingWaiter()))
            assert transport is not None
            with transport:
                while sender.next_event() is None:
                    sender.receive_data(drive(transport.receive(1 << 16, soon())))
                told = [Hello(Role.SENDER, bytes(16), 1), *messages]
                drive(transport.send([piece for message in told for piece in frame(message)], soon()))
                drive(transport.end(soon()))
                with suppress(BrokenError):  # it may have gone with a reset
                    drive(transport.drop(1.0, soon()))

        thread = threading.Thread(target=say)
        thread.start()
        yield listener.addresses[0]
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([Offer([Entry(0, NO_PARENT, b"../up", Kind.FILE)])], RemoteProtocolError),
        ([Offer([Entry(0, NO_PARENT, b"in", Kind.FILE)]), Finish(bytes(32))], RemoteProtocolError),
        ([Error(Code.LOOKED, "")], RemoteProtocolError),
        ([Offer([Entry(0, NO_PARENT, b"in", Kind.FILE)]), Error(Code.LOOKED, "")], RemoteProtocolError),
        ([Offer([Entry(0, NO_PARENT, b"in", Kind.FILE)])], BrokenError),
    ],
)
def test_what_is_no_whole_list_is_not_taken_for_one(messages: list[Message], error: type[EnchufeError]) -> None:
    """And what was shown is not shown again, by itself."""
    side = Side()
    with saying(*messages) as address, pytest.raises(error):
        files.list_files(address, plain=True, on_event=side.tell)
    assert not side.of(events.Offered)
    assert not side.of(events.Retrying)


def test_more_folders_than_a_list_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their names are kept for what may yet be in them."""
    monkeypatch.setattr("enchufe.session.looking.LIST_WINDOW", 3)
    folders = [Entry(number, NO_PARENT, b"%d" % number, Kind.DIRECTORY) for number in range(4)]
    side = Side()
    with saying(Offer(folders)) as address, pytest.raises(Refused, match="more than 3 folders"):
        files.list_files(address, plain=True, on_event=side.tell)
    assert len(side.of(events.Entry)) == 3


def test_content_that_nobody_asked_for_is_told_as_that() -> None:
    said = [Offer([Entry(0, NO_PARENT, b"in", Kind.FILE, 5)]), Block(0, 0, bytes(32), b"hello")]
    with saying(*said) as address, pytest.raises(RemoteProtocolError, match="sent BLOCK of what nobody wants"):
        files.list_files(address, plain=True)


@pytest.mark.parametrize("error", [StoreError("nobody reads it"), KeyboardInterrupt()])
@pytest.mark.parametrize("told", [events.Connected, events.Entry])
def test_whatever_ends_a_look_the_sender_waits_on(
    tmp_path: Path, told: type[events.Event], error: BaseException
) -> None:
    """As where a pipe is closed that has read enough."""
    (tmp_path / "file").write_bytes(b"hello")

    def show(event: events.Event) -> None:
        if isinstance(event, told):
            raise error

    with listening(files.send_files, [tmp_path / "file"], plain=True) as (side, address):
        with pytest.raises(type(error)):
            files.list_files(address, plain=True, on_event=show)
        side.wait_for(events.Looked)
        files.receive_files(tmp_path / "inbox", source=address, plain=True)
    assert side.receipt.files == 1

"""Who has been let in by a listener, and what that opens: no more than it stands for, to nobody else, no longer."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from enchufe import entrance, events, files, meeting
from enchufe.access import (
    Admitted,
    ByCode,
    ByKey,
    ByPass,
    ByToken,
    Code,
    Proof,
    WrongCode,
    dialing_context,
    discovery,
    knock,
)
from enchufe.access.certificate import lasting
from enchufe.access.identity import Identity, KeyPair
from enchufe.access.known import KnownMachines
from enchufe.access.links import Link
from enchufe.access.messages import Type
from enchufe.access.tokens import Token, Tokens
from enchufe.errors import BusyError, EnchufeError, Refused
from enchufe.session import Options, ReceivingSession, SendingSession
from enchufe.session.consent import Offering, remembering
from enchufe.store import LocalStore, Source
from enchufe.transfer.message import Role
from enchufe.transfer.messages import Hello, frame
from enchufe.transports import TcpAddress, parse_address, tls
from enchufe.waiting import BlockingWaiter, drive
from tests.living import living
from tests.sessions.transfers import PATIENCE, Side, visible
from tests.until import until


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@contextmanager
def listening(what: Any, *args: Any, **options: Any) -> Iterator[tuple[Side, str]]:
    """`receive_files` or `send_files`, that waits for somebody; it is waited for in the end."""
    side = Side()

    def run() -> None:
        try:
            side.end = what(*args, listen="127.0.0.1:0", announce=False, on_event=side.tell, **options)
        except EnchufeError as error:
            side.end = error

    thread = threading.Thread(target=run)
    thread.start()
    yield side, side.wait_for(events.Listening).address
    thread.join(PATIENCE)
    assert not thread.is_alive()


def enter(address: str, proof: Proof, **how: Any) -> Admitted:
    """Be let in there; what follows is still to be said."""
    waiter = BlockingWaiter()
    deadline = waiter.now() + PATIENCE
    transport = drive(tls.connect(parse_address(address), waiter, deadline, context=dialing_context()))
    try:
        return drive(knock(transport, proof, deadline, **how))
    except BaseException:
        transport.close()
        raise


def no_more() -> Any:
    raise AssertionError("one stream is enough")


def send(admitted: Admitted, path: Path, **options: Any) -> events.Receipt | EnchufeError:
    """Send what is at a path, on a connection that was let in."""
    source = Source([path])
    with admitted.transport as transport:
        chosen = Options(dial=no_more, secret=admitted.secret, streams=1, **{"epoch": 1, **options})
        try:
            receipt: events.Receipt = drive(SendingSession(transport, source, chosen, Side().tell).complete())
            return receipt
        except EnchufeError as error:
            return error
        finally:
            source.close()


def test_who_has_others_come_and_go_does_not_lose_the_limits_of_his_token(tmp_path: Path) -> None:
    token, _ = Tokens().new("some", quota=1000)
    (tmp_path / "big").write_bytes(bytes(2000))
    inbox = tmp_path / "inbox"

    def come() -> Admitted:
        return enter(address, ByToken(Token(token.seed)), certificate=lasting().sha256)

    with listening(files.receive_files, inbox, tokens=True) as (_, address):
        first = come()
        for _ in range(70):
            come().transport.close()
        assert isinstance(send(first, tmp_path / "big"), Refused)
        (tmp_path / "little").write_bytes(bytes(1000))
        # A newer attempt: the first may not have gone yet. It ends the waiting.
        assert isinstance(send(come(), tmp_path / "little", epoch=2), events.Receipt)
    assert visible(inbox) == ["little"]


def test_who_has_come_and_gone_leaves_no_memory_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer has some 10 MB, and Python looks for garbage when there are many objects, however big they are."""
    token, _ = Tokens().new("some", quota=1000)
    (tmp_path / "big").write_bytes(bytes(2000))
    (tmp_path / "little").write_bytes(bytes(1000))

    made, left = living(monkeypatch, ReceivingSession)
    gc.collect()
    gc.disable()
    try:
        with listening(files.receive_files, tmp_path / "inbox", tokens=True) as (_, address):
            place = parse_address(address)
            assert isinstance(place, TcpAddress)
            link = str(Link((place,), lasting().sha256, token=token.seed))
            for _ in range(24):
                with pytest.raises(Refused):
                    files.send_files([tmp_path / "big"], to=link, streams=3)
            assert made() >= 24
            until(lambda: left() <= 4)  # the last, and what a thread was still at when it was looked for
            files.send_files([tmp_path / "little"], to=link)
    finally:
        gc.enable()


def code_of(side: Side, number: int = 1) -> Code:
    """The first code that it shows, or a later one."""
    with side.changed:
        assert side.changed.wait_for(lambda: len(side.of(events.Code)) >= number, PATIENCE)
    return Code.parse(side.of(events.Code)[number - 1].code)


def test_the_third_guess_may_be_right_while_it_is_being_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    with listening(files.receive_files, tmp_path / "inbox") as (side, address):
        code = code_of(side)
        wrong = Code(code.label, ("abandon", "ability", "able"))
        for _ in range(2):
            with pytest.raises(WrongCode):
                enter(address, ByCode(wrong))
        slow = BlockingWaiter()
        deadline = slow.now() + PATIENCE
        transport = drive(tls.connect(parse_address(address), slow, deadline, context=dialing_context()))

        class Hesitant:
            """Makes its guess, and waits for longer than the listener takes to look at its code."""

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

            async def send(self, pieces: Any, deadline: float) -> None:
                data = b"".join(pieces)
                if data[0] == Type.CONFIRM:
                    threading.Event().wait(3 * meeting._LOOK)
                await transport.send([data], deadline)

        admitted = drive(knock(cast(tls.TlsTransport, Hesitant()), ByCode(code), deadline))
        send(replace(admitted, transport=transport), tmp_path / "file")
    assert side.receipt.files == 1


def test_who_is_offered_more_than_his_token_grants_gets_nothing_of_it(tmp_path: Path) -> None:
    token, _ = Tokens().new("some", scope=["read"], quota=1000)
    (tmp_path / "file").write_bytes(bytes(100_000))
    with listening(files.send_files, [tmp_path / "file"], tokens=True) as (_, address):
        admitted = enter(address, ByToken(Token(token.seed)), certificate=lasting().sha256)
        with admitted.transport as transport, suppress(EnchufeError):
            options = Options(dial=no_more, secret=admitted.secret, streams=1, epoch=1)
            begin = LocalStore(tmp_path / "inbox").begin
            drive(ReceivingSession(transport, begin, options, Side().tell).complete())
    assert [record.used for record in Tokens().all()] == [0]
    assert not (tmp_path / "inbox" / "file").exists()


def test_another_that_was_let_in_neither_ends_nor_follows_a_transfer(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    one, other, here = KeyPair.new(), KeyPair.new(), Identity.mine().public
    KnownMachines().add("one", one.public)
    KnownMachines().add("other", other.public)
    with listening(files.receive_files, tmp_path / "inbox") as (side, address):
        first = enter(address, ByKey(one, here))
        deadline = first.transport.waiter.now() + PATIENCE
        drive(first.transport.send(frame(Hello(Role.SENDER, bytes(16), 1)), deadline))
        assert drive(first.transport.receive(1, deadline))
        assert isinstance(send(enter(address, ByKey(other, here)), tmp_path / "file", epoch=2), BusyError)
        assert not side.of(events.Failed)
        assert isinstance(send(enter(address, ByKey(one, here)), tmp_path / "file", epoch=2), events.Receipt)
        first.transport.close()
    assert side.receipt.files == 1


def test_a_yes_to_one_is_none_to_another_who_offers_the_same() -> None:
    asked: list[Offering] = []

    def ask(offering: Offering) -> bool:
        asked.append(offering)
        return True

    ask_again = remembering(ask)
    offerings = [
        Offering((), peer="somewhere", name=None, party=party, session=bytes(16), epoch=1)
        for party in ("one", "one", "another")
    ]
    for offering in offerings:
        assert ask_again(offering)
        offering.close()
    assert asked == [offerings[0], offerings[2]]


def test_who_was_cut_returns_though_others_have_guessed_at_the_next_code(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    with listening(files.receive_files, tmp_path / "inbox") as (side, address):
        admitted = enter(address, ByCode(code_of(side)))
        deadline = admitted.transport.waiter.now() + PATIENCE
        drive(admitted.transport.send(frame(Hello(Role.SENDER, bytes(16), 1)), deadline))
        assert drive(admitted.transport.receive(1, deadline))
        admitted.transport.abort()
        wrong = Code(code_of(side, 2).label, ("abandon", "ability", "able"))
        for _ in range(3):
            with pytest.raises(WrongCode):
                enter(address, ByCode(wrong))
        threading.Event().wait(3 * meeting._LOOK)
        send(enter(address, ByPass(admitted.secret)), tmp_path / "file", epoch=2)
    assert side.receipt.files == 1


def test_a_code_grows_old_while_the_machine_is_asleep() -> None:
    asleep = ["unshare", "--time", "--boottime", "1000", "--"]
    if subprocess.run([*asleep, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no time namespaces here")
    tell = "import time; from enchufe import entrance; print(entrance._now() - time.monotonic())"
    told = subprocess.run([*asleep, sys.executable, "-c", tell], capture_output=True, text=True, check=True)
    awake = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    assert float(told.stdout) > awake + 900


def test_strangers_who_keep_knocking_do_not_hide_that_a_code_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "_ENTERING", 1.0)
    (tmp_path / "file").write_bytes(b"hello")
    with listening(files.send_files, [tmp_path / "file"]) as (side, address):
        wrong = Code(code_of(side).label, ("abandon", "ability", "able"))
        waiter = BlockingWaiter()

        def knock_on() -> tls.TlsTransport:
            return drive(
                tls.connect(parse_address(address), waiter, waiter.now() + PATIENCE, context=dialing_context())
            )

        strangers = [knock_on()]
        for _ in range(3):
            with pytest.raises(WrongCode):
                enter(address, ByCode(wrong))
        until = time.monotonic() + 25
        with suppress(EnchufeError):
            while side.end is None and time.monotonic() < until:
                strangers.append(knock_on())
                threading.Event().wait(1)
        told = side.end
        for stranger in strangers:
            stranger.close()
    assert isinstance(told, Refused)


def test_a_code_that_nobody_used_is_announced_again_after_somebody_else_was_inside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[int | None] = []

    @contextmanager
    def announce(_port: int, label: int | None, _interfaces: object, **_: object) -> Iterator[None]:
        heard.append(label)
        yield
        heard.remove(label)

    monkeypatch.setattr(discovery, "announce", announce)  # what is announced here nobody must hear
    side = Side()
    way_in = entrance.Entrance(
        announce=True, interfaces=(), remember=False, tokens=False, scope="drop", on_event=side.tell
    )
    way_in.open(["192.0.2.1:9000"])
    label = code_of(side).label
    assert heard == [label]
    way_in.suit(Options(), Admitted(cast(tls.TlsTransport, None), bytes(32), "key", "somebody"), bytes(16))
    assert not heard
    way_in.open(["192.0.2.1:9000"])
    assert heard == [label]
    way_in.close()
    assert not heard
    assert len(side.of(events.Code)) == 1


def test_events_come_one_at_a_time_whoever_else_comes_in_meanwhile(tmp_path: Path) -> None:
    both, overlapped = threading.Barrier(2), []
    side = Side()

    def tell(event: events.Event) -> None:
        if isinstance(event, events.WrongCode):
            with suppress(threading.BrokenBarrierError):
                both.wait(1)
                overlapped.append(event)
        side.tell(event)

    (tmp_path / "file").write_bytes(b"hello")
    arguments = {"listen": "127.0.0.1:0", "announce": False, "on_event": tell}
    receiver = threading.Thread(target=files.receive_files, args=(tmp_path / "inbox",), kwargs=arguments)
    receiver.start()
    address = side.wait_for(events.Listening).address
    right = Code.parse(side.wait_for(events.Code).code)
    wrong = ByCode(Code(right.label, ("abacus",) * 3))

    def come() -> None:
        with pytest.raises(WrongCode):
            enter(address, wrong)

    comers = [threading.Thread(target=come) for _ in range(2)]
    for each in comers:
        each.start()
    for each in comers:
        each.join(PATIENCE)
    send(enter(address, ByCode(right)), tmp_path / "file")
    receiver.join(PATIENCE)
    assert not receiver.is_alive()
    assert len(side.of(events.WrongCode)) == 2
    assert not overlapped

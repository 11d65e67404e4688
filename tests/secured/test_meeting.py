"""How two sides meet: who dials goes on after a cut, who listens after whoever was not the one; over real sockets."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enchufe import entrance as entrances
from enchufe import events, meeting
from enchufe.access import Admitted, ByCode, ByPass, Proof, UnknownMachine, WrongCode, dialing_context, knock
from enchufe.access.codes import GUESSES, LIFE, Code, LiveCode
from enchufe.entrance import Entrance
from enchufe.errors import (
    BrokenError,
    DeadlineExceeded,
    EnchufeError,
    LocalProtocolError,
    NoSpaceError,
    Refused,
    RemoteProtocolError,
)
from enchufe.meeting import Aim, Plain, Reached, dialing, for_files, identity_of, listening
from enchufe.reaching import Secured, aim
from enchufe.session import Door, Options, ReceivingSession, SendingSession
from enchufe.session.consent import Declined
from enchufe.store.memory import MemoryStore
from enchufe.testing import ManualClock
from enchufe.transfer.message import Role
from enchufe.transfer.messages import Hello, frame
from enchufe.transfer.receiver import Receiver
from enchufe.transports import Address, Listener, Transport, parse_address, tls
from enchufe.waiting import Waiter, drive
from tests.access.meeting import PATIENCE, WAITER, soon
from tests.beside import Beside
from tests.crash.wire import Harm, Wire
from tests.sessions.transfers import HERE, Side

ABOUT = b"a letter"
NOBODY = parse_address("127.0.0.1:1")  # where nobody listens
SIZE = 300_000
CUT = Harm(outward=True, at=SIZE // 2)  # in the middle of what the first connection says


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(meeting, "_LOOK", 0.02)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """What codes live by."""
    clock = ManualClock()
    monkeypatch.setattr(entrances, "LiveCode", lambda code, _now: LiveCode(code, clock))
    return clock


def filled() -> MemoryStore:
    store = MemoryStore()
    store.add("letter", os.urandom(SIZE))
    return store


class Waiting:
    """A receiver that waits for somebody.

    Attributes:
        side: what it has told.
        store: where it receives into.
        attempts: how each session went about it.
    """

    def __init__(self, where: Address = HERE, *, begin: Callable[[bytes], Any] | None = None, **how: Any) -> None:
        self.side = Side()
        self.store = MemoryStore()
        self.attempts: list[Options] = []
        self._begin = begin or self.store.begin
        self._options = Options(timeout=PATIENCE, ask=how.pop("ask", None))
        self._how = {"retry": 0.0, "once": False, **how}
        self._where = where
        self._running = Beside(self._run)

    def _run(self) -> events.Receipt:
        try:
            self.side.end = listening(
                self._where, Receiver, self._make, self._options, on_event=self.side.tell, **self._how
            )
        except EnchufeError as error:
            self.side.end = error
            raise
        return self.side.end

    def _make(self, over: Any, options: Options) -> ReceivingSession:
        self.attempts.append(options)
        return ReceivingSession(over, self._begin, options, self.side.tell)

    @property
    def address(self) -> Address:
        return parse_address(self.side.wait_for(events.Listening).address)

    def end(self) -> events.Receipt:
        receipt = self._running.result()
        assert isinstance(receipt, events.Receipt)
        return receipt


class Desk(Plain):
    """Whoever is at an address, whom we know by a name."""

    async def reach(self, waiter: Waiter, timeout: float) -> Reached:
        return replace(await super().reach(waiter, timeout), name="desk")


class Dialing:
    """A sender that dials.

    Attributes:
        side: what it has told.
        store: what it sends.
        attempts: how each session went about it.
    """

    def __init__(self) -> None:
        self.side = Side()
        self.store = filled()
        self.attempts: list[Options] = []

    def _make(self, over: Any, options: Options) -> SendingSession:
        self.attempts.append(options)
        return SendingSession(over, self.store.source(), options, self.side.tell)

    def go(self, whither: Aim, retry: float = 0.0) -> events.Receipt:
        options = Options(timeout=PATIENCE, streams=1)
        return dialing(whither, self._make, ABOUT, options, retry, self.side.tell)

    def send(self, address: Address, retry: float = 0.0) -> events.Receipt:
        return self.go(Desk(address), retry)


def check_arrived(sender: Dialing, receiver: Waiting) -> None:
    assert receiver.end().digest is not None
    assert receiver.store.contents() == sender.store.contents()


def hello(session: bytes = bytes(16)) -> bytes:
    return b"".join(frame(Hello(Role.SENDER, session, epoch=1)))


def talk_nonsense(transport: Transport) -> None:
    """Be let in, and break the protocol; until the other side has ended it."""
    with transport, suppress(BrokenError):
        drive(transport.send([hello() + b"\xff" * 64], soon()))
        while drive(transport.receive(1 << 16, soon())):
            pass


def cut_after_hello(transport: Transport) -> None:
    with transport:
        drive(transport.send([hello()], soon()))
        assert drive(transport.receive(1 << 16, soon()))
        transport.abort()


def dialed(address: Address) -> Transport:
    return drive(Plain(address).reach(WAITER, PATIENCE)).transport


# Where


def test_files_go_anywhere_but_through_shared_memory() -> None:
    for text in ("127.0.0.1:9", "unix:/tmp/socket"):
        assert for_files(parse_address(text)) == parse_address(text)
    with pytest.raises(LocalProtocolError, match="shared memory"):
        for_files(parse_address("shm:/tmp/socket"))


def test_an_address_is_reached_and_once_more() -> None:
    with Listener(HERE) as listener:
        aim = Plain(parse_address(listener.addresses[0]))
        assert not aim.met
        reached = drive(aim.reach(WAITER, PATIENCE))
        assert aim.met
        assert (reached.secret, reached.name) == (None, None)
        with reached.transport, reached.dial() as other:
            assert reached.transport.peer == other.peer == listener.addresses[0]
            for _ in range(2):
                drive(listener.accept(WAITER)).close()


def test_nobody_is_reached_where_nobody_listens() -> None:
    aim = Plain(NOBODY)
    with pytest.raises(BrokenError):
        drive(aim.reach(WAITER, PATIENCE))
    assert not aim.met


# Who dials


def test_two_sides_meet() -> None:
    receiver, sender = Waiting(), Dialing()
    receipt = sender.send(receiver.address)
    check_arrived(sender, receiver)
    assert receipt.digest == receiver.end().digest
    (attempt,) = sender.attempts
    assert (attempt.session, attempt.name, attempt.secret) == (identity_of(ABOUT), "desk", None)


@pytest.mark.parametrize("step", [1, -1], ids=["on", "back"])
def test_after_a_cut_it_is_the_same_transfer_and_a_newer_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Also where somebody sets the clock back meanwhile."""
    monkeypatch.setattr(time, "time_ns", itertools.count(time.time_ns(), step * 3600 * 10**9).__next__)
    receiver, sender = Waiting(parse_address(f"unix:{tmp_path}/there")), Dialing()
    assert receiver.address
    wire = Wire(f"{tmp_path}/wire", f"{tmp_path}/there", CUT)
    try:
        sender.send(parse_address(wire.address), retry=PATIENCE)
        check_arrived(sender, receiver)
    finally:
        wire.close()
    first, second = sender.attempts
    assert first.session == second.session == identity_of(ABOUT)
    assert first.epoch < second.epoch
    assert first.dial is not second.dial
    assert len(sender.side.of(events.Retrying)) == 1
    assert len(receiver.side.of(events.Failed)) == 1


def test_without_patience_a_cut_is_the_end_and_whoever_listens_goes_on(tmp_path: Path) -> None:
    receiver, sender = Waiting(parse_address(f"unix:{tmp_path}/there")), Dialing()
    there = receiver.address
    wire = Wire(f"{tmp_path}/wire", f"{tmp_path}/there", CUT)
    try:
        with pytest.raises(BrokenError):
            sender.send(parse_address(wire.address))
    finally:
        wire.close()
    assert len(sender.attempts) == 1
    assert not sender.side.of(events.Retrying)
    sender.send(there)
    check_arrived(sender, receiver)
    assert len(receiver.attempts) == 2


def test_where_nobody_ever_was_it_is_not_tried_again() -> None:
    sender = Dialing()
    with pytest.raises(BrokenError):
        sender.send(NOBODY, retry=PATIENCE)
    assert not sender.side.told
    assert not sender.attempts


# Who listens


def test_whoever_breaks_the_protocol_is_told_of_and_the_next_may_come() -> None:
    receiver, sender = Waiting(retry=PATIENCE), Dialing()
    talk_nonsense(dialed(receiver.address))
    sender.send(receiver.address, retry=PATIENCE)
    check_arrived(sender, receiver)
    (failed,) = receiver.side.of(events.Failed)
    assert "unknown type" in failed.message


def test_the_first_alone_is_served_whatever_he_does() -> None:
    receiver = Waiting(once=True, retry=PATIENCE)
    talk_nonsense(dialed(receiver.address))
    with pytest.raises(RemoteProtocolError, match="unknown type"):
        receiver.end()
    assert not receiver.side.of(events.Failed)


def test_the_first_who_is_cut_may_come_back(tmp_path: Path) -> None:
    receiver, sender = Waiting(parse_address(f"unix:{tmp_path}/there"), once=True, retry=PATIENCE), Dialing()
    assert receiver.address
    wire = Wire(f"{tmp_path}/wire", f"{tmp_path}/there", CUT)
    try:
        sender.send(parse_address(wire.address), retry=PATIENCE)
        check_arrived(sender, receiver)
    finally:
        wire.close()
    assert len(receiver.side.of(events.Failed)) == 1


@pytest.mark.parametrize("retry", [0.0, 0.1])
def test_the_first_who_is_cut_and_stays_away_is_the_end(retry: float) -> None:
    receiver = Waiting(once=True, retry=retry)
    cut_after_hello(dialed(receiver.address))
    with pytest.raises(BrokenError):
        receiver.end()
    assert len(receiver.side.of(events.Failed)) == (1 if retry else 0)


def test_a_newer_attempt_at_the_same_takes_over() -> None:
    receiver, sender = Waiting(retry=PATIENCE), Dialing()
    with dialed(receiver.address) as older:
        drive(older.send([hello(identity_of(ABOUT))], soon()))
        assert drive(older.receive(1 << 16, soon()))
        sender.send(receiver.address)
        check_arrived(sender, receiver)
    (failed,) = receiver.side.of(events.Failed)
    assert "newer" in failed.message


def test_a_full_disk_here_is_the_end() -> None:
    def begin(_: bytes) -> Any:
        raise NoSpaceError("the disk is full")

    receiver, sender = Waiting(begin=begin, retry=PATIENCE), Dialing()
    with pytest.raises(Refused, match="disk is full"):
        sender.send(receiver.address)
    with pytest.raises(NoSpaceError):
        receiver.end()


def test_a_no_here_is_the_end() -> None:
    receiver, sender = Waiting(ask=lambda _offering: False, retry=PATIENCE), Dialing()
    with pytest.raises(Refused):
        sender.send(receiver.address)
    with pytest.raises(Declined):
        receiver.end()


# Who listens, and lets nobody in without a code


def entrance(on_event: Callable[[events.Event], object]) -> Entrance:
    return Entrance(announce=False, interfaces=(), remember=False, tokens=False, scope="drop", on_event=on_event)


class Guarded(Waiting):
    """A receiver that encrypts.

    Attributes:
        shown: what its entrance has told.
    """

    def __init__(self, **how: Any) -> None:
        self.shown = Side()
        super().__init__(entrance=entrance(self.shown.tell), **how)

    def code(self, count: int = 1) -> Code:
        """The `count`-th that it shows."""
        with self.shown.changed:
            assert self.shown.changed.wait_for(lambda: len(self.shown.of(events.Code)) >= count, PATIENCE)
            return Code.parse(self.shown.of(events.Code)[count - 1].code)

    def aim(self) -> Secured:
        """To be let in by the code that it shows first."""
        how = {"code": never, "remember": False, "search": False, "interfaces": (), "on_event": self.side.tell}
        return aim(str(self.code()), where=str(self.address), **how)  # type: ignore[arg-type]

    def knock(self, proof: Proof) -> Admitted:
        transport = drive(tls.connect(self.address, WAITER, soon(), context=dialing_context()))
        try:
            return drive(knock(transport, proof, soon()))
        except BaseException:
            transport.close()
            raise


def never() -> str:
    raise AssertionError("nobody is to be asked")


def mistyped(code: Code) -> Code:
    """Another one of the same label."""
    return Code(code.label, ("abacus",) * 3)


def guess(receiver: Guarded, count: int) -> None:
    """Use up what the `count`-th code has left: nobody else is to come, so it ends."""
    for _ in range(GUESSES):
        with pytest.raises(WrongCode):
            receiver.knock(ByCode(mistyped(receiver.code(count))))
    with pytest.raises(Refused, match="three wrong codes"):
        receiver.end()


def cut_inside(receiver: Guarded) -> Admitted:
    """Be let in by the first code and cut after HELLO, so that there is a second one."""
    admitted = receiver.knock(ByCode(receiver.code()))
    cut_after_hello(admitted.transport)
    receiver.code(2)
    return admitted


def test_whoever_has_the_code_is_served() -> None:
    receiver, sender = Guarded(), Dialing()
    sender.go(receiver.aim())
    check_arrived(sender, receiver)
    (near,), (far,) = sender.attempts, receiver.attempts
    assert near.secret is not None
    assert far.party is not None
    assert len(receiver.shown.of(events.Code)) == 1


def test_three_wrong_codes_end_it() -> None:
    guess(Guarded(), 1)


def test_whoever_breaks_the_protocol_does_not_come_back_and_the_next_needs_a_new_code() -> None:
    receiver = Guarded(retry=PATIENCE)
    admitted = receiver.knock(ByCode(receiver.code()))
    talk_nonsense(admitted.transport)
    assert receiver.code(2) != receiver.code(1)
    with pytest.raises(UnknownMachine):
        receiver.knock(ByPass(admitted.secret))
    guess(receiver, 2)


@pytest.mark.parametrize("retry", [0.0, PATIENCE])
def test_whoever_was_cut_comes_back_where_anybody_is_waited_for(retry: float) -> None:
    receiver = Guarded(retry=retry)
    admitted = cut_inside(receiver)
    if retry:
        again = receiver.knock(ByPass(admitted.secret))
        assert again.way == "again"
        talk_nonsense(again.transport)
    else:
        with pytest.raises(UnknownMachine):
            receiver.knock(ByPass(admitted.secret))
    guess(receiver, 2)


def test_while_whoever_was_cut_may_return_an_old_code_is_not_the_end(clock: ManualClock) -> None:
    receiver = Guarded(retry=PATIENCE)
    admitted = cut_inside(receiver)
    clock.advance(LIFE + 1)
    time.sleep(5 * meeting._LOOK)  # so that it has looked: nobody has to have for this to hold
    again = receiver.knock(ByPass(admitted.secret))
    talk_nonsense(again.transport)
    with pytest.raises(DeadlineExceeded, match="ten minutes"):
        receiver.end()


def test_nobody_is_waited_for_longer_than_was_said(clock: ManualClock) -> None:
    guarded = entrance(Side().tell)
    with Listener(HERE) as listener:
        guarded.open(listener.addresses)
        with Door(listener, Receiver, PATIENCE, context=guarded.context, admit=guarded.admit) as door:
            assert meeting._next(door, 0.1, guarded) is None
            clock.advance(LIFE + 1)
            assert meeting._next(door, 0.1, guarded, returning=PATIENCE) is None
            with pytest.raises(DeadlineExceeded, match="ten minutes"):
                meeting._next(door, PATIENCE, guarded)
    guarded.close()


# What a transfer is called


def test_a_transfer_is_called_the_same_by_the_same_user_of_the_same_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    name = identity_of(ABOUT)
    assert len(name) == 16
    assert identity_of(ABOUT) == name
    assert identity_of(ABOUT + b".") != name
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert identity_of(ABOUT) != name


def test_a_machine_without_a_number_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_arguments: object) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(meeting, "open", none, raising=False)
    names = []
    for host in ("ana", "blas", "ana"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        names.append(identity_of(ABOUT))
    assert names[0] == names[2] != names[1]

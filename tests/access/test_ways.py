"""Every way in, over real TLS: who has what it takes gets in, and who has not is told why."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from enchufe.access import (
    Admitted,
    AnotherMachine,
    ByCode,
    ByKey,
    ByPass,
    ByToken,
    Code,
    CodeGone,
    Introduced,
    Introduction,
    TokenRefused,
    UnknownMachine,
    WrongCode,
    derived,
    dialing_context,
    knock,
    listener_certificate,
    listening_context,
)
from enchufe.access.gate import PASSES
from enchufe.errors import BrokenError, DeadlineExceeded, LocalProtocolError, RemoteProtocolError
from enchufe.transports.tls import TlsTransport
from enchufe.waiting import drive
from tests.access.meeting import (
    CERTIFICATE,
    PATIENCE,
    WAITER,
    House,
    Key,
    Outcome,
    Place,
    Token,
    admit,
    bent,
    close,
    dial,
    soon,
    starts,
)
from tests.beside import Beside

WAYS = House.ways
NAMES = {"code": None, "key": "laptop", "token": "scanner", "again": "laptop"}


@pytest.fixture
def place() -> Iterator[Place]:
    with Place(CERTIFICATE) as place:
        yield place


def both_in(near: Outcome, far: Outcome) -> tuple[Admitted, Admitted]:
    assert isinstance(near, Admitted), near
    assert isinstance(far, Admitted), far
    assert near.secret == far.secret
    assert len(near.secret) == 32
    assert near.way == far.way
    return near, far


def refused(outcome: Outcome, kind: type[Exception], told: str = "") -> None:
    assert type(outcome) is kind, outcome
    assert told in str(outcome)
    assert outcome.hint


@pytest.mark.parametrize("introductions", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_who_has_what_it_takes_gets_in(way: str, introductions: bool, place: Place) -> None:
    house = House(introductions=introductions)
    near, far = both_in(*house.meet(place, house.proof(place, way)))
    assert (near.way, near.name, near.grant) == (way, None, None)
    assert (far.way, far.name) == (way, NAMES[way])
    assert far.grant == (Token("scanner") if way == "token" else None)
    if introductions:
        assert near.introduced == Introduced(house.key.public, "house")
        assert far.introduced == Introduced(house.guest.public, "ñandú")
    else:
        assert near.introduced is None
        assert far.introduced is None
    assert near.transport.peer == far.transport.local
    close(near, far)


@pytest.mark.parametrize("way", WAYS)
def test_every_connection_has_a_secret_of_its_own(way: str, place: Place) -> None:
    house = House()
    secrets = set()
    for _ in range(3):
        house.renew_code()
        near, far = both_in(*house.meet(place, house.proof(place, way)))
        secrets.add(near.secret)
        close(near, far)
    assert len(secrets) == 3


@pytest.mark.parametrize("way", WAYS)
def test_what_follows_is_still_to_be_received(way: str, place: Place) -> None:
    house = House()
    proof = house.proof(place, way)

    def then(_offset: int, data: bytes) -> tuple[bytes, bool]:
        return data + (b"hello" if data[starts(data)[-2]] == 74 else b""), True

    by_dialer, by_listener = bent(then)[0], bent(then)[0]
    near, far = both_in(*house.meet(place, proof, dialer=by_dialer, listener=by_listener))
    for outcome in (near, far):
        got = b""
        while len(got) < 5:
            got += drive(outcome.transport.receive(100, soon()))
        assert got == b"hello"
    close(near, far)


# By code


def test_a_wrong_code_is_refused_and_the_third_ends_it(place: Place) -> None:
    house = House()
    wrong = Code(house.code.label, (*house.code.words[:2], "abaco" if house.code.words[2] != "abaco" else "zurdo"))
    for left in (2, 1, 0):
        near, far = house.meet(place, ByCode(wrong))
        refused(near, WrongCode)
        refused(far, WrongCode)
        assert not isinstance(far, Admitted)
        assert str(left) in far.hint
    assert house.gate.code is not None
    assert not house.gate.code.alive
    near, far = house.meet(place, ByCode(house.code))
    refused(near, CodeGone)
    refused(far, CodeGone)


def test_two_wrong_guesses_leave_the_third_for_who_is_right(place: Place) -> None:
    house = House()
    for _ in range(2):
        refused(house.meet(place, ByCode(Code.new()))[0], WrongCode)
    close(*both_in(*house.meet(place, ByCode(house.code))))


def test_a_success_burns_the_code(place: Place) -> None:
    house = House()
    close(*both_in(*house.meet(place, ByCode(house.code))))
    near, far = house.meet(place, ByCode(house.code))
    refused(near, CodeGone)
    refused(far, CodeGone)


def test_ten_minutes_end_a_code(place: Place) -> None:
    house = House()
    house.clock.advance(600)
    refused(house.meet(place, ByCode(house.code))[0], CodeGone)


def test_a_code_that_ends_while_it_is_proved_lets_nobody_in(place: Place) -> None:
    house = House()

    def late(offset: int, data: bytes) -> tuple[bytes, bool]:
        if data[0] == 68:  # CONFIRM
            house.clock.advance(600)
        return data, True

    near, far = house.meet(place, ByCode(house.code), dialer=bent(late)[0])
    refused(near, CodeGone)
    refused(far, CodeGone)


def test_without_a_code_there_is_none(place: Place) -> None:
    house = House()
    house.gate.code = None
    near, far = house.meet(place, ByCode(house.code))
    refused(near, CodeGone)
    refused(far, CodeGone)


def test_who_leaves_after_the_listener_answered_has_used_a_guess(place: Place) -> None:
    house = House()
    for left in (2, 1, 0):
        near, far = house.meet(place, ByCode(house.code), dialer=bent(lambda o, data: (data, data[0] != 67))[0])
        refused(near, BrokenError)
        refused(far, BrokenError)
        assert house.gate.code is not None
        assert house.gate.code.guesses == left
    refused(house.meet(place, ByCode(house.code))[0], CodeGone)


def test_many_wrong_guesses_at_once_are_answered_three_times(place: Place) -> None:
    house = House()
    count = 12
    answered: list[bool] = []

    def listen() -> None:
        admitting = []
        for _ in range(count):
            transport = place.accept()
            wrap, made = bent()
            transport = wrap(transport)

            def one(transport: TlsTransport = transport) -> Outcome:
                try:
                    return drive(house.gate.admit(transport, soon()))
                except (WrongCode, CodeGone) as error:
                    transport.close()
                    return error

            admitting.append((Beside(one), made))
        for beside, made in admitting:
            assert isinstance(beside.result(), WrongCode | CodeGone)
            answered.append(any(made[0].said[start] == 67 for start in starts(made[0].said)[:-1]))

    listening = Beside(listen)
    dialing = [Beside(lambda: dial(place, ByCode(Code.new()))) for _ in range(count)]
    outcomes = [type(beside.result()) for beside in dialing]
    listening.result()
    assert outcomes.count(WrongCode) == 3
    assert outcomes.count(CodeGone) == count - 3
    assert sum(answered) == 3


def test_of_two_who_are_right_at_once_one_gets_in(place: Place) -> None:
    house = House()
    together = threading.Barrier(2)

    def wait(_offset: int, data: bytes) -> tuple[bytes, bool]:
        if data[0] == 68:
            together.wait(20)
        return data, True

    def listen() -> list[Outcome]:
        both = [Beside(lambda: admit(house.gate, place)) for _ in range(2)]
        return [beside.result() for beside in both]

    listening = Beside(listen)
    dialing = [Beside(lambda: dial(place, ByCode(house.code), bent(wait)[0])) for _ in range(2)]
    near = [beside.result() for beside in dialing]
    far = listening.result()
    for outcomes in (near, far):
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Admitted", "CodeGone"]
    close(*near, *far)


# By key


def test_a_machine_that_is_not_known_is_refused(place: Place) -> None:
    house = House()
    house.known.clear()
    near, far = house.meet(place, house.proof(place, "key"))
    refused(near, UnknownMachine)
    refused(far, UnknownMachine)


def test_whoever_is_asked_for_another_machine_says_so(place: Place) -> None:
    house = House()
    near, far = house.meet(place, ByKey(house.guest, Key().public))
    refused(near, AnotherMachine, "another key")
    refused(far, AnotherMachine)


def test_a_listener_without_a_key_is_no_machine(place: Place) -> None:
    house = House()
    house.gate.identity = None
    refused(house.meet(place, house.proof(place, "key"))[0], AnotherMachine)


class Borrowed(Key):
    """A key of which only the public half is there."""

    def __init__(self, of: Key) -> None:
        super().__init__()
        self.public = of.public


def test_a_public_key_alone_proves_nothing(place: Place) -> None:
    house = House(introductions=False)
    near, far = house.meet(place, ByKey(Borrowed(house.guest), house.key.public))
    refused(near, UnknownMachine)
    refused(far, UnknownMachine)
    near, far = house.meet(place, ByToken(Borrowed(house.token)))
    refused(near, TokenRefused)
    refused(far, TokenRefused)
    house.gate.identity = Borrowed(house.key)
    near, far = house.meet(place, ByKey(house.guest, house.key.public))
    refused(near, AnotherMachine)
    assert not isinstance(far, Admitted)


# By token


def test_a_token_that_is_not_good_is_refused(place: Place) -> None:
    house = House()
    house.tokens.good.clear()
    near, far = house.meet(place, house.proof(place, "token"))
    refused(near, TokenRefused)
    refused(far, TokenRefused)


def test_a_listener_without_tokens_takes_none(place: Place) -> None:
    house = House()
    house.gate._tokens = None
    refused(house.meet(place, house.proof(place, "token"))[0], TokenRefused)


def test_a_token_goes_only_to_a_listener_that_the_link_names(place: Place) -> None:
    house = House()
    refused(dial_alone(house, place, ByToken(house.token), None), LocalProtocolError)


@pytest.mark.parametrize("way", WAYS)
def test_another_certificate_than_the_links_hears_nothing(way: str, place: Place) -> None:
    house = House()
    proof = house.proof(place, way)
    wrap, made = bent()
    near, far = house.meet(place, proof, dialer=wrap, certificate=listener_certificate().sha256)
    refused(near, AnotherMachine, "certificate")
    assert isinstance(far, BrokenError)
    assert made[0].said == b""


def dial_alone(house: House, place: Place, proof: Any, certificate: bytes | None) -> Outcome:
    admitting = Beside(lambda: admit(house.gate, place))
    near = dial(place, proof, certificate=certificate)
    admitting.result()
    return near


# Again


def test_a_pass_serves_until_its_holder_has_come_again(place: Place) -> None:
    house = House()
    first = house.proof(place, "again")
    near, far = both_in(*house.meet(place, first))
    close(near, far)
    refused(house.meet(place, first)[0], UnknownMachine, "cut")
    close(*both_in(*house.meet(place, ByPass(near.secret))))


@pytest.mark.parametrize("way", WAYS)
def test_who_was_cut_right_after_he_was_let_in_comes_again(way: str, place: Place) -> None:
    house = House()
    proof = house.proof(place, way)
    # The listener is gone before it hears the dialer's WELCOME, if that was not there already.
    gone = bent(lambda _offset, data: (data, data[starts(data)[-2]] != 74))[0]
    near, far = house.meet(place, proof, listener=gone)
    assert isinstance(near, Admitted), near
    assert isinstance(far, BrokenError)
    close(near)
    near, far = both_in(*house.meet(place, ByPass(near.secret)))
    assert far.name == NAMES[way]
    close(near, far)


def test_who_is_cut_again_and_again_still_has_his_pass(place: Place) -> None:
    house = House()
    proof = house.proof(place, "again")
    for _ in range(PASSES + 3):
        near, far = house.meet(place, proof, dialer=bent(lambda o, data: (data, data[0] != 72))[0])
        assert not isinstance(near, Admitted)
        assert not isinstance(far, Admitted)
    assert len(house.gate._passes) <= PASSES
    close(*both_in(*house.meet(place, proof)))
    assert len(house.gate._passes) == 1


def test_a_pass_of_a_transfer_that_is_over_is_forgotten(place: Place) -> None:
    house = House()
    near, far = both_in(*house.meet(place, house.proof(place, "key")))
    close(near, far)
    house.gate.forget(bytes(32))
    house.gate.forget(far.secret)
    refused(house.meet(place, ByPass(near.secret))[0], UnknownMachine)
    assert not house.gate._passes


def test_only_the_last_passes_are_remembered(place: Place) -> None:
    house = House(introductions=False)
    passes = [house.proof(place, "again") for _ in range(PASSES + 1)]
    refused(house.meet(place, passes[0])[0], UnknownMachine)
    close(*both_in(*house.meet(place, passes[1])))


def test_a_pass_opens_no_more_than_what_it_came_from(place: Place) -> None:
    house = House()
    for way, end, kind in (
        ("key", house.known.clear, UnknownMachine),
        ("token", house.tokens.good.clear, TokenRefused),
    ):
        near, far = both_in(*house.meet(place, house.proof(place, way)))
        close(near, far)
        end()
        refused(house.meet(place, ByPass(near.secret))[0], kind)


def test_who_was_let_in_by_code_comes_again_though_it_is_burnt(place: Place) -> None:
    house = House()
    near, far = both_in(*house.meet(place, ByCode(house.code)))
    close(near, far)
    near, far = both_in(*house.meet(place, ByPass(near.secret)))
    assert (near.way, far.way, far.name) == ("again", "again", None)
    close(near, far)


def test_a_pass_without_its_key_is_none(place: Place) -> None:
    house = House()
    near, far = both_in(*house.meet(place, house.proof(place, "key")))
    close(near, far)
    right = derived(near.secret, "pass", 16)

    def other_mac(offset: int, data: bytes) -> tuple[bytes, bool]:
        return (data[:21] + bytes(32) if data[0] == 72 else data), True

    wrap, made = bent(other_mac)
    refused(house.meet(place, ByPass(near.secret), dialer=wrap)[0], UnknownMachine)
    assert right in made[0].said


@pytest.mark.parametrize("way", ["code", "key", "token"])
def test_one_party_is_who_comes_again_and_nobody_else_who_proves_the_like(way: str, place: Place) -> None:
    house = House()
    near, first = both_in(*house.meet(place, house.proof(place, way)))
    close(near, first)
    near, again = both_in(*house.meet(place, ByPass(near.secret)))
    close(near, again)
    assert again.party == first.party
    house.renew_code()
    near, anew = both_in(*house.meet(place, house.proof(place, way)))
    close(near, anew)
    assert (anew.party == first.party) == (way != "code")  # a code says nothing of who has it
    house.guest, house.token = Key(), Key()
    house.introduction = None
    house.known[house.guest.public] = "desk"
    house.tokens.good[house.token.public] = Token("printer")
    house.renew_code()
    near, other = both_in(*house.meet(place, house.proof(place, way)))
    close(near, other)
    assert other.party != first.party


# Introductions


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("who", ["dialer", "listener"])
def test_who_introduces_himself_by_a_key_that_is_not_his_is_refused(who: str, way: str, place: Place) -> None:
    house = House()
    proof = house.proof(place, way)
    victim = Borrowed(Key())
    if who == "dialer":
        house.introduction = Introduction(victim, "ñandú")
    else:
        house.gate._introduction = Introduction(victim, "house")
    near, far = house.meet(place, proof)
    hit = far if who == "dialer" else near
    assert isinstance(hit, RemoteProtocolError), hit
    close(near, far)


@pytest.mark.parametrize("who", ["dialer", "listener"])
def test_by_key_nobody_introduces_himself_by_another_key(who: str, place: Place) -> None:
    house = House()
    if who == "dialer":
        house.introduction = Introduction(Key(), "ñandú")
    else:
        house.gate._introduction = Introduction(Key(), "house")
    near, far = house.meet(place, house.proof(place, "key"))
    hit = far if who == "dialer" else near
    assert isinstance(hit, RemoteProtocolError), hit
    close(near, far)


# The door


@pytest.mark.parametrize("who", ["dialer", "listener"])
def test_who_speaks_another_protocol_is_not_talked_to(who: str) -> None:
    house = House()
    context = dialing_context() if who == "dialer" else listening_context(CERTIFICATE)
    context.set_alpn_protocols(["http/1.1"])
    with Place(CERTIFICATE, context if who == "listener" else None) as place:
        admitting = Beside(lambda: admit(house.gate, place))
        near = dial(place, ByCode(house.code), context=context if who == "dialer" else None)
        refused(near, RemoteProtocolError, "enchufe/1")
        refused(admitting.result(), RemoteProtocolError, "enchufe/1")


@pytest.mark.parametrize("who", ["dialer", "listener"])
def test_who_speaks_other_versions_of_access_is_not_talked_to(who: str, place: Place) -> None:
    house = House()

    def later(offset: int, data: bytes) -> tuple[bytes, bool]:
        """All that it speaks is a version more, in what it says first."""
        if offset:
            return data, True
        versions = slice(12, 14) if who == "dialer" else slice(5, 6)
        assert set(data[versions]) == {1}
        return data[: versions.start] + bytes(2 for _ in data[versions]) + data[versions.stop :], True

    wrap, made = bent(later)
    dialer, listener = (wrap, bent()[0]) if who == "dialer" else (bent()[0], wrap)
    near, far = house.meet(place, ByCode(house.code), dialer=dialer, listener=listener)
    outcome = far if who == "dialer" else near
    assert isinstance(outcome, RemoteProtocolError), outcome
    assert "version" in str(outcome)
    assert made
    assert house.gate.code is not None
    assert house.gate.code.guesses == 3


# Time


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("after", range(4))
def test_silence_ends_at_the_deadline(way: str, after: int, place: Place) -> None:
    """Each side in turn stops after so many of its messages, and stays."""
    house = House()
    for silent in ("dialer", "listener"):

        def meet(most: int, timeout: float, silent: str = silent) -> tuple[Outcome, Outcome, int]:
            """What became of both where one says no more than so many messages, and how many it would have said."""
            said = 0

            def hold(_offset: int, data: bytes) -> tuple[bytes, bool]:
                nonlocal said
                said += 1
                return (data if said <= most else b""), True

            proof = house.proof(place, way)
            house.renew_code()
            dialer, listener = (bent(hold if silent == side else None)[0] for side in ("dialer", "listener"))
            near, far = house.meet(place, proof, dialer=dialer, listener=listener, timeout=timeout)
            close(near, far)
            return near, far, said

        near, far, said = meet(1000, PATIENCE)
        both_in(near, far)
        if said <= after:  # it has no more to say
            continue
        near, far, _ = meet(after, 0.4)
        for outcome in (near, far):
            assert isinstance(outcome, DeadlineExceeded | BrokenError | Admitted), outcome
        hit = far if silent == "dialer" else near
        assert not isinstance(hit, Admitted)


def test_a_drip_does_not_put_the_end_off(place: Place) -> None:
    house = House()
    stop = threading.Event()

    def drip() -> None:
        with place.dial() as transport:
            for byte in b"\x41\0\0\4\0" + bytes(1000):
                if stop.wait(0.01):
                    return
                drive(transport.send([bytes([byte])], soon()))

    dripping = Beside(drip)
    with place.accept() as transport:
        began = WAITER.now()
        with pytest.raises(DeadlineExceeded, match="who is who"):
            drive(house.gate.admit(transport, began + 0.3))
    stop.set()
    with suppress(BrokenError):  # it may have noticed
        dripping.result()


def test_a_dialer_waits_no_longer_than_it_was_told(place: Place) -> None:
    near = Beside(place.dial)
    with place.accept(), near.result() as transport:
        with pytest.raises(DeadlineExceeded, match="who is who"):
            drive(knock(transport, ByCode(Code.new()), WAITER.now() + 0.1))

"""Whoever relays, replays, changes, cuts, repeats or says nonsense: nobody gets in, and nothing hangs or escapes."""

from __future__ import annotations

import ast
import hashlib
import logging
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from spake2 import SPAKE2_A, SPAKE2_B  # type: ignore[import-untyped]

import enchufe
from enchufe.access import (
    Admitted,
    AnotherMachine,
    ByCode,
    ByKey,
    ByPass,
    ByToken,
    Code,
    CodeGone,
    LiveCode,
    Proof,
    TokenRefused,
    UnknownMachine,
    WrongCode,
    derived,
    listener_certificate,
)
from enchufe.access import messages as m
from enchufe.access.binding import Binding
from enchufe.access.exchange import Exchange
from enchufe.access.pairing import ListenerPairing
from enchufe.errors import BrokenError, EnchufeError, Refused, RemoteProtocolError
from enchufe.transports.tls import TlsTransport
from enchufe.waiting import drive
from tests.access.meeting import CERTIFICATE, WAITER, Bend, House, Key, Outcome, Place, bent, close, dial, soon, starts
from tests.beside import Beside

WAYS = House.ways
SIDES = ("dialer", "listener")
N = bytes(32)


@pytest.fixture
def place() -> Iterator[Place]:
    with Place(CERTIFICATE) as place:
        yield place


def in_(outcome: Outcome) -> bool:
    return isinstance(outcome, Admitted)


# Relays


def pump(source: TlsTransport, sink: TlsTransport, passed: bytearray) -> None:
    with suppress(EnchufeError):
        while data := drive(source.receive(65536, soon())):
            passed += data
            drive(sink.send([data], soon()))
        drive(sink.end(soon()))


def relay(front: Place, back: Place) -> tuple[bytes, bytes]:
    """Take one dialer by TLS, dial the real listener by TLS, and carry what they say both ways: what that was."""
    there, back_again = bytearray(), bytearray()
    with front.accept() as near, back.dial() as far:
        carrying = Beside(lambda: pump(near, far, there))
        pump(far, near, back_again)
        carrying.result()
    return bytes(there), bytes(back_again)


@pytest.mark.parametrize("way", WAYS)
def test_a_relay_with_a_certificate_of_its_own_is_refused(way: str, place: Place) -> None:
    house = House()
    proof = house.proof(place, way)
    certificate = listener_certificate()
    for _ in range(3):
        house.renew_code()
        with Place(certificate) as front:
            relaying = Beside(lambda front=front: relay(front, place))  # type: ignore[misc]
            admitting = Beside(lambda: admit_one(house, place))
            # Who dials by token was given the relay's link: else it would not say a word.
            shown = certificate.sha256 if way == "token" else None
            near = dial(front, proof, introduction=house.introduction, certificate=shown)
            far = admitting.result()
            there, _ = relaying.result()
        assert not in_(near), near
        assert not in_(far), far
        assert there[:5] == b"\x41\0\0\0\x29", "nothing was relayed"
        assert isinstance(near, Refused)


def admit_one(house: House, place: Place) -> Outcome:
    with place.accept() as transport:
        try:
            return drive(house.gate.admit(transport, soon()))
        except EnchufeError as error:
            return error


# Replays


def recorded(house: House, place: Place, proof: Proof) -> tuple[bytes, bytes]:
    """What both sides say where all goes well."""
    dialer, dialers = bent()
    listener, listeners = bent()
    near, far = house.meet(place, proof, dialer=dialer, listener=listener)
    assert in_(near), near
    assert in_(far), far
    close(near, far)
    return dialers[0].said, listeners[0].said


@pytest.mark.parametrize("way", WAYS)
def test_a_dialers_words_again_are_refused(way: str, place: Place) -> None:
    house = House()
    said, _ = recorded(house, place, house.proof(place, way))
    house.renew_code()

    def replay() -> None:
        with place.dial() as transport:
            for start, end in zip(starts(said), starts(said)[1:], strict=False):
                with suppress(BrokenError):  # refused already
                    drive(transport.send([said[start:end]], soon()))
            drive(transport.end(soon()))
            with suppress(BrokenError):
                while drive(transport.receive(65536, soon())):
                    pass

    replaying = Beside(replay)
    far = admit_one(house, place)
    assert not in_(far), far
    with suppress(BrokenError):
        replaying.result()


@pytest.mark.parametrize("way", ["code", "key", "again"])
def test_a_listeners_words_again_convince_nobody_though_it_has_the_certificate(way: str, place: Place) -> None:
    house = House()
    proof = house.proof(place, way)
    _, said = recorded(house, place, proof)

    def replay() -> None:
        with place.accept() as transport, suppress(BrokenError):
            drive(transport.send([said], soon()))
            drive(transport.end(soon()))
            while drive(transport.receive(65536, soon())):
                pass

    replaying = Beside(replay)
    near = dial(place, proof, introduction=house.introduction)
    assert type(near) is AnotherMachine
    replaying.result()


# Changes


def flip(place: int, bits: int, *, ends: bool) -> Bend:
    """The byte at `place` of what a side says is changed; with `ends` it says no more after that."""

    def bend(offset: int, data: bytes) -> tuple[bytes, bool]:
        if not offset <= place < offset + len(data):
            return data, True
        changed = bytearray(data)
        changed[place - offset] ^= bits
        return bytes(changed), not ends

    return bend


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("side", SIDES)
def test_any_byte_flipped_in_what_one_side_says_is_never_admitted(side: str, way: str, place: Place) -> None:
    house = House()
    said = recorded(house, place, house.proof(place, way))[SIDES.index(side)]
    # Where a frame says that it is longer than it is, both would wait for the rest.
    lengths = {start + byte for start in starts(said)[:-1] for byte in range(1, 5)}
    for offset in range(len(said)):
        house.renew_code()
        proof = house.proof(place, way)
        bend = flip(offset, 1 << offset % 8, ends=offset in lengths)
        dialer, listener = (bent(bend if side == one else None)[0] for one in SIDES)
        near, far = house.meet(place, proof, dialer=dialer, listener=listener)
        hit = far if side == "dialer" else near
        assert not in_(hit), f"byte {offset} of {len(said)}"
        close(near, far)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("side", SIDES)
def test_a_cut_anywhere_is_no_admission(side: str, way: str, place: Place) -> None:
    """At the beginning of each frame, in its header, and in its body."""
    house = House()
    said = recorded(house, place, house.proof(place, way))[SIDES.index(side)]
    for offset in [start + more for start in starts(said)[:-1] for more in (0, 1, 5, 6) if start + more < len(said)]:
        house.renew_code()
        proof = house.proof(place, way)

        def cut(begun: int, data: bytes, at: int = offset) -> tuple[bytes, bool]:
            return data[: max(0, at - begun)], begun + len(data) <= at

        dialer, listener = (bent(cut if side == one else None)[0] for one in SIDES)
        near, far = house.meet(place, proof, dialer=dialer, listener=listener)
        hit = far if side == "dialer" else near
        assert isinstance(hit, BrokenError), f"cut at {offset} of {len(said)}: {hit}"
        close(near, far)


# Nonsense


KNOCK = m.Knock(m.MAGIC, 1, 1, N)
SPAKE = m.Code(SPAKE2_A(b"guess").start())
ANSWER = m.Code(SPAKE2_B(b"guess").start())


def header(number: int, size: int) -> bytes:
    return struct.pack(">BI", number, size)


Said = list[m.Message | bytes]

SAID_TO_A_GATE: list[Said] = [
    [m.Nonce(1, N)],
    [SPAKE],
    [m.Confirm(N)],
    [m.Whom(N[:16])],
    [m.Proof(N, N + N)],
    [m.Token(N, N + N)],
    [m.Again(N[:16], N)],
    [m.Denied(1)],
    [m.Welcome()],
    [KNOCK, KNOCK],
    [KNOCK, m.Nonce(1, N)],
    [KNOCK, m.Confirm(N)],
    [KNOCK, m.Proof(N, N + N)],
    [KNOCK, m.Denied(1)],
    [KNOCK, m.Welcome()],
    [KNOCK, SPAKE, KNOCK],
    [KNOCK, SPAKE, SPAKE],
    [KNOCK, SPAKE, m.Whom(N[:16])],
    [KNOCK, SPAKE, m.Denied(1)],
    [KNOCK, SPAKE, m.Welcome()],
    [KNOCK, ANSWER],
    [KNOCK, m.Code(b"A" + N)],
    [m.Knock(b"ENCHUFE", 1, 1, N)],
    [m.Knock(m.MAGIC, 0, 1, N)],
    [m.Knock(m.MAGIC, 2, 1, N)],
    [m.Knock(m.MAGIC, 2, 9, N)],
    [header(64, 50) + bytes(50)],
    [header(75, 50) + bytes(50)],
    [header(1, 41)],
    [b"GET / HTTP/1.1\r\n\r\n"],
    [header(65, 1025)],
    [header(65, 2**32 - 1)],
    [header(65, 2**31)],
    [header(65, 0)],
    [header(65, 40) + bytes(40)],
    [header(65, 42) + bytes(42)],
    [KNOCK, header(67, 1025)],
    [KNOCK, header(67, 32) + bytes(32)],
    [KNOCK, header(67, 34) + bytes(34)],
    [KNOCK, header(70, 1025)],
    [KNOCK, SPAKE, header(68, 31) + bytes(31)],
    [KNOCK, SPAKE, header(68, 2**32 - 1)],
]


@pytest.mark.parametrize("said", SAID_TO_A_GATE, ids=range(len(SAID_TO_A_GATE)))
def test_nonsense_said_to_a_gate(said: Said, place: Place) -> None:
    """It is refused as soon as it is there, without a word, and without waiting for what it announces."""
    house = House()

    def talk() -> bytes:
        with place.dial() as transport:
            for one in said:
                with suppress(BrokenError):
                    drive(transport.send([one if isinstance(one, bytes) else m.frame(one)], soon()))
            got = b""
            with suppress(BrokenError):
                while data := drive(transport.receive(65536, soon())):
                    got += data
            return got

    talking = Beside(talk)
    outcome = admit_one(house, place)
    assert isinstance(outcome, RemoteProtocolError), outcome  # a VersionError too: nonsense may say any
    assert outcome.hint
    with suppress(BrokenError):
        answered = talking.result()
        assert {answered[start] for start in starts(answered)[:-1]} <= {66, 67}


def listener_says(place: Place, said: Said) -> Callable[[], None]:
    """A listener that says one thing after each that it hears, whatever that is."""

    def listen() -> None:
        with place.accept() as transport, suppress(BrokenError):
            for one in said:
                drive(transport.receive(65536, soon()))
                drive(transport.send([one if isinstance(one, bytes) else m.frame(one)], soon()))
            while drive(transport.receive(65536, soon())):
                pass

    return listen


NONCE = m.Nonce(1, N)
TO_ALL: list[Said] = [
    [KNOCK],
    [SPAKE],
    [m.Confirm(N)],
    [m.Proof(N, N + N)],
    [m.Welcome()],
    [m.Nonce(2, N)],
    [m.Nonce(0, N)],
    [header(66, 1025)],
    [NONCE, NONCE],
    [NONCE, KNOCK],
    [NONCE, header(73, 2) + bytes(2)],
    [NONCE, header(1, 41) + bytes(41)],
]
SAID_TO_A_DIALER: list[tuple[str, Said]] = [
    *[(way, said) for way in WAYS for said in TO_ALL],
    ("code", [NONCE, m.Welcome()]),
    ("key", [NONCE, m.Welcome()]),
    ("again", [NONCE, m.Welcome()]),
    ("code", [NONCE, m.Confirm(N)]),
    ("code", [NONCE, SPAKE]),
    ("code", [NONCE, m.Code(b"B" + N)]),
    ("code", [NONCE, ANSWER, m.Welcome()]),
    ("code", [NONCE, ANSWER, ANSWER]),
    ("key", [NONCE, m.Whom(N[:16])]),
    ("key", [NONCE, m.Confirm(N)]),
    ("token", [NONCE, m.Confirm(N)]),
    ("token", [NONCE, m.Welcome(N, N + N, "liar")]),
    ("token", [NONCE, m.Welcome(Key().public, N + N, "liar")]),
    ("token", [NONCE, header(74, 1) + b"\2"]),
    ("again", [NONCE, ANSWER]),
]


@pytest.mark.parametrize(("way", "said"), SAID_TO_A_DIALER)
def test_nonsense_said_to_a_dialer(way: str, said: Said, place: Place) -> None:
    house = House()
    proof = house.proof(place, way)
    listening = Beside(listener_says(place, said))
    near = dial(place, proof, certificate=CERTIFICATE.sha256)
    assert type(near) is RemoteProtocolError, near
    listening.result()


@pytest.mark.parametrize(("spoken", "older"), [(2, "on this machine"), (0, "on the other machine")])
def test_a_dialer_is_told_which_side_is_too_old(spoken: int, older: str, place: Place) -> None:
    house = House()
    proof = house.proof(place, "code")
    listening = Beside(listener_says(place, [m.Nonce(spoken, N)]))
    near = dial(place, proof)
    assert isinstance(near, RemoteProtocolError)
    assert near.hint == f"Update enchufe {older}."
    listening.result()


DENIALS = {
    1: WrongCode,
    2: CodeGone,
    3: AnotherMachine,
    4: UnknownMachine,
    5: TokenRefused,
    6: Refused,  # of a later version
    77: Refused,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reason", DENIALS)
def test_a_denial_is_understood_wherever_it_comes(reason: int, way: str, place: Place) -> None:
    house = House()
    proof = house.proof(place, way)
    before: list[Said] = [[], [NONCE]]
    if way == "code":
        before.append([NONCE, ANSWER])
    for said in before:
        listening = Beside(listener_says(place, [*said, m.Denied(reason)]))
        near = dial(place, proof, certificate=CERTIFICATE.sha256)
        assert type(near) is DENIALS[reason], near
        assert str(near)
        assert near.hint
        listening.result()


def test_a_denial_arrives_though_more_was_said(place: Place) -> None:
    """To close over what was not read would reset the connection, and that may overtake the reason."""
    house = House()
    admitting = threading.Thread(target=admit_one, args=(house, place))
    admitting.start()
    with place.dial() as transport:
        said = m.frame(KNOCK) + m.frame(m.Whom(N[:16])) + bytes(50_000)
        drive(transport.send([said], soon()))
        admitting.join(0.5)
        got = b""
        while len(got) < 44:
            got += drive(transport.receive(100, soon()))
        assert got[38:] == m.frame(m.Denied(3))
        drive(transport.end(soon()))
        assert drive(transport.receive(100, soon())) == b""
    admitting.join()


@pytest.mark.parametrize("left", [1.0, 60.0])
def test_a_denial_gets_a_few_seconds_at_the_most(left: float, place: Place) -> None:
    dialing = Beside(place.dial)
    with place.accept() as transport, dialing.result() as other:
        began = WAITER.now()
        talk = Exchange(transport, began + left, "listener")
        drive(other.end(soon()))
        drive(talk.deny(m.Reason.CODE))
        assert began + min(left, 3) <= talk.deadline <= WAITER.now() + min(left, 3)
        assert drive(other.receive(100, soon())) == m.frame(m.Denied(m.Reason.CODE))


def test_nobody_introduces_himself_by_our_own_words(place: Place) -> None:
    house = House()

    def reflect() -> None:
        with place.dial() as transport:
            talk = Exchange(transport, soon(), "dialer")
            drive(talk.say(KNOCK))
            binding = Binding.of(CERTIFICATE.sha256, KNOCK, drive(talk.hear(m.Nonce)))
            drive(talk.say(m.Token(house.token.public, house.token.sign(binding.signed(b"enchufe token")))))
            drive(talk.say(drive(talk.hear(m.Welcome))))

    reflecting = Beside(reflect)
    far = admit_one(house, place)
    assert type(far) is RemoteProtocolError, far
    reflecting.result()


def test_nobody_comes_again_by_a_pass_that_was_never_given_and_the_key_of_none(place: Place) -> None:
    house = House()

    def invent() -> None:
        with place.dial() as transport:
            talk = Exchange(transport, soon(), "dialer")
            drive(talk.say(KNOCK))
            binding = Binding.of(CERTIFICATE.sha256, KNOCK, drive(talk.hear(m.Nonce)))
            drive(talk.say(m.Again(bytes(16), binding.mac(b"", b"dialer"))))
            with pytest.raises(UnknownMachine):
                drive(talk.hear(m.Confirm))

    inventing = Beside(invent)
    far = admit_one(house, place)
    assert type(far) is UnknownMachine, far
    inventing.result()


# Listeners that lie


def fake(place: Place, lie: Callable[[Exchange, Binding], Any]) -> Callable[[], None]:
    """A listener with the right certificate, which says what `lie` says once both have the binding."""

    def listen() -> None:
        with place.accept() as transport, suppress(EnchufeError):
            talk = Exchange(transport, soon(), "listener")
            knock = drive(talk.hear(m.Knock))
            drive(talk.say(NONCE))
            lie(talk, Binding.of(CERTIFICATE.sha256, knock, NONCE))
            while drive(transport.receive(65536, soon())):
                pass

    return listen


def test_a_listener_that_does_not_know_the_code_convinces_nobody(place: Place) -> None:
    def lie(talk: Exchange, binding: Binding) -> None:
        pairing = ListenerPairing(Code.new(), binding)
        pairing.hear(drive(talk.hear(m.Code)).spake)
        drive(talk.say(m.Code(pairing.message)))
        drive(talk.hear(m.Confirm))
        drive(talk.say(m.Confirm(binding.mac(pairing._listeners, b"listener")), m.Welcome()))

    listening = Beside(fake(place, lie))
    assert type(dial(place, ByCode(Code.new()))) is AnotherMachine
    listening.result()


@pytest.mark.parametrize("right", ["nothing", "key", "signature"])
def test_a_listener_with_another_key_learns_nothing_of_us(right: str, place: Place) -> None:
    house = House()
    wanted, another = house.key, Key()

    def lie(talk: Exchange, binding: Binding) -> None:
        drive(talk.hear(m.Whom))
        signer = wanted if right == "signature" else another
        public = wanted.public if right == "key" else another.public
        drive(talk.say(m.Proof(public, signer.sign(binding.signed(b"enchufe listener"))), m.Welcome()))

    listening = Beside(fake(place, lie))
    wrap, made = bent()
    near = dial(place, ByKey(house.guest, wanted.public), wrap, introduction=house.introduction)
    assert type(near) is AnotherMachine
    assert "remove" in near.hint
    assert house.guest.public not in made[0].said
    listening.result()


@pytest.mark.parametrize("said", [b"enchufe dialer", b"enchufe token", b"enchufe listener "])
def test_a_signature_of_something_else_proves_nothing(said: bytes, place: Place) -> None:
    house = House()

    def lie(talk: Exchange, binding: Binding) -> None:
        drive(talk.hear(m.Whom))
        drive(talk.say(m.Proof(house.key.public, house.key.sign(binding.signed(said))), m.Welcome()))

    listening = Beside(fake(place, lie))
    assert type(dial(place, ByKey(house.guest, house.key.public))) is AnotherMachine
    listening.result()


def test_a_listener_without_the_pass_key_convinces_nobody(place: Place) -> None:
    def lie(talk: Exchange, binding: Binding) -> None:
        again = drive(talk.hear(m.Again))
        drive(talk.say(m.Confirm(again.mac), m.Welcome()))

    listening = Beside(fake(place, lie))
    assert type(dial(place, ByPass(bytes(32)))) is AnotherMachine
    listening.result()


def test_a_dialers_proof_is_for_one_listener(place: Place) -> None:
    """A key that proved itself to one machine: the same words say nothing to another, even on the same binding."""
    house = House(introductions=False)

    class ForAnother(Key):
        def __init__(self, of: Key) -> None:
            super().__init__()
            self._signer, self.public = of, of.public

        def sign(self, data: bytes) -> bytes:
            return self._signer.sign(data.replace(house.key.public, Key().public))

    near, far = house.meet(place, ByKey(ForAnother(house.guest), house.key.public))
    assert type(near) is UnknownMachine
    assert type(far) is UnknownMachine


def test_before_the_dialers_confirmation_nothing_depends_on_the_code(place: Place) -> None:
    """The listener's words before that are of the same kind and length for every code, right or wrong."""
    house = House()
    shapes = set()
    for code in (house.code, Code.new(), Code.new()):
        wrap, made = bent()
        near, far = house.meet(
            place, ByCode(code), dialer=bent(lambda _offset, data: (data, data[0] != 67))[0], listener=wrap
        )
        assert not in_(near)
        assert not in_(far)
        said = made[0].said
        shapes.add(tuple(said[start : start + 5] for start in starts(said)[:-1]))
    assert shapes == {(header(66, 33), header(67, 33))}


# Secrets


def all_of(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{error} {error!r} {getattr(error, 'hint', '')} {error.args}"
        error = error.__cause__ or error.__context__


def test_no_error_repr_or_log_shows_a_code(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    house = House()
    house.code = Code(7, ("abaco", "ninez", "zurdo"))
    wrong = Code(7, ("zurra", "zurdo", "zorro"))
    shown = []
    for code in (wrong, wrong, house.code, house.code):
        if house.gate.code is not None and house.gate.code.code != house.code:
            house.renew_code()
        wrap, made = bent()
        near, far = house.meet(place, ByCode(code), dialer=wrap)
        shown += [repr(ByCode(code)), str(ByCode(code)), repr(house.gate.code), repr(house.gate), repr(made[0].said)]
        for outcome in (near, far):
            shown += [repr(outcome)] if isinstance(outcome, Admitted) else all_of(outcome)
            if isinstance(outcome, Admitted):
                assert repr(outcome.secret) not in repr(outcome)
        close(near, far)
    shown.append(caplog.text)
    for text in shown:
        assert not any(word in text for word in ("abaco", "ninez", "zurdo", "zurra", "zorro"))


def test_no_repr_shows_a_secret() -> None:
    secret = hashlib.sha256(b"secret").digest()
    key = Key()
    for shown in (repr(ByPass(secret)), repr(ByToken(key)), repr(LiveCode(Code.new(), lambda: 0.0))):
        assert repr(secret) not in shown
        assert repr(key) not in shown


def test_a_code_has_one_consumer() -> None:
    """Only what speaks SPAKE2 asks for a code's password; only what people see or say shows it."""
    source = Path(enchufe.__file__).parent
    users = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "password"
    }
    assert users == {"access/pairing.py"}


def test_the_keys_of_the_document() -> None:
    """The names of what is derived from a secret cross no program: both sides must mean the same."""
    secret = bytes(range(32))
    assert derived(secret, "stream id", 16).hex() == derived(secret, b"stream id", 16).hex()
    assert derived(secret, "pass", 16) != derived(secret, "pass key", 32)[:16]

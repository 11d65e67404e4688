"""A code proved through memory: the right one, a wrong one, and whatever is no message of SPAKE2."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import pytest
from spake2 import SPAKE2_A, SPAKE2_B, ed25519_basic  # type: ignore[import-untyped]

from enchufe.access.binding import Binding, derived
from enchufe.access.codes import Code
from enchufe.access.messages import Knock, Nonce
from enchufe.access.pairing import DialerPairing, ListenerPairing
from enchufe.access.refusals import AnotherMachine, WrongCode
from enchufe.errors import EnchufeError, RemoteProtocolError

CODE = Code(7, ("abaco", "ninez", "zurdo"))
HERE = Binding(bytes([2] * 32), bytes(64))
THERE = Binding(bytes([1] * 32), bytes(64))

# The points of Ed25519 that are no use: the neutral one, and those of order 2, 4 and 8; also written with y + p.
P = 2**255 - 19
EIGHTH = int("05fc536d880238b13933c6d305acdfd5f098eff289f4c345b027b2c28f95e826", 16)
USELESS = [1, P - 1, 0, EIGHTH, P - EIGHTH, P, P + 1]


def meet(dialer: DialerPairing, listener: ListenerPairing) -> tuple[bytes, bytes]:
    """The secrets of both, if all goes well."""
    listener.hear(dialer.message)
    confirm = dialer.hear(listener.message)
    answer, listeners = listener.finish(confirm)
    return dialer.finish(answer), listeners


def test_the_same_code_is_the_same_secret_and_a_new_one_each_time() -> None:
    secrets = set()
    for _ in range(3):
        dialers, listeners = meet(DialerPairing(CODE, HERE), ListenerPairing(CODE, HERE))
        assert dialers == listeners
        assert len(dialers) == 32
        secrets.add(dialers)
    assert len(secrets) == 3


def test_the_keys_are_those_of_the_document() -> None:
    listener = ListenerPairing(CODE, HERE)
    spake = SPAKE2_A(b"7-abaco-ninez-zurdo", idA=b"dialer" + HERE.value, idB=b"listener" + HERE.value)
    listener.hear(spake.start())
    keys = derived(spake.finish(listener.message), "code", 96, salt=HERE.value)
    answer, secret = listener.finish(HERE.mac(keys[:32], b"dialer"))
    assert answer == HERE.mac(keys[32:64], b"listener")
    assert secret == keys[64:]


@pytest.mark.parametrize(
    ("code", "binding"),
    [
        (Code(7, ("abaco", "ninez", "zurra")), HERE),
        (Code(7, ("ninez", "abaco", "zurdo")), HERE),
        (Code(8, ("abaco", "ninez", "zurdo")), HERE),
        (CODE, THERE),
    ],
)
def test_another_code_or_another_connection_is_refused_by_both(code: Code, binding: Binding) -> None:
    dialer, listener = DialerPairing(code, binding), ListenerPairing(CODE, HERE)
    listener.hear(dialer.message)
    confirm = dialer.hear(listener.message)
    with pytest.raises(WrongCode):
        listener.finish(confirm)
    with pytest.raises(AnotherMachine):
        dialer.finish(HERE.mac(listener._listeners, b"listener"))


def test_only_the_whole_confirmation_of_the_other_side_will_do() -> None:
    dialer, listener = DialerPairing(CODE, HERE), ListenerPairing(CODE, HERE)
    listener.hear(dialer.message)
    confirm = dialer.hear(listener.message)
    answer, _ = listener.finish(confirm)
    for wrong in (answer, confirm[:-1], confirm + b"\0", b"", bytes(32)):
        with pytest.raises(WrongCode):
            listener.finish(wrong)
    for wrong in (confirm, answer[:-1], b"", bytes(32)):
        with pytest.raises(AnotherMachine):
            dialer.finish(wrong)
    dialer.finish(answer)


def test_before_the_other_sides_message_there_is_no_key_to_confirm_with() -> None:
    with pytest.raises(AttributeError):
        ListenerPairing(CODE, HERE).finish(HERE.mac(b"", b"dialer"))
    with pytest.raises(AttributeError):
        DialerPairing(CODE, HERE).finish(HERE.mac(b"", b"listener"))


def test_bad_messages_are_refused_and_nothing_else_escapes() -> None:
    sides: list[tuple[Callable[[], DialerPairing | ListenerPairing], bytes]] = [
        (lambda: DialerPairing(CODE, HERE), b"B"),
        (lambda: ListenerPairing(CODE, HERE), b"A"),
    ]
    for make, other in sides:
        good = (SPAKE2_A if other == b"A" else SPAKE2_B)(CODE.password).start()
        points = [point.to_bytes(32, "little") for point in USELESS]
        points += [(point | 1 << 255).to_bytes(32, "little") for point in USELESS]
        # On the curve, but not of the group: a good point plus one of order 2; and what is not on the curve.
        base = ed25519_basic.ElementOfUnknownGroup(ed25519_basic.Base.XYTZ)
        two = ed25519_basic.bytes_to_unknown_group_element((P - 1).to_bytes(32, "little"))
        points += [base.add(two).to_bytes(), (2).to_bytes(32, "little"), b"\xff" * 32]
        bad = [other + point for point in points]
        bad += [b"", other, good[:-1], good + b"\0", b"S" + good[1:], b"\0" + good[1:]]
        for message in bad:
            with pytest.raises(RemoteProtocolError, match="CODE") as caught:
                make().hear(message)
            assert not any(word in str(caught.value) for word in CODE.words)


def test_a_reflected_message_is_refused() -> None:
    for pairing in (DialerPairing(CODE, HERE), ListenerPairing(CODE, HERE)):
        with pytest.raises(RemoteProtocolError):
            pairing.hear(pairing.message)
    for pairing, other in ((DialerPairing(CODE, HERE), b"B"), (ListenerPairing(CODE, HERE), b"A")):
        with pytest.raises(RemoteProtocolError):
            pairing.hear(other + pairing.message[1:])


def test_any_flipped_byte_of_a_message_is_refused() -> None:
    for place in range(33):
        for whose in ("dialer", "listener"):
            dialer, listener = DialerPairing(CODE, HERE), ListenerPairing(CODE, HERE)
            messages = {"dialer": bytearray(dialer.message), "listener": bytearray(listener.message)}
            messages[whose][place] ^= 1 << place % 8
            with pytest.raises(EnchufeError):
                listener.hear(bytes(messages["dialer"]))
                confirm = dialer.hear(bytes(messages["listener"]))
                listener.finish(confirm)


def test_a_binding_holds_all_that_was_said_and_the_certificate() -> None:
    knock, nonce = Knock(b"enchufe", 1, 1, bytes(32)), Nonce(1, bytes(32))
    bindings = {
        Binding.of(certificate, knock, nonce).value
        for certificate, knock, nonce in (
            (bytes(32), knock, nonce),
            (b"\1" + bytes(31), knock, nonce),
            (bytes(32), Knock(b"enchufe", 1, 2, bytes(32)), nonce),
            (bytes(32), Knock(b"enchufe", 1, 1, b"\1" + bytes(31)), nonce),
            (bytes(32), knock, Nonce(2, bytes(32))),
            (bytes(32), knock, Nonce(1, b"\1" + bytes(31))),
        )
    }
    assert len(bindings) == 6
    assert {len(binding) for binding in bindings} == {32}


def test_keys_for_several_things_have_nothing_in_common() -> None:
    # RFC 5869, by hand.
    extracted = hmac.digest(b"salt", b"secret", hashlib.sha256)
    assert derived(b"secret", "pass", 32, salt=b"salt") == hmac.digest(extracted, b"enchufe pass\1", hashlib.sha256)
    extracted = hmac.digest(bytes(32), b"secret", hashlib.sha256)
    assert derived(b"secret", b"pass", 32) == hmac.digest(extracted, b"enchufe pass\1", hashlib.sha256)
    keys = {derived(b"secret", what, 16) for what in ("stream id", "stream key", "pass", "pass key")}
    assert len(keys) == 4


def test_a_secret_is_of_the_nonces_and_the_connection() -> None:
    secrets = {Binding(value, nonces).secret() for value in (bytes(32), b"\1" * 32) for nonces in (b"a", b"b")}
    assert len(secrets) == 4


def test_what_asks_for_a_machine_tells_nobody_else_which() -> None:
    key, other = bytes(range(32)), bytes(32)
    assert HERE.is_whom(key, HERE.whom(key))
    assert len(HERE.whom(key)) == 16
    assert not HERE.is_whom(other, HERE.whom(key))
    assert not THERE.is_whom(key, HERE.whom(key))
    assert not HERE.is_whom(key, b"")
    assert not HERE.is_mac(key, b"what", b"")


def test_a_key_that_is_none_signs_nothing() -> None:
    for public in (b"", bytes(31), b"\xff" * 32):
        assert not HERE.is_signature(public, b"what", bytes(64))


def test_nobodys_key_signs_nothing() -> None:
    """Where a key is of small order, no secret is behind it: every few messages it fits a signature of anybody."""
    for y in USELESS:
        for public in (y.to_bytes(32, "little"), (y | 1 << 255).to_bytes(32, "little")):
            assert not any(
                HERE.is_signature(public, bytes([what]), first + bytes(32))
                for what in range(64)
                for first in (public, bytes(32), (1).to_bytes(32, "little"))
            )

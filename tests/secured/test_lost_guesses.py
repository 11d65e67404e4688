"""Every guess that a code has lost is told of, whatever it was lost to: no code dies unseen."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from enchufe import events
from enchufe.access import dialing_context
from enchufe.access import messages as m
from enchufe.access.binding import Binding
from enchufe.access.exchange import Exchange
from enchufe.access.pairing import DialerPairing
from enchufe.errors import BrokenError, EnchufeError, Refused, RemoteProtocolError
from enchufe.transports import parse_address, tls
from enchufe.waiting import drive
from tests.access.meeting import WAITER, soon
from tests.beside import Beside
from tests.secured.entrances import Place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = Place()
    yield place
    place.close()


def right(place: Place) -> bytes:
    """A message of SPAKE2 that is one."""
    return DialerPairing(place.code, Binding(bytes(32), bytes(64))).message


async def malformed_code(talk: Exchange, _place: Place) -> None:
    await talk.say(m.Code(b"A" + b"\xff" * 32))


async def malformed_confirm(talk: Exchange, place: Place) -> None:
    await talk.say(m.Code(right(place)))
    await talk.hear(m.Code)
    await talk.say(m.Knock(m.MAGIC, 1, 1, bytes(32)))


async def no_confirm(talk: Exchange, place: Place) -> None:
    await talk.say(m.Code(right(place)))
    await talk.hear(m.Code)


Guess = Callable[[Exchange, Place], Awaitable[None]]


def guess(place: Place, how: Guess) -> EnchufeError:
    """What becomes of the listener, to whom somebody comes who says that and goes away."""

    async def say(transport: tls.TlsTransport) -> None:
        talk = Exchange(transport, soon(), "dialer")
        await talk.say(m.Knock(m.MAGIC, m.VERSION, m.VERSION, secrets.token_bytes(32)))
        await talk.hear(m.Nonce)
        await how(talk, place)

    admitting = Beside(place.admit)
    with drive(tls.connect(parse_address(place.address), WAITER, soon(), context=dialing_context())) as transport:
        drive(say(transport))
    error = admitting.result()
    assert isinstance(error, EnchufeError)
    return error


@pytest.mark.parametrize(
    ("how", "kind"),
    [(malformed_code, RemoteProtocolError), (malformed_confirm, RemoteProtocolError), (no_confirm, BrokenError)],
)
def test_three_that_are_no_guess_at_all(place: Place, how: Guess, kind: type[EnchufeError]) -> None:
    for left in (2, 1, 0):
        place.entrance.check()
        assert isinstance(guess(place, how), kind)
        assert place.told[-1] == events.WrongCode(left)
    with pytest.raises(Refused, match="three wrong codes"):
        place.entrance.check()


def test_who_is_cut_off_by_the_listener_is_not_told_of(place: Place) -> None:
    before = list(place.told)
    place.entrance.close()
    guess(place, no_confirm)
    assert place.told == before

"""A listener's entrance: codes that come and go, who may still be waited for, who has which options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from enchufe import entrance as module
from enchufe import events
from enchufe.access import Admitted, ByCode, ByPass, ByToken, LiveCode, dialing, gate, messages
from enchufe.access.identity import Identity
from enchufe.access.known import ChangedKey, KnownMachines
from enchufe.access.links import Link
from enchufe.access.refusals import CodeGone, TokenRefused, WrongCode
from enchufe.access.tokens import Tokens
from enchufe.errors import DeadlineExceeded, Refused, StoreError
from enchufe.session import Options
from enchufe.testing import ManualClock
from enchufe.transfer.machine import VersionError
from enchufe.waiting import drive
from tests.access.meeting import Key, soon
from tests.secured.entrances import Place

# What they come for.
SESSION = bytes(15) + b"1"
OTHER = bytes(15) + b"2"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys of its own for each test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "enchufe"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """What codes live by."""
    clock = ManualClock()
    monkeypatch.setattr(module, "LiveCode", lambda code, _now: LiveCode(code, clock))
    return clock


@pytest.fixture
def places() -> Iterator[list[Place]]:
    """To put those in that are to be closed."""
    made: list[Place] = []
    yield made
    for place in made:
        place.close()


def begun(places: list[Place], **how: bool | str) -> Place:
    places.append(Place(**how))  # type: ignore[arg-type]
    return places[-1]


def known(name: str = "laptop") -> Key:
    key = Key()
    KnownMachines().add(name, key.public)
    return key


def test_a_code_with_a_link_is_told_once(places: list[Place]) -> None:
    place = begun(places)
    place.entrance.open([place.address])
    place.entrance.check()
    assert len(place.codes) == 1
    link = Link.parse(place.codes[0].link)
    assert link.code == place.codes[0].code
    assert [str(address) for address in link.addresses] == [place.address]


def test_no_link_without_an_address_that_others_can_dial(places: list[Place]) -> None:
    place = begun(places)
    near, far = place.meet(ByCode(place.code))
    assert isinstance(near, Admitted)
    assert isinstance(far, Admitted)
    place.entrance.open(["unix:/tmp/socket"])
    assert [bool(code.link) for code in place.codes] == [True, False]


def test_nothing_is_kept_where_nobody_is_known(places: list[Place], state: Path) -> None:
    begun(places)
    assert not state.exists()


def test_three_wrong_guesses_end_it(places: list[Place]) -> None:
    place = begun(places)
    for _ in range(3):
        place.entrance.check()
        assert all(isinstance(error, WrongCode) for error in place.meet(place.wrong()))
    assert [event.left for event in place.told if isinstance(event, events.WrongCode)] == [2, 1, 0]
    with pytest.raises(Refused, match="three wrong codes"):
        place.entrance.check()
    assert all(isinstance(error, CodeGone) for error in place.meet(ByCode(place.code)))


@pytest.mark.parametrize(("later", "older"), [(dialing, "this"), (gate, "the other")])
def test_somebody_of_another_version_is_told_of_once(
    places: list[Place], monkeypatch: pytest.MonkeyPatch, later: ModuleType, older: str
) -> None:
    place = begun(places)
    with monkeypatch.context() as patched:
        patched.setattr(later, "m", SimpleNamespace(**{**vars(messages), "VERSION": messages.VERSION + 1}))
        for _ in range(2):
            _, far = place.meet(ByCode(place.code))
            assert isinstance(far, VersionError), far
    (told,) = [event for event in place.told if isinstance(event, events.Failed)]
    assert told.kind == "version"
    assert told.hint == f"Update enchufe on {older} machine."
    assert isinstance(place.meet(ByCode(place.code))[0], Admitted)


def test_only_so_many_of_another_version_are_told_of(places: list[Place]) -> None:
    place = begun(places)
    for host in range(100):
        place.entrance._tell_stranger(f"10.0.0.{host}:1", VersionError("another"))
    assert len([event for event in place.told if isinstance(event, events.Failed)]) == 16


def test_not_while_somebody_is_at_the_last_guess(places: list[Place]) -> None:
    """It may be right."""
    place = begun(places)
    for _ in range(2):
        place.meet(place.wrong())
    live = place.entrance.gate.code
    assert live is not None
    place.entrance._knocking += 1
    assert live.guess()
    place.entrance.check()
    place.entrance._knocking -= 1
    with pytest.raises(Refused):
        place.entrance.check()


def test_ten_minutes_end_it(places: list[Place], clock: ManualClock) -> None:
    place = begun(places)
    clock.advance(599.0)
    place.entrance.check()
    clock.advance(601.0)
    with pytest.raises(DeadlineExceeded, match="ten minutes"):
        place.entrance.check()
    assert all(isinstance(error, CodeGone) for error in place.meet(ByCode(place.code)))


@pytest.mark.parametrize("who", ["machines", "tokens"])
def test_others_may_come_when_the_code_is_dead(places: list[Place], clock: ManualClock, who: str) -> None:
    if who == "machines":
        known()
    place = begun(places, tokens=who == "tokens")
    clock.advance(601.0)
    for _ in range(3):
        place.entrance.check()
    assert len([event for event in place.told if isinstance(event, events.CodeGone)]) == 1


def test_a_code_that_brought_nobody_is_followed_by_another(places: list[Place]) -> None:
    """Whoever said it was let in, and went away before the transfer."""
    place = begun(places)
    near, far = place.meet(ByCode(place.code))
    assert isinstance(far, Admitted)
    place.entrance.check()
    assert len(place.codes) == 1  # he is about to say HELLO
    far.transport.close()
    place.entrance.check()
    first, second = place.codes
    assert first.code != second.code
    assert isinstance(near, Admitted)
    near, far = place.meet(ByCode(place.code))
    assert isinstance(far, Admitted)
    assert place.entrance.suit(Options(), far, SESSION) == Options(party=far.party)


def test_a_changed_key_ends_it(places: list[Place]) -> None:
    """Whoever has it does not come in, now or again, and hears so."""
    known()
    place = begun(places, remember=True)
    key = Key()
    near, far = place.meet(ByCode(place.code), key)
    assert isinstance(near, Admitted)  # by the code; what it hears next is no HELLO
    assert isinstance(far, ChangedKey)
    with pytest.raises(ChangedKey):
        place.entrance.check()
    assert not place.entrance.gate._passes
    assert KnownMachines().name_of(key.public) is None
    heard = drive(near.transport.receive(4096, soon()))
    assert b"laptop" in heard


def test_both_remember(places: list[Place]) -> None:
    place = begun(places, remember=True)
    key = Key()
    near, far = place.meet(ByCode(place.code), key)
    assert isinstance(near, Admitted)
    assert isinstance(far, Admitted)
    assert near.introduced is not None
    assert near.introduced.public == Identity.mine().public
    assert not place.told[1:]
    assert KnownMachines().name_of(key.public) is None  # he has not said HELLO: he may know another by our name
    place.entrance.suit(Options(), far, SESSION)
    assert KnownMachines().name_of(key.public) == "laptop"
    assert place.told[1:] == [events.Paired("code"), events.Remembered("laptop")]


def test_who_is_cut_before_hello_is_remembered_when_he_comes_again(places: list[Place]) -> None:
    place = begun(places, remember=True)
    key = Key()
    near, _ = place.meet(ByCode(place.code), key)
    assert isinstance(near, Admitted)
    _, again = place.meet(ByPass(near.secret), key)
    assert isinstance(again, Admitted)
    for _ in range(2):
        place.entrance.suit(Options(), again, SESSION)
    assert KnownMachines().name_of(key.public) == "laptop"
    assert place.told[1:] == [events.Paired("code"), events.Remembered("laptop")]


def test_who_cannot_be_remembered_hears_so(places: list[Place], state: Path) -> None:
    place = begun(places, remember=True)
    near, far = place.meet(ByCode(place.code), Key())
    assert isinstance(near, Admitted)
    assert isinstance(far, Admitted)
    state.chmod(0o755)
    with pytest.raises(StoreError, match="open to others"):
        place.entrance.suit(Options(), far, SESSION)
    assert drive(near.transport.receive(4096, soon()))
    assert not place.entrance.gate._passes


@pytest.mark.parametrize("listener", [True, False])
def test_one_alone_remembers_nobody(places: list[Place], listener: bool) -> None:
    place = begun(places, remember=listener)
    _, far = place.meet(ByCode(place.code), None if listener else Key())
    assert isinstance(far, Admitted)
    place.entrance.suit(Options(), far, SESSION)
    assert not KnownMachines().all()
    assert place.told[1:] == [events.Paired("code"), *([events.Remembered(None)] if listener else [])]


def test_who_is_inside_is_told_and_who_only_knocks_is_not(places: list[Place]) -> None:
    """So that whatever is told next is that one's."""
    (ana, _), (blas, _) = (Tokens().new(name) for name in ("ana", "blas"))
    place = begun(places, tokens=True)
    (_, anas), _ = (place.meet(ByToken(token)) for token in (ana, blas))
    assert isinstance(anas, Admitted)
    assert not place.told[1:]
    place.entrance.suit(Options(), anas, SESSION)
    assert place.told[1:] == [events.Paired("token", "ana")]


def test_who_comes_again_is_told_where_another_was_here_meanwhile(places: list[Place]) -> None:
    token, _ = Tokens().new("ana")
    place = begun(places, tokens=True)
    near, far = place.meet(ByCode(place.code))
    assert isinstance(near, Admitted)
    _, again = place.meet(ByPass(near.secret))
    _, other = place.meet(ByToken(token))
    for inside in (far, again, other, again):
        assert isinstance(inside, Admitted)
        place.entrance.suit(Options(), inside, SESSION)
    assert place.told[1:] == [events.Paired("code"), events.Paired("token", "ana"), events.Paired("code")]


@pytest.mark.parametrize(
    ("scope", "expires", "why"), [("drop", 1060, "expired"), ("read", None, "not for drop"), ("drop", None, None)]
)
def test_a_bearer_who_is_not_let_in_is_told_of_and_others_are_not(
    places: list[Place], scope: str, expires: int | None, why: str | None
) -> None:
    """By the name of his token, so that who has given it out knows what became of him."""
    token, _ = Tokens(now=lambda: 1000.0).new("ana", [scope], expires=expires)
    if why is None:
        Tokens().revoke("ana")
    place = begun(places, tokens=True)
    near, _ = place.meet(ByToken(token))
    assert isinstance(near, TokenRefused)
    assert "ana" not in str(near)
    told = [(event.kind, event.message) for event in place.told if isinstance(event, events.Failed)]
    assert told == ([] if why is None else [("token_refused", f"somebody came with the token ana, which is {why}")])


@pytest.mark.parametrize("scope", ["drop", "read"])
def test_a_token_is_for_its_scope(places: list[Place], scope: str) -> None:
    token, _ = Tokens().new("scanner", ["drop"], quota=1000)
    place = begun(places, tokens=True, scope=scope)
    near, far = place.meet(ByToken(token))
    if scope == "read":
        assert isinstance(near, TokenRefused)
        return
    assert isinstance(far, Admitted)
    options = place.entrance.suit(Options(), far, SESSION)
    assert options is not None
    assert options.name == "scanner"
    assert options.allowance is not None
    options.allowance.expect(1000)
    with pytest.raises(Refused, match="1001 bytes, and 1000 are left"):
        options.allowance.expect(1001)
    options.allowance.expect(400)
    options.allowance.spend(400)
    options.allowance.settle(finished=True)
    _, far = place.meet(ByToken(token))
    assert isinstance(far, Admitted)
    options = place.entrance.suit(Options(), far, SESSION)
    assert options is not None
    again = options.allowance
    assert again is not None
    again.spend(600)
    with pytest.raises(Refused, match="0 bytes more, not for 1"):
        again.spend(1)
    again.settle(finished=False)
    near, far = place.meet(ByToken(token))
    assert isinstance(near, Admitted)  # to end what was cut
    assert isinstance(far, Admitted)
    assert place.entrance.suit(Options(), far, OTHER) is None  # and not for anything else
    assert b"nothing left for this transfer" in drive(near.transport.receive(4096, soon()))
    assert isinstance(place.told[-1], events.Failed)
    _, far = place.meet(ByToken(token))
    assert isinstance(far, Admitted)
    assert place.entrance.suit(Options(), far, SESSION) is not None
    again.settle(finished=True)
    assert isinstance(place.meet(ByToken(token))[0], TokenRefused)


def test_an_interface_that_has_gone_with_a_cut_ends_nothing(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a Wi-Fi is lost in the middle of a transfer: who was cut comes again once it is back."""
    everywhere = ["0.0.0.0:9000"]
    interfaces = ["lo"]
    place = begun(places)
    monkeypatch.setattr(place.entrance, "_interfaces", interfaces)
    place.entrance.open(everywhere)
    assert place.entrance.gate.code is not None
    place.entrance.gate.code.burn()
    interfaces[:] = ["enchufe-none"]
    place.entrance.open(everywhere)
    assert [bool(code.link) for code in place.codes] == [True, False]
    monkeypatch.setattr(module, "_FOLLOWING", 0.0)
    monkeypatch.setattr(module, "_is_here_only", lambda _: False)
    place.entrance.check()
    assert len(place.codes) == 2
    interfaces[:] = ["lo"]
    place.entrance.check()
    assert [bool(code.link) for code in place.codes] == [True, False, True]

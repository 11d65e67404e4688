"""How a dialer reaches whom it wants: what it dials, what it asks for, whom it believes, and where it returns to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enchufe import events, reaching
from enchufe.access import Admitted, Denial
from enchufe.access.discovery import Announcer
from enchufe.access.identity import Identity
from enchufe.access.known import ChangedKey, KnownMachines
from enchufe.access.refusals import AnotherMachine, WrongCode
from enchufe.errors import BrokenError, EnchufeError, LocalProtocolError
from enchufe.meeting import Reached
from enchufe.reaching import Secured, aim
from enchufe.transports import TcpAddress, parse_address
from enchufe.waiting import drive
from tests.access.meeting import PATIENCE, WAITER, Key
from tests.beside import Beside
from tests.secured.entrances import Place

NOBODY = "127.0.0.1:1"  # where nobody listens
CODE = "7-zoo-zoo-zoo"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def places() -> Iterator[list[Place]]:
    """Three listeners, each with a code of its own."""
    made = [Place() for _ in range(3)]
    yield made
    for place in made:
        place.close()


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for elsewhere after two attempts, however little time they took."""
    monkeypatch.setattr(reaching, "_MOVED_FOR", 0.0)


def never() -> str:
    raise AssertionError("nobody is to be asked")


def aimed(text: str, **how: Any) -> Secured:
    chosen: dict[str, Any] = {
        "where": None,
        "code": never,
        "remember": False,
        "search": True,
        "interfaces": (),
        "on_event": _ignore,
    }
    return aim(text, **{**chosen, **how})


def _ignore(_event: events.Event) -> None:
    """Nobody listens."""


def reach(secured: Secured, *expected: Place) -> Reached | EnchufeError:
    """Go there; each of the listeners is come to once."""
    admitting = [Beside(place.admit) for place in expected]
    try:
        reached: Reached | EnchufeError = drive(secured.reach(WAITER, PATIENCE))
    except EnchufeError as error:
        reached = error
    for each in admitting:
        each.result()
    return reached


def check_reached(reached: Reached | EnchufeError) -> None:
    assert isinstance(reached, Reached), reached
    assert reached.secret is not None
    reached.transport.close()


def announced(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[int | None]:
    """Have the network say that there is somebody at each; the labels that are looked for."""
    labels: list[int | None] = []

    def find(label: int | None, _seconds: float, _interfaces: object, **_trouble: object) -> Iterator[Announcer]:
        labels.append(label)
        for address in addresses:
            where = parse_address(address)
            assert isinstance(where, TcpAddress)
            yield Announcer(label, (where,))

    monkeypatch.setattr(reaching, "find", find)
    return labels


@pytest.mark.parametrize("text", ["127.0.0.1:9", "enchufe://127.0.0.1:9/", "unix:/tmp/socket"])
def test_two_addresses_are_one_too_many(text: str) -> None:
    with pytest.raises(LocalProtocolError, match="two addresses"):
        aimed(text, where=NOBODY, code=lambda: CODE)


def test_the_code_is_asked_for_where_none_is_named(places: list[Place]) -> None:
    place = places[0]
    asked: list[str] = []

    def ask() -> str:
        asked.append(str(place.code))
        return asked[-1]

    check_reached(reach(aimed(place.address, code=ask), place))
    place.entrance.open([place.address])
    without = place.codes[-1].link.partition("&code=")[0]
    check_reached(reach(aimed(without, code=ask), place))
    assert len(asked) == 2


def test_nobody_is_asked_where_all_is_named(places: list[Place]) -> None:
    place = places[0]
    check_reached(reach(aimed(str(place.code), where=place.address), place))
    place.entrance.open([place.address])
    check_reached(reach(aimed(place.codes[-1].link), place))


def test_after_a_cut_it_goes_back_by_its_pass(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    """To where it was, and whoever else says that he has that label is not asked."""
    place = places[1]
    labels = announced(monkeypatch, place.address)
    told: list[events.Event] = []
    secured = aimed(str(place.code), on_event=told.append)
    for _ in range(3):
        check_reached(reach(secured, place))
    assert labels == [place.code.label]
    assert place.ways == ["code", "again", "again"]
    assert [event.way for event in told if isinstance(event, events.Paired)] == ["code"]


@pytest.mark.usefixtures("_soon")
def test_after_cuts_it_is_looked_for_where_it_is_now(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    """Most come back where they were, so that is tried first; and others are not even told who asks."""
    moving, other = places[:2]
    announced(monkeypatch, moving.address)
    secured = aimed(str(moving.code))
    check_reached(reach(secured, moving))
    for _ in range(2):
        before = moving.address
        moving.move()
        labels = announced(monkeypatch, before, other.address, moving.address)
        for _ in range(2):
            assert isinstance(reach(secured), BrokenError)
        assert labels == []
        check_reached(reach(secured, other, moving))
        assert labels == [None]
        check_reached(reach(secured, moving))
    assert not other.ways
    assert not [event for event in other.told if isinstance(event, events.WrongCode)]


@pytest.mark.usefixtures("_soon")
def test_a_name_that_moves_between_two_cuts_is_found(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    KnownMachines().add("me", Identity.mine().public)
    home = Place()
    try:
        announced(monkeypatch, home.address)
        secured = aimed("@me")
        check_reached(reach(secured, home))
        home.move()
        announced(monkeypatch, places[0].address, home.address)
        for _ in range(2):
            assert isinstance(reach(secured), BrokenError)
        check_reached(reach(secured, places[0], home))
    finally:
        home.close()


@pytest.mark.usefixtures("_soon")
def test_an_interface_that_has_gone_ends_no_transfer(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come back, as a Wi-Fi does; until then nobody can be asked there."""
    moving = places[0]
    announced(monkeypatch, moving.address)
    secured = aimed(str(moving.code), interfaces=["enchufe-none"])
    check_reached(reach(secured, moving))
    monkeypatch.undo()
    moving.move()
    for _ in range(4):
        assert isinstance(reach(secured), BrokenError)


@pytest.mark.usefixtures("_soon")
def test_whoever_says_nothing_does_not_keep_us_from_the_others(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "_ENTER_AGAIN", 0.2)
    moving = places[0]
    announced(monkeypatch, moving.address)
    secured = aimed(str(moving.code))
    check_reached(reach(secured, moving))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        moving.move()
        announced(monkeypatch, f"127.0.0.1:{mute.getsockname()[1]}", moving.address)
        for _ in range(2):
            assert isinstance(reach(secured), BrokenError)
        check_reached(reach(secured, moving))
        monkeypatch.setattr(reaching, "_ELSEWHERE", 0.1)
        moving.move()
        announced(monkeypatch, *[f"127.0.0.1:{mute.getsockname()[1]}"] * 9)
        began = WAITER.now()
        for _ in range(4):
            assert isinstance(reach(secured), BrokenError)
        assert WAITER.now() < began + 1.5  # and not nine times 0.2 s, twice


def test_nobody_else_is_asked_before_it_could_be_back(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    moving = places[0]
    announced(monkeypatch, moving.address)
    secured = aimed(str(moving.code))
    check_reached(reach(secured, moving))
    moving.move()
    labels = announced(monkeypatch)
    for _ in range(4):  # which are refused at once
        assert isinstance(reach(secured), BrokenError)
    assert labels == []


def test_an_address_that_was_named_is_the_only_one(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    place = places[0]
    labels = announced(monkeypatch)
    secured = aimed(str(place.code), where=place.address)
    check_reached(reach(secured, place))
    place.move()
    for _ in range(4):
        assert isinstance(reach(secured), BrokenError)
    assert labels == []


def test_three_announcers_at_the_most_hear_a_code(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    right = Place()
    try:
        announced(monkeypatch, *(place.address for place in places), right.address)
        assert isinstance(reach(aimed(str(right.code)), *places), WrongCode)
        announced(monkeypatch, *(place.address for place in places[:2]), right.address)
        check_reached(reach(aimed(str(right.code)), *places[:2], right))
    finally:
        right.close()


def test_who_announces_and_says_nothing_has_no_more_time_than_a_listener_gives(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One search tells of 32, and any of them may be as mute."""
    monkeypatch.setattr(reaching, "_ENTER", 0.2)
    right = places[0]
    began = WAITER.now()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        announced(monkeypatch, f"127.0.0.1:{mute.getsockname()[1]}", right.address)
        check_reached(reach(aimed(str(right.code)), right))
    assert WAITER.now() < began + PATIENCE


def test_a_refusal_says_more_than_that_nobody_answered(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    for addresses in ((NOBODY, places[0].address), (places[0].address, NOBODY)):
        announced(monkeypatch, *addresses)
        assert isinstance(reach(aimed(CODE), places[0]), Denial)


def test_nobody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    announced(monkeypatch)
    error = reach(aimed(CODE))
    assert isinstance(error, BrokenError)
    assert "--to host:port" in error.hint


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(LocalProtocolError, match="no machine is known as 'casa'"):
        aimed("@casa")


def test_a_name_is_tried_where_it_was_and_then_with_all(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other is another machine; only the right one says who it is."""
    KnownMachines().add("me", Identity.mine().public)
    home = Place()  # of the only machine that has a key here
    try:
        KnownMachines().add("casa", Identity.mine().public, NOBODY)
        labels = announced(monkeypatch, *(place.address for place in places), home.address)
        check_reached(reach(aimed("@me"), *places, home))
        assert labels == [None]
        announced(monkeypatch, *(place.address for place in places))
        assert isinstance(reach(aimed("@me"), *places), AnotherMachine)
    finally:
        home.close()


def test_a_changed_key_ends_the_search(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is asked next would be asked by somebody who was just deceived."""
    place = Place(remember=True)
    try:
        announced(monkeypatch, place.address, places[0].address)

        def changed(admitted: Admitted, *_more: object, **_how: object) -> None:
            raise ChangedKey("casa")

        monkeypatch.setattr(reaching, "meet", changed)
        assert isinstance(reach(aimed(str(place.code), remember=True), place), ChangedKey)
    finally:
        place.close()


def test_nobody_is_asked_where_nobody_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enchufe.reaching.find", never)
    with pytest.raises(LocalProtocolError, match="nobody may be asked"):
        aimed("7-abandon-ability-able", search=False)


def test_a_link_may_be_the_answer_to_the_question_for_the_code(places: list[Place]) -> None:
    place = places[0]
    link = place.codes[0].link
    reached = reach(aimed(place.address, code=lambda: link), place)
    assert isinstance(reached, Reached)
    reached.transport.close()


@pytest.mark.parametrize("text", [CODE, "@ana"])
def test_no_files_go_where_only_messages_do(text: str) -> None:
    KnownMachines().add("ana", Key().public)
    with pytest.raises(LocalProtocolError, match="files do not go through shared memory"):
        aimed(text, where="shm:/tmp/nobody")

"""What is told and kept of whoever was let in: by which way in, and where both, one or nobody wants to remember."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from enchufe import events
from enchufe.access import Admitted, Introduction
from enchufe.access.identity import Identity
from enchufe.access.known import ChangedKey, KnownMachines
from enchufe.access.messages import NAME_SIZE
from enchufe.acquaintance import acquaint, introduction, meet
from enchufe.errors import StoreError
from tests.access.meeting import CERTIFICATE, House, Key, Place, close

ADDRESS = "192.0.2.7:4000"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "enchufe"


@contextmanager
def met(way: str, *, introductions: bool = True) -> Iterator[tuple[House, Admitted, Admitted]]:
    """A dialer and a listener who have met over TLS, as each was left by access."""
    house = House(introductions=introductions)
    with Place(CERTIFICATE) as place:
        near, far = house.meet(place, house.proof(place, way))
        assert isinstance(near, Admitted), near
        assert isinstance(far, Admitted), far
        try:
            yield house, near, far
        finally:
            close(near, far)


def told(admitted: Admitted, address: str | None, *, remember: bool) -> list[events.Event]:
    """What is told while we get to know whoever that is, who goes on with us."""
    found: list[events.Event] = []
    meet(admitted, remember=remember, on_event=found.append)
    acquaint(admitted, address, remember=remember, on_event=found.append)
    return found


def test_a_machine_introduces_itself_by_the_key_that_it_keeps(state: Path) -> None:
    assert not state.exists()
    first, again = introduction(), introduction()
    assert first.identity.public == again.identity.public == Identity.mine().public
    assert first.name == again.name == os.uname().nodename[:NAME_SIZE]


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("", "machine"),
        ("x" * 200, "x" * NAME_SIZE),
        ("x" + "ñ" * 200, "x" + "ñ" * ((NAME_SIZE - 1) // 2)),
        ("caf\udce9", "caf"),  # of bytes that are no UTF-8, as Python's socket module gives them
        ("\udcff", "machine"),
    ],
)
def test_whatever_a_machine_is_called_its_name_fits(called: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: called)
    assert introduction().name == name


def test_a_key_that_cannot_be_read_is_told(state: Path) -> None:
    introduction()
    (state / "identity.key").chmod(0o644)
    with pytest.raises(StoreError, match="open to others"):
        introduction()


def test_by_code_both_pin_who_wants_it() -> None:
    with met("code") as (house, near, far):
        assert told(near, ADDRESS, remember=True) == [events.Paired("code", None), events.Remembered("house")]
        assert told(far, None, remember=True) == [events.Paired("code", None), events.Remembered("nandu")]
    listener, dialer = KnownMachines().all()
    assert (listener.name, listener.public, listener.addresses) == ("house", house.key.public, (ADDRESS,))
    assert (dialer.name, dialer.public, dialer.addresses) == ("nandu", house.guest.public, ())


def test_nobody_is_pinned_by_who_did_not_ask_for_it() -> None:
    with met("code") as (_, near, far):
        for admitted in (near, far):
            assert told(admitted, ADDRESS, remember=False) == [events.Paired("code", None)]
    assert KnownMachines().all() == []


def test_nobody_is_pinned_who_did_not_introduce_himself() -> None:
    with met("code", introductions=False) as (_, near, far):
        for admitted in (near, far):
            assert told(admitted, ADDRESS, remember=True) == [events.Paired("code", None), events.Remembered(None)]
    assert KnownMachines().all() == []


@pytest.mark.parametrize("remember", [False, True])
def test_by_key_it_is_noted_where_a_known_machine_listens(remember: bool) -> None:
    with met("key") as (house, near, _):
        KnownMachines().add("desk", house.key.public, "192.0.2.1:1")
        assert told(replace(near, name="desk"), ADDRESS, remember=remember) == [events.Paired("key", "desk")]
    (machine,) = KnownMachines().all()
    assert (machine.name, machine.addresses) == ("desk", (ADDRESS, "192.0.2.1:1"))


def test_of_a_known_machine_that_dialed_it_is_noted_when_and_not_from_where() -> None:
    with met("key") as (house, _, far):
        KnownMachines(now=lambda: 1000.0).add("laptop", house.guest.public, "192.0.2.1:1")
        assert told(far, None, remember=True) == [events.Paired("key", "laptop")]
    (machine,) = KnownMachines().all()
    assert (machine.added, machine.addresses) == (1000, ("192.0.2.1:1",))
    assert machine.met > 1000


def test_nobody_is_pinned_before_he_goes_on_with_us() -> None:
    with met("code") as (_, near, far):
        for admitted in (near, far):
            found: list[events.Event] = []
            meet(admitted, remember=True, on_event=found.append)
            assert found == [events.Paired("code", None)]
    assert KnownMachines().all() == []


def test_whoever_may_not_write_it_down_goes_on_by_key(state: Path) -> None:
    """As a receiver that confines itself may not; to remember by code is asked for, and fails."""
    state.mkdir(parents=True)
    state.chmod(0o755)
    with met("key") as (_, near, _):
        assert told(replace(near, name="desk"), ADDRESS, remember=True) == [events.Paired("key", "desk")]
    with met("code") as (_, near, _), pytest.raises(StoreError, match="open to others"):
        told(near, ADDRESS, remember=True)


@pytest.mark.parametrize("remember", [False, True])
def test_a_token_tells_nothing_of_a_machine(remember: bool) -> None:
    before = KnownMachines().add("scanner", Key().public)
    with met("token") as (_, near, far):
        assert told(near, ADDRESS, remember=remember) == [events.Paired("token", None)]
        assert told(far, ADDRESS, remember=remember) == [events.Paired("token", "scanner")]
    assert KnownMachines().all() == [before]


def test_after_a_cut_nothing_is_told_again() -> None:
    with met("again") as (_, near, far):
        assert told(near, ADDRESS, remember=True) == []
        assert told(far, None, remember=True) == []
    assert KnownMachines().all() == []


def test_another_key_behind_a_known_name_stops_it() -> None:
    before = KnownMachines().add("house", Key().public, "192.0.2.1:1")
    with met("code") as (_, near, _):
        found: list[events.Event] = []
        with pytest.raises(ChangedKey, match="house"):
            meet(near, remember=True, on_event=found.append)
        with pytest.raises(ChangedKey, match="house"):
            acquaint(near, ADDRESS, remember=True, on_event=found.append)
    assert found == [events.Paired("code", None)]
    assert KnownMachines().all() == [before]


def test_what_a_machine_says_of_itself_is_what_the_other_pins() -> None:
    """The two halves together: an introduction, and the acquaintance that is made by it."""
    mine = introduction()
    house = House()
    house.introduction = Introduction(mine.identity, mine.name)
    with Place(CERTIFICATE) as place:
        near, far = house.meet(place, house.proof(place, "code"))
        assert isinstance(far, Admitted), far
        (_, remembered) = told(far, None, remember=True)
        close(near, far)
    assert isinstance(remembered, events.Remembered)
    assert KnownMachines().name_of(Identity.mine().public) == remembered.name

"""Two machines know each other, or neither knows the other; and of those that do it is noted when they met."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from enchufe.access.known import KnownMachines
from enchufe.access.state import Folder
from tests.access.meeting import Key
from tests.secured.people import HERE, Person

REMEMBERING = (*HERE, "--remember")


def machines_of(person: Person, now: float = 1000.0) -> KnownMachines:
    return KnownMachines(Folder(str(person.state / "enchufe")), now=lambda: now)


@pytest.mark.parametrize("stops", ["listener", "dialer"])
def test_neither_is_pinned_where_one_stops(people: tuple[Person, Person], file: Path, stops: str) -> None:
    """It has met another machine of that name; and the other one is told of no acquaintance."""
    ana, blas = people
    machines_of(ana if stops == "listener" else blas).add(socket.gethostname(), Key().public)
    sender = ana.send(file, options=REMEMBERING)
    receiver = blas.receive(sender.address, "--remember", code=sender.code())
    assert receiver.end() == 3
    if stops == "listener":
        assert sender.end() == 3
        assert "by another key" in receiver.error["message"]
    else:
        sender.code(2)
        assert "before the transfer began" in sender.error["message"]  # or nobody there would know why
    assert not sender.named("remembered")
    assert not receiver.named("remembered")
    assert (blas if stops == "listener" else ana).known() == []


@pytest.mark.parametrize("cannot", ["listener", "dialer"])
def test_neither_is_pinned_where_one_cannot_write_it_down(
    people: tuple[Person, Person], file: Path, cannot: str
) -> None:
    ana, blas = people
    hindered = ana if cannot == "listener" else blas
    assert hindered.do("peers", "show").returncode == 0  # which makes its key
    (hindered.state / "enchufe" / "peers.json.new").mkdir()
    sender = ana.send(file, options=REMEMBERING)
    receiver = blas.receive(sender.address, "--remember", code=sender.code())
    if cannot == "listener":
        assert (sender.end(), receiver.end()) == (6, 3)
        assert "peers.json" in sender.error["message"]
    else:
        assert receiver.end() == 6
        assert "peers.json" in receiver.error["message"]
        sender.code(2)
    assert not sender.named("remembered")
    assert not receiver.named("remembered")
    assert (ana.known(), blas.known()) == ([], [])


def test_both_note_when_they_met(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    sender = ana.send(file, options=REMEMBERING)
    address = sender.address
    assert blas.receive(address, "--remember", code=sender.code()).end() == 0
    assert sender.end() == 0
    for person in people:
        (machine,) = machines_of(person).all()
        machines_of(person).met(machine.name)
        assert machines_of(person).all()[0].met == 1000
    receiver = ana.receive("--listen", address, "--no-announce", "--remember")
    receiver.code()
    sender = blas.send(file, options=("--to", f"@{machine.name}"))
    assert (sender.end(), receiver.end()) == (0, 0)
    for person in people:
        assert machines_of(person).all()[0].met > 1000

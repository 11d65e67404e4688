"""The dataclasses of the project behave as the standard ones, but for what their file says."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import field, replace

import pytest

from enchufe.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A frozen one."""

    host: str
    port: int = 7
    secret: bytes = field(default=b"", repr=False)
    seen: int = field(default=0, compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Standard:
    """The same, by the standard library."""

    host: str
    port: int = 7
    secret: bytes = field(default=b"", repr=False)
    seen: int = field(default=0, compare=False)


@dataclass(slots=True, kw_only=True)
class Tally:
    """One that changes."""

    count: int
    names: list[str] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Guest:
    """One that equals itself only."""

    name: str

    def __repr__(self) -> str:
        return "somebody"


class Sub(Place):
    """Another class."""

    __slots__ = ()


def test_equal_where_all_that_is_compared_is() -> None:
    one = Place("here", 8, seen=1)
    assert one == Place("here", 8, seen=2)
    assert hash(one) == hash(Place("here", 8, seen=2))
    assert one != Place("here", 9)
    assert one != Place("here", 8, b"other")
    assert one != Sub("here", 8)
    assert one != object()


def test_shown_as_the_standard_ones() -> None:
    assert repr(Place("here", secret=b"no")) == repr(Standard("here", secret=b"no")).replace("Standard", "Place")


def test_one_that_changes_has_no_hash() -> None:
    tally = Tally(count=1)
    tally.count += 1
    assert tally == Tally(count=2)
    assert Tally(count=2).names is not tally.names
    with pytest.raises(TypeError):
        hash(tally)


def test_what_a_class_says_itself_stays() -> None:
    guest = Guest("ana")
    assert repr(guest) == "somebody"
    assert guest != Guest("ana")
    assert len({guest, Guest("ana")}) == 2


def test_no_attribute_beside_the_fields() -> None:
    with pytest.raises(AttributeError):
        Place("here").other = 1  # type: ignore[attr-defined]


def test_replaced_copied_pickled() -> None:
    place = Place("here", secret=b"s")
    assert replace(place, port=9) == Place("here", 9, b"s")
    assert copy.copy(place) == place
    assert pickle.loads(pickle.dumps(place)) == place
    match place:
        case Place(host, port):
            assert (host, port) == ("here", 7)

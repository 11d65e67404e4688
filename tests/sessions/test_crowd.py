"""Who of those at the door is dropped: too many from one address, some of a flood; never a stream of what goes on."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from enchufe.session.crowd import Crowd, Place, network_of
from enchufe.transfer.messages import STREAMS

MOST = 64


def crowd(most: int = MOST, draw: float | None = 0.0) -> Crowd:
    """One whose chance is always the same; None: a seeded one."""
    return Crowd(most, 0.0, random.Random(1).random if draw is None else lambda: draw)


def fill(made: Crowd, count: int, start: int = 1) -> list[Place | None]:
    """Some from addresses of their own."""
    return [made.enter(f"10.0.{start}.{number}:1") for number in range(count)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("127.0.0.1:1", "127.0.0.1:2", True),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("[::ffff:127.0.0.1]:5", "127.0.0.1:6", True),
        ("[2001:db8:1:2::1]:1", "[2001:db8:1:2:ffff::9]:1", True),
        ("[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", False),
        ("[fe80::1%eth0]:1", "[fe80::2%eth1]:1", True),
        ("[::1]:1", "127.0.0.1:1", False),
    ],
)
def test_networks(one: str, other: str, same: bool) -> None:
    assert network_of(one)
    assert (network_of(one) == network_of(other)) == same


@pytest.mark.parametrize("peer", ["unix:", "unix:/run/x", "unix:#1", "", "shm:#2", "unix:10.0.0.1:5"])
def test_who_has_no_address(peer: str) -> None:
    assert network_of(peer) == b""


def test_one_address_never_has_all_places() -> None:
    made = crowd(draw=0.999)
    assert [made.enter("10.0.0.1:1") is not None for _ in range(30)] == [True] * 16 + [False] * 14
    assert made.enter("10.0.0.2:1") is not None


@pytest.mark.parametrize("most", [2, 3, 4, 7])
def test_one_address_never_has_all_of_few_places(most: int) -> None:
    made = crowd(most, draw=0.999999)
    assert [made.enter("10.0.0.1:1") is not None for _ in range(3)] == [True, False, False]
    assert made.enter("10.0.0.2:1") is not None


def test_without_addresses_only_the_whole_counts() -> None:
    made = crowd(draw=0.999)
    assert sum(made.enter("unix:") is not None for _ in range(100)) == MOST


def test_a_place_is_given_back() -> None:
    made = crowd()
    places = [made.enter("10.0.0.1:1") for _ in range(16)]
    assert made.enter("10.0.0.1:1") is None
    assert places[0] is not None
    made.leave(places[0])
    assert made.enter("10.0.0.1:1") is not None
    assert made.enter("10.0.0.1:1") is None


def test_nobody_is_dropped_before_the_start() -> None:
    made = crowd(draw=0.0)  # who can be unlucky is
    assert all(fill(made, MOST // 2))
    assert made.enter("10.1.0.1:1") is None


def test_the_last_place_is_nobodys_for_sure() -> None:
    made = crowd(draw=0.999999)  # nobody is ever unlucky before it is full
    assert all(fill(made, MOST))
    assert made.enter("10.1.0.1:1") is None


def test_more_are_dropped_the_fewer_places_are_left() -> None:
    """As sshd: the rate at the start, all at the end, in a straight line between."""
    shares = []
    for here in (32, 40, 48, 56, 63):
        dropped = 0
        for number in range(1000):
            made = crowd(draw=(number + 0.5) / 1000)
            made._start = MOST
            fill(made, here)
            made._start = MOST // 2
            dropped += made.enter("10.1.0.1:1") is None
        shares.append(dropped / 1000)
    assert shares == [0.3, 0.475, 0.65, 0.825, 0.978]


def test_whoever_tries_again_comes_in_while_a_flood_holds_its_places() -> None:
    """Those that hold on hold fewer than all: chance keeps some places free, and they do not last for ever."""
    made = crowd(draw=None)
    held: list[Place] = []
    came = Counter[bool]()
    for number in range(4000):
        place = made.enter(f"10.{number % 50}.0.1:1")
        if place is not None:
            held.append(place)
        if number % 4 == 0 and held:
            made.leave(held.pop(0))  # at its deadline
        if number % 20 == 0:
            place = made.enter("192.168.0.7:1")
            came[place is not None] += 1
            if place is not None:
                made.leave(place)
    assert came[True] > came.total() / 20


def test_streams_of_what_goes_on_have_places_of_their_own() -> None:
    made = crowd(draw=0.999999)
    fill(made, MOST)
    assert made.enter("192.168.0.7:1") is None
    made.expect("192.168.0.7:99")
    streams = [made.enter(f"192.168.0.7:{port}") for port in range(STREAMS)]
    assert all(streams)
    assert made.enter("192.168.0.7:1") is None  # all others are full
    assert made.enter("10.0.0.1:1") is None
    assert streams[0] is not None
    made.leave(streams[0])
    assert made.enter("192.168.0.7:1") is not None
    assert made.enter("192.168.0.7:1") is None
    made.expect(None)
    assert made.enter("192.168.0.7:1") is None


def test_streams_take_nobodys_place() -> None:
    made = crowd(draw=0.0)
    made.expect("192.168.0.7:99")
    assert all(made.enter("192.168.0.7:1") for _ in range(STREAMS))
    assert all(fill(made, MOST // 2))


def test_where_there_are_few_places_streams_have_no_more_of_their_own() -> None:
    made = crowd(3)
    made.expect("192.168.0.7:99")
    places = [made.enter("192.168.0.7:1") for _ in range(STREAMS)]
    assert sum(place is not None and place.expected for place in places) == 3


@pytest.mark.parametrize("most", [1, 2, 3, 4, 16])
def test_with_few_places(most: int) -> None:
    made = crowd(most, draw=0.999999)
    places = fill(made, 40)
    assert sum(place is not None for place in places) == most
    for place in places:
        if place is not None:
            made.leave(place)
    assert made.enter("10.0.0.1:1") is not None


def test_a_burst_waits_for_nothing_and_a_flood_does() -> None:
    made = crowd()
    assert [made.pause(0.0) for _ in range(200)] == [0.0] * 200
    now = came = 0.0
    while now < 10.0:
        now += made.pause(now) + 1e-5
        came += 1
    assert 4900 < came < 5300
    assert made.pause(now + 60) == 0.0


def test_who_says_something_is_heard_in_turn_and_streams_of_what_goes_on_at_once() -> None:
    made = crowd()
    made.expect("10.0.0.9:1")
    stranger, stream = made.enter("10.0.0.1:1"), made.enter("10.0.0.9:2")
    assert stranger is not None
    assert stream is not None
    assert [made.turn(stranger, 0.0) for _ in range(64)] == [0.0] * 64
    pause = made.turn(stranger, 0.0)
    assert pause > 0
    assert made.turn(stream, 0.0) == 0.0
    assert made.turn(stranger, pause) == 0.0
    now = pause
    heard = 0
    while now < 10.0:
        wait = made.turn(stranger, now)
        heard += not wait
        now += wait
    assert 450 < heard < 550

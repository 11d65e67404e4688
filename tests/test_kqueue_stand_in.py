"""The kqueue that our tests put in the place of macOS's: as kqueue(2) says, and as Python's own tests have it."""

from __future__ import annotations

import errno
import operator
import os
import select as real
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests import kqueue_stand_in

# On a machine that has the real one, what is said here has to hold for that.
select: Any = real if hasattr(real, "kqueue") else kqueue_stand_in.as_select()
READ, WRITE = select.KQ_FILTER_READ, select.KQ_FILTER_WRITE
ADD, DELETE = select.KQ_EV_ADD, select.KQ_EV_DELETE

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def queue() -> Iterator[Any]:
    with closing(select.kqueue()) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[Pair]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


def told(events: Any) -> set[tuple[int, int]]:
    assert not any(event.flags & select.KQ_EV_ERROR for event in events)
    return {(event.ident, event.filter) for event in events}


def test_an_event_has_what_it_was_made_of() -> None:
    with open(os.devnull, "wb") as file:
        event = select.kevent(file)
        assert (event.ident, event.filter, event.flags) == (file.fileno(), READ, ADD)
    assert (event.fflags, event.data, event.udata) == (0, 0, 0)
    event = select.kevent(1, 2, 3, 4, 5, 6)
    assert (event.ident, event.filter, event.flags) == (1, 2, 3)
    assert (event.fflags, event.data, event.udata) == (4, 5, 6)
    assert event == select.kevent(1, 2, 3, 4, 5, 6)
    assert event != select.kevent(1, 2, 3, 4, 5, 7)
    assert event < select.kevent(2) > select.kevent(1)
    orders: list[Any] = [operator.lt, operator.le, operator.gt, operator.ge]
    for compare in orders:
        with pytest.raises(TypeError):
            compare(event, None)


def test_one_that_is_closed_does_nothing_more(queue: Any) -> None:
    assert queue.fileno() > 0
    assert not os.get_inheritable(queue.fileno())
    assert not queue.closed
    queue.close()
    queue.close()
    assert queue.closed
    for call in (queue.fileno, lambda: queue.control(None, 4)):
        with pytest.raises(ValueError, match="closed kqueue"):
            call()


def test_arguments_that_make_no_sense_are_refused(queue: Any, pair: Pair) -> None:
    with pytest.raises(ValueError, match="-1"):
        queue.control(None, -1)
    with pytest.raises(ValueError, match="timeout"):
        queue.control(None, 1, -1)
    with pytest.raises(TypeError):
        queue.control([pair[0]], 0)
    with pytest.raises(OSError, match="Invalid argument"):
        queue.control([select.kevent(pair[0], 1234)], 0)


def test_reading_and_writing_are_told_apart(queue: Any, pair: Pair) -> None:
    here, there = pair
    h, t = here.fileno(), there.fileno()
    changes = [select.kevent(end, kind, ADD) for end in pair for kind in (READ, WRITE)]
    assert told(queue.control(changes, 4, 0)) == {(h, WRITE), (t, WRITE)}
    here.send(b"hola")
    there.send(b"adios")
    assert told(queue.control(None, 4, 0)) == {(h, WRITE), (t, WRITE), (h, READ), (t, READ)}
    gone = [select.kevent(here, WRITE, DELETE), select.kevent(here, READ, DELETE), select.kevent(there, READ, DELETE)]
    assert queue.control(gone, 0) == []
    assert told(queue.control([], 4, 0)) == {(t, WRITE)}


def test_changes_are_made_before_events_are_told(queue: Any, pair: Pair) -> None:
    here, there = pair
    there.send(b"foo")
    (event,) = queue.control([select.kevent(here, READ, ADD), select.kevent(there, READ, ADD)], 1, 1)
    assert here.recv(event.data) == b"foo"


@pytest.mark.parametrize("kind", [list, tuple, iter])
def test_changes_come_in_whatever_can_be_iterated_over(queue: Any, pair: Pair, kind: Any) -> None:
    assert queue.control(kind([select.kevent(pair[0], WRITE)]), 0) == []
    assert told(queue.control(None, 1, 0)) == {(pair[0].fileno(), WRITE)}


def test_no_more_events_are_told_than_there_is_room_for_and_none_starves(queue: Any) -> None:
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(3)]
        for here, there in pairs:
            stack.enter_context(here)
            stack.enter_context(there).send(b"x")
        queue.control([select.kevent(here, kind) for here, _ in pairs for kind in (READ, WRITE)], 0)
        rounds = [queue.control(None, 2, 0) for _ in range(30)]
        assert all(len(events) == 2 for events in rounds)
        everything = {(here.fileno(), kind) for here, _ in pairs for kind in (READ, WRITE)}
        assert set().union(*map(told, rounds)) == everything


def test_without_room_for_events_it_never_waits(queue: Any) -> None:
    assert queue.control(None, 0) == []
    assert queue.control(None, 0, 3600) == []


def test_it_waits_until_something_is_ready_or_the_time_is_over(queue: Any, pair: Pair) -> None:
    here, there = pair
    queue.control([select.kevent(here, READ)], 0)
    assert queue.control(None, 1, 0) == queue.control(None, 1, 0.01) == []
    sending = threading.Timer(0.05, there.send, [b"x"])
    sending.start()
    assert told(queue.control(None, 1)) == {(here.fileno(), READ)}
    sending.join()


def test_adding_again_changes_what_is_there(queue: Any, pair: Pair) -> None:
    queue.control([select.kevent(pair[0], WRITE, ADD, udata=1), select.kevent(pair[0], WRITE, ADD, udata=2)], 0)
    (event,) = queue.control(None, 4, 0)
    assert event.udata == 2
    queue.control([select.kevent(pair[0], WRITE, DELETE)], 0)
    assert queue.control(None, 4, 0) == []


def test_what_is_disabled_is_silent_until_it_is_enabled_or_added(queue: Any, pair: Pair) -> None:
    for again in (select.KQ_EV_ENABLE, ADD):
        queue.control([select.kevent(pair[0], WRITE, ADD), select.kevent(pair[0], WRITE, select.KQ_EV_DISABLE)], 0)
        assert queue.control(None, 1, 0) == []
        assert told(queue.control([select.kevent(pair[0], WRITE, again)], 1, 0)) == {(pair[0].fileno(), WRITE)}


def test_what_is_not_there_cannot_be_deleted_or_enabled(queue: Any, pair: Pair) -> None:
    queue.control([select.kevent(pair[0], READ)], 0)
    for flags in (DELETE, select.KQ_EV_ENABLE, select.KQ_EV_DISABLE):
        with pytest.raises(FileNotFoundError):
            queue.control([select.kevent(pair[0], WRITE, flags)], 0)


def test_a_descriptor_that_is_closed_is_told_as_such(queue: Any, pair: Pair) -> None:
    dead = os.dup(pair[0].fileno())
    os.close(dead)
    with pytest.raises(OSError, match="Bad file descriptor"):
        queue.control([select.kevent(dead, READ)], 0)


def test_a_change_that_fails_is_an_event_and_the_others_are_made(queue: Any, pair: Pair) -> None:
    changes = [select.kevent(pair[0], READ, DELETE, udata=7), select.kevent(pair[0], WRITE, ADD)]
    (failed,) = queue.control(changes, 2, 3600)
    assert (failed.ident, failed.filter, failed.data, failed.udata) == (pair[0].fileno(), READ, errno.ENOENT, 7)
    assert failed.flags & select.KQ_EV_ERROR
    assert told(queue.control(None, 2, 0)) == {(pair[0].fileno(), WRITE)}


def test_where_there_is_no_room_to_tell_it_the_changes_after_it_are_not_made(queue: Any, pair: Pair) -> None:
    with pytest.raises(FileNotFoundError):
        queue.control([select.kevent(pair[0], READ, DELETE), select.kevent(pair[0], WRITE, ADD)], 0)
    assert queue.control(None, 2, 0) == []


def test_what_is_closed_is_forgotten_though_a_copy_of_it_is_open(queue: Any, pair: Pair) -> None:
    here, there = pair
    there.send(b"x")
    copy = here.dup()
    with copy:
        queue.control([select.kevent(here, READ), select.kevent(there, WRITE)], 0)
        number = here.fileno()
        here.close()
        assert told(queue.control(None, 4, 0)) == {(there.fileno(), WRITE)}
        os.dup2(copy.fileno(), number)  # another one of the same number
        try:
            with pytest.raises(FileNotFoundError):
                queue.control([select.kevent(number, READ, DELETE)], 0)
            queue.control([select.kevent(number, READ)], 0)
            assert told(queue.control(None, 4, 0)) == {(there.fileno(), WRITE), (number, READ)}
        finally:
            os.close(number)


def test_the_end_is_told_with_what_is_left_to_read_and_afterwards(queue: Any, pair: Pair) -> None:
    here, there = pair
    there.send(b"last")
    there.shutdown(socket.SHUT_WR)
    queue.control([select.kevent(here, READ), select.kevent(here, WRITE)], 0)
    for left in (4, 0):
        events = {event.filter: event for event in queue.control(None, 4, 0)}
        assert events[READ].flags & select.KQ_EV_EOF
        assert events[READ].data == left
        assert not events[WRITE].flags & select.KQ_EV_EOF
        assert here.recv(100) == b"last"[:left]


def test_the_end_is_told_to_who_would_write(queue: Any, pair: Pair) -> None:
    here, there = pair
    there.close()
    (event,) = queue.control([select.kevent(here, WRITE)], 4, 0)
    assert event.flags & select.KQ_EV_EOF


def test_it_is_told_while_it_is_so_or_once_for_each_change_or_once(queue: Any, pair: Pair) -> None:
    here, there = pair
    it = {(here.fileno(), READ)}
    for flags, after_one, after_another in (
        (0, it, it),
        (select.KQ_EV_CLEAR, set(), it),
        (select.KQ_EV_ONESHOT, set(), set()),
    ):
        queue.control([select.kevent(here, READ, ADD | flags)], 0)
        there.send(b"x")
        assert told(queue.control(None, 4, 0)) == it
        assert told(queue.control(None, 4, 0)) == after_one
        there.send(b"x")
        assert told(queue.control(None, 4, 0)) == after_another
        assert here.recv(100) == b"xx"
        if flags != select.KQ_EV_ONESHOT:
            queue.control([select.kevent(here, READ, DELETE)], 0)
    with pytest.raises(FileNotFoundError):
        queue.control([select.kevent(here, READ, DELETE)], 0)


def test_it_can_be_watched_itself(queue: Any, pair: Pair) -> None:
    here, there = pair
    queue.control([select.kevent(here, READ)], 0)
    for _ in range(2):
        assert real.select([queue], [], [], 0) == ([], [], [])
        there.send(b"x")
        assert real.select([queue], [], [], 1) == ([queue], [], [])
        here.recv(1)


FORKED = """
import os
from tests.test_kqueue_stand_in import select
queue = select.kqueue()
number = queue.fileno()
child = os.fork()
if not child:
    try:
        os.fstat(number)
    except OSError:
        os._exit(0)
    os._exit(1)
assert os.waitpid(child, 0)[1] == 0
assert queue.control(None, 1, 0) == []
"""


def test_a_child_does_not_have_it() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)

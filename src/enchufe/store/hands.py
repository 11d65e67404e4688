"""Hands: processes that read and write small files for this one, where there are many of them.

For a small file Python does a few system calls and some bookkeeping, and all its threads have one interpreter between
them. So the system calls, which are more than half of it, go to processes of their own (hand.py), many files at a time
and their contents in memory that is shared. With 20,000 files of 1 to 16 KiB on four cores, both sides on one machine,
that takes 0.7 of the time (benchmarks/README.md).

They change nothing but speed: where there are none yet, or none to be had, whoever would use them does it all himself.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import mmap
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import blake3

from enchufe.entry import BLOCK_SIZE
from enchufe.errors import LocalProtocolError, StoreError
from enchufe.store import hand
from enchufe.store.folders import Folders
from enchufe.store.shared_folders import SharedFolders

# Tests turn them off to see that nothing depends on them, and have them from the first file on.
use_hands = True
# Small files that are known of, or done, when some are taken on: each costs a fiftieth of a second of a processor,
# once. Of 5,000 they take off a quarter of the time if nothing else runs (a sixth if they begin when 3,000 are done),
# and nothing if all processors are busy; 2,500 they make slower.
from_files = 3_000
# And have less of these, in seconds: for one file, which is a block at the most, however slow the disk is; and for what
# one is at when it is to end.
patience = 45.0
ending = 3.0

_COUNT: Final = 2  # a loop without any books gained nothing by more, on four processors
_SLOTS: Final = 6  # requests that are at work or wait for it, or whose content is on its way
_AHEAD: Final = 2  # requests to take files over: what it is at, and what comes next
_LOOK: Final = 1.0  # seconds between two looks at those that are waited for
_DYING: Final = 1.0  # seconds for one that was killed: a disk that is gone may keep it
_BLOCKED: Final = frozenset(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
)


class Slot:
    """Memory for the contents of one request.

    Attributes:
        start: where it begins in the memory that is shared.
        view: BLOCK_SIZE bytes.
    """

    __slots__ = ("start", "view")

    def __init__(self, start: int, view: memoryview) -> None:
        self.start = start
        self.view = view


class Places(Folders):
    """Stands in for the folders of a request: the descriptor of each is its place among those that go along.

    Args:
        each: in how many places each of them is.
    """

    def __init__(self, each: int = 1) -> None:
        super().__init__()
        self.ids: list[int] = []
        self._most = hand.FOLDERS // each
        self._known: dict[int, int] = {}

    def descriptor(self, id_: int) -> int:
        """Its place."""
        place = self._known.get(id_)
        if place is None:
            place = self._known[id_] = len(self.ids)
            self.ids.append(id_)
        return place

    @property
    def full(self) -> bool:
        """Whether no more may go along."""
        return len(self.ids) >= self._most


Answered = Callable[[Any], None]
"""Called with what a hand has answered; None: it is gone, and nobody knows what of it was done."""


class _Hand:
    """One process, this end of the socket to it, and who waits for its answers, in order.

    Args:
        pulse: the byte that it changes with every file.

    Attributes:
        lost: whether nothing can be asked of it any more.
        stuck: whether that is so since it had not gone on for too long.
    """

    def __init__(self, pulse: memoryview) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(patience)  # to hear the rest of something
        with theirs:
            try:
                self._process = _spawn(theirs.fileno())
            except BaseException:
                ours.close()
                raise
        self.channel = ours
        self.asked: deque[Answered] = deque()
        self.lost = False
        self.stuck = False
        self._begun = False
        self._pulse = pulse
        self._seen = pulse[0]
        self._waited = 0.0  # seconds since it was seen to go on
        self._reaped = False

    def ask(self, request: Any, descriptors: Sequence[int], answered: Answered) -> None:
        """Have it do something; OSError where nothing was said."""
        data = marshal.dumps(request)
        memory = _memory_file()
        try:
            if os.write(memory, data) < len(data):
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            socket.send_fds(self.channel, [hand.SIZE.pack(len(data))], [*descriptors, memory])
        except OSError as error:  # it is gone, or too many descriptors of ours are on their way
            if isinstance(error, TimeoutError) or error.errno in (errno.EPIPE, errno.ECONNRESET):
                self.kill()
            raise
        finally:
            os.close(memory)
        if not self.asked:
            self._waited = 0.0
        self.asked.append(answered)

    def hear(self) -> None:
        """Take its next answer to who waits for it, as soon as it is there; one that is lost has none."""
        answer = None
        try:
            if not self.lost:
                answer = hand.answered(self.channel)
        except (EOFError, OSError):
            self.kill()
        self._begun = True
        self._waited = 0.0
        self.asked.popleft()(answer)

    def wait_on(self, seconds: float) -> None:
        """It was waited for so much longer; kill it where it has not gone on for too long."""
        if self.lost or not self.asked:
            return
        pulse = self._pulse[0]
        self._waited = self._waited + seconds if pulse == self._seen else 0.0
        self._seen = pulse
        if self._waited >= patience:
            self.stuck = True
            self.kill()

    def kill(self) -> None:
        """Whoever waits for its answers has none: it may be stopped, or wait for a disk that is gone."""
        self.give_up()
        if not self._is_gone():
            os.kill(self._process, signal.SIGKILL)

    def give_up(self) -> None:
        """Both ends know that there is no more, whoever else has them, having been forked off meanwhile."""
        self.lost = True
        with contextlib.suppress(OSError):  # it has ended
            self.channel.shutdown(socket.SHUT_RDWR)

    def dismiss(self) -> None:
        """Have it end after what it is at; where that is nothing, or it has not even begun, at once."""
        first = 0 if self._begun else 1  # which asks it to begin
        if len(self.asked) > first:
            self.give_up()
        else:
            self.kill()
        self.asked.clear()

    def end(self, until: float) -> None:
        """Wait for the end of one that was dismissed until then; longer it does not get."""
        try:
            self._wait(until)
        finally:
            self.kill()
            self.channel.close()
            self._wait(time.monotonic() + _DYING)

    def _wait(self, until: float) -> None:
        """Wait for its end until then; it takes a few milliseconds."""
        pause = 0.001
        while not self._is_gone() and (left := until - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(pause * 2, 0.05)

    def _is_gone(self) -> bool:
        """Whether it has ended; before this has said so no other process has its id."""
        if not self._reaped:
            try:
                self._reaped = os.waitpid(self._process, os.WNOHANG)[0] != 0
            except ChildProcessError:  # somebody else waits for all that this process has begun
                self._reaped = True
        return self._reaped


class Hands:
    """Some of them, and memory that they share with us. For one thread at a time.

    Args:
        count: how many.

    Attributes:
        on_begun: called when one of them is there, or never will be.

    Raises:
        OSError: this process may start none, or has no memory or descriptors left.
    """

    def __init__(self, count: int) -> None:
        room = _SLOTS * BLOCK_SIZE
        size = room + count  # with a byte for the pulse of each
        self._hands: list[_Hand] = []
        self._slots: list[Slot] = []
        self._ready = False
        self.on_begun: Callable[[], None] = lambda: None
        self._looked = time.monotonic()
        memory = _memory_file()
        try:
            os.ftruncate(memory, size)
            shared = memoryview(mmap.mmap(memory, size))
            for at in range(room, size):
                self._hands.append(_Hand(shared[at : at + 1]))
                self._hands[-1].ask((size, at), [memory], self._begun)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(memory)
        self._slots += [Slot(start, shared[start : start + BLOCK_SIZE]) for start in range(0, room, BLOCK_SIZE)]

    def _begun(self, answer: Any) -> None:
        self._ready = self._ready or answer is not None
        self.on_begun()

    @property
    def ready(self) -> bool:
        """Whether one of them is there: they take a moment to begin, and may be lost."""
        self.collect()
        return self._ready and not self.lost

    @property
    def lost(self) -> bool:
        """Whether all of them are gone, or were never there."""
        return all(one.lost for one in self._hands)

    def gone(self) -> StoreError:
        """What to raise where one of them is lost and what it was at cannot be done without it."""
        if any(one.stuck for one in self._hands):
            return StoreError(
                f"a process that writes small files for this one was stuck with one for {patience:g} s",
                hint="The disk does not answer, or something has stopped it. Try again: what has arrived is kept.",
            )
        return StoreError(
            "a process that writes small files for this one is gone",
            hint="Something has killed it, for want of memory perhaps. Try again: what has arrived is kept.",
        )

    @property
    def waited_for(self) -> list[socket.socket]:
        """What can be read from as soon as there may be something to collect."""
        return [one.channel for one in self._hands if one.asked]

    def slot(self) -> Slot:
        """Memory that nobody uses, to be given back; waits until there is some, and collects meanwhile."""
        while not self._slots:
            if not self.waited_for:
                raise LocalProtocolError("all memory is lent out, and nobody is at work who would give it back")
            self._hear_some(_LOOK)
        return self._slots.pop()

    def give_back(self, slot: Slot) -> None:
        """Its content is of no use any more."""
        self._slots.append(slot)

    def read(self, files: Sequence[hand.Read], places: Places, folders: SharedFolders, answered: Answered) -> None:
        """Have one read files, some time; `collect` tells of it, as `hand.main` says.

        Raises:
            OSError: a folder cannot be opened, or nobody be asked now: nothing is begun.
        """
        self._ask(("read", files), places, (folders,), (), answered)

    def write(
        self,
        files: Sequence[hand.Write],
        places: Places,
        folders: SharedFolders,
        paths: Sequence[bytes],
        journal: tuple[int, int],
        answered: Answered,
    ) -> None:
        """Have one write files, and tell the journal, at the place that is reserved there. As `read` else."""
        descriptor, where = journal
        self._ask(("write", files, paths, where), places, (folders,), (descriptor,), answered)

    def take(
        self,
        files: Sequence[hand.Take],
        places: Places,
        folders: Sequence[Folders],
        paths: Sequence[bytes],
        journal: tuple[int, int],
        answered: Answered,
    ) -> None:
        """Have the one that is `spare` take over files from where an attempt before has left them. As `write` else.

        Args:
            files: all that is to be known of them.
            places: what they are in.
            folders: where those are now, and where they were then.
            paths: of those.
            journal: as for `write`.
            answered: gets the places of files that are not taken over.
        """
        descriptor, where = journal
        able = self._alive[-1:]
        self._ask(("take", files, paths, where), places, folders, (descriptor,), answered, able)

    @property
    def spare(self) -> bool:
        """Whether the last of them, which alone takes files over so that the others are there for new ones, has time.

        So much is asked of it at once that it never waits for us, and no more: what it has not begun with costs
        descriptors, and would keep new files waiting where it is the only one.
        """
        return self._ready and any(len(one.asked) < _AHEAD for one in self._alive[-1:])

    @property
    def _alive(self) -> list[_Hand]:
        return [one for one in self._hands if not one.lost]

    def _ask(
        self,
        request: Any,
        places: Places,
        folders: Sequence[Folders],
        also: Sequence[int],
        answered: Answered,
        able: Sequence[_Hand] = (),
    ) -> None:
        descriptors: list[int] = []
        able = able or self._alive or self._hands
        try:
            for one in folders:
                for id_ in places.ids:
                    descriptors.append(one.dup(id_))
            min(able, key=lambda one: len(one.asked)).ask(request, [*descriptors, *also], answered)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def collect(self) -> None:
        """Call who waits for what they have answered; raises what those raise."""
        while self._hear_some(0):
            pass

    def _hear_some(self, timeout: float) -> bool:
        """Take an answer of each that has one, within so many seconds; whether there was any."""
        poll = select.poll()
        asked = {one.channel.fileno(): one for one in self._hands if one.asked}
        for descriptor in asked:
            poll.register(descriptor, select.POLLIN)
        there = poll.poll(timeout * 1000) if asked else []
        for descriptor, _ in there:
            asked[descriptor].hear()
        self._lose_stuck()
        return bool(there)

    def _lose_stuck(self) -> None:
        """Kill those that have not gone on for long.

        What counts is how often we looked: whoever stops this process for an hour stops them too.
        """
        now = time.monotonic()
        seconds, self._looked = min(now - self._looked, _LOOK), now
        for one in self._hands:
            one.wait_on(seconds)

    def close(self) -> None:
        """End them after what they are at, within a moment, and let go of the memory as nobody has a view of it."""
        self.on_begun = lambda: None  # whoever was to be called is not kept by it
        for one in self._hands:
            one.dismiss()
        until = time.monotonic() + ending
        while self._hands:
            self._hands.pop().end(until)
        self._slots.clear()


class Hiring:
    """Hands for one that reads or writes small files, from when they pay on. For one thread at a time.

    Attributes:
        hands: None before that, and where there are none to be had.
    """

    def __init__(self) -> None:
        self.hands: Hands | None = None
        self._expected = self._files = 0
        self._sought = False

    def expect(self, count: int, *, able: bool = True) -> None:
        """So many more files will come, most of them small: where they will pay they begin now, which takes a moment.

        Args:
            able: whether they could do what is to be done.
        """
        self._expected += count
        if able and not self._sought and self._expected >= from_files:
            self._begin()

    def with_files(self, count: int, *, able: bool = True) -> Hands | None:
        """So many more small files are to be read or written: those that are there for them, if they may by now.

        Args:
            able: whether they could do all that is to be done.
        """
        them = self.coming(count, able=able)
        return them if them is not None and them.ready else None

    def coming(self, count: int, *, able: bool = True) -> Hands | None:
        """As `with_files`, and those too that will be there in a moment, if they ever begin."""
        self._files += count
        if able and not self._sought and self._files >= from_files:
            self._begin()
        return self.hands

    def _begin(self) -> None:
        self._sought = True
        self.hands = begin(_COUNT)

    def close(self) -> None:
        """End them after what they are at."""
        if self.hands is not None:
            self.hands.close()


def begin(count: int) -> Hands | None:
    """So many hands, or as many as this machine has use for; None where there are none to be had."""
    try:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    except OSError:  # a sandbox that does not tell
        processors = 1
    count = min(count, processors - 1)
    # Another program that Python runs in would not be one.
    runs_python = os.path.basename(sys.executable or "").startswith("python") and os.path.isfile(hand.__file__)
    able = hasattr(os, "memfd_create") and hasattr(os, "posix_spawn")
    if not (use_hands and able and runs_python and count > 0):
        return None
    try:
        return Hands(count)
    except OSError:  # no processes, memory or descriptors left: they are for speed only
        return None


def _memory_file() -> int:
    """The descriptor of a file in memory that is empty."""
    assert hasattr(os, "memfd_create")  # or `begin` would have begun nothing
    descriptor: int = os.memfd_create("enchufe")
    return descriptor


def _spawn(channel: int) -> int:
    """Start one whose standard input is this socket; returns its id."""
    library = os.path.dirname(os.path.dirname(blake3.__file__))
    # Our own settings may hold a code, which is for us. Whoever signals all of us means this process: they end with it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENCHUFE_")}
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", hand.__file__, library, str(os.getpid())],
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, channel, 0)],
        setsigmask=_BLOCKED,
    )

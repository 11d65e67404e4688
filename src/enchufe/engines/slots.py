"""Who waits for which descriptor: the part of an event loop that is the same whoever runs the tasks.

A descriptor stays registered from its first wait until it is forgotten: a wait that finds it registered costs no system
call. What becomes ready while nobody waits for it is no longer watched, until somebody does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from enchufe.engines.pollers import Poller
from enchufe.errors import LocalProtocolError
from enchufe.waiting import READ, WRITE, Interest

W = TypeVar("W")


class Slot(Generic[W]):
    """One descriptor: who waits to read and to write there, and what the poller watches it for."""

    __slots__ = ("reader", "watched", "writer")

    def __init__(self) -> None:
        self.reader: W | None = None
        self.writer: W | None = None
        self.watched = 0


class Slots(Generic[W]):
    """All descriptors that a poller watches, and whoever waits for them.

    Args:
        poller: this owns it.
        resume: has somebody go on whose descriptor is ready; it was removed from there.
        waits: whether somebody still waits: one that was cancelled does not, and is removed only when it runs.
    """

    def __init__(
        self, poller: Poller, resume: Callable[[W], None], waits: Callable[[W], bool] = lambda _: True
    ) -> None:
        self.poller = poller
        self.by_descriptor: dict[int, Slot[W]] = {}
        self._resume = resume
        self._waits = waits

    def park(self, descriptor: int, interest: int, who: W) -> None:
        """Note that `who` waits there for one thing, READ or WRITE.

        Raises:
            LocalProtocolError: the descriptor is closed, cannot be watched, or another waits for the same.
        """
        slot = self.by_descriptor.get(descriptor)
        if slot is None:
            if descriptor < 0:
                raise LocalProtocolError("waiting for something that is closed")
            slot = self.by_descriptor[descriptor] = Slot()
        other = slot.reader if interest == READ else slot.writer
        if other is not None and other is not who and self._waits(other):
            raise LocalProtocolError(
                "two tasks wait for the same end of one connection", hint="One may receive while another sends."
            )
        if interest & ~slot.watched:
            self._watch(descriptor, slot, slot.watched | interest)
        if interest == READ:
            slot.reader = who
        else:
            slot.writer = who

    def unpark(self, interests: Iterable[Interest], who: W) -> None:
        """`who` waits for these no longer, as far as it still does."""
        for thing, interest in interests:
            slot = self.by_descriptor.get(thing.fileno())
            if slot is not None:
                if interest == READ and slot.reader is who:
                    slot.reader = None
                elif interest == WRITE and slot.writer is who:
                    slot.writer = None

    def parked(self, interests: Iterable[Interest], who: W) -> list[Interest]:
        """Those of `interests`, each READ or WRITE, that `who` still waits for."""
        found = []
        for thing, interest in interests:
            slot = self.by_descriptor.get(thing.fileno())
            if slot is not None and who is (slot.reader if interest == READ else slot.writer):
                found.append((thing, interest))
        return found

    def wake(self, descriptor: int) -> W | None:
        """Remove who waits for READ there, and return it."""
        slot = self.by_descriptor.get(descriptor)
        if slot is None:
            return None
        who, slot.reader = slot.reader, None
        return who

    def forget(self, descriptor: int) -> list[W]:
        """Watch it no longer, before it is closed: who waited for it."""
        slot = self.by_descriptor.pop(descriptor, None)
        if slot is None:
            return []
        if slot.watched:
            self.poller.watch(descriptor, 0, slot.watched)
        return [who for who in (slot.reader, slot.writer) if who is not None]

    def poll(self, timeout: float | None) -> None:
        """Wait for `timeout` seconds at the most (None: without end), and resume all whose descriptors are ready."""
        slots, poller, resume = self.by_descriptor, self.poller, self._resume
        readable, writable = poller.readable, poller.writable
        for descriptor, bits in poller.poll(timeout):
            slot = slots.get(descriptor)
            if slot is None:
                continue
            if not bits & writable and (who := slot.reader) is not None:  # what nearly all of them are
                slot.reader = None
                resume(who)
                continue
            # Where nobody waits it would be told again and again: watch it no longer. Before anybody goes on, who may
            # wait for just that next.
            idle = READ if bits & readable and slot.reader is None else 0
            if bits & writable and slot.writer is None:
                idle |= WRITE
            if idle & slot.watched:
                self._watch(descriptor, slot, slot.watched & ~idle)
            if bits & readable and (who := slot.reader) is not None:
                slot.reader = None
                resume(who)
            if bits & writable and (who := slot.writer) is not None:
                slot.writer = None
                resume(who)

    def _watch(self, descriptor: int, slot: Slot[W], interest: int) -> None:
        before, slot.watched = slot.watched, interest
        try:
            self.poller.watch(descriptor, interest, before)
        except LocalProtocolError:
            del self.by_descriptor[descriptor]
            raise


def apart(interests: Iterable[Interest]) -> list[Interest]:
    """`interests` with READ and WRITE of one thing told apart."""
    return [(thing, kind) for thing, wanted in interests for kind in (READ, WRITE) if wanted & kind]

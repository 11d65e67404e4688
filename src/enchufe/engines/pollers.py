"""Ways to ask the kernel which descriptors are ready: select, poll, epoll and kqueue behind one interface.

Each tells level by level: what is ready is told at every poll until it is read or written, or no longer watched. A
poller reports its kernel's own bits; whether they mean that reading or writing is worth a try is for `readable` and
`writable` to tell, since translating them would cost more than the rest of the loop.
"""

from __future__ import annotations

import errno
import os
import select
import sys
from typing import Final, Protocol

from enchufe.errors import LocalProtocolError
from enchufe.waiting import READ, WRITE, no_room


class Poller(Protocol):
    """What all of them do.

    Attributes:
        name: as the `poller` option has it.
        readable, writable: bits of which any says that READ or WRITE is worth a try; errors and hang-ups are both.
    """

    name: str
    readable: int
    writable: int

    def watch(self, descriptor: int, interest: int, before: int) -> None:
        """Watch for READ, WRITE, both or neither (0); `before` is what it was watched for until now.

        Raises:
            LocalProtocolError: the kernel cannot watch such a thing, or no more of them.
        """

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait for `timeout` seconds at the most (None: without end): the descriptors that are ready, and their bits.

        A descriptor that was closed without a word is told as ready for everything, or not at all; never again.
        """

    def close(self) -> None:
        """Give back what it holds; closing again does nothing."""


class SelectPoller:
    """select(): everywhere, and slow; descriptors up to 1023 on most systems."""

    name: Final = "select"
    readable: Final = READ
    writable: Final = WRITE

    def __init__(self) -> None:
        self._readers: set[int] = set()
        self._writers: set[int] = set()

    def watch(self, descriptor: int, interest: int, before: int) -> None:  # noqa: ARG002
        """As `Poller.watch`."""
        for wanted, watched in ((READ, self._readers), (WRITE, self._writers)):
            if interest & wanted:
                try:
                    select.select([descriptor], [], [], 0)
                except ValueError as error:
                    raise LocalProtocolError(
                        f"select cannot watch descriptor {descriptor}", hint="Use epoll or poll."
                    ) from error
                except OSError:
                    pass  # closed: the next poll finds it
                watched.add(descriptor)
            else:
                watched.discard(descriptor)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """As `Poller.poll`."""
        try:
            readers, writers, failed = select.select(self._readers, self._writers, self._writers, timeout)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return self._drop_dead()
        ready: dict[int, int] = dict.fromkeys(readers, READ)
        for descriptor in (*writers, *failed):
            ready[descriptor] = ready.get(descriptor, 0) | WRITE
        return list(ready.items())

    def _drop_dead(self) -> list[tuple[int, int]]:
        """One of them is dead, and select does not say which: ask for each alone, and go on without it."""
        dead = []
        for descriptor in self._readers | self._writers:
            try:
                select.select([descriptor], [], [], 0)
            except OSError:
                dead.append(descriptor)
        for descriptor in dead:
            self._readers.discard(descriptor)
            self._writers.discard(descriptor)
        return [(descriptor, READ | WRITE) for descriptor in dead]

    def close(self) -> None:
        """As `Poller.close`."""
        self._readers.clear()
        self._writers.clear()


if hasattr(select, "poll"):

    class PollPoller:
        """poll(): any descriptor, and a list of all of them crosses into the kernel each time."""

        name: Final = "poll"
        readable: Final = ~select.POLLOUT
        writable: Final = ~select.POLLIN

        def __init__(self) -> None:
            self._poll = select.poll()

        def watch(self, descriptor: int, interest: int, before: int) -> None:  # noqa: ARG002
            """As `Poller.watch`."""
            if interest:
                bits = (interest & READ and select.POLLIN) | (interest & WRITE and select.POLLOUT)
                self._poll.register(descriptor, bits)
            else:
                self._poll.unregister(descriptor)

        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            """As `Poller.poll`."""
            ready = self._poll.poll(None if timeout is None else min(int(timeout * 1000 + 0.999), 2**31 - 1))
            for descriptor, bits in ready:
                if bits & select.POLLNVAL:
                    self._poll.unregister(descriptor)
            return ready

        def close(self) -> None:
            """As `Poller.close`."""


if sys.platform != "darwin" and hasattr(select, "epoll"):

    class EpollPoller:
        """epoll: Linux; the kernel keeps the list, and a poll costs what is ready."""

        name: Final = "epoll"
        readable: Final = ~select.EPOLLOUT
        writable: Final = ~select.EPOLLIN

        def __init__(self) -> None:
            try:
                self._epoll = select.epoll()
            except OSError as error:
                raise no_room("no descriptor to poll by", error) from error

        def watch(self, descriptor: int, interest: int, before: int) -> None:
            """As `Poller.watch`."""
            bits = (interest & READ and select.EPOLLIN) | (interest & WRITE and select.EPOLLOUT)
            try:
                if not interest:
                    self._epoll.unregister(descriptor)
                elif before:
                    self._epoll.modify(descriptor, bits)
                else:
                    self._epoll.register(descriptor, bits)
            except OSError as error:
                if error.errno == errno.EPERM:
                    raise LocalProtocolError(
                        f"epoll cannot watch descriptor {descriptor}: it is a file, which is always ready"
                    ) from error
                if error.errno == errno.ENOSPC:
                    raise LocalProtocolError(
                        "epoll watches no more descriptors", hint="Raise fs.epoll.max_user_watches."
                    ) from error
                # Closed without a word, which the kernel has noticed.
                if error.errno not in (errno.EBADF, errno.ENOENT):
                    raise

        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            """As `Poller.poll`."""
            return self._epoll.poll(timeout)

        def close(self) -> None:
            """As `Poller.close`."""
            self._epoll.close()

        def fileno(self) -> int:
            """A descriptor that is readable while something is ready: this one can be watched by another loop."""
            return self._epoll.fileno()


if sys.platform != "linux" and hasattr(select, "kqueue"):
    _FILTERS: Final = ((READ, select.KQ_FILTER_READ), (WRITE, select.KQ_FILTER_WRITE))

    # What one poll tells at the most, since Python makes room for all of it every time; those that are left come first
    # at the next one.
    _AT_ONCE: Final = 256

    class KqueuePoller:
        """kqueue: macOS and the BSDs; as epoll there."""

        name: Final = "kqueue"
        readable: Final = READ
        writable: Final = WRITE

        def __init__(self) -> None:
            try:
                self._kqueue = select.kqueue()
            except OSError as error:
                raise no_room("no descriptor to poll by", error) from error

        def watch(self, descriptor: int, interest: int, before: int) -> None:
            """As `Poller.watch`."""
            changes = []
            for wanted, kind in _FILTERS:
                if interest & wanted:
                    changes.append(select.kevent(descriptor, kind, select.KQ_EV_ADD))
                elif before & wanted:
                    changes.append(select.kevent(descriptor, kind, select.KQ_EV_DELETE))
            # Where there is room to tell what failed, the changes after it are made too; what is ready is told again.
            for event in self._kqueue.control(changes, len(changes), 0):
                # Closed without a word, which the kernel has noticed: nothing is wrong.
                if event.flags & select.KQ_EV_ERROR and event.data not in (errno.EBADF, errno.ENOENT):
                    both = [select.kevent(descriptor, kind, select.KQ_EV_DELETE) for _, kind in _FILTERS]
                    self._kqueue.control(both, len(both), 0)  # what was added all the same, and nobody will take back
                    raise LocalProtocolError(f"kqueue cannot watch descriptor {descriptor}: {os.strerror(event.data)}")

        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            """As `Poller.poll`."""
            ready: dict[int, int] = {}
            for event in self._kqueue.control(None, _AT_ONCE, timeout):
                bit = READ if event.filter == select.KQ_FILTER_READ else WRITE
                ready[event.ident] = ready.get(event.ident, 0) | bit
            return list(ready.items())

        def close(self) -> None:
            """As `Poller.close`."""
            self._kqueue.close()

        def fileno(self) -> int:
            """A descriptor that is readable while something is ready: this one can be watched by another loop."""
            return self._kqueue.fileno()


def available() -> dict[str, type[Poller]]:
    """The pollers that this system has, the best first."""
    names = ("EpollPoller", "KqueuePoller", "PollPoller", "SelectPoller")
    found = [globals()[name] for name in names if name in globals()]
    return {poller.name: poller for poller in found}


def best() -> Poller:
    """The best poller that this system has."""
    return next(iter(available().values()))()

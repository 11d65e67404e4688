"""Pipes as stores: one file read from standard input, one file written to standard output, each in order."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from enchufe.buffer import Buffer
from enchufe.entry import NO_PARENT, UNKNOWN_SIZE, Answer, Entry, Kind
from enchufe.errors import ClosedError, LocalProtocolError, StoreError
from enchufe.store.faults import check_name, store_error
from enchufe.store.interface import Own
from enchufe.store.names import safe_name

_OUTPUT: Final = "the output"


class PipeSource:
    """A `Source` of one file, of unknown size, that comes out of a descriptor: a pipe, a terminal, anything that reads.

    Args:
        descriptor: stays the caller's. Reading waits until there is something.
        name: what the file is called at the destination.

    Attributes:
        begun: whether it may have been read from: then nothing else can be sent of it.

    Raises:
        LocalProtocolError: that cannot be a name.
    """

    def __init__(self, descriptor: int, name: str | bytes) -> None:
        self.left_out: list[tuple[tuple[bytes, ...], str]] = []
        self._descriptor = descriptor
        self._name = check_name(name)
        self._offset = 0
        self.begun = False

    def walk(self) -> Iterator[Entry]:
        """The one entry, modified now.

        Raises:
            StoreError: it was read before.
        """
        if self.begun:
            raise StoreError(
                "the input was read before, and cannot be read again",
                hint="If all of it was sent the other side may have it: look there first.",
            )
        yield Entry(0, NO_PARENT, self._name, Kind.FILE, UNKNOWN_SIZE, 0o644, time.time_ns())

    def again(self, entry: Entry) -> Entry | None:  # noqa: ARG002 (a Source takes it)
        """What was read of a pipe cannot be read again."""
        return None

    def path(self, entry: Entry) -> tuple[bytes, ...]:
        """The name, for people."""
        return (entry.name,)

    def open(self, entry: Entry) -> PipeSource:  # noqa: ARG002 (a Source takes it)
        """The pipe itself, which can be read once."""
        return self

    def read_whole(self, entry: Entry) -> bytes:  # noqa: ARG002 (a Source takes it)
        """Never right for a pipe: nobody knows whether it fits.

        Raises:
            LocalProtocolError: always.
        """
        raise LocalProtocolError("a pipe is read in pieces")

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill `view` with what comes next, `offset` being how much came before; fewer bytes only at the end.

        Raises:
            LocalProtocolError: `offset` is another place.
            StoreError: it cannot be read.
        """
        if offset != self._offset:
            raise LocalProtocolError(f"a pipe is read in order: {self._offset} comes next, not {offset}")
        filled = 0
        self.begun = True
        try:
            while filled < len(view):
                try:
                    count = os.readv(self._descriptor, [view[filled:]])
                except BlockingIOError:
                    _wait(self._descriptor, select.POLLIN)
                    continue
                if count == 0:
                    break
                filled += count
        except OSError as error:
            raise store_error(error, "read", "the input") from error
        self._offset += filled
        return filled

    def holes(self, start: int, stop: int) -> int:  # noqa: ARG002 (a SourceFile takes them)
        """A pipe tells of none."""
        return 0

    def unchanged(self) -> bool:
        """A pipe has no earlier state to differ from."""
        return True

    def close(self) -> None:
        """Nothing to do: the descriptor is the caller's."""


class PipeDelivery:
    """A `Delivery` of exactly one file, written in order to a descriptor; whatever else is offered is unwanted.

    What was written is out: there is nothing to commit but an fsync where the descriptor is a file's, and nothing to
    abandon.

    Args:
        descriptor: stays the caller's. Writing waits until there is room.

    Attributes:
        begun: whether something may be out, or will be yet: somebody may still wait to write it.
        landed: the id of the one file -> its name as offered, after the commit.
        restarted, bare: empty: nothing is kept, and there is nothing but content.
    """

    def __init__(self, descriptor: int) -> None:
        self.landed: dict[int, bytes] = {}
        self.restarted: list[tuple[bytes, ...]] = []
        self.bare: list[tuple[tuple[bytes, ...], list[bytes]]] = []
        self._descriptor = descriptor
        self._taken: Entry | None = None
        self._offset = 0
        self._over = False
        self._lock = threading.Lock()
        self.begun = False

    @property
    def written(self) -> int:
        """Bytes that are out."""
        return self._offset

    def path(self, entry: Entry) -> tuple[bytes, ...]:
        """The name, for people."""
        return (entry.name,)

    def admit(self, entry: Entry) -> Answer:
        """Take the first file that is a root.

        Raises:
            RemoteProtocolError: its name is unsafe.
        """
        safe_name(entry.name)
        if self._taken is not None or entry.kind is not Kind.FILE or entry.parent != NO_PARENT:
            return Answer.UNWANTED
        self._taken = entry
        return Answer.ALL

    def kept(self, entry: Entry) -> Sequence[tuple[int, bytes]]:  # noqa: ARG002 (a Delivery takes it)
        """Nothing: what went into a pipe is gone."""
        return ()

    def own(self, entry: Entry, pieces: int = 0) -> Iterator[Own]:  # noqa: ARG002 (a Delivery takes it)
        """Nothing: there is no other version."""
        return iter(())

    def write_whole(self, entry: Entry, data: Buffer, digest: bytes) -> None:
        """Write the file; raises as `write()` does."""
        self.write(entry, 0, data, digest)

    def write(self, entry: Entry, offset: int, data: Buffer, digest: bytes) -> None:  # noqa: ARG002 (a Delivery takes it)
        """Write what comes next, `offset` being how much came before.

        Raises:
            StoreError: `offset` is another place, which a pipe cannot go to, or it cannot be written.
            LocalProtocolError: another file was taken, or none.
            ClosedError: it was suspended or abandoned; whoever has not begun to write by then does not.
        """
        if self._taken is None or entry.id != self._taken.id:
            raise LocalProtocolError("only the one file that was taken can be written")
        if offset != self._offset:
            raise StoreError(
                f"cannot write to {_OUTPUT} out of order: {self._offset} comes next, not {offset}",
                hint="Receive into a folder instead.",
            )
        with self._lock:
            if self._over:
                raise ClosedError("this delivery is over")
            self.begun = True
        view = memoryview(data)
        try:
            while view:
                try:
                    written = os.write(self._descriptor, view)
                except BlockingIOError:
                    _wait(self._descriptor, select.POLLOUT)
                    continue
                view = view[written:]
                self._offset += written
        except BrokenPipeError as error:
            raise StoreError(
                f"nobody reads {_OUTPUT} any more", hint="The program after the pipe ended early."
            ) from error
        except OSError as error:
            raise store_error(error, "write to", _OUTPUT) from error

    def same(self, entry: Entry, first: int, digests: Sequence[bytes]) -> list[int]:  # noqa: ARG002 (a Delivery takes it)
        """None of them is here."""
        return list(range(first, first + len(digests)))

    def read_own(self, entry: Entry, wanted: Sequence[tuple[int, memoryview]]) -> bool:  # noqa: ARG002 (a Delivery takes it)
        """None of it is here."""
        return False

    def link(self, entry: Entry, to: Entry) -> None:  # noqa: ARG002 (a Delivery takes it)
        """Never right for a pipe.

        Raises:
            LocalProtocolError: always.
        """
        raise LocalProtocolError("there are no links in a pipe")

    def complete(self, entry: Entry, size: int) -> None:  # noqa: ARG002 (a Delivery takes it)
        """The file is all there.

        Raises:
            StoreError: it is not.
        """
        if size != self._offset:
            raise StoreError(f"{self._offset:,} bytes were written to {_OUTPUT}, not {size:,}")

    def recheck(self, entry: Entry, stopped: Callable[[], bool]) -> list[int]:  # noqa: ARG002 (a Delivery takes them)
        """Nothing was kept, so nothing of it is damaged."""
        return []

    def drop(self, entry: Entry) -> None:  # noqa: ARG002 (a Delivery takes it)
        """The file was left out by its sender.

        Raises:
            StoreError: some of it was written, and cannot be taken back.
        """
        if self._offset:
            raise StoreError(
                f"the sender could not finish the file, and {self._offset:,} bytes of it are in {_OUTPUT} already",
                hint="Discard them, and receive it again.",
            )

    def commit(self, *, remember: bool = False) -> None:  # noqa: ARG002 (who reads it has it)
        """Have it on disk, if it is a disk where it went.

        Raises:
            StoreError: it could not be written after all.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            # What a pipe, a terminal or a socket says: there is nothing to sync.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
                raise store_error(error, "write to", _OUTPUT) from error
        if self._taken is not None:
            self.landed[self._taken.id] = self._taken.name

    def heard(self) -> None:
        """Nothing to forget."""

    def suspend(self) -> None:
        """End. Nothing is kept: what was written is out."""
        with self._lock:
            self._over = True

    def abandon(self) -> None:
        """End: what was written is out."""
        self.suspend()


def _wait(descriptor: int, event: int) -> None:
    """Wait where somebody has made the descriptor non-blocking; to change that would change it for them too."""
    poll = select.poll()
    poll.register(descriptor, event)
    with contextlib.suppress(InterruptedError):
        poll.poll()

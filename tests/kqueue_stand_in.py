"""`select.kqueue` over epoll: what macOS and the BSDs have, for tests of who uses it on a machine that has none.

As kqueue(2) tells it, and Python's `select` above it, in what matters to who watches sockets and pipes:

- READ and WRITE of one descriptor are two things (knotes): each is added, told and deleted for itself.
- Adding what is there changes it; to delete or change what is not there is ENOENT; a closed descriptor is EBADF.
- While there is room for events, a change that fails is told as one with EV_ERROR and the error in `data`, and the next
  ones are made; where there is none, it is raised, and the rest is not made.
- Without room for events nothing is waited for, whatever the timeout.
- A descriptor that is closed takes its knotes with it, though a copy of it stays open; the next one of that number has
  none.
- Told again and again while it is so, unless EV_CLEAR (once for each change) or EV_ONESHOT (once, then it is deleted).
- EV_EOF says that no more will come: with what is left to be read, and when nothing is.
- A child of fork() does not have it.

Otherwise: other filters, files and devices are EINVAL; `fflags` never has a socket's error, which Linux tells only
once; `data` says how much can be read, and nothing of how much can be written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import termios
import time
import types
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

KQ_FILTER_READ: Final = -1
KQ_FILTER_WRITE: Final = -2
KQ_EV_ADD: Final = 0x1
KQ_EV_DELETE: Final = 0x2
KQ_EV_ENABLE: Final = 0x4
KQ_EV_DISABLE: Final = 0x8
KQ_EV_ONESHOT: Final = 0x10
KQ_EV_CLEAR: Final = 0x20
KQ_EV_ERROR: Final = 0x4000
KQ_EV_EOF: Final = 0x8000

_epoll: Final = select.epoll  # which a test may take out of the module

_BITS: Final = {KQ_FILTER_READ: select.EPOLLIN | select.EPOLLRDHUP, KQ_FILTER_WRITE: select.EPOLLOUT}
_ENDS: Final = {
    KQ_FILTER_READ: select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR,
    KQ_FILTER_WRITE: select.EPOLLHUP | select.EPOLLERR,
}
_ONCE: Final = select.EPOLLET
_KEPT: Final = KQ_EV_ONESHOT | KQ_EV_CLEAR  # of the flags that it is added with


@dataclass(order=True)
class kevent:
    """As `select.kevent`."""

    ident: Any  # a descriptor, or what has one
    filter: int = KQ_FILTER_READ
    flags: int = KQ_EV_ADD
    fflags: int = 0
    data: int = 0
    udata: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.ident, int):
            self.ident = self.ident.fileno()


@dataclass
class _Knote:
    """What is watched for one thing.

    Attributes:
        file: by what it is known that the descriptor is still the same.
    """

    file: tuple[int, int]
    flags: int
    udata: int
    enabled: bool


class kqueue:
    """As `select.kqueue`."""

    def __init__(self) -> None:
        self._knotes: dict[tuple[int, int], _Knote] = {}
        self._any = _epoll()  # is readable while one of the others is
        self._epolls: dict[int, select.epoll] = {}
        for kind in _BITS:
            self._renew(kind)
        _living.add(self)

    @property
    def closed(self) -> bool:
        return self._any.closed

    def fileno(self) -> int:
        self._check()
        return self._any.fileno()

    def close(self) -> None:
        self._knotes.clear()
        for epoll in (self._any, *self._epolls.values()):
            epoll.close()

    def control(
        self, changelist: Iterable[kevent] | None, max_events: int, timeout: float | None = None, /
    ) -> list[kevent]:
        self._check()
        if max_events < 0:
            raise ValueError(f"Length of eventlist must be 0 or positive, got {max_events}")
        if timeout is not None and timeout < 0:
            raise ValueError("timeout must be positive or None")
        changes = list(changelist or ())
        if not all(isinstance(change, kevent) for change in changes):
            raise TypeError("changelist must be an iterable of select.kevent objects")
        failed: list[kevent] = []
        for change in changes:
            try:
                self._change(change)
            except OSError as error:
                if len(failed) == max_events:
                    raise
                failed.append(kevent(change.ident, change.filter, KQ_EV_ERROR, 0, error.errno or 0, change.udata))
        return failed if failed or not max_events else self._wait(max_events, timeout)

    def _check(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed kqueue object")

    def _change(self, change: kevent) -> None:
        if change.filter not in _BITS:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        file = _file(change.ident)
        self._drop_closed()
        key = change.ident, change.filter
        knote = self._knotes.get(key)
        if knote is None:
            if change.flags & KQ_EV_DELETE or not change.flags & KQ_EV_ADD:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            knote = _Knote(file, change.flags & _KEPT, change.udata, enabled=False)
            self._register(key, knote)
            knote.enabled = True
            self._knotes[key] = knote
        if change.flags & KQ_EV_DELETE:
            self._disable(key, knote)
            del self._knotes[key]
            return
        knote.udata = change.udata
        if change.flags & KQ_EV_DISABLE:
            self._disable(key, knote)
        elif change.flags & (KQ_EV_ADD | KQ_EV_ENABLE) and not knote.enabled:
            self._register(key, knote)
            knote.enabled = True

    def _register(self, key: tuple[int, int], knote: _Knote) -> None:
        descriptor, kind = key
        try:
            self._epolls[kind].register(descriptor, _BITS[kind] | (_ONCE if knote.flags & KQ_EV_CLEAR else 0))
        except PermissionError as error:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from error

    def _disable(self, key: tuple[int, int], knote: _Knote) -> None:
        if knote.enabled:
            self._epolls[key[1]].unregister(key[0])
            knote.enabled = False

    def _wait(self, room: int, timeout: float | None) -> list[kevent]:
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            self._drop_closed()
            found: list[kevent] = []
            for kind in list(self._epolls):
                if len(found) < room:
                    found += self._told(kind, room - len(found))
            self._epolls = dict(reversed(self._epolls.items()))  # so that neither starves the other
            left = None if until is None else until - time.monotonic()
            if found or (left is not None and left <= 0):
                return found
            self._any.poll(left, 1)

    def _told(self, kind: int, room: int) -> list[kevent]:
        told = []
        for descriptor, bits in self._epolls[kind].poll(0, room):
            key = descriptor, kind
            knote = self._knotes[key]
            flags = knote.flags | (KQ_EV_EOF if bits & _ENDS[kind] else 0)
            data = _to_be_read(descriptor) if kind == KQ_FILTER_READ else 0
            told.append(kevent(descriptor, kind, flags, 0, data, knote.udata))
            if knote.flags & KQ_EV_ONESHOT:
                self._disable(key, knote)
                del self._knotes[key]
        return told

    def _drop_closed(self) -> None:
        """Forget what was closed. Where a copy of it is open, epoll would go on telling it: we need another one."""
        gone = [key for key, knote in self._knotes.items() if _file_or_none(key[0]) != knote.file]
        for key in gone:
            del self._knotes[key]
        for kind in {kind for _, kind in gone}:
            self._epolls[kind].close()
            self._renew(kind)

    def _renew(self, kind: int) -> None:
        epoll = self._epolls[kind] = _epoll()
        self._any.register(epoll.fileno(), _BITS[KQ_FILTER_READ])
        for key, knote in self._knotes.items():
            if key[1] == kind and knote.enabled:
                self._register(key, knote)


_living: weakref.WeakSet[kqueue] = weakref.WeakSet()


def _end_in_child() -> None:
    for one in list(_living):
        one.close()


os.register_at_fork(after_in_child=_end_in_child)


def _file(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _file_or_none(descriptor: int) -> tuple[int, int] | None:
    try:
        return _file(descriptor)
    except OSError:
        return None


def _to_be_read(descriptor: int) -> int:
    try:
        (size,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
    except OSError:  # a listener: there, how many are waiting
        return 1
    assert isinstance(size, int)
    return size


def as_select() -> types.ModuleType:
    """The module `select` as it is where kqueue is at home: without epoll."""
    module = types.ModuleType("select")
    for name in vars(select):
        if "epoll" not in name.lower():
            setattr(module, name, getattr(select, name))
    for name, value in globals().items():
        if name.startswith("KQ_"):
            setattr(module, name, value)
    module.kqueue, module.kevent = kqueue, kevent  # type: ignore[attr-defined]
    return module
